//! What the checks of one endpoint add up to.
//!
//! Answers "may it have requests, and how large a share?". Called by `super::check` with each
//! check's outcome and by [`super::pool`]. Pure: sends nothing and reads no clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::health::{Health, Initial};

/// Smallest share of an endpoint that has just become healthy, so that it has requests at all.
const FIRST_SHARE: f64 = 0.01;

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Not checked, or not yet.
    Unknown,
    /// Its checks succeed, or it counts as healthy until they say otherwise.
    Healthy,
    /// Its checks fail, or have not yet succeeded often enough.
    Unhealthy,
}

impl Standing {
    /// `unknown`, `healthy` or `unhealthy`: the word for it in logs, metrics and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The outcomes of one endpoint's checks, as far as they matter for the next verdict.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    verdict: Option<Verdict>,
    /// Outcomes in a row that are alike: successes, or failures.
    streak: u32,
    is_failing: bool,
    /// Of the last check that failed.
    reason: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    is_healthy: bool,
    since: SystemTime,
    /// When it became healthy after it had failed.
    recovered: Option<Instant>,
}

impl Monitor {
    /// How the endpoint stands under `health`, which may be another one than before a reload.
    #[must_use]
    pub fn standing(&self, health: Option<&Health>) -> Standing {
        let Some(health) = health else { return Standing::Unknown };
        match (self.verdict, health.initial) {
            (Some(Verdict { is_healthy: true, .. }), _) | (None, Initial::Healthy) => {
                Standing::Healthy
            }
            (Some(_), _) | (None, Initial::Unhealthy) => Standing::Unhealthy,
            (None, Initial::Hold) => Standing::Unknown,
        }
    }

    /// Takes in the outcome of a check, with the reason of a failure. Returns the new standing if
    /// it changed.
    pub fn record(
        &mut self,
        outcome: Result<(), String>,
        health: &Health,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Standing> {
        let before = self.standing(Some(health));
        let is_failure = outcome.is_err();
        self.streak = if self.is_failing == is_failure { self.streak.saturating_add(1) } else { 1 };
        self.is_failing = is_failure;
        let had_failed = self.reason.is_some();
        if let Err(reason) = outcome {
            self.reason = Some(reason.into());
        }
        let is_enough = match (before, is_failure) {
            (Standing::Unknown, _) | (Standing::Healthy, false) => true,
            (Standing::Unhealthy, false) => self.streak >= health.healthy_after,
            (Standing::Healthy, true) => self.streak >= health.unhealthy_after,
            (Standing::Unhealthy, true) => true,
        };
        let after = if is_failure { Standing::Unhealthy } else { Standing::Healthy };
        if !is_enough || (self.verdict.is_some() && before == after) {
            return None;
        }
        let is_recovery = before == Standing::Unhealthy && had_failed && !is_failure;
        let recovered = is_recovery.then_some(now);
        self.verdict = Some(Verdict { is_healthy: !is_failure, since: wall, recovered });
        (before != after).then_some(after)
    }

    /// Whether checks have found it healthy.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.verdict.is_some_and(|verdict| verdict.is_healthy)
    }

    /// Since when the endpoint stands as it does; `None` before its first verdict.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.verdict.map(|verdict| verdict.since)
    }

    /// Why the last check that failed did.
    #[must_use]
    pub fn reason(&self) -> Option<&Arc<str>> {
        self.reason.as_ref()
    }

    /// Whether there was a verdict on it.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.verdict.is_some()
    }

    /// When it comes to its full share, if it has become healthy lately.
    #[must_use]
    pub fn full_at(&self, health: Option<&Health>) -> Option<Instant> {
        let recovered = self.verdict?.recovered?;
        recovered.checked_add(health?.slow_start?)
    }

    /// Its share of what it will get in the end, 0.01–1: the part of `slow_start` that has passed.
    #[must_use]
    pub fn share(&self, slow_start: Option<Duration>, now: Instant) -> f64 {
        let recovered = self.verdict.and_then(|verdict| verdict.recovered);
        let (Some(recovered), Some(whole)) = (recovered, slow_start) else { return 1.0 };
        let passed = now.saturating_duration_since(recovered).as_secs_f64();
        (passed / whole.as_secs_f64().max(f64::MIN_POSITIVE)).clamp(FIRST_SHARE, 1.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::health::Check;

    pub(in crate::upstream) fn health(initial: Initial) -> Health {
        Health {
            check: Check::Tcp,
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 3,
            initial,
            slow_start: Some(Duration::from_secs(10)),
        }
    }

    /// The standing after each of these outcomes: `+` succeeds, `-` fails.
    fn standings(initial: Initial, outcomes: &str) -> String {
        let health = health(initial);
        let mut monitor = Monitor::default();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut shown = String::new();
        for outcome in outcomes.chars() {
            let outcome = if outcome == '+' { Ok(()) } else { Err("no".to_owned()) };
            let before = monitor.standing(Some(&health));
            let change = monitor.record(outcome, &health, now, wall);
            let after = monitor.standing(Some(&health));
            assert_eq!(
                change,
                (before != after).then_some(after),
                "a change is told, and no other"
            );
            shown.push(match after {
                Standing::Unknown => '?',
                Standing::Healthy => 'h',
                Standing::Unhealthy => 'u',
            });
        }
        shown
    }

    #[test]
    fn the_first_check_decides_under_hold_and_later_ones_by_their_number_in_a_row() {
        for (initial, outcomes, expected) in [
            (Initial::Hold, "+--+---+-++", "hhhhhhuuuuh"),
            (Initial::Hold, "-++---", "uuhhhu"),
            (Initial::Healthy, "--+---", "hhhhhu"),
            (Initial::Healthy, "---++", "hhuuh"),
            (Initial::Unhealthy, "++---", "uhhhu"),
            (Initial::Unhealthy, "-+-++", "uuuuh"),
        ] {
            assert_eq!(standings(initial, outcomes), expected, "{initial:?} {outcomes}");
        }
    }

    #[test]
    fn what_is_not_checked_is_unknown() {
        let mut monitor = Monitor::default();
        assert_eq!(monitor.standing(None), Standing::Unknown);
        let now = Instant::now();
        monitor.record(Err("no".into()), &health(Initial::Hold), now, SystemTime::now());
        assert_eq!(monitor.standing(None), Standing::Unknown, "whatever was before a reload");
        assert_eq!(monitor.standing(Some(&health(Initial::Healthy))), Standing::Unhealthy);
        assert_eq!(monitor.reason().map(|reason| &**reason), Some("no"));
    }

    #[test]
    fn a_share_grows_from_the_recovery_on_and_not_from_the_start() {
        let health = health(Initial::Hold);
        let (start, wall) = (Instant::now(), SystemTime::now());
        let at = |secs| start + Duration::from_secs(secs);
        let mut monitor = Monitor::default();
        assert_eq!(monitor.record(Ok(()), &health, at(0), wall), Some(Standing::Healthy));
        assert_eq!(monitor.full_at(Some(&health)), None, "the start is no recovery");
        for _ in 0..3 {
            monitor.record(Err("no".into()), &health, at(1), wall);
        }
        monitor.record(Ok(()), &health, at(2), wall);
        assert_eq!(monitor.record(Ok(()), &health, at(2), wall), Some(Standing::Healthy));
        assert_eq!(monitor.full_at(Some(&health)), Some(at(12)));
        let share = |secs| monitor.share(health.slow_start, at(secs));
        assert_eq!((share(2), share(7), share(12), share(99)), (0.01, 0.5, 1.0, 1.0));
        assert_eq!(monitor.share(None, at(3)), 1.0, "without slow start");
    }
}
