//! What is known of a client connection, and what its requests tell it.
//!
//! Made by `listen` when a connection is ready for HTTP; every request on it holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::certificate_fields::CertificateFields;
use super::client::Client;
use super::forwarded_values::ConnectionValues;
use crate::net::proxy_protocol::Version;
use crate::tls::{ClientProof, Entry, Policy, Session};
use crate::upstream::{Announcement, Announcer, Backlog};

/// A client connection.
#[derive(Debug)]
pub struct Connection {
    /// The listener that accepted it.
    pub listener: Arc<ListenerFacts>,
    /// The other end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// What the handshake agreed on; `None` on plain HTTP.
    pub tls: Option<TlsFacts>,
    /// How this client is spelt in forwarding fields.
    pub forwarded: ConnectionValues,
    announcer: Announcer,
    backlog: Arc<Backlog>,
    opened: Instant,
    tunnel: AtomicBool,
    /// Whether the request's body waits for its turn. HTTP/1.1 only.
    keeps_body: AtomicBool,
    /// Whether the client has yet to take what was written. HTTP/1.1 only.
    full: AtomicBool,
    /// Whether whoever reads is to break off, since the server keeps it waiting. HTTP/1.1 only.
    interrupted: AtomicBool,
    /// Whether an answer of our own went out whole and promised to keep the connection.
    answered: AtomicBool,
    /// End of the present exchange in microseconds after `opened`; 0 is no end. HTTP/1.1 only.
    deadline: AtomicU64,
    fault: Mutex<Option<ClientFault>>,
    last_words: Mutex<Option<Vec<u8>>>,
}

/// What requests need to know of their listener: one value as long as it lives, whatever its index
/// in the configuration becomes.
#[derive(Debug)]
pub struct ListenerFacts {
    /// Its name.
    pub name: String,
    is_retired: AtomicBool,
    is_cut: AtomicBool,
}

/// A finished handshake.
#[derive(Debug)]
pub struct TlsFacts {
    /// Name, version, suite, ALPN.
    pub session: Session,
    /// The certificate that was served.
    pub entry: Arc<Entry>,
    /// What the client has shown, where it was asked.
    client: Option<Box<ClientFacts>>,
}

/// What a client that was asked has shown, and how backends are told.
#[derive(Debug)]
struct ClientFacts {
    proof: ClientProof,
    fields: CertificateFields,
}

/// What a client did that ends its exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientFault {
    /// Closed the connection in the middle of a body.
    Gone,
    /// Sent a body whose framing is broken: status and reason.
    Framing(u16, &'static str),
    /// Let `limits.request_body_timeout` pass.
    SlowBody,
    /// Took nothing of the response for too long.
    SlowReader,
    /// Let `limits.upgrade_idle_timeout` pass.
    Idle,
    /// None of the client's: the route's `timeouts.request` passed, which is noticed where the
    /// client is listened to.
    Deadline,
}

impl ListenerFacts {
    /// A listener in service.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, is_retired: AtomicBool::new(false), is_cut: AtomicBool::new(false) }
    }

    /// From here on answers on its connections announce that they close: a reload has removed it.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// Whether a reload has removed it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// From here on exchanges on its connections end because it does.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    /// Whether exchanges on its connections end because it does.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}

impl TlsFacts {
    /// What requests need of a handshake.
    #[must_use]
    pub fn new(session: Session, entry: Arc<Entry>, proof: Option<ClientProof>) -> Self {
        let client = proof.map(|proof| {
            let fields = CertificateFields::new(proof.certificate());
            Box::new(ClientFacts { proof, fields })
        });
        Self { session, entry, client }
    }

    /// Whether the client was asked for what a site under `policy` asks for, and has shown it.
    #[must_use]
    pub fn satisfies(&self, policy: Option<&Arc<Policy>>) -> bool {
        match (&self.client, policy) {
            (None, None) => true,
            (Some(client), Some(policy)) => client.proof.satisfies(policy),
            // Under other rules, stricter or not: the handshake is not the one of that site.
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// What backends are told of the client's certificate, where it was asked for one.
    #[must_use]
    pub fn certificate_fields(&self) -> Option<&CertificateFields> {
        self.client.as_ref().map(|client| &client.fields)
    }

    /// Whom the client's certificate is for, by RFC 4514.
    #[must_use]
    pub fn client_subject(&self) -> Option<&str> {
        Some(&self.client.as_ref()?.proof.certificate()?.subject)
    }
}

impl Connection {
    /// A connection that is ready for its first request.
    #[must_use]
    pub fn new(
        listener: Arc<ListenerFacts>,
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<TlsFacts>,
    ) -> Self {
        Self {
            listener,
            peer,
            local,
            tls,
            forwarded: ConnectionValues::new(peer.ip()),
            announcer: Announcer::default(),
            backlog: Arc::default(),
            opened: Instant::now(),
            tunnel: AtomicBool::new(false),
            keeps_body: AtomicBool::new(false),
            full: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            deadline: AtomicU64::new(0),
            fault: Mutex::new(None),
            last_words: Mutex::new(None),
        }
    }

    /// What a connection to a server begins with that serves a request of `client` on this one. The
    /// port of a client that is known by a trusted proxy's word is not known: 0. A trusted proxy that
    /// speaks of nobody is a client itself.
    #[must_use]
    pub fn announce(&self, version: Version, client: &Client) -> Arc<Announcement> {
        let is_peer = client.address == self.peer.ip().to_canonical();
        let port = if is_peer { self.peer.port() } else { 0 };
        self.announcer.announce(version, SocketAddr::new(client.address, port), self.local)
    }

    /// What the server has yet to take of the present request. HTTP/1.1 only.
    #[must_use]
    pub fn backlog(&self) -> &Arc<Backlog> {
        &self.backlog
    }

    /// Turns the connection into an upgraded one: from here on its bytes are no HTTP.
    pub fn become_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Whether it has been upgraded.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Whether whoever reads is to hear of the client's end only, since nobody takes the request's
    /// body yet. HTTP/1.1 only.
    pub fn keep_body(&self, is_kept: bool) {
        self.keeps_body.store(is_kept, Ordering::Relaxed);
    }

    /// Whether the request's body is not to be read yet.
    #[must_use]
    pub fn keeps_body(&self) -> bool {
        self.keeps_body.load(Ordering::Relaxed)
    }

    /// Notes whether the client has yet to take what was written. HTTP/1.1 only.
    pub fn note_full(&self, is_full: bool) {
        if self.is_full() != is_full {
            self.full.store(is_full, Ordering::Relaxed);
        }
    }

    /// Whether the client has yet to take what was written.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Has whoever waits for the client break off. HTTP/1.1 only.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Whether the reader is to break off; forgets it.
    #[must_use]
    pub fn take_interrupt(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    /// Notes that an answer of our own went out whole, and whether it promised to keep the
    /// connection.
    pub fn note_answered(&self, keeps: bool) {
        self.answered.store(keeps, Ordering::Relaxed);
    }

    /// Whether an answer of our own promised to keep the connection; forgets it.
    #[must_use]
    pub fn take_answered(&self) -> bool {
        self.answered.swap(false, Ordering::Relaxed)
    }

    /// Sets or clears the end of the present exchange. HTTP/1.1 only.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let micros = deadline.map_or(0, |end| {
            let after = end.saturating_duration_since(self.opened).as_micros();
            u64::try_from(after).unwrap_or(u64::MAX).max(1)
        });
        self.deadline.store(micros, Ordering::Relaxed);
    }

    /// The end of the present exchange.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let micros = self.deadline.load(Ordering::Relaxed);
        (micros != 0).then(|| self.opened + Duration::from_micros(micros))
    }

    /// Leaves the answer of an exchange that is ending without the means to send it. HTTP/1.1 only.
    pub fn leave_last_words(&self, answer: Vec<u8>) {
        *self.last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    /// What an exchange left to be said, if one did.
    #[must_use]
    pub fn take_last_words(&self) -> Option<Vec<u8>> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Records what the client did; the first fault counts.
    pub fn fault(&self, fault: ClientFault) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    /// What the client did, if it did anything. Only HTTP/1.1 records faults here: an HTTP/2
    /// connection carries other clients' streams as well.
    #[must_use]
    pub fn client_fault(&self) -> Option<ClientFault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
