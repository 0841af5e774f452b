//! What the renewer is to keep, and at which authorities.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::fleet;
use super::CertificatesError;
use super::managed::{self, Managed};
use crate::acme::event::Events;
use crate::acme::fleet::Fleet;
use crate::acme::http::Client;
use crate::acme::renewer::{Assignment, Source};
use crate::acme::session::Authority;
use crate::acme::storage::Storage;
use crate::acme::time::Clock;
use crate::config::Config;
use crate::config::acme::{self, Acme};
use crate::tls::certificate::sha256;
use crate::tls::{SystemRoots, client_config};

/// Finds what was obtained and imported before, and what the renewer is to do.
pub(super) fn assign(
    config: &Config,
    present: Option<Arc<Fleet>>,
    mut managed: Vec<Managed>,
    events: &Events,
    now: SystemTime,
) -> Result<(Vec<Managed>, Option<Arc<Assignment>>), CertificatesError> {
    let Some(acme) = config.acme.as_ref().filter(|_| !managed.is_empty()) else {
        return Ok((managed, None));
    };
    let storage = Storage::open(&config.storage).map_err(CertificatesError::Storage)?;
    let storage = storage.with_fleet(fleet::meet(config.fleet.as_ref(), present)?);
    for one in &mut managed {
        one.find(&storage, now);
    }
    let wanted = managed::wanted(&managed, now);
    let events = events.clone();
    let clock = Clock::default();
    let sources = sources(acme, &clock, &events)?;
    let assignment = Assignment { acme: acme.clone(), storage, sources, clock, wanted, events };
    fleet::catch_up(&assignment);
    for one in &mut managed {
        one.find_obtained(&assignment.storage);
    }
    Ok((managed, Some(Arc::new(assignment))))
}

/// The authorities of `acme`, in the order of preference.
fn sources(acme: &Acme, clock: &Clock, events: &Events) -> Result<Vec<Source>, CertificatesError> {
    let roots = SystemRoots::load();
    let source = |settings: &acme::Authority| {
        let ca = settings.directory_ca.as_deref();
        let tls = client_config::authority(ca, &roots).map_err(CertificatesError::Authority)?;
        let client = Arc::new(Client::new(tls, Default::default()));
        let authority = Authority::new(settings.directory.as_str(), client).with_clock(clock);
        let authority = authority.counted(events.metrics().authority(&settings.directory));
        let ca_digest = ca.and_then(|ca| std::fs::read(ca).ok()).map(|text| sha256(&text));
        Ok(Source { settings: settings.clone(), authority, ca_digest })
    };
    acme.authorities().map(source).collect()
}
