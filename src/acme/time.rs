//! Moments and spans as the certificate manager counts them: whole seconds, moments since 1970.
//!
//! What is persisted and what authorities say is in these terms already, and a test can write them
//! down. Only [`Clock`] reads one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// A minute, in seconds.
pub const MINUTE: i64 = 60;
/// An hour, in seconds.
pub const HOUR: i64 = 60 * MINUTE;
/// A day, in seconds.
pub const DAY: i64 = 24 * HOUR;

/// `time` in seconds since 1970, rounded down; negative before, saturating.
#[must_use]
pub fn unix(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(error) => -seconds(error.duration()),
    }
}

/// Seconds until `time` by our clock, negative when it has passed.
#[must_use]
pub fn until(time: SystemTime) -> i64 {
    unix(time).saturating_sub(unix(SystemTime::now()))
}

/// `span` in whole seconds, saturating.
#[must_use]
pub fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// The moment to judge certificates by, where the authority's clock is `skew` seconds ahead of
/// ours: ours, unless they are more than an hour apart. A gateway whose clock is off by a day must
/// not take a good certificate for expired.
#[must_use]
pub fn judged_now(now: i64, skew: i64) -> i64 {
    if skew.saturating_abs() > HOUR { now.saturating_add(skew) } else { now }
}

/// The clock that certificates are judged by. Cheap to clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// How far the authority's clock is ahead of ours, in seconds, by what it said last.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// The present moment, as [`judged_now`] has it.
    #[must_use]
    pub fn now(&self) -> i64 {
        judged_now(unix(SystemTime::now()), self.ahead())
    }

    /// How far the authority's clock is ahead of ours, in seconds; below zero when it is behind.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// The authority has told its time.
    pub fn hear(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_whole_seconds_on_both_sides_of_1970() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(unix(at(1_999)), 1);
        assert_eq!(unix(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), -5);
        assert_eq!(seconds(Duration::MAX), i64::MAX);
    }

    #[test]
    fn the_authoritys_clock_is_believed_when_ours_is_off_by_more_than_an_hour() {
        for (skew, wanted) in
            [(0, 1_000_000), (HOUR, 1_000_000), (-HOUR - 1, 996_399), (2 * DAY, 1_172_800)]
        {
            assert_eq!(judged_now(1_000_000, skew), wanted, "{skew}");
        }
    }
}
