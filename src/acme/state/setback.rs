//! What becomes of a certificate whose order failed.

use super::{LastProblem, Record, State};
use crate::acme::backoff::{Failure, Scope};
use crate::acme::time::MINUTE;

/// A try that failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The certificate's id.
    pub id: &'a str,
    /// The directory of the authority that was asked.
    pub directory: &'a str,
    /// All that may be asked, in the order of preference.
    pub directories: &'a [&'a str],
    /// As [`Failure::left`] has it.
    pub left: Option<i64>,
    /// As [`Failure::retry_after`] has it.
    pub retry_after: Option<i64>,
}

impl Record {
    /// The order failed; the moment of the next try, at the same authority or at the next.
    pub fn failed(&mut self, attempt: Attempt<'_>, problem: LastProblem, now: i64) -> i64 {
        let Attempt { id, directory, left, retry_after, .. } = attempt;
        self.fails = self.fails.saturating_add(1);
        let left = if self.is_revoked { left.map(|_| 0) } else { left };
        let fails = self.turns.fails(directory).saturating_add(1);
        let until = Failure { id, fails, left, retry_after }.next_try(now);
        self.turns.failed(directory, until);
        self.last_problem = Some(problem.clone());
        let elsewhere = self.turns.elsewhere(directory, attempt.directories, now);
        // Not at once: what failed may have been our network.
        let until = elsewhere.map_or(until, |at| at.max(now + MINUTE));
        self.enter(State::Backoff { fails: self.fails, until, problem }, now);
        until
    }

    /// Something of ours is in the way, whichever authority is asked: the moment of the next try,
    /// `pause` seconds from now.
    pub fn stalled(&mut self, problem: LastProblem, pause: i64, now: i64) -> i64 {
        self.fails = self.fails.saturating_add(1);
        self.last_problem = Some(problem.clone());
        let until = now.saturating_add(pause);
        self.enter(State::Backoff { fails: self.fails, until, problem }, now);
        until
    }

    /// A rate limit was met: no failure of the certificate's, but nothing to be tried before, unless
    /// it is one on all that we ask of this authority and there is another. Then the moment.
    pub fn limited(
        &mut self,
        attempt: Attempt<'_>,
        scope: Scope,
        until: i64,
        problem: LastProblem,
        now: i64,
    ) -> Option<i64> {
        let is_wide = matches!(scope, Scope::Account(_) | Scope::Authority);
        if is_wide {
            self.turns.limited(attempt.directory, until);
            let next = self.elsewhere(attempt, &problem, now);
            if next.is_some() {
                return next;
            }
        }
        let directory = attempt.directory.to_owned();
        self.enter(State::Limited { until, scope, directory }, now);
        None
    }

    /// It fails until somebody changes something, or at another authority; then the moment.
    pub fn blocked(
        &mut self,
        attempt: Attempt<'_>,
        problem: LastProblem,
        link: Option<String>,
        now: i64,
    ) -> Option<i64> {
        self.fails = self.fails.saturating_add(1);
        self.turns.blocked(attempt.directory);
        self.last_problem = Some(problem.clone());
        let next = self.elsewhere(attempt, &problem, now);
        if next.is_none() {
            self.enter(State::Blocked { reason: problem.detail, link }, now);
        }
        next
    }

    /// Waits for the next authority, if there is one.
    fn elsewhere(&mut self, attempt: Attempt<'_>, problem: &LastProblem, now: i64) -> Option<i64> {
        let until = self.turns.elsewhere(attempt.directory, attempt.directories, now)?;
        self.enter(State::Backoff { fails: self.fails, until, problem: problem.clone() }, now);
        Some(until)
    }

    /// Judges moments anew that a clock has written which was ahead: what it calls the future has not
    /// come, and its waits begin now.
    pub fn mistrust_future(&mut self, now: i64) {
        let ahead = self.since.saturating_sub(now);
        if ahead <= MINUTE {
            return;
        }
        self.since = now;
        if let State::Backoff { until, .. } | State::Limited { until, .. } = &mut self.state {
            *until = until.saturating_sub(ahead);
        }
        self.turns.shift(ahead);
        if let Some(ari) = &mut self.ari {
            ari.next_poll = ari.next_poll.min(now);
            ari.heard_at = ari.heard_at.map(|at| at.min(now));
        }
    }
}
