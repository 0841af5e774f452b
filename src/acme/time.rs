//! Moments and spans as the certificate manager counts them: whole seconds, moments since 1970.
//!
//! What is persisted and what authorities say is in these terms already, and a test can write them
//! down. No clock is read here.

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
