//! The fleet that a configuration's certificates are shared with, and what it is asked before they are served.

use std::sync::Arc;
use std::time::Duration;

use super::certificates::CertificatesError;
use crate::acme::fleet::Fleet;
use crate::acme::renewer::Assignment;
use crate::config::storage::Redis;
use crate::net::Host;
use crate::tls::challenge::Elsewhere;

/// Longest time that a start takes over what a fleet has; the rest comes while it serves.
const LONGEST_START: Duration = Duration::from_secs(10);

/// The fleet that meets at `at`: the present one, if it is that.
pub(super) fn meet(
    at: Option<&Redis>,
    present: Option<Arc<Fleet>>,
) -> Result<Option<Arc<Fleet>>, CertificatesError> {
    let Some(at) = at else { return Ok(None) };
    // The file of a CA may say something else by now.
    if let Some(present) = present.filter(|present| present.at() == at && at.ca.is_none()) {
        return Ok(Some(present));
    }
    Fleet::new(at).map(|fleet| Some(Arc::new(fleet))).map_err(CertificatesError::Fleet)
}

/// Takes over what a fleet has, so that the first handshake is served with it.
pub(super) fn catch_up(assignment: &Assignment) {
    let wanted = assignment.wanted.iter();
    let wanted: Vec<_> = wanted.map(|it| (it.id.clone(), assignment.target(it))).collect();
    let accounts = assignment.accounts();
    if let Err(error) = assignment.storage.compare(&wanted, &accounts, LONGEST_START) {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, "could not take over what the fleet has kept");
    }
}

/// The hosts that an authority may ask any instance for, and where the answers of others are found.
pub(super) fn elsewhere(assignment: &Assignment) -> Elsewhere {
    let names = assignment.wanted.iter().flat_map(|wanted| &wanted.names);
    let hosts = names.filter_map(|name| Host::parse(name).ok());
    let storage = assignment.storage.clone();
    Elsewhere::new(hosts, move || {
        let storage = storage.clone();
        let found = tokio::task::spawn_blocking(move || storage.challenges());
        async move { found.await.ok().and_then(Result::ok).unwrap_or_default() }
    })
}
