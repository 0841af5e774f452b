//! What the renewer tells of, in the names that the rest of the gateway has for certificates.

use super::Assignment;
use super::job::texts;
use crate::acme::event::{Event, Events, Happening};
use crate::acme::state::Target;
use crate::acme::storage::{CertId, Found, Place, StoreError};
use crate::config::acme_event::EventKind;

/// That a certificate has come, to be told once it is served.
#[derive(Debug)]
pub(super) struct News {
    pub(super) event: Event,
    pub(super) events: Events,
    /// Why it was ordered.
    pub(super) reason: &'static str,
    /// Whole days until it ends.
    pub(super) days: i64,
}

impl News {
    /// Tells of the certificate kept as `id`.
    pub(super) fn tell(self, id: &CertId) {
        let Self { event, events, reason, days } = self;
        let name = event.kind().name();
        tracing::info!(event = name, certificate = %id, reason, days, "obtained a certificate");
        events.tell(event);
    }
}

impl Assignment {
    /// Tells of what became of a certificate.
    pub(super) fn tell(&self, id: &CertId, target: &Target, happening: Happening) {
        self.events.tell(self.event(id, target, happening));
    }

    /// Moves what is damaged aside, and tells it: once, since it is not found again. False while another
    /// process is at the certificate.
    pub(super) fn put_right(&self, id: &CertId, target: &Target) -> Result<bool, StoreError> {
        let Some(lock) = self.storage.lock(id)? else { return Ok(false) };
        let found = self.storage.recover(Place::Live, &lock)?;
        self.tell_fell_back(id, target, &found);
        Ok(true)
    }

    /// Tells that what was kept of a certificate is damaged, if it is.
    pub(super) fn tell_fell_back(&self, id: &CertId, target: &Target, found: &Found) {
        if !found.fell_back {
            return;
        }
        let problems = found.faults.iter().map(|fault| texts(&fault.error)).collect::<Vec<_>>();
        let problem = problems.join("; ");
        let (event, instead) = (EventKind::StoreFellBack.name(), found.generation.is_some());
        tracing::error!(event, certificate = %id, error = problem, instead, "a kept certificate cannot be used");
        self.tell(id, target, Happening::StoreFellBack { problem });
    }

    /// What is told of it.
    pub(super) fn event(&self, id: &CertId, target: &Target, happening: Happening) -> Event {
        let wanted = self.wanted.iter().find(|wanted| wanted.id == *id);
        let name = wanted.map_or_else(|| id.to_string(), |wanted| wanted.name.clone());
        Event::new(happening).about(name, target.names.clone()).at(&target.directory)
    }
}
