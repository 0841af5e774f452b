//! Which certificate a client gets: the certificates of the running configuration, by name.
//!
//! One [`CertStore`] lives as long as its listeners; its [`Table`] is replaced whole, so a
//! handshake sees the old set or the new one and never a mixture. A look-up hashes the name once
//! or twice however many sites there are, and allocates nothing.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;

use crate::net::{Host, HostName, HostPattern, HostRef};
use crate::tls::certificate::{Certificate, Fingerprint};
use crate::tls::challenge::Challenges;
use crate::tls::health::Health;
use crate::tls::ocsp::Staple;
use crate::tls::on_demand::OnDemand;

/// The certificates in service, and those that answer a certificate authority's challenges.
#[derive(Debug)]
pub struct CertStore {
    table: ArcSwap<Table>,
    challenges: Arc<Challenges>,
    /// What is known of certificates' revocation, of those in the table and those of the next. Held
    /// while the table is replaced, so that no entry misses its own.
    staples: Mutex<HashMap<Fingerprint, Arc<Staple>>>,
    replaced: Notify,
}

/// A certificate and the names it is served for.
pub struct Entry {
    id: Arc<str>,
    patterns: Vec<HostPattern>,
    certificate: Certificate,
    stapled: ArcSwapOption<Stapled>,
    origin: Origin,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// From files that somebody else renews.
    Files,
    /// The local CA, for names that are its own.
    LocalCa,
    /// An authority.
    Authority,
    /// The local CA, until an authority has issued one.
    StandIn,
}

/// A certificate's key and chain with what its issuer says about it.
struct Stapled {
    staple: Arc<Staple>,
    key: Arc<CertifiedKey>,
}

/// Entries filed by name, ready for look-ups.
#[derive(Debug, Default)]
pub struct Table {
    names: HashMap<Box<str>, Arc<Entry>>,
    /// By the name below the star: `example.com` for `*.example.com`.
    wildcards: HashMap<Box<str>, Arc<Entry>>,
    addresses: HashMap<IpAddr, Arc<Entry>>,
    rest: Rest,
    /// Names that `rest` does not answer for.
    barred: HashSet<HostName>,
    /// The same for every name right below these.
    barred_below: HashSet<HostName>,
}

/// Who answers for a name that nothing else covers.
#[derive(Debug, Default)]
enum Rest {
    #[default]
    Nobody,
    Entry(Arc<Entry>),
    OnDemand(Arc<OnDemand>),
}

impl CertStore {
    /// A store that serves `table`.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            challenges: Arc::default(),
            staples: Mutex::default(),
            replaced: Notify::new(),
        }
    }

    /// The challenges that are answered before anything else, whatever the table is.
    #[must_use]
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Serves `table` from the next handshake on, with the staples that are known.
    pub fn replace(&self, table: Table) {
        self.replace_with(table, &[]);
    }

    /// The same with `found` beside what is known, where that is newer.
    pub fn replace_with(&self, table: Table, found: &[(Fingerprint, Arc<Staple>)]) {
        let mut staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        for (fingerprint, staple) in found {
            let known = staples.entry(*fingerprint).or_insert_with(|| Arc::clone(staple));
            if known.this_update < staple.this_update {
                *known = Arc::clone(staple);
            }
        }
        for entry in table.entries() {
            if let Some(staple) = staples.get(&entry.certificate.leaf.fingerprint) {
                entry.staple_with(staple);
            }
        }
        self.table.store(Arc::new(table));
        self.replaced.notify_one();
    }

    /// Waits until the table is replaced, or returns at once if it was since the last time. For one
    /// task only.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// Serves the certificate with this fingerprint with `staple` from the next handshake on, as long
    /// as it counts; or without any, where the staple says that it is revoked.
    /// One that is older than what is known is left.
    pub fn staple(&self, fingerprint: Fingerprint, staple: &Arc<Staple>) {
        let mut staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        if staples.get(&fingerprint).is_some_and(|known| staple.this_update < known.this_update) {
            return;
        }
        staples.insert(fingerprint, Arc::clone(staple));
        for entry in self.entries() {
            if entry.certificate.leaf.fingerprint == fingerprint {
                entry.staple_with(staple);
            }
        }
    }

    /// What is known of the revocation of the certificate with this fingerprint.
    #[must_use]
    pub fn known_staple(&self, fingerprint: Fingerprint) -> Option<Arc<Staple>> {
        let staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        staples.get(&fingerprint).cloned()
    }

    /// Forgets staples of certificates that are not in the table.
    pub fn forget_staples(&self) {
        let mut staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries();
        let present: HashSet<_> =
            entries.iter().map(|entry| entry.certificate.leaf.fingerprint).collect();
        staples.retain(|fingerprint, _| present.contains(fingerprint));
    }

    /// The entry for a client that asks for `name`; for one that does not ask (it connected to an
    /// address, which RFC 6066 §3 bars from SNI) the entry for `local`, the address it reached,
    /// and then the default. A name goes exact, wildcard, default. `None`: refuse the handshake.
    ///
    /// `name` is expected in lower case, as rustls hands it over.
    #[must_use]
    pub fn resolve(&self, name: Option<&str>, local: Option<IpAddr>) -> Option<Arc<Entry>> {
        let table = self.table.load();
        let local = local.map(|address| address.to_canonical());
        let entry = match (name, local) {
            (Some(name), _) => table.named(name),
            (None, Some(address)) => table.addresses.get(&address),
            (None, None) => None,
        };
        let is_barred = || name.is_some_and(|name| table.bars(name));
        entry.cloned().or_else(|| if is_barred() { None } else { table.rest.resolve(name, local) })
    }

    /// Whether a handshake for `host` would end at `entry`. A request on `entry`'s connection for
    /// a host that would not is misdirected (421, RFC 9110 §15.5.20): another certificate, with
    /// rules of its own, stands for it. Follows [`replace`](Self::replace) by [`Entry::id`].
    #[must_use]
    pub fn serves<'h>(&self, entry: &Entry, host: impl Into<HostRef<'h>>) -> bool {
        let table = self.table.load();
        let host = host.into();
        let found = match &host {
            HostRef::Name(name) => table.named(name.as_str()),
            HostRef::Address(address) => table.addresses.get(&address.to_canonical()),
        };
        match found {
            // Most often the very same, and its id need not be fetched.
            Some(found) => std::ptr::eq(&raw const **found, entry) || found.id == entry.id,
            None if matches!(&host, HostRef::Name(name) if table.bars(name.as_str())) => false,
            None => table.rest.id().is_some_and(|id| *id == entry.id),
        }
    }

    /// Every entry once, by its id; certificates made on demand are not among them.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.load().entries()
    }
}

impl Entry {
    /// `certificate`, served for `patterns`. `id` names it across reloads: the name of its
    /// `certificates:` entry, or of its site for a local one.
    #[must_use]
    pub fn new(
        id: impl Into<Arc<str>>,
        patterns: Vec<HostPattern>,
        certificate: Certificate,
    ) -> Self {
        let stapled = ArcSwapOption::empty();
        Self { id: id.into(), patterns, certificate, stapled, origin: Origin::Files }
    }

    /// The same from `origin`; without it, from files.
    #[must_use]
    pub fn coming_from(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Where the certificate comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the certificate's age means at `now`; a stand-in is none that clients trust.
    #[must_use]
    pub fn health(&self, now: SystemTime) -> Health {
        let health = self.certificate.leaf.health(now);
        if self.origin == Origin::StandIn { health.max(Health::Degraded) } else { health }
    }

    /// What names it across reloads.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The names it is served for.
    #[must_use]
    pub fn patterns(&self) -> &[HostPattern] {
        &self.patterns
    }

    /// What is served.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What a handshake is served with: the certificate's chain and key, and a staple where there is
    /// one that counts.
    #[must_use]
    pub fn key(&self) -> Arc<CertifiedKey> {
        match &*self.stapled.load() {
            Some(it) if it.staple.is_servable(SystemTime::now()) => Arc::clone(&it.key),
            _ => Arc::clone(&self.certificate.key),
        }
    }

    /// What its issuer has said about it last; it may be over.
    #[must_use]
    pub fn staple(&self) -> Option<Arc<Staple>> {
        self.stapled.load().as_ref().map(|it| Arc::clone(&it.staple))
    }

    fn staple_with(&self, staple: &Arc<Staple>) {
        if self.stapled.load().as_ref().is_some_and(|it| Arc::ptr_eq(&it.staple, staple)) {
            return;
        }
        let key = CertifiedKey {
            ocsp: Some(staple.der.clone()),
            ..CertifiedKey::clone(&self.certificate.key)
        };
        let stapled = Stapled { staple: Arc::clone(staple), key: Arc::new(key) };
        self.stapled.store(Some(Arc::new(stapled)));
    }

    /// Whether one of its patterns is good for `host`, whoever else may be better.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(host))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("patterns", &self.patterns)
            .field("leaf", &self.certificate.leaf)
            .finish()
    }
}

impl Table {
    /// Files every entry under each of its patterns. Where two entries have the same pattern the
    /// first has it.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let mut table = Self::default();
        entries.into_iter().for_each(|entry| table.file(&entry));
        table
    }

    /// Lets `maker` answer for every name that no entry covers, unless an entry for `*` does.
    #[must_use]
    pub fn or_on_demand(mut self, maker: Arc<OnDemand>) -> Self {
        if matches!(self.rest, Rest::Nobody) {
            self.rest = Rest::OnDemand(maker);
        }
        self
    }

    /// Lets nobody answer for these names who is not there for them.
    #[must_use]
    pub fn barring(mut self, patterns: impl IntoIterator<Item = HostPattern>) -> Self {
        for pattern in patterns {
            match pattern {
                HostPattern::Exact(Host::Name(name)) => self.barred.insert(name),
                HostPattern::Wildcard(parent) => self.barred_below.insert(parent),
                HostPattern::Exact(Host::Address(_)) | HostPattern::Any => false,
            };
        }
        self
    }

    /// Every entry once, by its id.
    fn entries(&self) -> Vec<Arc<Entry>> {
        let named = self.names.values().chain(self.wildcards.values());
        let mut entries: Vec<Arc<Entry>> =
            named.chain(self.addresses.values()).map(Arc::clone).collect();
        if let Rest::Entry(entry) = &self.rest {
            entries.push(Arc::clone(entry));
        }
        entries.sort_by(|one, other| one.id.cmp(&other.id));
        entries.dedup_by(|one, other| Arc::ptr_eq(one, other));
        entries
    }

    fn bars(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.barred.contains(name) || parent.is_some_and(|it| self.barred_below.contains(it))
    }

    fn file(&mut self, entry: &Arc<Entry>) {
        for pattern in &entry.patterns {
            match pattern {
                HostPattern::Exact(Host::Name(name)) => {
                    insert_new(self.names.entry(name.as_str().into()), entry);
                }
                HostPattern::Exact(Host::Address(address)) => {
                    insert_new(self.addresses.entry(address.to_canonical()), entry);
                }
                HostPattern::Wildcard(parent) => {
                    insert_new(self.wildcards.entry(parent.as_str().into()), entry);
                }
                HostPattern::Any if matches!(self.rest, Rest::Nobody) => {
                    self.rest = Rest::Entry(Arc::clone(entry));
                }
                HostPattern::Any => {}
            }
        }
    }

    /// The entry for a name, the default aside.
    fn named(&self, name: &str) -> Option<&Arc<Entry>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.names.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcards.get(parent)
        })
    }
}

impl Rest {
    fn resolve(&self, name: Option<&str>, local: Option<IpAddr>) -> Option<Arc<Entry>> {
        match self {
            Self::Nobody => None,
            Self::Entry(entry) => Some(Arc::clone(entry)),
            Self::OnDemand(maker) => maker.entry(name, local),
        }
    }

    fn id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Nobody => None,
            Self::Entry(entry) => Some(entry.id()),
            Self::OnDemand(maker) => Some(maker.id()),
        }
    }
}

/// The first comer stays.
fn insert_new<K>(slot: Slot<'_, K, Arc<Entry>>, entry: &Arc<Entry>) {
    if let Slot::Vacant(slot) = slot {
        slot.insert(Arc::clone(entry));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::fixture::{Ca, entry, store};
    use crate::tls::local_ca::LocalCa;
    use crate::tls::ocsp::Status;

    fn id(entry: Option<Arc<Entry>>) -> Option<String> {
        entry.map(|entry| entry.id().to_string())
    }

    #[test]
    fn a_name_finds_exact_then_wildcard_then_default_and_an_address_its_own() {
        let ca = Ca::new("test");
        let sites = ["a.test", "*.test", "127.0.0.1", "::1"].map(|name| entry(&ca, &[name]));
        let bare = store(sites.clone());
        let full = store(sites.into_iter().chain([entry(&ca, &["*"])]));
        for (name, local, without, with) in [
            (Some("a.test"), None, Some("a.test"), Some("a.test")),
            (Some("a.test."), None, Some("a.test"), Some("a.test")),
            (Some("b.test"), None, Some("*.test"), Some("*.test")),
            (Some("b.a.test"), None, None, Some("*")),
            (Some("test"), None, None, Some("*")),
            (Some(""), None, None, Some("*")),
            (Some("."), None, None, Some("*")),
            (Some("c.example"), Some("127.0.0.1"), None, Some("*")),
            (None, Some("127.0.0.1"), Some("127.0.0.1"), Some("127.0.0.1")),
            (None, Some("::ffff:127.0.0.1"), Some("127.0.0.1"), Some("127.0.0.1")),
            (None, Some("::1"), Some("::1"), Some("::1")),
            (None, Some("10.0.0.1"), None, Some("*")),
            (None, None, None, Some("*")),
        ] {
            let local = local.map(|address: &str| address.parse().unwrap());
            assert_eq!(id(bare.resolve(name, local)).as_deref(), without, "{name:?} {local:?}");
            assert_eq!(id(full.resolve(name, local)).as_deref(), with, "{name:?} {local:?}");
        }
    }

    #[test]
    fn the_first_of_two_entries_with_one_pattern_has_it() {
        let ca = Ca::new("test");
        let (first, second) =
            (entry(&ca, &["x.test", "*"]), entry(&ca, &["y.test", "x.test", "*"]));
        let store = store([first, second]);
        for (name, wanted) in [("x.test", "x.test"), ("y.test", "y.test"), ("z.test", "x.test")] {
            assert_eq!(id(store.resolve(Some(name), None)).as_deref(), Some(wanted));
        }
    }

    #[test]
    fn an_entry_serves_the_hosts_whose_handshake_would_end_at_it() {
        let ca = Ca::new("test");
        let wildcard = entry(&ca, &["*.a.test", "a.test"]);
        let store = store([Arc::clone(&wildcard), entry(&ca, &["own.a.test"])]);
        for (host, serves, covers) in [
            ("a.test", true, true),
            ("x.a.test", true, true),
            ("own.a.test", false, true),
            ("b.test", false, false),
            ("127.0.0.1", false, false),
        ] {
            let host = Host::parse(host).unwrap();
            assert_eq!(store.serves(&wildcard, &host), serves, "{host}");
            assert_eq!(wildcard.covers(&host), covers, "{host}");
        }
        let renewed = entry(&ca, &["*.a.test", "a.test"]);
        store.replace(Table::new([renewed]));
        assert!(store.serves(&wildcard, &Host::parse("x.a.test").unwrap()), "after a renewal too");
    }

    #[test]
    fn a_staple_follows_its_certificate_through_tables_until_it_ends() {
        let ca = Ca::new("test");
        let (own, other) = (entry(&ca, &["a.test"]), entry(&ca, &["b.test"]));
        let fingerprint = own.certificate().leaf.fingerprint;
        let store = store([Arc::clone(&own), Arc::clone(&other)]);
        let said = |name| store.resolve(Some(name), None).unwrap().key().ocsp.clone();
        let now = SystemTime::now();
        let staple = |der: u8, status, from: u64, until: u64| {
            let at = |seconds| now - Duration::from_secs(100) + Duration::from_secs(seconds);
            Arc::new(Staple { der: vec![der], status, this_update: at(from), until: at(until) })
        };
        store.staple(fingerprint, &staple(1, Status::Good, 10, 1000));
        assert_eq!((said("a.test"), said("b.test")), (Some(vec![1]), None));

        // The same certificate in another entry, as after a reload.
        let again = Entry::new("a.test", own.patterns().to_vec(), own.certificate().clone());
        let older = (fingerprint, staple(2, Status::Good, 9, 1000));
        store.replace_with(Table::new([Arc::new(again), other]), &[older]);
        assert_eq!(said("a.test"), Some(vec![1]), "what is newer stays");
        assert_eq!(own.certificate().key.ocsp, None, "the certificate is as it was");

        store.staple(fingerprint, &staple(3, Status::Good, 11, 99));
        assert_eq!(said("a.test"), None, "it has ended");
        store.staple(fingerprint, &staple(4, Status::Revoked, 12, 1000));
        assert_eq!(said("a.test"), None, "it is not good");
        let entry = store.resolve(Some("a.test"), None).unwrap();
        assert_eq!(entry.staple().unwrap().status, Status::Revoked);
        store.staple(fingerprint, &staple(5, Status::Good, 11, 1000));
        assert_eq!(entry.staple().unwrap().status, Status::Revoked, "an older answer played again");

        store.replace(Table::default());
        store.forget_staples();
        assert_eq!(store.known_staple(fingerprint), None);
    }

    #[test]
    fn on_demand_answers_for_the_rest_only() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(dir.path(), SystemTime::now()).unwrap();
        let ca = Arc::new(ca);
        let maker = Arc::new(OnDemand::new("rest", Arc::clone(&ca)).unwrap());
        let fixed = entry(&Ca::new("test"), &["a.test"]);
        let store = CertStore::new(Table::new([Arc::clone(&fixed)]).or_on_demand(maker));
        let made = store.resolve(Some("b.test"), None).unwrap();
        assert_eq!(&**made.id(), "rest");
        assert!(made.certificate().covers(&Host::parse("b.test").unwrap()));
        assert_eq!(id(store.resolve(Some("a.test"), None)).as_deref(), Some("a.test"));
        assert!(store.serves(&made, &Host::parse("c.test").unwrap()), "the same site");
        assert!(!store.serves(&made, &Host::parse("a.test").unwrap()), "another site");

        let table = Table::new([fixed]).or_on_demand(Arc::new(OnDemand::new("rest", ca).unwrap()));
        let barred = ["a.test", "c.test", "*.d.test"].map(|name| HostPattern::parse(name).unwrap());
        store.replace(table.barring(barred));
        for (name, wanted) in [
            ("a.test", Some("a.test")),
            ("b.test", Some("rest")),
            ("c.test", None),
            ("e.d.test", None),
            ("d.test", Some("rest")),
        ] {
            assert_eq!(id(store.resolve(Some(name), None)).as_deref(), wanted, "{name}");
        }
        assert!(!store.serves(&made, &Host::parse("c.test").unwrap()), "barred");
    }
}
