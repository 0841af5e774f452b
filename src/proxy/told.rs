//! What the log is told once in a while, however often it happens.
//!
//! # Why
//! Clients decide how often a request fails. When a server is gone or a pool is full they come by the
//! thousands, and a line for each costs more than turning them away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::failure::Failure;

/// Least time between two lines of the log about the same thing.
const SILENCE: Duration = Duration::from_secs(60);

/// When the log was last told of something, and how often it happened since.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<(Option<Instant>, u64)>);

impl Told {
    /// Counts one more time; returns how many the log is to be told of now.
    pub(super) fn count(&self) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *told;
        *count += 1;
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= SILENCE);
        is_due.then(|| std::mem::replace(&mut *told, (Some(now), 0)).1)
    }
}

/// What the log was told of the failures of each pool, by its name. As many as the process has known.
#[derive(Debug, Default)]
pub(super) struct FailuresTold(RwLock<HashMap<Box<str>, PoolTold>>);

type PoolTold = [Told; Failure::ALL.len()];

impl FailuresTold {
    /// Counts a failure of `pool`; returns how many the log is to be told of now.
    pub(super) fn count(&self, pool: &str, failure: Failure) -> Option<u64> {
        let place = failure.place();
        let pools = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = pools.get(pool) {
            return told[place].count();
        }
        drop(pools);
        let mut pools = self.0.write().unwrap_or_else(PoisonError::into_inner);
        pools.entry(pool.into()).or_default()[place].count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_and_then_of_all_since() {
        let told = Told::default();
        assert_eq!([told.count(), told.count(), told.count()], [Some(1), None, None]);
        told.0.lock().unwrap().0 = Instant::now().checked_sub(SILENCE);
        assert_eq!([told.count(), told.count()], [Some(3), None]);
    }

    #[test]
    fn each_failure_of_each_pool_is_told_of() {
        let told = FailuresTold::default();
        for (pool, failure, expected) in [
            ("a", Failure::PoolFull, Some(1)),
            ("a", Failure::PoolFull, None),
            ("a", Failure::UpstreamRefused, Some(1)),
            ("b", Failure::PoolFull, Some(1)),
            ("b", Failure::PoolFull, None),
        ] {
            assert_eq!(told.count(pool, failure), expected, "{pool} {failure:?}");
        }
    }
}
