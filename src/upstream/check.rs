//! When the checks of a pool's endpoints are made, and what is said of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::health::Standing;
use super::pool::Pool;
use super::probe::{ProbeFailure, probe};
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
    let mut without_port = 0;
    loop {
        tokio::time::sleep_until(next).await;
        if !pool.endpoints().iter().any(|one| Arc::ptr_eq(one, &endpoint)) {
            return;
        }
        next = tokio::time::Instant::now() + jittered(health);
        let outcome = probe(pool, &endpoint, health).await;
        let lacks_port = matches!(&outcome, Err(failure) if failure.lacks_port());
        without_port = if lacks_port { without_port + 1 } else { 0 };
        if let Err(failure) = &outcome
            && says_nothing(failure, without_port, health)
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

/// Whether a failure says nothing of the server. After many checks in a row without a port it is as good
/// as gone, whoever is to blame: this machine may have no address left to reach it from.
fn says_nothing(failure: &ProbeFailure, without_port: u32, health: &Health) -> bool {
    failure.is_ours() && without_port <= health.unhealthy_after.saturating_mul(10)
}

fn jittered(health: &Health) -> std::time::Duration {
    health.every.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config::health::Initial;
    use crate::upstream::DialFailure;
    use crate::upstream::health::tests::health;

    #[test]
    fn checks_without_a_port_count_when_there_are_too_many_of_them() {
        let health = health(Initial::Hold);
        let port = ProbeFailure::Dial(DialFailure::NoPort(io::ErrorKind::AddrNotAvailable.into()));
        assert!(port.lacks_port() && health.unhealthy_after == 3);
        let told = [1, 30, 31].map(|in_a_row| says_nothing(&port, in_a_row, &health));
        assert_eq!(told, [true, true, false]);
        let refused =
            ProbeFailure::Dial(DialFailure::Refused(io::ErrorKind::ConnectionRefused.into()));
        assert!(!says_nothing(&refused, 0, &health));
    }
}
