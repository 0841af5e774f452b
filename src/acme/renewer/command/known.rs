//! All that is known of one certificate, for whoever looks.

use super::super::source::target;
use super::super::{Assignment, Managed, Standing, Wanted};
use super::limit;
use crate::acme::backoff::Limits;
use crate::acme::schedule::{Life, Plan, plan};
use crate::acme::state::Record;
use crate::acme::storage::{CertId, Storage, StoreError};
use crate::acme::time::{Clock, seconds};
use crate::config::acme::Acme;

/// All that is known of one certificate.
#[derive(Clone, Debug)]
pub struct Known {
    /// In short.
    pub standing: Standing,
    /// What is written down of it.
    pub record: Record,
    /// Of the certificate in service; `None` when there is none.
    pub life: Option<Life>,
    /// When it is ordered by the rule.
    pub plan: Plan,
    /// The end of the rate limit that parks it.
    pub limited_until: Option<i64>,
}

impl Known {
    pub(super) fn new(
        id: &CertId,
        managed: &Managed,
        present: &Assignment,
        limits: &Limits,
        now: i64,
    ) -> Self {
        Self::with(id, managed, &present.acme, limits, now)
    }

    /// The same by the disk alone, where no gateway runs. Blocks on it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when what is kept of it cannot be read.
    pub fn read(storage: &Storage, acme: &Acme, wanted: &Wanted) -> Result<Self, StoreError> {
        let now = Clock::default().now();
        let target = target(acme, wanted);
        let read = Managed::read(storage, &wanted.id, &target, now)?;
        Ok(Self::with(&wanted.id, &read.managed, acme, &Limits::default(), now))
    }

    fn with(id: &CertId, managed: &Managed, acme: &Acme, limits: &Limits, now: i64) -> Self {
        let record = &managed.record;
        let set = record.set();
        let renew_before = acme.renew_before.map(seconds);
        let plan = plan(&record.facts(managed.life.as_ref(), &set, renew_before), now);
        let directories: Vec<&str> =
            acme.authorities().map(|authority| authority.directory.as_str()).collect();
        let limited_until = limit(record, &directories, limits, now);
        let parked =
            [record.parked_until(), limited_until, managed.again_at].into_iter().flatten().max();
        Self {
            standing: Standing::new(id, managed, &plan, parked),
            record: record.clone(),
            life: managed.life.clone(),
            plan,
            limited_until,
        }
    }
}
