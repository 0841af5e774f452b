//! One address of one server: how busy it is, and the connections to it that wait to be used again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wire::Transport;
use crate::config::upstream::Server;

/// One address of one server of a pool.
///
/// Its identity is pool, server and address; it outlives any one request and, by identity, a
/// change of the addresses around it.
#[derive(Debug)]
pub struct Endpoint {
    /// Index of its server in the pool.
    pub server_index: usize,
    /// The server as configured.
    pub server: Server,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Dialled when `address` refuses: the other loopback family of a server called `localhost`.
    pub alternate: Option<SocketAddr>,
    /// `10.0.0.5:8080`, for logs and metrics.
    pub label: String,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

/// A connection that waits to be used again.
#[derive(Debug)]
struct Idle {
    transport: Transport,
    since: Instant,
}

impl Endpoint {
    /// An endpoint that is not connected yet.
    #[must_use]
    pub fn new(
        server_index: usize,
        server: Server,
        address: SocketAddr,
        alternate: Option<SocketAddr>,
    ) -> Self {
        Self {
            server_index,
            label: address.to_string(),
            server,
            address,
            alternate,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Requests it is answering now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request for as long as the guard lives.
    #[must_use]
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }

    /// The most recently used connection that is still open and younger than `max_idle`.
    #[must_use]
    pub fn take_idle(&self, now: Instant, max_idle: Duration) -> Option<Transport> {
        loop {
            let mut candidate = self.lock_idle().pop()?;
            let fresh = now.saturating_duration_since(candidate.since) < max_idle;
            if fresh && candidate.transport.is_quiet() {
                return Some(candidate.transport);
            }
        }
    }

    /// Keeps a connection for the next request; closes it when `limit` are kept already.
    pub fn keep(&self, transport: Transport, limit: usize) {
        let mut idle = self.lock_idle();
        if idle.len() < limit {
            idle.push(Idle { transport, since: Instant::now() });
        }
    }

    /// Closes what has waited longer than `max_idle` or was closed by the server. Returns how many
    /// remain.
    pub fn sweep(&self, now: Instant, max_idle: Duration) -> usize {
        let mut kept = std::mem::take(&mut *self.lock_idle());
        kept.retain_mut(|idle| {
            now.saturating_duration_since(idle.since) < max_idle && idle.transport.is_quiet()
        });
        let mut idle = self.lock_idle();
        // What came back meanwhile is the most recently used, and stays at the end.
        kept.append(&mut idle);
        *idle = kept;
        idle.len()
    }

    /// Closes every waiting connection.
    pub fn close_idle(&self) {
        self.lock_idle().clear();
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        // A poisoned list is still a list of connections: nothing is half-written in it.
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One request in flight to an endpoint; the count falls when this is dropped.
#[derive(Debug)]
pub struct Occupied(Arc<Endpoint>);

impl Occupied {
    /// The endpoint that is busy.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
