//! Whose turn it is when there are several authorities, and one of them fails.
//!
//! Answers "who is asked next, and when?" for one certificate. Pure; persisted with the
//! [`Record`](super::state::Record).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How authorities have done since the last success, by their directory.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Turns(BTreeMap<String, Turn>);

/// How one authority has done.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
struct Turn {
    /// Failures in a row.
    fails: u32,
    /// Not to be asked before; [`i64::MAX`] until somebody changes something.
    until: i64,
    /// It is a limit on all that we ask of it: others are asked meanwhile.
    is_limited: bool,
}

/// Who is asked next, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Next<'a> {
    /// The authority's directory.
    pub directory: &'a str,
    /// The moment; [`i64::MAX`] when none is asked before somebody changes something.
    pub at: i64,
}

/// Failures in a row after which the next authority is asked.
const PATIENCE: u32 = 3;

impl Turns {
    /// The authority with `directory` failed, and is not to be asked before `until`.
    pub fn failed(&mut self, directory: &str, until: i64) {
        let fails = self.fails(directory).saturating_add(1);
        self.0.insert(directory.to_owned(), Turn { fails, until, is_limited: false });
    }

    /// It answers nothing until somebody changes something.
    pub fn blocked(&mut self, directory: &str) {
        self.failed(directory, i64::MAX);
    }

    /// It limits everything that we ask of it, until `until`.
    pub fn limited(&mut self, directory: &str, until: i64) {
        let fails = self.fails(directory);
        self.0.insert(directory.to_owned(), Turn { fails, until, is_limited: true });
    }

    /// How often the authority with `directory` has failed in a row.
    #[must_use]
    pub fn fails(&self, directory: &str) -> u32 {
        self.0.get(directory).map_or(0, |turn| turn.fails)
    }

    /// Whether it limits everything that we ask of it.
    #[must_use]
    pub fn is_limited(&self, directory: &str) -> bool {
        self.0.get(directory).is_some_and(|turn| turn.is_limited)
    }

    /// Something has changed, so that what failed may succeed. Limits stay.
    pub fn reset(&mut self) {
        self.0.retain(|_, turn| turn.is_limited);
        self.0.values_mut().for_each(|turn| turn.fails = 0);
    }

    /// It went well.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes `ahead` seconds from all moments: the clock that wrote them was ahead by as much.
    pub fn shift(&mut self, ahead: i64) {
        let moments = self.0.values_mut().map(|turn| &mut turn.until);
        moments.filter(|until| **until < i64::MAX).for_each(|until| *until -= ahead);
    }

    /// Which of `directories` (in the order of preference, never empty) is asked next.
    ///
    /// The first that has not given way: by three failures in a row, a block, or a limit on all that
    /// we ask of it. When all have, the one that may be asked soonest, so that they take turns.
    #[must_use]
    pub fn next<'a>(&self, directories: &[&'a str], now: i64) -> Next<'a> {
        let turn = |directory: &str| self.0.get(directory).copied().unwrap_or_default();
        let next = |directory: &'a str| Next { directory, at: turn(directory).until };
        let stands = directories.iter().find(|directory| !turn(directory).gives_way(now));
        let soonest = || directories.iter().min_by_key(|directory| turn(directory).until);
        let chosen = stands.or_else(soonest).copied().unwrap_or_default();
        next(chosen)
    }

    /// When another than the authority with `directory`, which has just failed, is asked instead of
    /// it; `None` when it stays its turn.
    #[must_use]
    pub fn elsewhere(&self, directory: &str, directories: &[&str], now: i64) -> Option<i64> {
        let next = self.next(directories, now);
        (next.directory != directory && next.at < i64::MAX).then(|| next.at.max(now))
    }
}

impl Turn {
    fn gives_way(self, now: i64) -> bool {
        self.fails >= PATIENCE || self.until == i64::MAX || (self.is_limited && self.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::time::{DAY, HOUR, MINUTE};

    const ALL: [&str; 2] = ["a", "b"];

    #[test]
    fn each_is_tried_three_times_and_then_they_take_turns() {
        let mut turns = Turns::default();
        let mut asked = String::new();
        let mut now = 0;
        for _ in 0..10 {
            let next = turns.next(&ALL, now);
            now = now.max(next.at);
            asked += next.directory;
            let wait = [MINUTE, 10 * MINUTE, 100 * MINUTE, DAY];
            let fails = turns.fails(next.directory) as usize;
            turns.failed(next.directory, now + wait[fails.min(3)]);
            if let Some(at) = turns.elsewhere(next.directory, &ALL, now) {
                assert!(at >= now);
                now = at;
            }
        }
        assert_eq!(asked, "aaabbbabab");
        turns.reset();
        assert_eq!(turns.next(&ALL, now), Next { directory: "a", at: 0 });
    }

    #[test]
    fn one_that_is_blocked_or_limits_everything_gives_way_at_once() {
        let mut turns = Turns::default();
        turns.blocked("a");
        assert_eq!(turns.elsewhere("a", &ALL, 7), Some(7));
        assert_eq!(turns.elsewhere("a", &["a"], 0), None);
        turns.limited("b", HOUR);
        assert_eq!(turns.next(&ALL, 1), Next { directory: "b", at: HOUR });
        turns.reset();
        assert_eq!(turns.next(&ALL, 1), Next { directory: "a", at: 0 }, "the limit stays");
        turns.blocked("a");
        assert_eq!(turns.next(&ALL, HOUR), Next { directory: "b", at: HOUR }, "it is over");
        turns.blocked("b");
        assert_eq!(turns.next(&ALL, HOUR).at, i64::MAX);
        assert_eq!(turns.elsewhere("b", &ALL, HOUR), None);
    }

    #[test]
    fn one_authority_is_asked_alone() {
        let mut turns = Turns::default();
        for fails in 1..6 {
            turns.failed("a", 100);
            assert_eq!((turns.fails("a"), turns.next(&["a"], 1).at), (fails, 100));
            assert_eq!(turns.elsewhere("a", &["a"], 1), None);
        }
    }
}
