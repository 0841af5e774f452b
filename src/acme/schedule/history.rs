//! What was issued lately, so that a fault cannot become a loop.

use serde::{Deserialize, Serialize};

use super::life::Life;
use super::plan::Why;
use crate::acme::time::{DAY, HOUR};
use crate::tls::certificate::sha256;

/// The issuances of one certificate's last seven days, and always the last one; persisted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct History(Vec<Issuance>);

/// One certificate that was issued.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Issuance {
    /// When.
    pub at: i64,
    /// For which names, as [`set_id`] has them.
    pub set: String,
    /// Why.
    pub why: Why,
}

/// Names an exact set of names, whatever their order: 16 hexadecimal digits.
#[must_use]
pub fn set_id<T: AsRef<str>>(names: &[T]) -> String {
    let mut names: Vec<String> =
        names.iter().map(|name| name.as_ref().to_ascii_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    sha256(names.join("\n").as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl History {
    /// Notes an issuance and forgets those of more than a week ago.
    pub fn note(&mut self, issuance: Issuance) {
        let now = issuance.at;
        self.0.retain(|past| past.at > now - WEEK && past.at <= now.saturating_add(HOUR));
        self.0.push(issuance);
        self.0.sort_by_key(|past| past.at);
        let surplus = self.0.len().saturating_sub(LONGEST);
        self.0.drain(..surplus);
    }

    /// All that is kept, oldest first.
    #[must_use]
    pub fn issuances(&self) -> &[Issuance] {
        &self.0
    }

    /// The first moment from `at` on at which one more issuance of `set` stays within `limit` per
    /// seven days. `counted` says which count.
    pub(super) fn free_at(
        &self,
        set: &str,
        limit: usize,
        at: i64,
        now: i64,
        counted: impl Fn(Why) -> bool,
    ) -> i64 {
        let recent: Vec<i64> = self
            .recent(set, now)
            .filter(|past| past.at > at.saturating_sub(WEEK) && counted(past.why))
            .map(|past| past.at)
            .collect();
        match recent.len().checked_sub(limit) {
            Some(surplus) => recent.get(surplus).map_or(at, |past| at.max(past + WEEK)),
            None => at,
        }
    }

    /// Whether a recall by a window that ended at `window_end` is garbage: the last one is less than
    /// a week old, or the window was over before the certificate that took the recalled one's place
    /// was issued.
    pub(super) fn doubts_recall(&self, set: &str, window_end: i64, now: i64) -> bool {
        let last = self.recent(set, now).last();
        let was_over = |last: &Issuance| last.why == Why::Revoked && window_end <= last.at;
        last.is_some_and(was_over)
            || self.recent(set, now).any(|past| past.why == Why::Revoked && past.at > now - WEEK)
    }

    /// The issuances of `set`. One from the future, left by a clock that was wrong, would bar
    /// renewals until then: it does not count.
    fn recent<'a>(&'a self, set: &'a str, now: i64) -> impl Iterator<Item = &'a Issuance> {
        let is_past = move |past: &&Issuance| past.at <= now.saturating_add(HOUR);
        self.0.iter().filter(move |past| past.set == set).filter(is_past)
    }
}

/// How many issuances of one exact set per seven days we allow ourselves by our own rule: 3, where
/// Let's Encrypt allows 5 (2025), or as many as the rule itself needs for so short a life, with its
/// largest jitter: 3 for 160 hours and more, 15 for a day.
pub(super) fn allowance(life: Option<&Life>) -> usize {
    let needed = life.map_or(0, |life| WEEK * 25 / (12 * life.length()) + 1);
    usize::try_from(needed).unwrap_or(usize::MAX).max(ALLOWANCE)
}

const ALLOWANCE: usize = 3;

const WEEK: i64 = 7 * DAY;

/// Issuances kept at most. Lives so short that a week needs more are for tests of authorities.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn history(moments: &[(i64, Why)]) -> History {
        let mut history = History::default();
        for (at, why) in moments {
            history.note(Issuance { at: *at, set: "s".into(), why: *why });
        }
        history
    }

    #[test]
    fn a_set_is_the_same_in_any_order_and_case() {
        assert_eq!(set_id(&["a.test", "B.test"]), set_id(&["b.test", "a.test", "a.test"]));
        assert_ne!(set_id(&["a.test"]), set_id(&["a.test", "b.test"]));
    }

    #[test]
    fn short_lives_may_be_issued_as_often_as_the_rule_needs() {
        let allowed = |length| allowance(Some(&Life::new(0, length - 1, b"")));
        for (length, wanted) in
            [(90 * DAY, 3), (160 * HOUR, 3), (80 * HOUR, 5), (DAY, 15), (60, 21_001)]
        {
            assert_eq!(allowed(length), wanted, "{length}");
        }
        assert_eq!(allowance(None), 3);
    }

    #[test]
    fn the_fourth_of_a_week_waits_until_the_first_is_a_week_old() {
        let all = |_| true;
        let three = history(&[(0, Why::Missing), (DAY, Why::Ari), (2 * DAY, Why::Backstop)]);
        let now = 3 * DAY;
        assert_eq!(three.free_at("s", 3, now, now, all), 7 * DAY);
        assert_eq!(three.free_at("s", 2, now, now, all), 8 * DAY);
        assert_eq!(three.free_at("s", 4, now, now, all), now);
        assert_eq!(three.free_at("s", 3, 7 * DAY, now, all), 7 * DAY, "planned ahead");
        assert_eq!(three.free_at("s", 3, now, now, |why| why != Why::Ari), now);
        assert_eq!(three.free_at("other", 0, now, now, all), now);
        assert_eq!(
            three.free_at("s", 1, -WEEK, -WEEK, all),
            -WEEK,
            "issued by a clock that was wrong"
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: Vec<_> = (0..1000).map(|at| (at, Why::Ari)).collect();
        assert_eq!(history(&many).issuances().len(), LONGEST);
        assert_eq!(history(&[(0, Why::Ari), (WEEK, Why::Ari)]).issuances().len(), 1);
        assert_eq!(
            history(&[(WEEK, Why::Ari), (0, Why::Ari)]).issuances().len(),
            1,
            "the clock was set back"
        );
    }
}
