//! Deadlines of an HTTP/2 exchange: gaps in its body, and its route's own end.
//!
//! # Why
//! On HTTP/1.1 the client's line notices both. An h2 stream's silence is seen by the h2 layer
//! alone, which has no timer; so a watch stands beside the engine's work and, when time is up,
//! ends it. The stream is then reset.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::net::Alarm;
use crate::upstream::Attempt;

/// Time after the end of an exchange for whoever else noticed it to answer 504. A reset is what is
/// left when nobody could.
const ANSWERING: Duration = Duration::from_millis(500);

tokio::task_local! {
    /// The watch over the stream that the present task serves.
    static WATCH: Arc<StreamWatch>;
}

/// The deadlines of one stream.
#[derive(Debug, Default)]
pub struct StreamWatch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    body: Option<AwaitedBody>,
    end: Option<Instant>,
    expired: Option<Failure>,
}

/// A body while it is awaited.
#[derive(Debug)]
struct AwaitedBody {
    /// The longest gap allowed.
    gap: Duration,
    /// When something last arrived.
    last: Instant,
    /// Where it goes.
    attempt: Option<Arc<Attempt>>,
}

impl StreamWatch {
    /// Runs `work` under a watch of its own.
    pub async fn over(work: impl Future<Output = ()>) {
        let watch = Arc::new(Self::default());
        let mut alarm = Alarm::default();
        let mut work = pin!(WATCH.scope(Arc::clone(&watch), work));
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                let Some((deadline, failure)) = watch.next() else { return Poll::Pending };
                std::task::ready!(alarm.poll(cx, deadline));
                if watch.expire(failure) {
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
    pub fn await_body(&self, gap: Duration, attempt: Option<Arc<Attempt>>) {
        self.state().body = Some(AwaitedBody { gap, last: Instant::now(), attempt });
    }

    /// Part of the body arrived; the last one if `is_end`.
    pub fn progress(&self, is_end: bool) {
        let body = &mut self.state().body;
        match body {
            Some(body) if !is_end => body.last = Instant::now(),
            _ => *body = None,
        }
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

    /// Records that a deadline has passed. `false` if that was nobody's fault at this end: a server
    /// that does not take the body keeps the client waiting, and has a deadline of its own.
    fn expire(&self, failure: Failure) -> bool {
        let mut state = self.state();
        if failure == Failure::RequestTimeout
            && let Some(body) = &mut state.body
            && body.attempt.as_ref().is_some_and(|attempt| attempt.is_holding())
        {
            body.last = Instant::now();
            return false;
        }
        state.expired = Some(failure);
        true
    }

    fn next(&self) -> Option<(Instant, Failure)> {
        let state = self.state();
        let body = state.body.as_ref().map(|body| (body.last + body.gap, Failure::RequestTimeout));
        let end = state.end.map(|end| (end + ANSWERING, Failure::ExchangeTimeout));
        match (body, end) {
            (Some(body), Some(end)) => Some(if body.0 < end.0 { body } else { end }),
            (body, end) => body.or(end),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
