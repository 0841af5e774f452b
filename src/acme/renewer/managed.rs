//! What the renewer knows of a certificate: what the disk says, and what it has learnt since.

use super::job::texts;
use super::{Assignment, Source, Wanted};
use crate::acme::event::Happening;
use crate::acme::schedule::Life;
use crate::acme::state::{OnDisk, Record, State, Target};
use crate::acme::storage::{CertId, Place, Storage, StoreError};
use crate::config::acme_event::EventKind;
use crate::telemetry::metrics::StoreOp;
use crate::tls::Certificate;
use crate::tls::issued;

/// Until a certificate is looked at again that another process is busy with, or that waits for a fleet
/// which cannot be asked, in seconds; sooner for one of minutes.
const BUSY_ELSEWHERE: i64 = 30;

/// A certificate, and what is known of it.
#[derive(Debug)]
pub(super) struct Managed {
    pub(super) record: Record,
    pub(super) life: Option<Life>,
    /// Its generation on disk.
    pub(super) number: Option<u32>,
    /// What RFC 9773 §4.1 names it by.
    pub(super) renewal_id: Option<String>,
    /// A job is at it.
    pub(super) is_busy: bool,
    /// The job is an order.
    pub(super) is_ordering: bool,
    /// Not to be touched before.
    pub(super) again_at: Option<i64>,
    /// What is served could not be saved.
    pub(super) is_unsaved: bool,
    /// It was told that the certificate in service is revoked.
    told_revoked: bool,
}

/// What an assignment changes about the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// There was none: the process has started, or `acme:` is new.
    Begun,
    /// How certificates are ordered, so that what failed may succeed.
    Settings,
    /// At most which are wanted.
    None,
}

/// A certificate as the disk knows it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) managed: Managed,
    pub(super) certificate: Option<Certificate>,
    /// It is older than what was in service, which is damaged.
    pub(super) fell_back: bool,
}

/// Every certificate of `present` as the disk knows it.
pub(super) fn read_all(present: &Assignment, change: Change, now: i64) -> Vec<(CertId, Read)> {
    let read = |wanted: &Wanted| {
        let target = present.target(wanted);
        let read = || Managed::read(&present.storage, &wanted.id, &target, now);
        let read = read().and_then(|found| match found.fell_back {
            true if present.put_right(&wanted.id, &target)? => read(),
            _ => Ok(found),
        });
        let mut read = read.unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            let op = StoreOp::Read;
            let event = EventKind::StoreError.name();
            tracing::error!(event, certificate = %wanted.id, error, "could not read what is kept of it");
            let problem = texts(error);
            present.tell(&wanted.id, &target, Happening::StoreError { op, problem });
            Read { managed: Managed::unknown(target.clone(), now), certificate: None, fell_back: false }
        });
        read.managed.forgive(change, now);
        (wanted.id.clone(), read)
    };
    present.wanted.iter().map(read).collect()
}

impl Managed {
    /// What the disk says. Blocks on it.
    pub(super) fn read(
        storage: &Storage,
        id: &CertId,
        target: &Target,
        now: i64,
    ) -> Result<Read, StoreError> {
        let found = storage.load(Place::Live, id)?;
        let (fell_back, found) = (found.fell_back, found.generation);
        let mut managed = Self::unknown(target.clone(), now);
        if let Some(record) = storage.record(id)? {
            managed.record = record;
        }
        managed.record.mistrust_future(now);
        managed.record.resume(now);
        managed.record.configure(target.clone(), now);
        let certificate = found.as_ref().map(|generation| generation.certificate.clone());
        if let Some(generation) = found {
            let life = Life::of(&generation.certificate.leaf);
            let meta = generation.meta;
            let issued_by = meta.as_ref().and_then(|meta| meta.issued_by.as_deref());
            let issued = meta.as_ref().map_or(target, |meta| &meta.target);
            let on_disk = OnDisk { target: issued, issued_by, life: &life };
            managed.record.found(Some(on_disk), true, now);
            managed.renewal_id = issued::renewal_id_of(&generation.certificate);
            managed.life = Some(life);
            managed.number = Some(generation.number);
        } else {
            managed.record.found(None, true, now);
        }
        if managed.renewal_id.is_none() {
            // There is no name to ask for it by.
            managed.record.ari = None;
        }
        Ok(Read { managed, certificate, fell_back })
    }

    /// Lets what was blocked be tried again where it may succeed now: somebody has changed something,
    /// or has started the process anew after it. A back-off goes on over a start, or a process that
    /// is started again and again would ask as often.
    fn forgive(&mut self, change: Change, now: i64) {
        let is_blocked = matches!(self.record.state, State::Blocked { .. });
        if change == Change::Settings || (change == Change::Begun && is_blocked) {
            self.record.reset(now);
        }
    }

    /// Takes over what this process knows better than the disk, which may not be writable.
    pub(super) fn go_on_from(&mut self, known: &Self, change: Change, now: i64) {
        (self.is_busy, self.is_ordering) = (known.is_busy, known.is_ordering);
        self.again_at = known.again_at;
        self.is_unsaved = known.is_unsaved;
        self.told_revoked = known.told_revoked;
        let mut record = known.record.clone();
        record.mistrust_future(now);
        if record.target == self.record.target && record.since > self.record.since {
            self.record = record;
            self.forgive(change, now);
        }
    }

    /// The authority that its certificate came from; `None` when there is no certificate, or the
    /// configuration no longer names the authority.
    pub(super) fn issuer<'a>(&self, present: &'a Assignment) -> Option<&'a Source> {
        let issued = self.record.issued.as_ref()?;
        present.source(self.record.issued_by.as_ref().unwrap_or(&issued.directory))
    }

    /// How long it waits while another process is at it, in seconds.
    pub(super) fn busy_elsewhere(&self) -> i64 {
        let share = self.life.as_ref().map_or(BUSY_ELSEWHERE, |life| life.length() / 20);
        share.clamp(1, BUSY_ELSEWHERE)
    }

    /// Whether the certificate with this life is the one on disk.
    pub(super) fn is_about(&self, life: &Life) -> bool {
        self.life.as_ref().is_some_and(|present| present.tag() == life.tag())
    }

    /// Tells once that the certificate in service is revoked.
    pub(super) fn tell_revoked(&mut self, id: &CertId, present: &Assignment) {
        let is_revoked = self.record.is_revoked;
        if is_revoked && !self.told_revoked {
            let (event, target) = (EventKind::Revoked.name(), &self.record.target);
            tracing::error!(event, certificate = %id, "the certificate was revoked");
            let tag = self.life.as_ref().map(|life| life.tag().to_owned());
            present.events.tell(present.event(id, target, Happening::Revoked).of(tag));
        }
        self.told_revoked = is_revoked;
    }

    pub(super) fn unknown(target: Target, now: i64) -> Self {
        let record = Record::new(target, now);
        Self {
            record,
            life: None,
            number: None,
            renewal_id: None,
            is_busy: false,
            is_ordering: false,
            again_at: None,
            is_unsaved: false,
            told_revoked: false,
        }
    }
}
