//! When the checks of a pool's endpoints are made, and what is said of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::health::Standing;
use super::pool::Pool;
use super::probe::probe;
use crate::config::health::Health;

/// The part of the pause between two checks that is left to chance, so that gateways and endpoints
/// do not come to check in step.
const JITTER: f64 = 0.1;

/// Checks every endpoint of `pool` until `stop`: those that are new at once.
pub(super) async fn keep_checked(pool: &Pool, stop: &CancellationToken) {
    let Some(health) = &pool.spec().health else { return };
    let mut changes = pool.watch();
    let mut checked: Vec<Arc<Endpoint>> = Vec::new();
    let mut running = FuturesUnordered::new();
    loop {
        changes.borrow_and_update();
        let present = pool.endpoints();
        checked.retain(|one| present.iter().any(|other| Arc::ptr_eq(one, other)));
        for endpoint in present {
            if !checked.iter().any(|one| Arc::ptr_eq(one, &endpoint)) {
                checked.push(Arc::clone(&endpoint));
                running.push(keep_endpoint(pool, health, endpoint));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            Some(()) = running.next() => {}
        }
    }
}

/// Checks `endpoint` for as long as it is the pool's.
async fn keep_endpoint(pool: &Pool, health: &Health, endpoint: Arc<Endpoint>) {
    let mut next = tokio::time::Instant::now();
    if endpoint.monitor().is_decided() {
        // Taken over from the generation before: nothing hangs on it, so that a reload does not
        // have all servers checked at one moment.
        next += health.every.mul_f64(fastrand::f64());
    }
    loop {
        tokio::time::sleep_until(next).await;
        if !pool.endpoints().iter().any(|one| Arc::ptr_eq(one, &endpoint)) {
            return;
        }
        next = tokio::time::Instant::now() + jittered(health);
        let outcome = probe(pool, &endpoint, health).await;
        if let Err(failure) = &outcome
            && failure.is_ours()
            && endpoint.monitor().is_proven()
        {
            // What we lack ourselves says nothing of a server that was well when it was last asked.
            let (pool, error) = (pool.name(), failure.text());
            tracing::debug!(pool, server.address = &*endpoint.label, %error, "could not check");
            continue;
        }
        record(pool, health, &endpoint, outcome.map_err(|failure| failure.text()));
    }
}

/// Takes in an outcome, and says so if it changes how the endpoint stands.
fn record(pool: &Pool, health: &Health, endpoint: &Endpoint, outcome: Result<(), String>) {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let (was_decided, change, reason) = {
        let mut monitor = endpoint.monitor();
        let was_decided = monitor.is_decided();
        let change = monitor.record(outcome, health, now, wall);
        (was_decided, change, monitor.reason().cloned())
    };
    if change.is_some() || !was_decided {
        pool.refresh();
    }
    let (pool_name, server) = (pool.name(), &*endpoint.server.url);
    let address = &*endpoint.label;
    match change {
        Some(Standing::Unhealthy) => {
            let reason = reason.as_deref().unwrap_or_default();
            tracing::warn!(
                pool = pool_name,
                endpoint = server,
                server.address = address,
                reason,
                "became unhealthy"
            );
        }
        Some(Standing::Healthy | Standing::Unknown) => {
            tracing::info!(
                pool = pool_name,
                endpoint = server,
                server.address = address,
                "became healthy"
            );
        }
        None => {}
    }
}

fn jittered(health: &Health) -> std::time::Duration {
    health.every.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}
