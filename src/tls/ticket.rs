//! Session tickets: how a returning client skips the expensive half of a handshake.
//!
//! # Why
//! Tickets are stateless (RFC 5077, RFC 8446 §4.6.1): nothing is kept per client, so memory does
//! not grow with visitors and a listener may be rebuilt at any time.
//!
//! A ticket is sealed with a key that lives in this process only. rustls rotates it: a key makes
//! tickets for 6 hours and opens them for 6 more, so none outlives 12 hours as long as
//! [`Tickets::rotate`] is called now and then. A stolen key opens no recorded TLS 1.3 traffic,
//! since resumption there always does a fresh key exchange, and at most 12 hours of TLS 1.2.
//!
//! # What a ticket may open
//! A session resumed at another site skips that site's own checks (CVE-2025-23419). rustls writes
//! the server name into the ticket and refuses to resume under any other, or under none
//! (`can_resume` in its `server/hs.rs`), so sites that differ in name are apart even though all
//! listeners share one [`Tickets`]. What the name cannot tell apart is one name under different
//! rules, at two listeners or before and after a reload: each rule about client certificates has
//! keys apart.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// Ticket keys. The process has one, which every listener shares and a reload keeps, and each rule
/// about client certificates has one.
#[derive(Clone, Debug)]
pub struct Tickets {
    keys: Arc<dyn ProducesTickets>,
    /// Those that were made apart, as long as they are used.
    apart: Arc<Mutex<Vec<Weak<dyn ProducesTickets>>>>,
}

/// The system has no randomness for a key.
#[derive(Debug, thiserror::Error)]
#[error("no session ticket key could be made")]
pub struct TicketError(#[from] rustls::Error);

impl Tickets {
    /// Makes the first key.
    ///
    /// # Errors
    /// [`TicketError`] when the system has no randomness.
    pub fn new() -> Result<Self, TicketError> {
        Ok(Self { keys: Ticketer::new()?, apart: Arc::default() })
    }

    /// Other keys, which open no ticket of these and whose tickets these do not open, rotated with
    /// these.
    ///
    /// # Errors
    /// [`TicketError`] when the system has no randomness.
    pub(super) fn apart(&self) -> Result<Self, TicketError> {
        let other = Self::new()?;
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.retain(|keys| keys.strong_count() > 0);
        apart.push(Arc::downgrade(&other.keys));
        Ok(other)
    }

    /// Replaces the key if it is due, here and apart. Handshakes do so too; without any, an old key
    /// would stay in memory and open old tickets. Call it about once an hour.
    pub fn rotate(&self) {
        // The library rotates before it looks at a ticket; nothing is no ticket.
        let _ = self.keys.decrypt(&[]);
        let apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        for keys in apart.iter().filter_map(Weak::upgrade) {
            let _ = keys.decrypt(&[]);
        }
    }

    /// What rustls asks.
    pub(super) fn producer(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.keys)
    }
}
