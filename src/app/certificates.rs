//! Which certificates a configuration is served with, and their renewal where they are our own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::site::SiteCertificate;
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
#[derive(Debug)]
pub(super) struct Sources {
    /// Those from files. They are read once: a file that is broken later harms nobody.
    operators: Vec<Arc<Entry>>,
    /// Makes the rest, if any site wants it to.
    ca: Option<Arc<LocalCa>>,
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
    let operators = operators(config, now)?;
    let table = table(config, &operators, ca.as_ref(), now)?;
    Ok((table, Sources { operators, ca }))
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

/// `operators` and, beside them, what `ca` issues or has issued already.
fn table(
    config: &Config,
    operators: &[Arc<Entry>],
    ca: Option<&Arc<LocalCa>>,
    now: SystemTime,
) -> Result<Table, CertificatesError> {
    let mut entries = operators.to_vec();
    let mut on_demand = None;
    for site in &config.sites {
        let (SiteCertificate::Internal, Some(ca)) = (&site.certificate, ca) else { continue };
        let id = format!("internal:{}", site.name);
        let certificate = ca.issue(&site.patterns, now)?;
        if site.patterns.contains(&HostPattern::Any) {
            on_demand = Some(Arc::new(OnDemand::new(id.as_str(), Arc::clone(ca))?));
        }
        let named = site.patterns.iter().filter(|pattern| **pattern != HostPattern::Any);
        entries.push(Arc::new(Entry::new(id.as_str(), named.cloned().collect(), certificate)));
    }
    let table = Table::new(entries);
    Ok(match on_demand {
        Some(maker) => table.or_on_demand(maker),
        None => table,
    })
}

/// Keeps the local CA's certificates valid and the ticket keys fresh until `stop`.
pub(super) async fn keep(
    config: Arc<Config>,
    sources: Sources,
    store: Arc<CertStore>,
    tickets: Tickets,
    stop: CancellationToken,
) {
    let sources = Arc::new(sources);
    let mut pause = LOOK_AGAIN;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        tickets.rotate();
        pause = LOOK_AGAIN;
        let (config, sources, store) =
            (Arc::clone(&config), Arc::clone(&sources), Arc::clone(&store));
        let renewal = tokio::task::spawn_blocking(move || renew(&config, &sources, &store));
        match renewal.await {
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

/// Issues anew whatever of the local CA's is due; what is good stays the file that it is, and what
/// the operator gave stays as it was loaded.
fn renew(config: &Config, sources: &Sources, store: &CertStore) -> Result<(), CertificatesError> {
    let Some(ca) = &sources.ca else { return Ok(()) };
    let now = SystemTime::now();
    if ca.renew(now)? {
        tracing::info!(certificate = %ca.common_name(), "renewed the local CA");
    }
    store.replace(table(config, &sources.operators, Some(ca), now)?);
    Ok(())
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
        let store = Arc::new(CertStore::new(table));
        let old = not_after(&store);
        assert!(old < SystemTime::now() + 11 * DAY);
        // An operator in the middle of replacing a file.
        std::fs::write(&chain, "half").unwrap();

        let stop = CancellationToken::new();
        let tickets = Tickets::new().unwrap();
        let task = keep(Arc::new(config), sources, Arc::clone(&store), tickets, stop.clone());
        let task = tokio::spawn(task);
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
