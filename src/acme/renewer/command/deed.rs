//! What can be done to a certificate beside ordering it by the rule.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::job::{Done, JobError, blocking, texts};
use super::super::{Assignment, Finished, Managed, Renewer};
use super::Verdict;
use crate::acme::schedule::Life;
use crate::acme::state::{OnDisk, Record};
use crate::acme::storage::{CertId, CertLock, Generation, Place, Storage, StoreError};
use crate::tls::Challenges;

/// What is to be done to a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deed {
    /// Order it, whatever the rule says.
    Renew {
        /// Though it is young, or was issued often.
        force: bool,
    },
    /// Something that is no order, or none that counts.
    Work(Work),
}

/// What is done to a certificate beside ordering it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// Put an older generation in service.
    Restore {
        /// Which.
        number: u32,
    },
}

/// What a deed is done with.
pub(super) struct Job {
    present: Arc<Assignment>,
    #[expect(dead_code)]
    challenges: Arc<Challenges>,
    id: CertId,
    known: Record,
}

impl Job {
    pub(super) fn new(
        present: &Arc<Assignment>,
        challenges: &Arc<Challenges>,
        id: &CertId,
        managed: &Managed,
    ) -> Self {
        Self {
            present: Arc::clone(present),
            challenges: Arc::clone(challenges),
            id: id.clone(),
            known: managed.record.clone(),
        }
    }

    async fn run(self, work: Work) -> (Done, Verdict) {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let lock = match blocking(move || storage.lock(&id)).await {
            Ok(Ok(Some(lock))) => Arc::new(lock),
            Ok(Ok(None)) => {
                return (Done { is_elsewhere: true, ..Done::default() }, Verdict::Busy);
            }
            Ok(Err(error)) => return failed(&error.into()),
            Err(error) => return failed(&error),
        };
        let done = match work {
            Work::Restore { number } => self.restore(lock, number).await,
        };
        match done {
            Ok(done) => (done, Verdict::Done),
            Err(error) => failed(&error),
        }
    }

    async fn restore(&self, lock: Arc<CertLock>, number: u32) -> Result<Done, JobError> {
        let (storage, known) = (self.present.storage.clone(), self.known.clone());
        let now = self.present.clock.now();
        let restored = blocking(move || restore(&storage, &lock, known, number, now)).await??;
        let (generation, record) = restored;
        tracing::info!(certificate = %self.id, generation = number, "restored a certificate");
        let certificate = Some(generation.certificate);
        Ok(Done { record: Some(record), certificate, ..Done::default() })
    }
}

fn failed(error: &JobError) -> (Done, Verdict) {
    (Done::default(), Verdict::Failed { problem: texts(error), next_at: None })
}

/// Puts generation `number` in service, as a new one, and writes down what is in service now.
/// `known` is what was known before. Blocks on the disk.
///
/// # Errors
/// [`StoreError`], most of all [`StoreError::NoGeneration`]; what was in service stays.
pub fn restore(
    storage: &Storage,
    lock: &CertLock,
    known: Record,
    number: u32,
    now: i64,
) -> Result<(Generation, Record), StoreError> {
    let generation = storage.restore(Place::Live, lock, number)?;
    let mut record = match storage.record(lock.id())? {
        Some(kept) if kept.since > known.since => Record { target: known.target, ..kept },
        _ => known,
    };
    let meta = generation.meta.as_ref();
    let target = meta.map_or_else(|| record.target.clone(), |meta| meta.target.clone());
    let issued_by = meta.and_then(|meta| meta.issued_by.as_deref());
    let life = Life::of(&generation.certificate.leaf);
    record.found(Some(OnDisk { target: &target, issued_by, life: &life }), true, now);
    storage.keep_record(lock, &record)?;
    Ok((generation, record))
}

impl Renewer {
    /// Begins `work` beside what else goes on.
    pub(super) fn act(&mut self, job: Job, work: Work, end: oneshot::Sender<Verdict>) {
        let id = job.id.clone();
        self.jobs.spawn(async move {
            let done = AssertUnwindSafe(job.run(work)).catch_unwind().await;
            // The panic is in the log.
            let (done, verdict) = done.unwrap_or_else(|_| failed(&JobError::Interrupted));
            Finished::Acted(id, Box::new(done), verdict, end)
        });
    }
}
