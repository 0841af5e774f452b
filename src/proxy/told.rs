//! What the log is told once in a while, however often it happens.
//!
//! # Why
//! Clients decide how often a request fails. When a server is gone or a pool is full they come by the
//! thousands, and a line for each costs more than turning them away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::response_check::BadResponse;

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

/// What the log was told of the failures of each endpoint, by its pool's name and its address; without
/// one, those of the pool itself.
#[derive(Debug, Default)]
pub(super) struct FailuresTold(RwLock<HashMap<Box<str>, PoolTold>>);

type PoolTold = HashMap<Box<str>, Box<EndpointTold>>;

type EndpointTold = [Told; KINDS];

/// Every failure, and everything that is wrong with a response.
const KINDS: usize = Failure::ALL.len() + BadResponse::COUNT;

/// Endpoints that are kept in mind of one pool: its servers' names may lead to ever new addresses.
const MOST: usize = 1024;

impl FailuresTold {
    /// Counts a failure at `endpoint` of `pool`; returns how many the log is to be told of now.
    pub(super) fn count(&self, pool: &str, endpoint: &str, failure: Failure) -> Option<u64> {
        self.count_kind(pool, endpoint, failure.place())
    }

    /// The same for a response that is not passed on.
    pub(super) fn count_bad(&self, pool: &str, endpoint: &str, bad: BadResponse) -> Option<u64> {
        self.count_kind(pool, endpoint, Failure::ALL.len() + bad as usize)
    }

    fn count_kind(&self, pool: &str, endpoint: &str, kind: usize) -> Option<u64> {
        let pools = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = pools.get(pool).and_then(|endpoints| endpoints.get(endpoint)) {
            return told[kind].count();
        }
        drop(pools);
        let mut pools = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let endpoints = pools.entry(pool.into()).or_default();
        if endpoints.len() >= MOST && !endpoints.contains_key(endpoint) {
            endpoints.clear();
        }
        let fresh = || Box::new(std::array::from_fn(|_| Told::default()));
        endpoints.entry(endpoint.into()).or_insert_with(fresh)[kind].count()
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
    fn each_failure_of_each_endpoint_is_told_of() {
        let told = FailuresTold::default();
        for (pool, endpoint, failure, expected) in [
            ("a", "", Failure::PoolFull, Some(1)),
            ("a", "", Failure::PoolFull, None),
            ("a", "1", Failure::UpstreamRefused, Some(1)),
            ("a", "1", Failure::UpstreamRefused, None),
            ("a", "2", Failure::UpstreamRefused, Some(1)),
            ("b", "", Failure::PoolFull, Some(1)),
            ("b", "", Failure::PoolFull, None),
        ] {
            assert_eq!(
                told.count(pool, endpoint, failure),
                expected,
                "{pool} {endpoint} {failure:?}"
            );
        }
        let last = BadResponse::ControlCharacter;
        assert_eq!(
            [told.count_bad("a", "1", last), told.count_bad("a", "1", last)],
            [Some(1), None]
        );
        for number in 0..=MOST {
            told.count("a", &format!("old {number}"), Failure::UpstreamRefused);
        }
        assert!(told.0.read().unwrap()["a"].len() <= MOST);
    }
}
