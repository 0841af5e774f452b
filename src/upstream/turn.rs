//! Whose turn it is to take one of the engine's connections to an endpoint.
//!
//! # Why
//! The engine takes a connection out of its pool while a stream begins on it, and lists a new one only
//! when that is open. Whoever comes meanwhile finds none and dials: a burst of requests would open a
//! connection for each. In turn, they share the first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::attempt::Attempt;

/// Longest wait for a turn, if half of `timeouts.connect` is not less. A server that allows few streams on
/// a connection has each request dial, and is not to be dialled by one of them at a time for long.
const LONGEST: Duration = Duration::from_secs(1);

/// The turns at one endpoint.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Arc<Mutex<()>>,
    /// Connections that did not come about. Who has waited for one goes without a turn, so that a server
    /// that cannot be reached costs nobody more than one such wait.
    failed: AtomicUsize,
}

/// The turn of one attempt, until it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Turns {
    /// The next turn, or `None` to go without one after a wait that is too long for `connect`
    /// (`timeouts.connect`) or `end`, or was for a connection that did not come about.
    pub(super) async fn next(&self, connect: Duration, end: Option<Instant>) -> Option<Turn> {
        if let Ok(turn) = Arc::clone(&self.taken).try_lock_owned() {
            return Some(turn);
        }
        let failed = self.failed.load(Ordering::Relaxed);
        let latest = Instant::now() + LONGEST.min(connect / 2);
        let latest = end.map_or(latest, |end| end.min(latest));
        let next = Arc::clone(&self.taken).lock_owned();
        let turn = tokio::time::timeout_at(latest.into(), next).await.ok()?;
        (self.failed.load(Ordering::Relaxed) == failed).then_some(turn)
    }
}

impl Attempt {
    /// Waits until it may take a connection of the engine's that others may share. Returns what is left of
    /// `timeouts.connect`.
    pub(super) async fn await_turn(&self) -> Duration {
        let (began, connect) = (Instant::now(), self.pool.spec().timeouts.connect);
        let turn = self.endpoint().turns().next(connect, self.exchange_deadline).await;
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        connect - began.elapsed().min(connect / 2)
    }

    /// Lets the next one take a connection of the engine's: this one has one, or it `has_failed`.
    pub fn end_turn(&self, has_failed: bool) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        if has_failed && turn.is_some() {
            // Before the next one has it, which is when `turn` is dropped.
            self.endpoint().turns().failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
