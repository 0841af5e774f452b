//! The proxy engine in its casing: started once, fed one session at a time, its panics contained.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::sync::watch;

use super::connection::{ClientFault, Connection};
use super::gateway::Shared;
use super::hooks::Hooks;
use super::trace::RequestId;
use crate::net::Alarm;
use crate::upstream::Attempt;

/// Most attempts at one request that the engine allows; how many there are is decided per pool.
const MAX_ATTEMPTS: usize = 64;

tokio::task_local! {
    /// The id of the request that the present task is at.
    static REQUEST: RefCell<Option<RequestId>>;
    /// What the present task's server may not keep waiting for ever.
    static AWAITED: RefCell<Option<Awaited>>;
}

/// An attempt over a connection of the engine's own.
#[derive(Debug)]
struct Awaited {
    attempt: Arc<Attempt>,
    /// Where the answer goes when the engine cannot give it. HTTP/1.1 only.
    client: Option<Arc<Connection>>,
}

/// The id of the request that the present task is at, if it is at one: for the report of a panic.
#[must_use]
pub fn present_request() -> Option<RequestId> {
    REQUEST.try_with(|request| request.try_borrow().ok()?.clone()).ok()?
}

/// Notes which request the present task is at.
pub(super) fn note_request(id: &RequestId) {
    // Outside the engine, as in tests, there is nobody to ask for it.
    let _ = REQUEST.try_with(|request| request.replace(Some(id.clone())));
}

/// From here on `attempt` is what the present task waits for; with `None` nothing is. `client` is the
/// connection of a client that speaks HTTP/1.1.
pub(super) fn note_attempt(attempt: Option<&Arc<Attempt>>, client: Option<&Arc<Connection>>) {
    let awaited =
        attempt.map(|attempt| Awaited { attempt: Arc::clone(attempt), client: client.cloned() });
    // Outside the engine nobody waits.
    let _ = AWAITED.try_with(|place| place.replace(awaited));
}

/// Ready when the server of the present task has kept it waiting for too long, with the connection of a
/// client that speaks HTTP/1.1. While that takes nothing, it is the client that keeps us waiting; the
/// engine copies small pieces together, so that they do not tell.
fn poll_lapse(
    cx: &mut Context<'_>,
    alarm: &mut Alarm,
    was_full: &mut bool,
) -> Poll<Option<Arc<Connection>>> {
    AWAITED.with(|place| {
        let place = place.borrow();
        let Some(Awaited { attempt, client }) = place.as_ref() else { return Poll::Pending };
        let is_full = client.as_ref().is_some_and(|client| client.is_full());
        if std::mem::replace(was_full, is_full) || is_full {
            attempt.note_more();
        }
        let Some((end, which)) = attempt.lapse() else { return Poll::Pending };
        ready!(alarm.poll(cx, end));
        attempt.expire(which);
        Poll::Ready(client.clone())
    })
}

/// The proxy engine. One for the process: it owns the HTTP/2 connections to servers.
pub struct Engine {
    proxy: Arc<HttpProxy<Hooks>>,
    shared: Arc<Shared>,
    stopping: watch::Sender<bool>,
    /// What the engine asks of every request's connection.
    is_stopping: watch::Receiver<bool>,
}

/// How the engine's work on one session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Served {
    /// Properly, and the connection may be used again.
    Kept,
    /// Properly or not; the engine would close the connection.
    Done,
    /// By a panic, which is counted.
    Panicked,
}

impl Engine {
    /// An engine without connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let conf = ServerConf {
            max_retries: MAX_ATTEMPTS,
            // Pools bring their own CAs. An empty file keeps the engine from reading the system's
            // store, where one CA that it cannot parse would be a panic.
            ca_file: Some(if cfg!(windows) { "NUL" } else { "/dev/null" }.to_owned()),
            ..ServerConf::default()
        };
        let hooks = Hooks { shared: Arc::clone(&shared) };
        let proxy = Arc::new(http_proxy(&Arc::new(conf), hooks));
        let (stopping, is_stopping) = watch::channel(false);
        Self { proxy, shared, stopping, is_stopping }
    }

    /// What all requests share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// From here on responses announce that their connection closes.
    pub fn stop(&self) {
        self.shared.stop();
        self.stopping.send_replace(true);
    }

    /// Serves the request of `session` to its end.
    ///
    /// No `async fn`, which would have room for the session beside the work that takes it: a
    /// connection's task keeps the room of all it awaits for as long as it lives.
    pub fn serve(&self, session: ServerSession) -> impl Future<Output = Served> + Send {
        let work = self.proxy.process_new_http(session, &self.is_stopping);
        let work = Watched { work: Contained(work), alarm: Alarm::default(), was_full: false };
        let work = REQUEST.scope(RefCell::default(), AWAITED.scope(RefCell::default(), work));
        async move {
            match work.await {
                Ok(Some(_)) => Served::Kept,
                Ok(None) => Served::Done,
                Err(()) => {
                    self.shared.count_panic();
                    Served::Panicked
                }
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Work that is interrupted when a server keeps it waiting for too long. While it listens to a client
/// that speaks HTTP/1.1, it is told there, and answers or tries again; else it is given up. Whoever
/// gives it up drops it, which ends the exchange.
struct Watched<F> {
    work: F,
    alarm: Alarm,
    /// Whether the client had yet to take something when last looked at.
    was_full: bool,
}

impl<T, F: Future<Output = Result<Option<T>, ()>> + Unpin> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { work, alarm, was_full } = self.get_mut();
        let mut poll = Pin::new(&mut *work).poll(cx);
        let mut is_told = false;
        while poll.is_pending() {
            // Behind the telling there may be another attempt, which has a time of its own.
            let Some(client) = ready!(poll_lapse(cx, alarm, was_full)) else {
                return Poll::Ready(Ok(None));
            };
            if !is_told {
                client.interrupt();
                poll = Pin::new(&mut *work).poll(cx);
                is_told = !client.take_interrupt();
                if is_told || poll.is_ready() {
                    continue;
                }
            }
            client.fault(ClientFault::Deadline);
            return Poll::Ready(Ok(None));
        }
        poll
    }
}

/// A future whose panic is its result.
struct Contained<F>(F);

impl<F: Future + Unpin> Future for Contained<F> {
    type Output = Result<F::Output, ()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let work = &mut self.get_mut().0;
        // Nothing that the future touched is used after a panic but by the drop of its parts.
        match std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(work).poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(())),
        }
    }
}
