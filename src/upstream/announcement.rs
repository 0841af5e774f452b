//! What a connection to a server begins with where the pool asks for it: whose it is.
//!
//! Answers "may this connection serve that request?". Held by a client's connection, and by the
//! attempts made for it; kept connections know theirs. Never decides who the client is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::net::proxy_protocol::Version;

/// A PROXY header that connections to servers begin with. A connection serves only requests with the
/// same one, and is of no use once nobody holds it any more.
#[derive(Debug)]
pub struct Announcement {
    version: Version,
    client: SocketAddr,
    local: SocketAddr,
    /// Tells the engine's connections apart by it.
    pub(super) group: u64,
}

/// The one who holds a client connection's announcement: the last that one of its requests needed.
/// There is seldom another, for requests of one connection are seldom several clients'.
#[derive(Debug, Default)]
pub struct Announcer(Mutex<Option<Arc<Announcement>>>);

/// To whom a kept connection belongs; to everybody when it was announced as nobody's.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner(Option<Weak<Announcement>>);

impl Announcement {
    /// The header.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        self.version.header(self.client, self.local)
    }
}

impl Announcer {
    /// What connections for the client at `client` begin with, which knows us as `local`.
    #[must_use]
    pub fn announce(
        &self,
        version: Version,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Arc<Announcement> {
        // Replaced whole, so that a poisoned one is still one.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && (last.version, last.client, last.local) == (version, client, local)
        {
            return Arc::clone(last);
        }
        let new = Announcement { version, client, local, group: fastrand::u64(..) };
        Arc::clone(last.insert(Arc::new(new)))
    }
}

impl Owner {
    /// Whoever an attempt with this announcement is made for.
    pub(super) fn of(announcement: Option<&Arc<Announcement>>) -> Self {
        Self(announcement.map(Arc::downgrade))
    }

    /// Whether it is the same.
    pub(super) fn is(&self, announcement: Option<&Arc<Announcement>>) -> bool {
        match (&self.0, announcement) {
            (None, None) => true,
            (Some(mine), Some(its)) => std::ptr::eq(mine.as_ptr(), Arc::as_ptr(its)),
            _ => false,
        }
    }

    /// Whether somebody may ask for the connection again.
    pub(super) fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(|owner| owner.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_its_owners_as_long_as_there_is_one() {
        let announcer = Announcer::default();
        let announce = |version, client: &str| {
            announcer.announce(version, client.parse().unwrap(), "10.0.0.1:443".parse().unwrap())
        };
        let first = announce(Version::V2, "203.0.113.7:1");
        let (owner, everybody) = (Owner::of(Some(&first)), Owner::of(None));
        assert!(owner.is(Some(&announce(Version::V2, "203.0.113.7:1"))), "the same again");
        assert!(!owner.is(None) && !everybody.is(Some(&first)) && everybody.is(None));
        assert!(owner.is_there() && everybody.is_there());
        let others = [(Version::V2, "203.0.113.7:2"), (Version::V1, "203.0.113.7:1")];
        for (version, client) in others {
            assert!(!owner.is(Some(&announce(version, client))), "{client}");
        }
        assert!(owner.is_there(), "an attempt still has it");
        drop(first);
        assert!(!owner.is_there());
        let again = announce(Version::V2, "203.0.113.7:1");
        assert!(!owner.is(Some(&again)), "it begins anew");
    }
}
