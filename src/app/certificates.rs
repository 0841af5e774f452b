//! Which certificates a configuration is served with, and their renewal where they are our own.

mod assign;
mod managed;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::assign::assign;
use super::fleet;
use super::stapling::Stock;
use crate::acme::event::{Events, Told};
use crate::acme::fleet::Fleet;
use crate::acme::hook::{Hooks, Plan};
use crate::acme::renewer::{Assignment, Command, Renewer, Revocations, Standing, Standings};
use crate::acme::storage::{CertId, StoreError};
use crate::config::Config;
use crate::config::acme::UntilIssued;
use crate::config::site::{Site, SiteCertificate};
use crate::net::HostPattern;
use crate::telemetry::metrics::OrderReading;
use crate::tls::pem::{self, LoadError};
use crate::tls::{
    CertStore, Certificate, ClientConfigError, Entry, LocalCa, LocalCaError, OnDemand, Origin,
    Table, Tickets,
};

pub(super) use managed::{Managed, managed, markers};

/// How often certificates and keys are looked at, when nothing is due sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);

/// Why a configuration's certificates cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// An entry of `certificates:`.
    #[error("certificate {name:?}")]
    Operators {
        /// Its name.
        name: String,
        /// What is wrong with its files.
        source: LoadError,
    },
    /// The local CA or one of its certificates.
    #[error("the local CA")]
    Local(#[from] LocalCaError),
    /// The place where certificates are kept.
    #[error("the certificates under `storage:`")]
    Storage(#[source] StoreError),
    /// Whom to trust for the fleet's Redis.
    #[error("the CA of the Redis in `storage:`")]
    Fleet(#[source] ClientConfigError),
    /// Whom to trust for the authority's directory.
    #[error("the CA of the ACME directory")]
    Authority(#[source] ClientConfigError),
    /// Whom to trust for webhooks.
    #[error("the webhooks of `acme.events`")]
    Hooks(#[source] ClientConfigError),
}

/// Where certificates come from, once loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// Those from files. They are read once for each configuration: a file that is broken later
    /// harms nobody.
    operators: Vec<Arc<Entry>>,
    /// Makes the rest, if any site wants it to.
    ca: Option<Arc<LocalCa>>,
    /// What it makes: a certificate's id, and the names of its site.
    internal: Vec<(String, Vec<HostPattern>)>,
    /// Those that an authority issues.
    managed: Vec<Managed>,
    /// What is served.
    entries: Vec<Arc<Entry>>,
    /// Makes what none of them is for.
    on_demand: Option<Arc<OnDemand>>,
    /// Whether the CA stands in for authorities that have not issued yet.
    stands_in: bool,
    /// What is known of the revocation of those that are served.
    pub(super) stock: Stock,
    /// Where it is kept.
    storage: PathBuf,
    /// Who is told what becomes of them.
    hooks: Option<Arc<Plan>>,
}

/// The certificates in service, and where they come from.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) store: Arc<CertStore>,
    pub(super) tickets: Tickets,
    /// How those that an authority issues stand.
    pub(super) standings: Standings,
    /// Those that are known to be revoked.
    pub(super) revocations: Arc<Revocations>,
    /// Who is told what becomes of certificates.
    pub(super) events: Events,
    /// Rings when something else is served.
    pub(super) changed: Notify,
    hooks: watch::Sender<Option<Arc<Plan>>>,
    /// What the renewer is to keep.
    assignments: watch::Sender<Option<Arc<Assignment>>>,
    /// Replaced whole; whoever has made a table from it checks that it is still the same.
    sources: Mutex<Arc<Sources>>,
}

/// Loads what the operator's sites name and issues the rest from the local CA.
///
/// Blocks on files, and on the Redis of a fleet, for which `fleet` is the one in force.
///
/// # Errors
/// [`CertificatesError`] names the certificate.
pub(super) fn load(
    config: &Config,
    fleet: Option<Arc<Fleet>>,
    events: &Events,
    now: SystemTime,
) -> Result<(Sources, Option<Arc<Assignment>>), CertificatesError> {
    let (managed, local) = managed(config);
    let (managed, assignment) = assign(config, fleet, managed, events, now)?;
    let is_internal = |site: &&Site| site.certificate == SiteCertificate::Internal;
    let internal = config.sites.iter().filter(is_internal);
    let internal: Vec<_> =
        internal.map(|site| (internal_id(site), site.patterns.clone())).chain(local).collect();
    let until_issued = config.acme.as_ref().map(|acme| acme.until_issued);
    let stands_in = until_issued == Some(UntilIssued::Internal) && !managed.is_empty();
    let ca = if stands_in || !internal.is_empty() {
        Some(Arc::new(LocalCa::open_or_create(&config.storage, now)?))
    } else {
        None
    };
    let operators = operators(config, now)?;
    let storage = config.storage.clone();
    let hooks = config.acme.as_ref().filter(|acme| !acme.events.is_empty());
    let hooks = hooks.map(|acme| Plan::new(&acme.events, &config.storage).map(Arc::new));
    let hooks = hooks.transpose().map_err(CertificatesError::Hooks)?;
    let mut sources = Sources {
        operators,
        ca,
        internal,
        managed,
        stands_in,
        storage,
        hooks,
        ..Sources::default()
    };
    sources.gather(now)?;
    sources.stock = Stock::find(&config.storage, &sources.entries, now);
    Ok((sources, assignment))
}

pub(super) fn internal_id(site: &Site) -> String {
    format!("internal:{}", site.name)
}

/// The entries of `certificates:`, from their files.
fn operators(config: &Config, now: SystemTime) -> Result<Vec<Arc<Entry>>, CertificatesError> {
    let mut entries = Vec::with_capacity(config.certificates.len());
    let mut patterns_of = vec![Vec::new(); config.certificates.len()];
    for site in &config.sites {
        if let SiteCertificate::Named(index) = site.certificate {
            patterns_of[index].extend(site.patterns.iter().cloned());
        }
    }
    let claimed: HashSet<_> = config.sites.iter().flat_map(|site| &site.patterns).collect();
    for (certificate, mut patterns) in config.certificates.iter().zip(patterns_of) {
        let loaded =
            pem::load(&certificate.chain, &certificate.key, &certificate.names, now).map_err(
                |source| CertificatesError::Operators { name: certificate.name.clone(), source },
            )?;
        for warning in &loaded.warnings {
            tracing::warn!(certificate = %certificate.name, %warning, "loaded a certificate");
        }
        for uncovered in loaded.certificate.uncovered(&patterns) {
            if uncovered != HostPattern::Any {
                let site = uncovered.to_string();
                tracing::warn!(certificate = %certificate.name, site, "does not cover the site");
            }
        }
        // What it covers beyond its sites is answered 421 rather than refused in the handshake.
        let covered = if certificate.names.is_empty() {
            &loaded.certificate.leaf.names
        } else {
            &certificate.names
        };
        patterns.extend(covered.iter().filter(|name| !claimed.contains(name)).cloned());
        entries.push(Arc::new(Entry::new(certificate.name.as_str(), patterns, loaded.certificate)));
    }
    Ok(entries)
}

impl Sources {
    /// Gathers what is served: the operators' certificates, what authorities have issued, and beside
    /// them what the CA issues or has issued already.
    fn gather(&mut self, now: SystemTime) -> Result<(), CertificatesError> {
        self.entries = self.operators.clone();
        self.on_demand = None;
        for (id, patterns) in &self.internal {
            let Some(ca) = &self.ca else { continue };
            let certificate = ca.issue(patterns, now)?;
            if patterns.contains(&HostPattern::Any) {
                self.on_demand = Some(Arc::new(OnDemand::new(id.as_str(), Arc::clone(ca))?));
            }
            let named = patterns.iter().filter(|pattern| **pattern != HostPattern::Any);
            let named = named.cloned().collect();
            let entry = Entry::new(id.as_str(), named, certificate).coming_from(Origin::LocalCa);
            self.entries.push(Arc::new(entry));
        }
        for one in &self.managed {
            let (certificate, origin) = match (one.served(now), &self.ca) {
                (Some(served), _) => (served.clone(), one.origin(served)),
                (None, Some(ca)) if self.stands_in => {
                    (ca.issue(&one.patterns, now)?, Origin::StandIn)
                }
                (None, _) => continue,
            };
            self.entries.push(Arc::new(one.entry(certificate).coming_from(origin)));
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let waiting = self.managed.iter().filter(|one| !one.has_certificate() && !self.stands_in);
        let waiting = waiting.flat_map(|one| one.patterns.iter().cloned());
        let table = Table::new(self.entries.clone()).barring(waiting);
        match &self.on_demand {
            Some(maker) => table.or_on_demand(Arc::clone(maker)),
            None => table,
        }
    }

    /// Takes over what was obtained while these were being prepared.
    fn take_newer(&mut self, current: &Self, now: SystemTime) {
        for one in &current.managed {
            let Some(present) = &one.obtained else { continue };
            let is_older = |next: &Managed| {
                let not_before = next.obtained.as_ref().map(|it| it.leaf.not_before);
                next.id == one.id && not_before < Some(present.leaf.not_before)
            };
            if self.managed.iter().any(is_older) {
                self.put(&one.id, present.clone(), now);
            }
        }
    }

    /// Takes in what was obtained; false when nobody wants it any more.
    fn put(&mut self, id: &CertId, certificate: Certificate, now: SystemTime) -> bool {
        let Some(one) = self.managed.iter_mut().find(|one| one.id == *id) else { return false };
        one.obtained = Some(certificate);
        let one = one.clone();
        self.show(&one, now);
        true
    }

    /// Puts what is to be served at `now` in the place of what stood there.
    fn show(&mut self, one: &Managed, now: SystemTime) {
        let Some(certificate) = one.served(now) else { return };
        let origin = one.origin(certificate);
        let entry = Arc::new(one.entry(certificate.clone()).coming_from(origin));
        match self.entries.iter_mut().find(|entry| **entry.id() == *one.name) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
    }
}

impl Certificates {
    /// No certificates yet.
    pub(super) fn new(tickets: Tickets, events: Events) -> Self {
        let store = Arc::new(CertStore::new(Table::default()));
        let (standings, assignments) = (Standings::default(), watch::Sender::default());
        Self {
            store,
            tickets,
            standings,
            revocations: Arc::default(),
            events,
            changed: Notify::new(),
            hooks: watch::Sender::default(),
            assignments,
            sources: Mutex::default(),
        }
    }

    /// Serves what `sources` has, from the next handshake on, and has the renewer keep what
    /// `assignment` wants.
    pub(super) fn replace(&self, mut sources: Sources, assignment: Option<Arc<Assignment>>) {
        let mut current = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.take_newer(&current, SystemTime::now());
        let stock = std::mem::take(&mut sources.stock);
        self.store.replace_with(sources.table(), &stock.staples);
        self.changed.notify_one();
        self.hooks.send_replace(sources.hooks.clone());
        *current = Arc::new(sources);
        self.have_kept(assignment);
    }

    /// Has the renewer keep what `assignment` wants, and other instances' challenges for it answered.
    fn have_kept(&self, assignment: Option<Arc<Assignment>>) {
        let elsewhere = assignment.as_deref().map(fleet::elsewhere).map(Arc::new);
        self.store.challenges().look_elsewhere(elsewhere);
        self.assignments.send_replace(assignment);
    }

    /// Whom certificates are shared with.
    pub(super) fn fleet(&self) -> Option<Arc<Fleet>> {
        self.assignments.borrow().as_ref()?.storage.fleet().cloned()
    }

    /// What is served that an authority has issued, or that was imported in its place.
    pub(super) fn obtained(&self, id: &CertId) -> Option<Certificate> {
        let sources = Arc::clone(&self.sources.lock().unwrap_or_else(PoisonError::into_inner));
        let one = sources.managed.iter().find(|one| one.id == *id)?;
        one.served(SystemTime::now()).cloned()
    }

    /// What is served as the entry called `id`.
    pub(super) fn served(&self, id: &str) -> Option<Certificate> {
        let sources = Arc::clone(&self.sources.lock().unwrap_or_else(PoisonError::into_inner));
        let entry = sources.entries.iter().find(|entry| **entry.id() == *id)?;
        Some(entry.certificate().clone())
    }

    /// What the renewer is to keep.
    pub(super) fn assignment(&self) -> Option<Arc<Assignment>> {
        self.assignments.borrow().clone()
    }

    /// The task that keeps what authorities issue, and does what comes through `commands`.
    pub(super) fn renewer(self: &Arc<Self>, commands: mpsc::Receiver<Command>) -> Renewer {
        let certificates = Arc::clone(self);
        let install = move |id: &CertId, certificate| certificates.install(id, certificate);
        let challenges = Arc::clone(self.store.challenges());
        let (assignments, standings) = (self.assignments.subscribe(), Arc::clone(&self.standings));
        Renewer::new(challenges, Arc::new(install), assignments, standings, commands)
            .with_revocations(Arc::clone(&self.revocations))
    }

    /// `storage:` of the configuration in force.
    pub(super) fn storage(&self) -> PathBuf {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).storage.clone()
    }

    /// How those stand that an authority issues, for the metrics.
    pub(super) fn readings(&self) -> Vec<OrderReading> {
        let sources = Arc::clone(&self.sources.lock().unwrap_or_else(PoisonError::into_inner));
        let names: HashMap<&CertId, &str> =
            sources.managed.iter().map(|one| (&one.id, one.name.as_str())).collect();
        let reading = |standing: &Standing| {
            Some(OrderReading {
                certificate: (*names.get(&standing.id)?).to_owned(),
                state: standing.state,
                next_at: standing.next_at,
                why: standing.why,
                fails: standing.fails,
                is_unsaved: standing.is_unsaved,
            })
        };
        let standings = self.standings.load();
        self.imported().iter().chain(standings.iter()).filter_map(reading).collect()
    }

    /// The task that tells whoever wants to know.
    pub(super) fn hooks(&self, told: Told) -> Hooks {
        Hooks::new(told, self.events.clone(), self.hooks.subscribe())
    }

    /// Serves a certificate that was obtained.
    fn install(&self, id: &CertId, certificate: Certificate) {
        let mut current = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = Sources::clone(&current);
        if sources.put(id, certificate, SystemTime::now()) {
            self.store.replace(sources.table());
            self.changed.notify_one();
            *current = Arc::new(sources);
        }
    }

    /// How those stand that were imported: the renewer has no part in them.
    pub(super) fn imported(&self) -> Vec<Standing> {
        let current = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        managed::standings(&current.managed, SystemTime::now())
    }

    /// Has the renewer order what is to follow imported certificates that end. Returns when the next
    /// one does.
    fn hand_over(&self, now: SystemTime) -> Option<SystemTime> {
        let mut current = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.assignments.borrow().clone()?;
        if let Some(next) = managed::next_assignment(&present, &current.managed, now) {
            let known = |id: &CertId| present.wanted.iter().any(|wanted| wanted.id == *id);
            let mut sources = Sources::clone(&current);
            for wanted in next.wanted.iter().filter(|wanted| !known(&wanted.id)) {
                let certificate = &wanted.id;
                tracing::warn!(%certificate, "the imported certificate ends, its successor is ordered");
                if let Some(one) = current.managed.iter().find(|one| one.id == wanted.id) {
                    sources.show(one, now);
                }
            }
            self.store.replace(sources.table());
            self.changed.notify_one();
            *current = Arc::new(sources);
            self.have_kept(Some(next));
        }
        current.managed.iter().filter_map(|one| one.makes_way_at(now)).min()
    }

    /// Issues anew whatever of the local CA's is due; what is good stays the file that it is, and
    /// what the operator gave stays as it was loaded.
    fn renew(&self) -> Result<(), CertificatesError> {
        let lock = || self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Arc::clone(&lock());
        let Some(ca) = &before.ca else { return Ok(()) };
        let now = SystemTime::now();
        if ca.renew(now)? {
            tracing::info!(certificate = %ca.common_name(), "renewed the local CA");
        }
        let mut sources = Sources::clone(&before);
        sources.gather(now)?;
        let mut current = lock();
        // Somebody else may have been faster, and what he made is good.
        if Arc::ptr_eq(&current, &before) {
            self.store.replace(sources.table());
            self.changed.notify_one();
            *current = Arc::new(sources);
        }
        Ok(())
    }
}

/// Keeps the local CA's certificates valid and the ticket keys fresh until `stop`.
pub(super) async fn keep(certificates: Arc<Certificates>, stop: CancellationToken) {
    let mut pause = LOOK_AGAIN;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        certificates.tickets.rotate();
        pause = LOOK_AGAIN;
        let certificates = Arc::clone(&certificates);
        match tokio::task::spawn_blocking(move || certificates.renew()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "could not renew");
                pause = RETRY;
            }
            // The runtime is ending.
            Err(_) => return,
        }
    }
}

/// Has imported certificates that end make way for ordered ones until `stop`.
pub(super) async fn hand_over(certificates: Arc<Certificates>, stop: CancellationToken) {
    let mut assignments = certificates.assignments.subscribe();
    let work = async {
        loop {
            assignments.mark_unchanged();
            let now = SystemTime::now();
            let next = certificates.hand_over(now);
            let pause = next.and_then(|at| at.duration_since(now).ok()).unwrap_or(LOOK_AGAIN);
            tokio::select! {
                changed = assignments.changed() => if changed.is_err() { return },
                // A clock that is set is noticed within the hour.
                () = tokio::time::sleep(pause.min(LOOK_AGAIN)) => {}
            }
        }
    };
    let _ = stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn not_after(store: &CertStore) -> SystemTime {
        store.resolve(Some("localhost"), None).unwrap().certificate().leaf.not_after
    }

    #[tokio::test(start_paused = true)]
    async fn a_local_certificate_is_renewed_in_time_whatever_became_of_the_operators_files() {
        crate::tls::install();
        let directory = tempfile::tempdir().unwrap();
        let storage = directory.path().join("storage");
        let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
        let own = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        std::fs::write(&chain, own.cert.pem()).unwrap();
        std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        let yaml = format!(
            "sites:\n  localhost: {{ certificate: internal, upstream: app }}\n  \
                         a.test: {{ certificate: own, upstream: app }}\n\
             storage: {storage:?}\n\
             certificates: {{ own: {{ chain: {chain:?}, key: {key:?} }} }}\n\
             upstreams: {{ app: {{ servers: \"http://localhost:1\" }} }}\n"
        );
        let config = config::from_text("gateway.yaml", &yaml, Path::new("")).unwrap().config;
        // As a gateway that has run for fifty of its certificate's sixty days.
        let started = SystemTime::now() - 50 * DAY;
        let events = Events::silent();
        let (table, sources) = load(&config, None, &events, started).unwrap();
        let certificates = Arc::new(Certificates::new(Tickets::new().unwrap(), events));
        certificates.replace(table, sources);
        let store = Arc::clone(&certificates.store);
        let old = not_after(&store);
        assert!(old < SystemTime::now() + 11 * DAY);
        // An operator in the middle of replacing a file.
        std::fs::write(&chain, "half").unwrap();

        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(certificates, stop.clone()));
        let renewal = async {
            while not_after(&store) == old {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        };
        tokio::time::timeout(2 * LOOK_AGAIN, renewal).await.expect("renewed within the hour");
        assert!(not_after(&store) > SystemTime::now() + 50 * DAY);
        let kept = store.resolve(Some("a.test"), None).expect("what was loaded is served on");
        assert_eq!(&**kept.id(), "own");
        stop.cancel();
        task.await.unwrap();
    }
}
