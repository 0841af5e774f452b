//! Local certificates made during the handshake, for a site `"*"` with `certificate: internal`.
//!
//! Such a site has no names to make a certificate for in advance, so the name comes from the
//! client. All of them share one key, so a new name costs one P-256 signature, as much as the
//! handshake itself makes, and at most [`CAPACITY`] are remembered: clients choose the
//! names, so they must not choose our memory.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rcgen::KeyPair;

use crate::net::{Host, HostName, HostPattern};
use crate::tls::local_ca::{LocalCa, LocalCaError};
use crate::tls::store::Entry;

/// Makes and remembers certificates by name.
pub struct OnDemand {
    id: Arc<str>,
    ca: Arc<LocalCa>,
    key: KeyPair,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    entries: HashMap<Host, Remembered>,
    /// Counts look-ups; stands for the time of one.
    clock: u64,
}

struct Remembered {
    entry: Arc<Entry>,
    last_used: u64,
}

/// Names remembered at once; the longest unused gives way.
pub const CAPACITY: usize = 1000;

impl OnDemand {
    /// A maker whose entries are called `id` and cover every host, as their site does.
    ///
    /// # Errors
    /// [`LocalCaError::Sign`] when no key can be made.
    pub fn new(id: impl Into<Arc<str>>, ca: Arc<LocalCa>) -> Result<Self, LocalCaError> {
        Ok(Self { id: id.into(), ca, key: KeyPair::generate()?, made: Mutex::default() })
    }

    /// What its entries are called.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The entry for the name, else for the address, else for 127.0.0.1. `None` when the name is
    /// no host name or the signing failed, which is logged.
    pub(super) fn entry(&self, name: Option<&str>, local: Option<IpAddr>) -> Option<Arc<Entry>> {
        self.entry_at(name, local, SystemTime::now())
    }

    fn entry_at(
        &self,
        name: Option<&str>,
        local: Option<IpAddr>,
        now: SystemTime,
    ) -> Option<Arc<Entry>> {
        let host = match (name, local) {
            (Some(name), _) => Host::Name(HostName::parse(name).ok()?),
            (None, Some(address)) => Host::Address(address),
            (None, None) => Host::Address(Ipv4Addr::LOCALHOST.into()),
        };
        if let Some(entry) = self.with_made(|made| made.recall(&host, now)) {
            return Some(entry);
        }
        // Signed outside the lock; two clients that ask at once cost one signature too many.
        let certificate = match self.ca.sign_for(&host, &self.key, now) {
            Ok(certificate) => certificate,
            Err(error) => {
                tracing::error!(%error, %host, "certificate on demand failed");
                return None;
            }
        };
        let entry = Arc::new(Entry::new(Arc::clone(&self.id), vec![HostPattern::Any], certificate));
        self.with_made(|made| made.remember(host, Arc::clone(&entry)));
        Some(entry)
    }

    fn with_made<T>(&self, action: impl FnOnce(&mut Made) -> T) -> T {
        action(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Made {
    fn recall(&mut self, host: &Host, now: SystemTime) -> Option<Arc<Entry>> {
        self.clock += 1;
        let found = self.entries.get_mut(host)?;
        found.last_used = self.clock;
        (now < found.entry.certificate().renew_at()).then(|| Arc::clone(&found.entry))
    }

    fn remember(&mut self, host: Host, entry: Arc<Entry>) {
        if self.entries.len() >= CAPACITY && !self.entries.contains_key(&host) {
            let oldest = self.entries.iter().min_by_key(|(_, made)| made.last_used);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(host, Remembered { entry, last_used: self.clock });
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::authority::LEAF_LIFE;

    fn maker(dir: &tempfile::TempDir) -> OnDemand {
        let ca = LocalCa::open_or_create(dir.path(), SystemTime::now()).unwrap();
        OnDemand::new("*", Arc::new(ca)).unwrap()
    }

    #[test]
    fn a_name_gets_a_certificate_of_its_own_once() {
        let dir = tempfile::tempdir().unwrap();
        let maker = maker(&dir);
        let now = SystemTime::now();
        let get = |name, local| maker.entry_at(name, local, now);
        let first = get(Some("a.test"), None).unwrap();
        assert!(first.certificate().covers(&Host::parse("a.test").unwrap()));
        assert!(Arc::ptr_eq(&first, &get(Some("A.test"), None).unwrap()));
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        let by_address = get(None, Some(address)).unwrap();
        assert!(by_address.certificate().covers(&Host::Address(address)));
        assert!(get(None, None).is_some());
        assert!(get(Some("bad name"), None).is_none());
        let later = maker.entry_at(Some("a.test"), None, now + LEAF_LIFE).unwrap();
        assert!(later.certificate().leaf.not_after > first.certificate().leaf.not_after);
    }

    #[test]
    fn clients_cannot_make_it_remember_more_than_its_capacity() {
        let dir = tempfile::tempdir().unwrap();
        let maker = maker(&dir);
        let kept = maker.entry(Some("kept.test"), None).unwrap();
        for number in 0..CAPACITY + 50 {
            maker.entry(Some(&format!("n{number}.test")), None).unwrap();
            maker.entry(Some("kept.test"), None).unwrap();
        }
        assert_eq!(maker.with_made(|made| made.entries.len()), CAPACITY);
        assert!(Arc::ptr_eq(&kept, &maker.entry(Some("kept.test"), None).unwrap()));
    }
}
