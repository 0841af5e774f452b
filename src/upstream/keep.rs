//! What a pool needs while it lives: look-ups of names, checks, and the end of idle connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::check;
use super::pool::Pool;
use super::resolve::{self, Resolver};

/// Keeps `pool` in order until `stop`: one task for all of it. Without `resolver` names are not
/// looked up.
///
/// What the pool of the next generation has taken over stays as it is at the end.
pub async fn keep(pool: Arc<Pool>, resolver: Option<Resolver>, stop: CancellationToken) {
    let look_ups = resolver.iter().flat_map(|resolver| {
        pool.named_servers().map(|index| {
            resolve::keep_resolved(Arc::clone(&pool), index, resolver.clone(), stop.clone())
        })
    });
    tokio::join!(
        sweep_idle(&pool, &stop),
        check::keep_checked(&pool, &stop),
        join_all(look_ups.collect::<Vec<_>>()),
    );
}

/// Closes connections of `pool` that have waited too long or that the server closed, until `stop`.
async fn sweep_idle(pool: &Pool, stop: &CancellationToken) {
    let max_idle = pool.spec().timeouts.pool_idle;
    let longest = match pool.spec().proxy_protocol {
        // Those of clients that are gone wait for nothing.
        Some(_) => Duration::from_secs(1),
        None => Duration::from_secs(15),
    };
    let period = (max_idle / 4).clamp(Duration::from_millis(250), longest);
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = Instant::now();
        for endpoint in pool.endpoints() {
            endpoint.sweep(now, max_idle);
        }
    }
    for endpoint in pool.endpoints() {
        endpoint.close();
    }
}
