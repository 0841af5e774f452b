//! The right of one instance, for as long as it lives and says so.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Fleet, LinkError};

/// What an instance that died holds the others up for.
const LASTS: Duration = Duration::from_secs(30);

/// Between two signs of life; two may be lost.
const RENEWED: Duration = Duration::from_secs(8);

/// Some leases are held for one write, and one that was dropped is given back a moment later.
const TRIES: u32 = 4;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(50);

/// Renews the lease of `ARGV[1]`, or takes it again where Redis has forgotten it; 0 when another has
/// it.
const RENEW: &str = "\
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// Gives the lease back, unless another has it already.
const RELEASE: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// What only this instance may do, until dropped. A process that dies leaves it for half a minute.
#[derive(Debug)]
pub struct Lease {
    _held: DropGuard,
}

impl Lease {
    /// Takes the lease, `None` while another has it.
    pub(super) async fn take(fleet: &Arc<Fleet>, key: String) -> Result<Option<Self>, LinkError> {
        let holder = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut question = cmd("SET");
        question.arg(&key).arg(&holder).arg("NX").arg("PX").arg(millis(LASTS));
        let mut tries = TRIES;
        while fleet.link.ask::<Option<String>>(&question).await?.is_none() {
            tries -= 1;
            if tries == 0 {
                return Ok(None);
            }
            tokio::time::sleep(AGAIN).await;
        }
        let stop = CancellationToken::new();
        // It lives as long as the lease, and one answer longer.
        fleet.runtime.spawn(hold(Arc::clone(fleet), key, holder, stop.clone()));
        Ok(Some(Self { _held: stop.drop_guard() }))
    }
}

/// Renews the lease until `stop`, and gives it back then.
async fn hold(fleet: Arc<Fleet>, key: String, holder: String, stop: CancellationToken) {
    let script = |text: &str| {
        let mut question = cmd("EVAL");
        question.arg(text).arg(1).arg(&key).arg(&holder);
        question
    };
    let mut renew = script(RENEW);
    renew.arg(millis(LASTS));
    while stop.run_until_cancelled(tokio::time::sleep(RENEWED)).await.is_some() {
        // A Redis that is gone is told of by the link, and is asked again.
        if let Ok(0) = fleet.link.ask::<i64>(&renew).await {
            tracing::warn!(name = key, "another instance has taken what this one was at");
            return;
        }
    }
    // Else it ends by itself.
    let _: Result<i64, LinkError> = fleet.link.ask(&script(RELEASE)).await;
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
