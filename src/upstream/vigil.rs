//! How long an attempt may wait over a connection that is the engine's own.
//!
//! Asked by whoever runs the engine's work, which ends it when time is up. Our own connections keep
//! their deadlines themselves ([`super::wire`]).
//!
//! # Why
//! The engine has one limit for a response's head and for each gap behind it, and counts it from the
//! request's head: with that alone a long upload would be cut while bytes move, and the shorter of
//! `timeouts.response` and `timeouts.read` would mean nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Expired, Phase};

/// Time for the engine to notice the end itself, which leaves it the means to answer and to try again.
const NOTICING: Duration = Duration::from_millis(300);

/// Time for the next piece of a request's body after one that was taken late. Without another the
/// engine has given the body up, which it does not tell.
const NEXT_PIECE: Duration = Duration::from_secs(1);

/// Longest body whose way to the server does not matter beside `timeouts.response`.
pub const SHORT_BODY: u64 = 16 << 10;

/// What is known of an attempt over the engine's own connection.
#[derive(Debug, Default)]
pub struct Vigil {
    is_kept: AtomicBool,
    /// The request's body may be under way for long.
    is_long: AtomicBool,
    /// When the server had the whole request: microseconds after the start, 0 before.
    asked: AtomicU64,
    /// When something of its response came last.
    heard: AtomicU64,
}

impl Attempt {
    /// Records that the engine opens and drives the connection.
    pub(super) fn note_engines_own(&self) {
        self.vigil.is_kept.store(true, Ordering::Relaxed);
    }

    /// Whether the engine opens and drives the connection.
    #[must_use]
    pub fn is_engines_own(&self) -> bool {
        self.vigil.is_kept.load(Ordering::Relaxed)
    }

    /// Records that the request's body may be under way for long.
    pub fn note_long_body(&self) {
        self.vigil.is_long.store(true, Ordering::Relaxed);
    }

    /// Whether the request's body may be under way for long.
    #[must_use]
    pub fn has_long_body(&self) -> bool {
        self.vigil.is_long.load(Ordering::Relaxed)
    }

    /// Records that from here on the server has to answer.
    pub(super) fn note_asked(&self) {
        self.vigil.asked.store(self.micros().max(1), Ordering::Relaxed);
    }

    /// Records that there is a piece of the request's body to be taken.
    pub(super) fn note_piece(&self) {
        if !self.is_uploaded() {
            self.vigil.asked.store(0, Ordering::Relaxed);
        }
    }

    /// Records that a piece of the request's body has waited for `took`, and is taken or given up.
    pub(super) fn note_late(&self, took: Duration) {
        let limit = self.pool.spec().timeouts.response;
        if took >= limit && !self.is_uploaded() {
            let asked = self.micros() + micros(NEXT_PIECE) + 1;
            self.vigil.asked.store(asked.saturating_sub(micros(limit)).max(1), Ordering::Relaxed);
        }
    }

    /// Records that something of the response came.
    pub fn note_more(&self) {
        if self.is_engines_own() {
            self.vigil.heard.store(self.micros().max(1), Ordering::Relaxed);
        }
    }

    /// When patience with the server ends as things stand, and by which limit. Later than the engine
    /// would notice, where it can. `None` while it is not the server that is waited for.
    #[must_use]
    pub fn lapse(&self) -> Option<(Instant, Expired)> {
        if !self.is_engines_own() || self.is_answered() {
            return None;
        }
        let timeouts = &self.pool.spec().timeouts;
        let silence = match self.phase() {
            Phase::AwaitingHead => match self.vigil.asked.load(Ordering::Relaxed) {
                0 => None,
                asked => Some((self.at(asked) + timeouts.response, Expired::Response)),
            },
            Phase::Body if self.may_be_over() => None,
            Phase::Body => Some((self.silent_since() + timeouts.read, Expired::Read)),
            Phase::Tunnel => return None,
        };
        let whole = self.exchange_deadline.map(|end| (end, Expired::Exchange));
        let first = [silence, whole].into_iter().flatten().min_by_key(|(end, _)| *end)?;
        Some((first.0 + NOTICING, first.1))
    }

    /// Whether the response may have ended with its head, which the engine does not tell: nothing came
    /// behind it, and the client is still sending.
    fn may_be_over(&self) -> bool {
        self.passed() == 0 && self.vigil.asked.load(Ordering::Relaxed) == 0
    }

    /// Since when the response's body has paused. While the client has something to take, that is
    /// what is waited for.
    fn silent_since(&self) -> Instant {
        let heard = self.vigil.heard.load(Ordering::Relaxed);
        let asked = self.vigil.asked.load(Ordering::Relaxed);
        let heard = self.at(if self.passed() == 0 { heard.max(asked) } else { heard });
        match self.has_flight() {
            None => heard,
            Some(flight) if flight.owed() > 0 => Instant::now(),
            Some(flight) => flight.cleared().map_or(heard, |cleared| cleared.max(heard)),
        }
    }

    fn at(&self, micros: u64) -> Instant {
        self.started + Duration::from_micros(micros)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::pool::Pool;
    use super::*;
    use crate::tls::SystemRoots;

    fn attempt() -> Arc<Attempt> {
        let yaml = "sites: { a.test: { upstream: \"http://127.0.0.1:9\" } }";
        let loaded = crate::config::from_text("test", yaml, Path::new("")).unwrap();
        let spec = loaded.config.upstreams[0].clone();
        let pool = Arc::new(Pool::new(spec, &SystemRoots::load(), None).unwrap());
        let occupied = pool.endpoints()[0].occupy();
        Arc::new(Attempt::new(pool, occupied, None))
    }

    fn limit(attempt: &Attempt) -> Option<Expired> {
        attempt.lapse().map(|(_, which)| which)
    }

    #[test]
    fn each_phase_of_an_attempt_has_its_limit() {
        let attempt = attempt();
        attempt.note_uploaded();
        assert_eq!(limit(&attempt), None, "our own connection tells by itself");
        attempt.note_engines_own();
        assert_eq!(limit(&attempt), Some(Expired::Response));
        attempt.note_more();
        attempt.enter(Phase::Body);
        assert_eq!(limit(&attempt), Some(Expired::Read));
        let (first, _) = attempt.lapse().unwrap();
        let piece = attempt.flight().carry(Bytes::from_static(b"a"));
        assert!(attempt.lapse().unwrap().0 > first, "the client is waited for");
        drop(piece);
        attempt.note_answered();
        assert_eq!(limit(&attempt), None);
    }

    #[test]
    fn a_head_may_be_the_whole_answer_while_the_client_sends() {
        let attempt = attempt();
        attempt.note_engines_own();
        attempt.note_more();
        attempt.enter(Phase::Body);
        assert_eq!(limit(&attempt), None, "there may be no body to wait for");
        attempt.note_uploaded();
        assert_eq!(limit(&attempt), Some(Expired::Read), "then it would be over");
    }

    #[test]
    fn half_a_request_needs_no_answer_unless_the_rest_is_given_up() {
        let attempt = attempt();
        attempt.note_engines_own();
        drop(attempt.carry_up(Bytes::from_static(b"a")));
        assert_eq!(limit(&attempt), None, "the client may send more");
        attempt.note_late(attempt.pool.spec().timeouts.response);
        assert_eq!(limit(&attempt), Some(Expired::Response), "nobody asks for more");
        let _piece = attempt.carry_up(Bytes::from_static(b"a"));
        assert_eq!(limit(&attempt), None, "somebody did");
    }
}
