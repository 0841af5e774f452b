//! When to try again after a failure, and what not to try at all for a while.
//!
//! Answers "not before when?". The scheduler asks after each failed order and before each new one.
//! Pure: the caller brings the time and the failure; what is to be kept is persisted by [`state`](super::state).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schedule::set_id;
use super::time::{DAY, MINUTE};
use crate::tls::certificate::sha256;

/// One failed order, as far as the next try depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The certificate's id, so that certificates which failed together are tried apart.
    pub id: &'a str,
    /// How many failed in a row, this one included.
    pub fails: u32,
    /// Seconds left of the certificate in service: 0 when clients refuse it already (expired,
    /// revoked), `None` when there is none.
    pub left: Option<i64>,
    /// What the authority asked to wait, in seconds.
    pub retry_after: Option<i64>,
}

impl Failure<'_> {
    /// The moment of the next try after this one failed at `now`.
    ///
    /// 1, 10, 100 minutes, then a day; cut to an eighth of what is left, though not below 15
    /// minutes, so that a short certificate still gets its tries, and to 100 minutes when clients
    /// refuse the certificate already. Then 10 % more or less. From the second failure on never
    /// below 10 minutes: Let's Encrypt lets 5 validations of a name fail in an hour (2025).
    /// Never before the authority's `Retry-After`, which is cut to a week, its longest limit.
    #[must_use]
    pub fn next_try(&self, now: i64) -> i64 {
        let step = match self.fails {
            0 | 1 => MINUTE,
            2 => 10 * MINUTE,
            3 => 100 * MINUTE,
            _ => DAY,
        };
        let cut = match self.left {
            None => step,
            Some(left) if left <= 0 => step.min(100 * MINUTE),
            Some(left) => step.min((left / 8).max(15 * MINUTE)),
        };
        let hash = sha256(format!("{}-{}", self.id, self.fails).as_bytes());
        let fifth = cut / 5;
        let spread = cut - fifth / 2 + super::schedule::uniform(&hash, fifth + 1);
        let floor = if self.fails >= 2 { 10 * MINUTE } else { 0 };
        let asked = self.retry_after.unwrap_or(0).min(RETRY_AFTER_LONGEST);
        now.saturating_add(spread.max(floor).max(asked))
    }
}

/// One odd header must not park a certificate past its end; the longest limit of Let's Encrypt
/// spans seven days (2025).
const RETRY_AFTER_LONGEST: i64 = 7 * DAY;

/// What a rate limit concerns.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "of")]
pub enum Scope {
    /// Orders for exactly these names, as [`set_id`] has them.
    Set(String),
    /// Orders that hold this name, as itself or as a wildcard below it.
    Name(String),
    /// Orders that hold this name or one below it: a registered domain.
    Domain(String),
    /// Every order of this account, by its URL.
    Account(String),
    /// Every order at this authority.
    Authority,
}

/// What an order would draw on.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The authority's directory.
    pub directory: &'a str,
    /// The account's URL, once there is one.
    pub account: Option<&'a str>,
    /// DNS names in ASCII and addresses, in lower case.
    pub names: &'a [String],
}

/// The rate limits that were reported and last: each parks what it concerns and nothing else.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits(BTreeMap<(String, Scope), i64>);

impl Scope {
    /// What it concerns, in one word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Name(_) => "name",
            Self::Domain(_) => "domain",
            Self::Account(_) => "account",
            Self::Authority => "authority",
        }
    }

    /// Whether an order falls under it.
    #[must_use]
    pub fn concerns(&self, draft: &Draft<'_>) -> bool {
        let bare = |name: &'_ String| name.strip_prefix("*.").unwrap_or(name).to_owned();
        match self {
            Self::Set(set) => *set == set_id(draft.names),
            Self::Name(limited) => draft.names.iter().any(|name| bare(name) == *limited),
            Self::Domain(limited) => draft.names.iter().any(|name| {
                bare(name)
                    .strip_suffix(limited.as_str())
                    .is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }),
            Self::Account(account) => draft.account == Some(account),
            Self::Authority => true,
        }
    }
}

impl Limits {
    /// Parks `scope` at the authority with this directory until `until`. A later end stays.
    pub fn park(&mut self, directory: &str, scope: Scope, until: i64) {
        let end = self.0.entry((directory.to_owned(), scope)).or_insert(until);
        *end = until.max(*end);
    }

    /// The limit that parks `draft` longest, and its end; `None` when it may be ordered.
    #[must_use]
    pub fn parks(&self, draft: &Draft<'_>, now: i64) -> Option<(&Scope, i64)> {
        self.0
            .iter()
            .filter(|((directory, scope), until)| {
                **until > now && directory == draft.directory && scope.concerns(draft)
            })
            .map(|((_, scope), until)| (scope, *until))
            .max_by_key(|(_, until)| *until)
    }

    /// Those that last at `now`, with their directory and end; what is over is forgotten.
    pub fn lasting(&mut self, now: i64) -> impl Iterator<Item = (&str, &Scope, i64)> {
        self.0.retain(|_, until| *until > now);
        self.0.iter().map(|((directory, scope), until)| (directory.as_str(), scope, *until))
    }
}

/// How fast orders are made, whatever is due: at most 4 at once, and 1 per 36 seconds beyond a burst
/// of 100. Let's Encrypt takes 300 per account in 3 hours (2025), which is 1 per 36 seconds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pace {
    running: usize,
    /// Seconds worth of orders that may start at once.
    credit: i64,
    counted_at: i64,
}

/// Whether an order may start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// It may, and counts.
    Go,
    /// When another one ends.
    Busy,
    /// Not before this moment.
    At(i64),
}

impl Pace {
    /// Nothing running, the whole burst left.
    #[must_use]
    pub fn new(now: i64) -> Self {
        Self { running: 0, credit: BURST, counted_at: now }
    }

    /// Asks for one order to start at `now`. After [`Start::Go`], [`finish`](Self::finish) must
    /// follow.
    pub fn start(&mut self, now: i64) -> Start {
        let earned = now.saturating_sub(self.counted_at).max(0);
        self.credit = self.credit.saturating_add(earned).min(BURST);
        self.counted_at = now;
        if self.running >= AT_ONCE {
            return Start::Busy;
        }
        if self.credit < PER_ORDER {
            return Start::At(now + PER_ORDER - self.credit);
        }
        self.credit -= PER_ORDER;
        self.running += 1;
        Start::Go
    }

    /// An order ended, however.
    pub fn finish(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

const AT_ONCE: usize = 4;
const PER_ORDER: i64 = 36;
const BURST: i64 = 100 * PER_ORDER;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::time::HOUR;

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tries_become_rare_but_never_too_rare_for_what_is_left() {
        let long = Some(90 * DAY);
        for (fails, left, retry_after, wanted) in [
            (1, long, None, MINUTE),
            (2, long, None, 10 * MINUTE),
            (3, long, None, 100 * MINUTE),
            (4, long, None, DAY),
            (400, long, None, DAY),
            (4, None, None, DAY),
            (4, Some(4 * DAY), None, 12 * HOUR),
            (4, Some(8 * HOUR), None, HOUR),
            (4, Some(HOUR), None, 15 * MINUTE),
            (3, Some(60), None, 15 * MINUTE),
            (4, Some(0), None, 100 * MINUTE),
            (2, Some(0), None, 10 * MINUTE),
        ] {
            for id in ["a", "b", "c", "d", "e", "f"] {
                let wait = Failure { id, fails, left, retry_after }.next_try(1000) - 1000;
                let floor = if fails >= 2 { 10 * MINUTE } else { 0 };
                let range = (wanted * 9 / 10).max(floor)..=wanted * 11 / 10;
                assert!(range.contains(&wait), "{fails} {left:?}: {wait}, not in {range:?}");
            }
        }
    }

    #[test]
    fn retry_after_is_kept_but_not_for_more_than_a_week() {
        for (retry_after, wanted) in [(3 * HOUR, 3 * HOUR), (6 * DAY, 6 * DAY), (i64::MAX, 7 * DAY)]
        {
            let failure =
                Failure { id: "a", fails: 1, left: Some(HOUR), retry_after: Some(retry_after) };
            assert_eq!(failure.next_try(0), wanted);
        }
        let failure = Failure { id: "a", fails: 1, left: None, retry_after: Some(-9) };
        assert!(failure.next_try(0) > 50);
    }

    #[test]
    fn certificates_that_failed_together_are_tried_apart_and_always_alike() {
        let at = |id: u32| {
            Failure { id: &id.to_string(), fails: 4, left: None, retry_after: None }.next_try(0)
        };
        assert_eq!(at(5), at(5));
        let all: Vec<i64> = (0..1000).map(at).collect();
        let mean = all.iter().sum::<i64>() / 1000;
        assert!((DAY * 99 / 100..DAY * 101 / 100).contains(&mean), "{mean}");
        assert!(*all.iter().max().unwrap() - *all.iter().min().unwrap() > DAY / 6);
    }

    #[test]
    fn a_short_certificate_gets_eight_tries_before_its_end() {
        let (mut now, end) = (0, 12 * HOUR);
        let mut tries = 0;
        for fails in 1.. {
            now =
                Failure { id: "a", fails, left: Some(end - now), retry_after: None }.next_try(now);
            if now >= end {
                break;
            }
            tries += 1;
        }
        assert!(tries >= 8, "{tries}");
    }

    /// Let's Encrypt allows 5 failed validations of a name in an hour, one more every 12 minutes (2025).
    #[test]
    fn tries_stay_within_what_an_authority_allows_to_fail() {
        for left in [0, 60, HOUR, DAY, 90 * DAY] {
            for id in 0..200 {
                let id = id.to_string();
                let (mut now, mut allowed) = (0, 5 * 12 * MINUTE);
                for fails in 1..40 {
                    allowed -= 12 * MINUTE;
                    assert!(allowed >= 0, "{left} left, {fails} failures");
                    let failure = Failure { id: &id, fails, left: Some(left), retry_after: None };
                    let next = failure.next_try(now);
                    allowed = (allowed + next - now).min(5 * 12 * MINUTE);
                    now = next;
                }
            }
        }
    }

    #[test]
    fn a_limit_parks_what_it_concerns_and_nothing_else() {
        let (set, other) = (names(&["a.example.com", "b.example.com"]), names(&["a.example.com"]));
        let wildcard = names(&["*.example.com"]);
        let foreign = names(&["notexample.com"]);
        let draft = |names| Draft { directory: "https://ca", account: Some("https://ca/1"), names };
        for (scope, parks) in [
            (Scope::Set(set_id(&set)), [true, false, false, false]),
            (Scope::Name("a.example.com".into()), [true, true, false, false]),
            (Scope::Name("example.com".into()), [false, false, true, false]),
            (Scope::Domain("example.com".into()), [true, true, true, false]),
            (Scope::Account("https://ca/1".into()), [true; 4]),
            (Scope::Account("https://ca/2".into()), [false; 4]),
            (Scope::Authority, [true; 4]),
        ] {
            let mut limits = Limits::default();
            limits.park("https://ca", scope.clone(), 100);
            for (names, wanted) in [&set, &other, &wildcard, &foreign].into_iter().zip(parks) {
                let found = limits.parks(&draft(names), 99);
                assert_eq!(found.is_some(), wanted, "{scope:?} {names:?}");
                assert_eq!(limits.parks(&draft(names), 100), None, "over");
                let elsewhere = Draft { directory: "https://other", ..draft(names) };
                assert_eq!(limits.parks(&elsewhere, 99), None, "another authority");
            }
            let text = serde_json::to_string(&scope).unwrap();
            assert_eq!(serde_json::from_str::<Scope>(&text).unwrap(), scope);
        }
    }

    #[test]
    fn the_longest_limit_counts_and_what_is_over_is_forgotten() {
        let mut limits = Limits::default();
        let set = names(&["a.test"]);
        let draft = Draft { directory: "ca", account: None, names: &set };
        limits.park("ca", Scope::Name("a.test".into()), 100);
        limits.park("ca", Scope::Name("a.test".into()), 50);
        limits.park("ca", Scope::Authority, 80);
        assert_eq!(limits.parks(&draft, 0), Some((&Scope::Name("a.test".into()), 100)));
        assert_eq!(limits.lasting(90).count(), 1);
        assert_eq!(limits.lasting(100).count(), 0);
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn orders_start_four_at_once_and_one_per_36_seconds_after_a_burst() {
        let mut pace = Pace::new(0);
        for _ in 0..4 {
            assert_eq!(pace.start(0), Start::Go);
        }
        assert_eq!(pace.start(0), Start::Busy);
        (0..4).for_each(|_| pace.finish());
        for _ in 4..100 {
            assert_eq!(pace.start(0), Start::Go);
            pace.finish();
        }
        assert_eq!(pace.start(0), Start::At(36));
        assert_eq!(pace.start(35), Start::At(36));
        assert_eq!(pace.start(-50), Start::At(-49), "the clock was set back");
        assert_eq!(pace.start(-49), Start::Go);
        pace.finish();
        let mut started = 0;
        for second in -48..3 * HOUR - 48 {
            if pace.start(second) == Start::Go {
                started += 1;
                pace.finish();
            }
        }
        assert_eq!(started, 300, "what three hours earn");
    }
}
