//! Which certificates a configuration is served with, and their renewal where they are our own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::site::{Site, SiteCertificate};
use crate::net::HostPattern;
use crate::tls::pem::{self, LoadError};
use crate::tls::{CertStore, Entry, LocalCa, LocalCaError, OnDemand, Table, Tickets};

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
}

/// Where certificates come from, once loaded.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Those from files. They are read once for each configuration: a file that is broken later
    /// harms nobody.
    operators: Vec<Arc<Entry>>,
    /// Makes the rest, if any site wants it to.
    ca: Option<Arc<LocalCa>>,
    /// What it makes: a certificate's id, and the names of its site.
    internal: Vec<(String, Vec<HostPattern>)>,
}

/// The certificates in service, and where they come from.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) store: Arc<CertStore>,
    pub(super) tickets: Tickets,
    /// Replaced whole; whoever has made a table from it checks that it is still the same.
    sources: Mutex<Arc<Sources>>,
}

/// Loads what the operator's sites name and issues the rest from the local CA.
///
/// Blocks on files.
///
/// # Errors
/// [`CertificatesError`] names the certificate.
pub(super) fn load(
    config: &Config,
    now: SystemTime,
) -> Result<(Table, Sources), CertificatesError> {
    let needs_ca = config.sites.iter().any(|site| site.certificate == SiteCertificate::Internal);
    let ca = if needs_ca {
        Some(Arc::new(LocalCa::open_or_create(&config.storage, now)?))
    } else {
        None
    };
    let is_internal = |site: &&Site| site.certificate == SiteCertificate::Internal;
    let internal = config.sites.iter().filter(is_internal);
    let sources = Sources {
        operators: operators(config, now)?,
        ca,
        internal: internal
            .map(|site| (format!("internal:{}", site.name), site.patterns.clone()))
            .collect(),
    };
    Ok((sources.table(now)?, sources))
}

/// The entries of `certificates:`, from their files.
fn operators(config: &Config, now: SystemTime) -> Result<Vec<Arc<Entry>>, CertificatesError> {
    let mut entries = Vec::new();
    for (index, certificate) in config.certificates.iter().enumerate() {
        let mut patterns: Vec<HostPattern> = config
            .sites
            .iter()
            .filter(|site| site.certificate == SiteCertificate::Named(index))
            .flat_map(|site| site.patterns.iter().cloned())
            .collect();
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
        let is_claimed =
            |pattern: &HostPattern| config.sites.iter().any(|site| site.patterns.contains(pattern));
        patterns.extend(covered.iter().filter(|name| !is_claimed(name)).cloned());
        entries.push(Arc::new(Entry::new(certificate.name.as_str(), patterns, loaded.certificate)));
    }
    Ok(entries)
}

impl Sources {
    /// The operators' certificates and, beside them, what the CA issues or has issued already.
    fn table(&self, now: SystemTime) -> Result<Table, CertificatesError> {
        let mut entries = self.operators.clone();
        let mut on_demand = None;
        for (id, patterns) in &self.internal {
            let Some(ca) = &self.ca else { continue };
            let certificate = ca.issue(patterns, now)?;
            if patterns.contains(&HostPattern::Any) {
                on_demand = Some(Arc::new(OnDemand::new(id.as_str(), Arc::clone(ca))?));
            }
            let named = patterns.iter().filter(|pattern| **pattern != HostPattern::Any);
            entries.push(Arc::new(Entry::new(id.as_str(), named.cloned().collect(), certificate)));
        }
        let table = Table::new(entries);
        Ok(match on_demand {
            Some(maker) => table.or_on_demand(maker),
            None => table,
        })
    }
}

impl Certificates {
    /// No certificates yet.
    pub(super) fn new(tickets: Tickets) -> Self {
        let store = Arc::new(CertStore::new(Table::default()));
        Self { store, tickets, sources: Mutex::default() }
    }

    /// Serves `table`, which was made from `sources`, from the next handshake on.
    pub(super) fn replace(&self, table: Table, sources: Sources) {
        let mut current = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(sources);
        self.store.replace(table);
    }

    /// Issues anew whatever of the local CA's is due; what is good stays the file that it is, and
    /// what the operator gave stays as it was loaded.
    fn renew(&self) -> Result<(), CertificatesError> {
        let lock = || self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = Arc::clone(&lock());
        let Some(ca) = &sources.ca else { return Ok(()) };
        let now = SystemTime::now();
        if ca.renew(now)? {
            tracing::info!(certificate = %ca.common_name(), "renewed the local CA");
        }
        let table = sources.table(now)?;
        let current = lock();
        // A reload may have been faster, and has made a table of its own.
        if Arc::ptr_eq(&current, &sources) {
            self.store.replace(table);
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
        let (table, sources) = load(&config, started).unwrap();
        let certificates = Arc::new(Certificates::new(Tickets::new().unwrap()));
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
