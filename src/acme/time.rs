//! Moments and spans as the certificate manager counts them: whole seconds, moments since 1970.
//!
//! What is persisted and what authorities say is in these terms already, and a test can write them
//! down. Only [`Clock`] reads one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
pub struct Clock(Arc<Mutex<Option<Heard>>>);

/// What an authority said of its time.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// How far it was ahead of ours, in seconds.
    ahead: i64,
    /// When that was, by our clock and by one that nobody sets.
    at: (SystemTime, Instant),
}

impl Clock {
    /// The present moment, as [`judged_now`] has it.
    #[must_use]
    pub fn now(&self) -> i64 {
        judged_now(unix(SystemTime::now()), self.ahead())
    }

    /// How far the authority's clock is ahead of ours, in seconds; below zero when it is behind. Zero
    /// while that is not known: nobody has said it yet, or ours was set since.
    #[must_use]
    pub fn ahead(&self) -> i64 {
        self.heard().filter(|heard| !heard.is_stale()).map_or(0, |heard| heard.ahead)
    }

    /// The authority has told its time.
    pub fn hear(&self, ahead: i64) {
        let at = (SystemTime::now(), Instant::now());
        *self.lock() = Some(Heard { ahead, at });
    }

    /// Goes on with what `other` has heard.
    pub fn follow(&self, other: &Self) {
        let heard = other.heard();
        *self.lock() = heard;
    }

    /// Whether our clock was set since the authority told its time; once for each time.
    #[must_use]
    pub fn was_set(&self) -> bool {
        let mut heard = self.lock();
        let is_stale = heard.is_some_and(Heard::is_stale);
        if is_stale {
            *heard = None;
        }
        is_stale
    }

    fn heard(&self) -> Option<Heard> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// Whether our clock has gone another way since than time has. A machine that slept looks the same.
    fn is_stale(self) -> bool {
        let (wall, steady) = self.at;
        let passed = seconds(steady.elapsed());
        let shown = unix(SystemTime::now()).saturating_sub(unix(wall));
        (shown - passed).abs() > MINUTE
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

    #[test]
    fn what_was_heard_counts_until_our_clock_is_set() {
        let (clock, next) = (Clock::default(), Clock::default());
        clock.hear(-2 * DAY);
        next.follow(&clock);
        assert_eq!((next.ahead(), next.was_set()), (-2 * DAY, false));
        let minutes = Duration::from_secs(600);
        for wall in [SystemTime::now() + minutes, SystemTime::now() - minutes] {
            *next.lock() = Some(Heard { ahead: -2 * DAY, at: (wall, Instant::now()) });
            assert_eq!(next.ahead(), 0, "nobody knows");
            assert!(next.was_set());
            assert!(!next.was_set(), "once");
        }
    }
}
