//! Deadlines of an HTTP/2 exchange: its body's, its response's, and its route's own end.
//!
//! # Why
//! On HTTP/1.1 the client's line notices both. An h2 stream's silence is seen by the h2 layer
//! alone, which has no timer; so a watch stands beside the engine's work and, when time is up,
//! ends it. The stream is then reset.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::net::{Alarm, Pace};
use crate::upstream::{Attempt, Flight};

/// Time after the end of an exchange for whoever else noticed it to answer 504. A reset is what is
/// left when nobody could.
const ANSWERING: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// The watch over the stream that the present task serves.
    static WATCH: Arc<StreamWatch>;
}

/// Streams that are open on one connection. They share what it moves: each may be as much slower
/// than the slowest rate allowed as there are.
pub type Streams = Arc<AtomicUsize>;

/// The deadlines of one stream.
#[derive(Debug)]
pub struct StreamWatch {
    streams: Streams,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    body: Option<AwaitedBody>,
    response: Option<OwedResponse>,
    end: Option<Instant>,
    expired: Option<Failure>,
}

/// A body while it is awaited.
#[derive(Debug)]
struct AwaitedBody {
    pace: Pace,
    /// Whether the response counts as progress, too: a conversation, in which silence is no fault.
    is_conversation: bool,
    /// Where it goes.
    attempt: Option<Arc<Attempt>>,
    /// How much of the wait for it was the server's, as far as that is settled.
    held: Duration,
}

/// A response while the client has still to take some of it.
#[derive(Debug)]
struct OwedResponse {
    pace: Pace,
    flight: Arc<Flight>,
    /// Bytes that were taken when last looked at.
    taken: u64,
}

impl StreamWatch {
    /// Runs `work` under a watch of its own, as one of `streams`.
    pub async fn over(streams: Streams, work: Pin<Box<impl Future<Output = ()>>>) {
        let watch = Arc::new(Self { streams, state: Mutex::default() });
        let mut alarm = Alarm::default();
        let mut work = pin!(WATCH.scope(Arc::clone(&watch), work));
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                let Some((deadline, failure)) = watch.next() else { return Poll::Pending };
                std::task::ready!(alarm.poll(cx, deadline));
                if watch.expire(failure, Instant::now()) {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }

    /// The watch over the present task's stream.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        WATCH.try_with(Arc::clone).ok()
    }

    /// From here on a body is awaited, to be taken by `attempt`'s server.
    pub fn await_body(&self, mut pace: Pace, is_conversation: bool, attempt: Option<Arc<Attempt>>) {
        // Whoever waits is the engine, which does not tell; so it counts as waiting all the time.
        let _ = pace.wait(Instant::now);
        let held = attempt.as_ref().map(|attempt| attempt.held()).unwrap_or_default();
        self.state().body = Some(AwaitedBody { pace, is_conversation, attempt, held });
    }

    /// So many bytes of the body arrived; the last ones if `is_end`.
    pub fn progress(&self, bytes: usize, is_end: bool) {
        let mut state = self.state();
        match &mut state.body {
            Some(body) if !is_end => body.moved(bytes * self.share(), Instant::now()),
            body => *body = None,
        }
    }

    /// Part of a response goes to the client with `flight`, which judges it by `pace`.
    pub fn owe(&self, flight: &Arc<Flight>, pace: impl FnOnce() -> Pace) {
        let share = self.share() as u64;
        let mut state = self.state();
        if let Some(body) = &mut state.body
            && body.is_conversation
        {
            body.moved(1, Instant::now());
        }
        let response = state.response.get_or_insert_with(|| {
            flight.time();
            OwedResponse { pace: pace(), flight: Arc::clone(flight), taken: 0 }
        });
        // Before there is more to take, so that the time without any is nobody's.
        response.settle(share);
    }

    /// Bounds the whole exchange.
    pub fn set_end(&self, end: Option<Instant>) {
        self.state().end = end;
    }

    /// Why the work was ended, if it was.
    #[must_use]
    pub fn expired(&self) -> Option<Failure> {
        self.state().expired
    }

    /// Records that a deadline has passed by `now`. `false` if that was nobody's fault at this end: a
    /// server that does not take the body keeps the client waiting, and has a deadline of its own.
    fn expire(&self, failure: Failure, now: Instant) -> bool {
        let mut state = self.state();
        if failure == Failure::RequestTimeout
            && let Some(body) = &mut state.body
            && body.excuse(now)
        {
            return false;
        }
        state.expired = Some(failure);
        true
    }

    /// The next deadline, and what it stands for.
    fn next(&self) -> Option<(Instant, Failure)> {
        let share = self.share() as u64;
        let mut state = self.state();
        let body = state.body.as_mut();
        let body = body.map(|body| (body.pace.wait(Instant::now), Failure::RequestTimeout));
        let response = state.response.as_mut().and_then(|response| response.deadline(share));
        let response = response.map(|end| (end, Failure::ClientGone));
        let end = state.end.map(|end| (end + ANSWERING, Failure::ExchangeTimeout));
        [body, response, end].into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }

    fn share(&self) -> usize {
        self.streams.load(Ordering::Relaxed).max(1)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AwaitedBody {
    fn moved(&mut self, bytes: usize, now: Instant) {
        self.excuse(now);
        self.pace.moved(bytes as u64, || now);
        let _ = self.pace.wait(|| now);
    }

    /// Takes out of the wait what was the server's. Returns whether that was anything.
    fn excuse(&mut self, now: Instant) -> bool {
        let Some(attempt) = &self.attempt else { return false };
        let held = attempt.held();
        let more = held.saturating_sub(self.held);
        self.held = held;
        self.pace.excuse(more, || now);
        !more.is_zero()
    }
}

impl OwedResponse {
    /// When patience with the client ends, if it has anything to take.
    fn deadline(&mut self, share: u64) -> Option<Instant> {
        self.settle(share);
        if self.flight.owed() == 0 {
            return None;
        }
        Some(self.pace.wait(Instant::now))
    }

    /// Counts what was taken. Whoever has taken all has waited since for the server.
    fn settle(&mut self, share: u64) {
        let cleared = self.flight.cleared();
        let taken = self.flight.taken();
        if taken > self.taken {
            let end = || cleared.unwrap_or_else(Instant::now);
            self.pace.moved((taken - self.taken).saturating_mul(share), end);
            self.taken = taken;
        }
    }
}
