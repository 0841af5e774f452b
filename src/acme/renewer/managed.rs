//! What the renewer knows of a certificate: what the disk says, and what it has learnt since.

use super::{Assignment, Source, Wanted};
use crate::acme::schedule::Life;
use crate::acme::state::{OnDisk, Record, State, Target};
use crate::acme::storage::{CertId, Place, Storage, StoreError};
use crate::tls::Certificate;
use crate::tls::issued;

/// A certificate, and what is known of it.
#[derive(Debug)]
pub(super) struct Managed {
    pub(super) record: Record,
    pub(super) life: Option<Life>,
    /// What RFC 9773 §4.1 names it by.
    pub(super) renewal_id: Option<String>,
    /// A job is at it.
    pub(super) is_busy: bool,
    /// The job is an order.
    pub(super) is_ordering: bool,
    /// Not to be touched before.
    pub(super) again_at: Option<i64>,
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
pub(super) struct Read {
    pub(super) managed: Managed,
    pub(super) certificate: Option<Certificate>,
}

/// Every certificate of `present` as the disk knows it.
pub(super) fn read_all(present: &Assignment, change: Change, now: i64) -> Vec<(CertId, Read)> {
    let read = |wanted: &Wanted| {
        let target = present.target(wanted);
        let read = Managed::read(&present.storage, &wanted.id, &target, now);
        let mut read = read.unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::error!(certificate = %wanted.id, error, "could not read what is kept of it");
            Read { managed: Managed::unknown(target, now), certificate: None }
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
        let found = storage.load(Place::Live, id)?.generation;
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
        } else {
            managed.record.found(None, true, now);
        }
        if managed.renewal_id.is_none() {
            // There is no name to ask for it by.
            managed.record.ari = None;
        }
        Ok(Read { managed, certificate })
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
        let is_newer = known.record.since > self.record.since;
        if known.record.target == self.record.target && is_newer {
            self.record = known.record.clone();
            self.forgive(change, now);
        }
    }

    /// The authority that its certificate came from; `None` when there is no certificate, or the
    /// configuration no longer names the authority.
    pub(super) fn issuer<'a>(&self, present: &'a Assignment) -> Option<&'a Source> {
        let issued = self.record.issued.as_ref()?;
        present.source(self.record.issued_by.as_ref().unwrap_or(&issued.directory))
    }

    /// Whether the certificate with this life is the one on disk.
    pub(super) fn is_about(&self, life: &Life) -> bool {
        self.life.as_ref().is_some_and(|present| present.tag() == life.tag())
    }

    pub(super) fn unknown(target: Target, now: i64) -> Self {
        let record = Record::new(target, now);
        Self {
            record,
            life: None,
            renewal_id: None,
            is_busy: false,
            is_ordering: false,
            again_at: None,
        }
    }
}
