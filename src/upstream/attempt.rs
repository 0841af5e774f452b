//! One try to get one request answered by one endpoint: what is known of it, by whom it may be cut.
//!
//! The request's context, the connection under it and the engine's hooks all hold the same
//! [`Attempt`]; each writes what it learns, and the access line reads all of it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::announcement::Announcement;
use super::backlog::Backlog;
use super::dial::DialFailure;
use super::endpoint::{Endpoint, Occupied};
use super::flight::{self, EVEN, Flight, Window};
use super::pool::Pool;
use super::turn::Turn;
use super::vigil::Vigil;

/// One try to get one request answered by one endpoint.
#[derive(Debug)]
pub struct Attempt {
    /// When it began.
    pub started: Instant,
    /// The pool it came from.
    pub pool: Arc<Pool>,
    occupied: Occupied,
    /// What its connection begins with, and whose it is then.
    announcement: Option<Arc<Announcement>>,
    /// Where its client is told how much of the request waits, if that can be.
    backlog: Option<Arc<Backlog>>,
    /// End of the whole exchange (`timeouts.request` of the route).
    pub exchange_deadline: Option<Instant>,
    phase: AtomicU8,
    reused: AtomicBool,
    sent: AtomicBool,
    /// Whether the client has sent its whole request.
    uploaded: AtomicBool,
    /// Whether the server has sent its whole response.
    answered: AtomicBool,
    upgrade: AtomicBool,
    heard: AtomicBool,
    /// The connection has become somebody's own.
    personal: AtomicBool,
    /// Since when bytes of the request wait for the server to take them: microseconds after
    /// `started`, 0 while none do.
    holding_since: AtomicU64,
    /// How long they have waited before, in microseconds.
    held: AtomicU64,
    /// Pieces of the request's body that the engine has, where the connection is its own.
    uphill: AtomicUsize,
    /// Pieces of the response's body that have left the engine's queue.
    passed: AtomicU32,
    /// How much of its response may be on the way to the client.
    window: Window,
    /// Its response on the way to the client, once there is a body.
    flight: OnceLock<Arc<Flight>>,
    expired: AtomicU8,
    connect_micros: AtomicU32,
    dial_failure: OnceLock<DialFailure>,
    /// While it takes a connection of the engine's that others may share.
    pub(super) turn: Mutex<Option<Turn>>,
    pub(super) vigil: Vigil,
    /// Who waits for the server's bytes; what it waits for changes with the phase.
    reader: AtomicWaker,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Phase {
    /// No response head yet: `timeouts.response` counts while a write waits, and from the last
    /// byte sent.
    AwaitingHead = 0,
    /// The response's body: `timeouts.read` counts from the last byte received.
    Body = 1,
    /// An upgraded connection: only the client side's idle limit counts.
    Tunnel = 2,
}

/// Which deadline an attempt ran into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Expired {
    /// `timeouts.response`.
    Response = 1,
    /// `timeouts.read`.
    Read = 2,
    /// `timeouts.request` of the route.
    Exchange = 3,
}

impl Attempt {
    /// An attempt that is about to connect.
    #[must_use]
    pub fn new(pool: Arc<Pool>, occupied: Occupied, exchange_deadline: Option<Instant>) -> Self {
        Self {
            started: Instant::now(),
            pool,
            occupied,
            announcement: None,
            backlog: None,
            exchange_deadline,
            phase: AtomicU8::new(Phase::AwaitingHead as u8),
            reused: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            uploaded: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            upgrade: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            personal: AtomicBool::new(false),
            holding_since: AtomicU64::new(0),
            held: AtomicU64::new(0),
            uphill: AtomicUsize::new(0),
            passed: AtomicU32::new(0),
            window: EVEN,
            flight: OnceLock::new(),
            expired: AtomicU8::new(0),
            connect_micros: AtomicU32::new(0),
            dial_failure: OnceLock::new(),
            turn: Mutex::default(),
            vigil: Vigil::default(),
            reader: AtomicWaker::new(),
        }
    }

    /// The same over a connection that begins with `announcement`.
    #[must_use]
    pub fn announcing(self, announcement: Option<Arc<Announcement>>) -> Self {
        Self { announcement, ..self }
    }

    /// The same for a client that is not read from while `backlog` has any.
    #[must_use]
    pub fn with_backlog(self, backlog: Option<Arc<Backlog>>) -> Self {
        Self { backlog, ..self }
    }

    /// Where its client is told how much of the request waits for the server.
    pub(super) fn backlog(&self) -> Option<&Backlog> {
        self.backlog.as_deref()
    }

    /// The same with so much of its response on the way to the client; else that is [`EVEN`].
    #[must_use]
    pub fn with_window(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// What its connection begins with.
    #[must_use]
    pub fn announcement(&self) -> Option<&Arc<Announcement>> {
        self.announcement.as_ref()
    }

    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.occupied.endpoint()
    }

    /// Marks how far it has come.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.reader.wake();
    }

    /// How far it has come.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::AwaitingHead,
            1 => Phase::Body,
            _ => Phase::Tunnel,
        }
    }

    /// Whether its connection was upgraded.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == Phase::Tunnel as u8
    }

    /// Has `waker` woken when [`patience`](Self::patience) with a read changes. To be called before
    /// that is asked.
    pub fn watch_patience(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// Ends [`watch_patience`](Self::watch_patience): nobody waits.
    pub fn end_watch(&self) {
        self.reader.take();
    }

    /// Time without progress that ends it now, and which limit that is. Nobody need answer half a
    /// request: while the client is still sending, only a write that waits counts (`is_write`).
    #[must_use]
    pub fn patience(&self, is_write: bool) -> Option<(Duration, Expired)> {
        let timeouts = &self.pool.spec().timeouts;
        match self.phase.load(Ordering::Relaxed) {
            0 if !is_write && !self.uploaded.load(Ordering::Relaxed) => None,
            0 => Some((timeouts.response, Expired::Response)),
            1 => Some((timeouts.read, Expired::Read)),
            _ => None,
        }
    }

    /// Records that a deadline cut it.
    pub fn expire(&self, which: Expired) {
        self.expired.store(which as u8, Ordering::Relaxed);
    }

    /// The deadline that cut it, if one did.
    #[must_use]
    pub fn expired(&self) -> Option<Expired> {
        match self.expired.load(Ordering::Relaxed) {
            1 => Some(Expired::Response),
            2 => Some(Expired::Read),
            3 => Some(Expired::Exchange),
            _ => None,
        }
    }

    /// Records how its connection came about: from the pool, or dialled in `took`.
    pub fn connected(&self, reused: bool, took: Duration) {
        self.reused.store(reused, Ordering::Relaxed);
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.connect_micros.store(micros, Ordering::Relaxed);
    }

    /// Time spent on connecting; zero on a pooled connection.
    #[must_use]
    pub fn connect_time(&self) -> Duration {
        Duration::from_micros(u64::from(self.connect_micros.load(Ordering::Relaxed)))
    }

    /// Whether its connection had served a request before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Records that bytes of the request left.
    pub fn note_sent(&self) {
        if !self.sent.load(Ordering::Relaxed) {
            self.sent.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the request asks for another protocol.
    pub fn note_upgrade(&self) {
        self.upgrade.store(true, Ordering::Relaxed);
    }

    /// Whether the request asks for another protocol.
    #[must_use]
    pub fn asks_upgrade(&self) -> bool {
        self.upgrade.load(Ordering::Relaxed)
    }

    /// Records that the client has sent its whole request.
    pub fn note_uploaded(&self) {
        self.uploaded.store(true, Ordering::Relaxed);
        self.note_asked();
        self.reader.wake();
    }

    /// Records that the server has sent its whole response. From here on its client is read from in
    /// any case: the engine no longer asks for more of the response, and so sends only when there is
    /// more to send. A tunnel ends with what the server sends.
    pub fn note_answered(&self) {
        if self.is_tunnel() {
            return;
        }
        self.answered.store(true, Ordering::Relaxed);
        if let Some(backlog) = self.backlog() {
            backlog.set(0);
        }
    }

    /// Whether the server has sent its whole response, in no tunnel.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the client has sent its whole request.
    pub(super) fn is_uploaded(&self) -> bool {
        self.uploaded.load(Ordering::Relaxed)
    }

    /// Records that bytes of the response arrived.
    pub fn note_heard(&self) {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the server knows somebody by the connection: nobody else may use it.
    pub fn note_personal(&self) {
        self.personal.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is closed after this exchange, because the server knows somebody by
    /// it.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        self.personal.load(Ordering::Relaxed)
    }

    /// Records whether bytes of the request wait for the server to take them.
    pub fn hold(&self, is_holding: bool) {
        let since = self.holding_since.load(Ordering::Relaxed);
        match (since, is_holding) {
            (0, true) => self.holding_since.store(self.micros().max(1), Ordering::Relaxed),
            (0, false) | (_, true) => {}
            (_, false) => {
                self.held.fetch_add(self.micros().saturating_sub(since), Ordering::Relaxed);
                self.holding_since.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Has a piece of the request's body count as waiting until it is dropped: the server has taken it
    /// then. Connections of our own tell by themselves, so that nothing is done there.
    #[must_use]
    pub fn carry_up(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || !self.is_engines_own() {
            return bytes;
        }
        self.uphill.fetch_add(1, Ordering::SeqCst);
        self.hold(true);
        self.note_piece();
        Bytes::from_owner(Uphill { bytes, since: Instant::now(), attempt: Arc::clone(self) })
    }

    /// How long it was the server that kept the request's body waiting.
    #[must_use]
    pub fn held(&self) -> Duration {
        let present = match self.holding_since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.micros().saturating_sub(since),
        };
        Duration::from_micros(self.held.load(Ordering::Relaxed) + present)
    }

    /// Microseconds since the start.
    pub(super) fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Records that a piece of the response's body has left the engine's queue.
    pub fn note_passed(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Pieces of the response's body that have.
    pub(super) fn passed(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Its response on the way to the client.
    pub fn flight(&self) -> &Arc<Flight> {
        self.flight.get_or_init(|| Arc::new(Flight::new(self.window)))
    }

    /// How much more of its response may be read beside `unpassed` bytes of it that have not left the
    /// engine's queue: nothing while these are to pass first.
    pub(super) fn room(&self, unpassed: usize) -> usize {
        if !self.window.grows() && unpassed > 0 {
            return if unpassed < flight::SMALL { flight::SMALL } else { 0 };
        }
        match self.has_flight().map_or(self.window.least, |flight| flight.room()) {
            room if room > unpassed => (room - unpassed).max(self.window.least / 2),
            _ => 0,
        }
    }

    /// The same, if there is any.
    #[must_use]
    pub fn has_flight(&self) -> Option<&Arc<Flight>> {
        self.flight.get()
    }

    /// Whether any byte of the request may have reached the server.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the server has said anything.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Records why no connection came about. The first reason stays.
    pub fn fail_dial(&self, failure: DialFailure) {
        // A second failure of one attempt cannot happen: it dials once.
        let _ = self.dial_failure.set(failure);
    }

    /// Why no connection came about.
    #[must_use]
    pub fn dial_failure(&self) -> Option<&DialFailure> {
        self.dial_failure.get()
    }
}

/// A piece of a request's body that waits as long as it lives.
struct Uphill {
    bytes: Bytes,
    since: Instant,
    attempt: Arc<Attempt>,
}

impl AsRef<[u8]> for Uphill {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Uphill {
    fn drop(&mut self) {
        if self.attempt.uphill.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        self.attempt.hold(false);
        self.attempt.note_late(self.since.elapsed());
        // The next piece may have come meanwhile, from another thread.
        if self.attempt.uphill.load(Ordering::SeqCst) > 0 {
            self.attempt.hold(true);
            self.attempt.note_piece();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::tls::SystemRoots;

    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attempt() -> Attempt {
        let yaml = "sites: { a.test: { upstream: \"http://127.0.0.1:9\" } }";
        let loaded = crate::config::from_text("test", yaml, Path::new("")).unwrap();
        let spec = loaded.config.upstreams[0].clone();
        let pool = Arc::new(Pool::new(spec, &SystemRoots::load(), None).unwrap());
        let occupied = pool.endpoints()[0].occupy();
        Attempt::new(pool, occupied, None)
    }

    #[test]
    fn whoever_waits_for_the_server_learns_that_its_patience_changed() {
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let attempt = attempt();

        attempt.watch_patience(&waker);
        assert_eq!(attempt.patience(false), None, "half a request needs no answer");
        attempt.note_uploaded();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(matches!(attempt.patience(false), Some((_, Expired::Response))));

        attempt.watch_patience(&waker);
        attempt.enter(Phase::Body);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert!(matches!(attempt.patience(false), Some((_, Expired::Read))));

        attempt.watch_patience(&waker);
        attempt.end_watch();
        attempt.enter(Phase::Tunnel);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "nobody waits");
    }
}
