//! What the process is short of, and who gives way.
//!
//! Answers "may this come in, and should an idle connection go?". A task of `app` measures and says so
//! here; whoever meets with a shortage of descriptors says that. Never measures anything itself.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::told::Told;

/// How short of memory the process is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    /// Not at all.
    #[default]
    Ease = 0,
    /// New requests are shed, and idle connections close.
    Shed = 1,
    /// New connections are refused as well.
    Refuse = 2,
}

/// One idle connection in so many closes each time that room is asked for: all at once would all
/// come back at once.
const ONE_IN: u8 = 4;

/// Whether `error` says that the system had no descriptor or memory for a socket. Most of these numbers
/// have no [`io::ErrorKind`].
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|code| SHORTAGE.contains(&code))
}

/// ENFILE, EMFILE, ENOMEM, ENOBUFS on Linux.
#[cfg(not(windows))]
const SHORTAGE: [i32; 4] = [23, 24, 12, 105];

/// WSAEMFILE, WSAENOBUFS, ERROR_NOT_ENOUGH_MEMORY.
#[cfg(windows)]
const SHORTAGE: [i32; 3] = [10024, 10055, 8];

/// What the process is short of. One for the process.
#[derive(Debug, Default)]
pub struct Pressure {
    level: AtomicU8,
    memory: AtomicU64,
    memory_limit: AtomicU64,
    /// Descriptors were short since it was last asked.
    is_short: AtomicBool,
    /// And still count as being so.
    lacks_descriptors: AtomicBool,
    /// Connections beyond which descriptors run short; 0 is not known.
    room: AtomicUsize,
    /// How often idle connections were asked to go.
    calls: AtomicU64,
    called: Notify,
    relieved: AtomicU64,
    descriptors_told: Told,
    ports_told: Told,
}

impl Pressure {
    /// How short of memory it is.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Ease,
            1 => Level::Shed,
            _ => Level::Refuse,
        }
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        self.level.load(Ordering::Relaxed) != Level::Ease as u8
    }

    /// Notes what was measured: bytes in use, the limit (0 for none), and what that means. Returns
    /// the level before.
    pub fn measured(&self, bytes: u64, limit: u64, level: Level) -> Level {
        let before = self.level();
        self.memory.store(bytes, Ordering::Relaxed);
        self.memory_limit.store(limit, Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
        if level != Level::Ease {
            self.call();
        }
        before
    }

    /// Notes that a moment is over: what was short in it is so for one more, unless it is met with
    /// again.
    pub fn pass(&self) {
        let lacks = self.is_short.swap(false, Ordering::Relaxed);
        self.lacks_descriptors.store(lacks, Ordering::Relaxed);
    }

    /// Bytes in use when last measured, and their limit; 0 is none.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.load(Ordering::Relaxed), self.memory_limit.load(Ordering::Relaxed))
    }

    /// Whether descriptors were short in the last moment.
    #[must_use]
    pub fn lacks_descriptors(&self) -> bool {
        self.lacks_descriptors.load(Ordering::Relaxed) || self.is_short.load(Ordering::Relaxed)
    }

    /// Notes that the system had no descriptor or memory for a socket, as `error` says, and has idle
    /// connections make room, once in a moment however often it is met with: each time
    /// costs some of them. The log is told once in a while.
    pub fn lack(&self, error: &dyn std::fmt::Display) {
        if !self.is_short.swap(true, Ordering::Relaxed) {
            self.call();
        }
        if let Some(count) = self.descriptors_told.count() {
            tracing::warn!(%error, count, "short of descriptors");
        }
    }

    /// Notes that every port towards `endpoint` is taken, as `error` says. Those of other servers are
    /// not, and no client that goes would free one. The log is told once in a while.
    pub fn lack_port(&self, endpoint: &str, error: &dyn std::fmt::Display) {
        if let Some(count) = self.ports_told.count() {
            let hint = "have it keep connections open, give it more addresses, or widen \
                        net.ipv4.ip_local_port_range";
            tracing::warn!(endpoint, %error, count, hint, "out of ports to a server");
        }
    }

    /// Connections that leave enough descriptors for everything else.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.room.load(Ordering::Relaxed) {
            0 => usize::MAX,
            room => room,
        }
    }

    /// Sets [`room`](Self::room).
    pub fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Idle connections closed to make room, since the start.
    #[must_use]
    pub fn relieved(&self) -> u64 {
        self.relieved.load(Ordering::Relaxed)
    }

    /// Asks idle connections to go.
    pub fn call(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.called.notify_waiters();
    }

    /// What an idle connection of the present task waits with.
    #[must_use]
    pub fn ear(&self) -> Ear<'_> {
        Ear { pressure: self, heard: None, called: Box::pin(self.called.notified()) }
    }
}

/// Hears calls for idle connections to go. Without a call, polling costs a look at a counter: it
/// registers once, since a task's waker stays the same.
#[derive(Debug)]
pub struct Ear<'a> {
    pressure: &'a Pressure,
    /// Calls that were heard; `None` before it listens.
    heard: Option<u64>,
    called: Pin<Box<Notified<'a>>>,
}

impl Ear<'_> {
    /// Ready when the connection is to close. Calls while it was busy count, if the shortage lasts.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pressure = self.pressure;
        loop {
            let calls = pressure.calls.load(Ordering::SeqCst);
            if self.heard == Some(calls) {
                return Poll::Pending;
            }
            let is_short = pressure.is_shedding() || pressure.lacks_descriptors();
            if self.heard.is_some() && is_short && fastrand::u8(..ONE_IN) == 0 {
                pressure.relieved.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(());
            }
            self.heard = Some(calls);
            self.called.set(pressure.called.notified());
            // Ready means another call by now, which shows in the counter.
            let _ = self.called.as_mut().poll(cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn idle_connections_go_when_called_and_only_while_it_is_short() {
        let pressure = Arc::new(Pressure::default());
        let mut idle = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let pressure = Arc::clone(&pressure);
            idle.spawn(async move {
                let mut ear = pressure.ear();
                poll_fn(|cx| ear.poll(cx)).await;
            });
        }
        tokio::task::yield_now().await;
        pressure.call();
        tokio::task::yield_now().await;
        assert_eq!(pressure.relieved(), 0, "nothing is short");
        pressure.measured(2, 1, Level::Shed);
        while pressure.relieved() == 0 {
            tokio::task::yield_now().await;
        }
        while !idle.is_empty() {
            pressure.call();
            while idle.try_join_next().is_some() {}
            tokio::task::yield_now().await;
        }
        assert_eq!(pressure.relieved(), 200);
    }

    #[test]
    fn a_shortage_of_descriptors_is_remembered_for_a_moment() {
        let pressure = Pressure::default();
        assert!(!pressure.lacks_descriptors());
        pressure.lack(&"too many open files");
        assert!(pressure.lacks_descriptors());
        pressure.pass();
        assert!(pressure.lacks_descriptors(), "a moment is not over");
        pressure.pass();
        assert!(!pressure.lacks_descriptors());
    }

    #[test]
    fn each_shortage_costs_idle_connections_once_a_moment() {
        let pressure = Pressure::default();
        let calls = || pressure.calls.load(Ordering::SeqCst);
        for _ in 0..200 {
            pressure.lack(&"too many open files");
        }
        assert_eq!(calls(), 1);
        pressure.pass();
        pressure.lack(&"too many open files");
        assert_eq!(calls(), 2);
    }

    #[test]
    fn ports_to_a_server_are_not_clients_to_give_back() {
        let pressure = Pressure::default();
        pressure.lack_port("http://localhost:1", &"no port");
        assert_eq!(pressure.calls.load(Ordering::SeqCst), 0);
        assert!(!pressure.lacks_descriptors());
    }
}
