//! What can be done to a certificate beside ordering it by the rule.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::job::{Done, JobError, blocking, texts};
use super::super::news::Notices;
use super::super::{Assignment, Finished, Managed, Renewer};
use super::Verdict;
use crate::acme::journal::Journal;
use crate::acme::order::{Issuer, Limits};
use crate::acme::problem::Kind;
use crate::acme::revocation::Reason;
use crate::acme::schedule::{Life, Why};
use crate::acme::state::{OnDisk, Record};
use crate::acme::storage::{CertId, CertLock, Generation, Place, Storage, StoreError};
use crate::acme::time::{HOUR, MINUTE};
use crate::tls::Challenges;

/// What is to be done to a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Deed {
    /// Order it, whatever the rule says.
    Renew {
        /// Though it is young, or was issued often.
        force: bool,
    },
    /// Order it anew, with a new key, and then revoke the one that is in service now.
    Reissue {
        /// Why that one is revoked.
        reason: Reason,
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
    /// Revoke one.
    Revoke {
        /// Why.
        reason: Reason,
        /// [`Life::tag`] of the one that is meant; `None` for the one in service.
        tag: Option<String>,
    },
    /// Order one elsewhere, and forget it: whether it works.
    Rehearse {
        /// The authority whose settings are taken.
        of: String,
        /// The directory of the one that is asked.
        directory: String,
    },
}

/// Why no older generation is in service.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is none, or it cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was revoked.
    #[error("generation {number} was revoked")]
    Revoked {
        /// Its number.
        number: u32,
    },
    /// It has ended.
    #[error("generation {number} has ended")]
    Expired {
        /// Its number.
        number: u32,
    },
}

/// What a deed is done with.
pub(super) struct Job {
    pub(super) present: Arc<Assignment>,
    challenges: Arc<Challenges>,
    pub(super) id: CertId,
    pub(super) known: Record,
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
            Ok(Err(error)) => return self.failed(&error.into()),
            Err(error) => return self.failed(&error),
        };
        let done = match work {
            Work::Restore { number } => self.restore(lock, number).await,
            Work::Revoke { reason, tag } => self.revoke(lock, reason, tag).await,
            Work::Rehearse { of, directory } => self.rehearse(lock, &of, directory).await,
        };
        match done {
            Ok(done) => (done, Verdict::Done),
            Err(error) => self.failed(&error),
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

    async fn rehearse(
        &self,
        lock: Arc<CertLock>,
        of: &str,
        directory: String,
    ) -> Result<Done, JobError> {
        let source = self.present.source(of).or_else(|| self.present.sources.first());
        let Some(mut source) = source.cloned() else { return Ok(Done::default()) };
        source.settings.directory.clone_from(&directory);
        source.settings.eab = None;
        source.authority.directory = directory;
        let order = super::super::job::Job {
            present: Arc::clone(&self.present),
            source: source.clone(),
            challenges: Arc::clone(&self.challenges),
            id: self.id.clone(),
            target: self.known.target.clone(),
            known: self.known.clone(),
            replaces: None,
            life: None,
            why: Why::Requested,
        };
        let session = self.present.session(&source).await?;
        let (challenges, write) = (Arc::clone(&self.challenges), Arc::new(|_: &Journal| Ok(())));
        let board = Notices { storage: self.present.storage.clone(), lock };
        let issuer =
            Issuer::new(session, challenges, write, Limits::default()).with_board(Arc::new(board));
        let issued = issuer.issue(&order.request().await).await;
        issued.map_err(|error| JobError::Order(Box::new(error)))?;
        tracing::info!(certificate = %self.id, directory = %source.settings.directory, "rehearsed an order");
        Ok(Done::default())
    }

    fn failed(&self, error: &JobError) -> (Done, Verdict) {
        let told: &dyn Error = error;
        tracing::warn!(certificate = %self.id, error = told, "could not do what was asked");
        let link = error.problem().and_then(|problem| problem.link()).map(str::to_owned);
        let verdict = if error.is_permanent() {
            Verdict::Blocked { reason: texts(error), link }
        } else if error.problem().is_some_and(|problem| problem.kind == Kind::RateLimited) {
            let until = self.present.clock.now() + error.retry_after().unwrap_or(HOUR);
            Verdict::Limited { until }
        } else {
            Verdict::Failed { problem: texts(error), next_at: None }
        };
        (Done::default(), verdict)
    }
}

/// Puts generation `number` in service, as a new one, and writes down what is in service now.
/// `known` is what was known before. Blocks on the disk.
///
/// # Errors
/// [`RestoreError`], most of all for want of such a generation; what was in service stays.
pub fn restore(
    storage: &Storage,
    lock: &CertLock,
    known: Record,
    number: u32,
    now: i64,
) -> Result<(Generation, Record), RestoreError> {
    let known = newer(storage, lock, known, now)?;
    let kept = storage.kept(Place::Live, lock.id())?;
    let wanted = kept.iter().find(|kept| kept.number == number);
    let wanted = wanted.and_then(|kept| kept.generation.as_ref().ok());
    if let Some(wanted) = wanted {
        let life = Life::of(&wanted.certificate.leaf);
        if known.was_revoked(life.tag()) {
            return Err(RestoreError::Revoked { number });
        }
        if life.is_expired(now) {
            return Err(RestoreError::Expired { number });
        }
    }
    let generation = storage.restore(Place::Live, lock, number)?;
    let mut record = known;
    let meta = generation.meta.as_ref();
    let target = meta.map_or_else(|| record.target.clone(), |meta| meta.target.clone());
    let issued_by = meta.and_then(|meta| meta.issued_by.as_deref());
    let life = Life::of(&generation.certificate.leaf);
    record.found(Some(OnDisk { target: &target, issued_by, life: &life }), true, now);
    storage.keep_record(lock, &record)?;
    Ok((generation, record))
}

/// What is known, by the disk where another process has written since.
pub(super) fn newer(
    storage: &Storage,
    lock: &CertLock,
    known: Record,
    now: i64,
) -> Result<Record, StoreError> {
    Ok(match storage.record(lock.id())? {
        Some(kept) if kept.since > known.since && kept.since <= now + MINUTE => {
            Record { target: known.target, ..kept }
        }
        _ => known,
    })
}

impl Renewer {
    /// Begins `work` beside what else goes on.
    pub(super) fn act(&mut self, job: Job, work: Work, end: oneshot::Sender<Verdict>) {
        let id = job.id.clone();
        self.jobs.spawn(async move {
            let done = AssertUnwindSafe(job.run(work)).catch_unwind().await;
            // The panic is in the log.
            let interrupted = || Verdict::Failed { problem: "interrupted".into(), next_at: None };
            let (done, verdict) = done.unwrap_or_else(|_| (Done::default(), interrupted()));
            Finished::Acted(id, Box::new(done), verdict, end)
        });
    }
}
