//! One try to have a certificate: the lock, a second look at the disk, the order, the save.

mod error;
mod failure;

use std::error::Error;
use std::io;
use std::sync::Arc;

pub(super) use self::error::JobError;
use self::error::LOCAL;
pub use self::error::texts;
use super::news::Notices;
use super::tell::News;
use super::{Assignment, Source};
use crate::acme::dns::Persist;
use crate::acme::event::{Event, Happening};
use crate::acme::journal::Journal;
use crate::acme::order::{Issued, Issuer, Limits, Method, OrderError, Request};
use crate::acme::schedule::{Life, Why, plan};
use crate::acme::session::Session;
use crate::acme::state::{LastProblem, OnDisk, Record, State, Target};
use crate::acme::storage::{CertId, CertLock, Meta, Pair, Place, Secret, StoreError};
use crate::acme::time::{DAY, MINUTE, seconds};
use crate::config::acme::ChallengeKind;
use crate::config::acme_event::EventKind;
use crate::telemetry::metrics::StoreOp;
use crate::tls::{Certificate, Challenges};

/// One certificate that is to be ordered.
pub(super) struct Job {
    pub(super) present: Arc<Assignment>,
    /// Whom it is ordered from.
    pub(super) source: Source,
    pub(super) challenges: Arc<Challenges>,
    pub(super) id: CertId,
    pub(super) target: Target,
    /// What was known when this was planned.
    pub(super) known: Record,
    /// The certificate in service, as RFC 9773 §4.1 names it.
    pub(super) replaces: Option<String>,
    /// Its validity.
    pub(super) life: Option<Life>,
    pub(super) why: Why,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What is known now; `None` where nothing was done.
    pub(super) record: Option<Record>,
    /// What is to be served.
    pub(super) certificate: Option<Certificate>,
    /// Another process is at it.
    pub(super) is_elsewhere: bool,
    /// It is served, and could not be saved.
    pub(super) is_unsaved: bool,
    /// What is told once it is served.
    pub(super) news: Option<News>,
}

/// What a second look at the disk comes to.
enum Look {
    /// There is nothing to do.
    Done(Box<Done>),
    /// It is to be ordered.
    Due {
        /// When the certificate on disk was saved.
        saved_at: Option<i64>,
        /// Its life.
        life: Option<Life>,
    },
}

/// An order that is older is made anew: authorities end theirs after a week at most.
const LONGEST_ORDER: i64 = 2 * DAY;

/// Longest time that a rate limit is believed to last, as for other failures.
const LONGEST_LIMIT: i64 = 7 * DAY;

impl Job {
    pub(super) async fn run(self) -> Done {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let lock = match blocking(move || storage.lock(&id)).await {
            Ok(Ok(Some(lock))) => Arc::new(lock),
            Ok(Ok(None)) => return Done { is_elsewhere: true, ..Done::default() },
            Ok(Err(error)) => return self.failed(None, &error.into()).await,
            Err(error) => return self.failed(None, &error).await,
        };
        if lock.is_alone(&self.present.storage) && self.can_wait() {
            tracing::debug!(certificate = %self.id, "waits for the fleet's Redis to be renewed");
            return Done { is_elsewhere: true, ..Done::default() };
        }
        match self.work(&lock).await {
            Ok(done) => done,
            Err(error) => self.failed(Some(&lock), &error).await,
        }
    }

    /// Whether there is time to wait for a fleet that cannot be asked: every instance would order a
    /// certificate of its own, and authorities count them.
    fn can_wait(&self) -> bool {
        let has_time = |life: &Life| life.left(self.now()) > life.length() / 4;
        matches!(self.why, Why::Backstop | Why::Ari) && self.life.as_ref().is_some_and(has_time)
    }

    async fn work(&self, lock: &Arc<CertLock>) -> Result<Done, JobError> {
        let (storage, kept, target) =
            (self.present.storage.clone(), Arc::clone(lock), self.target.clone());
        blocking(move || storage.catch_up(&kept, &target)).await??;
        let (saved_at, life) = match self.look_again(lock).await? {
            Look::Done(done) => return Ok(*done),
            Look::Due { saved_at, life } => (saved_at, life),
        };
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let journal = blocking(move || {
            storage.has_room(&kept)?;
            storage.order(&kept)
        });
        let journal = journal.await??.filter(|journal| self.is_ours(journal, saved_at));
        let session = self.present.session(&self.source).await?;
        if let Some(done) = self.was_misled(life.as_ref()).await {
            return Ok(done);
        }
        let issued = match self.issue(lock, session, journal.as_ref()).await {
            Err(error) if error.is_account_unknown() => {
                let session = self.present.session_again(&self.source).await?;
                self.issue(lock, session, None).await
            }
            Err(error) if error.is_key_refused() => {
                match self.present.session_before(&self.source).await? {
                    Some(session) => self.issue(lock, session, journal.as_ref()).await,
                    None => Err(error),
                }
            }
            outcome => outcome,
        };
        self.install(lock, issued?).await
    }

    fn now(&self) -> i64 {
        self.present.clock.now()
    }

    /// When the authority has told its time and the certificate with `life` turns out not to be due:
    /// our clock was wrong.
    async fn was_misled(&self, life: Option<&Life>) -> Option<Done> {
        if self.why == Why::Requested {
            return None;
        }
        let record = self.record().await;
        let set = record.set();
        let renew_before = self.present.acme.renew_before.map(seconds);
        let plan = plan(&record.facts(Some(life?), &set, renew_before), self.now());
        if plan.is_due(self.now()) {
            return None;
        }
        tracing::info!(certificate = %self.id, "did not order a certificate that only our clock takes for due");
        Some(Done { record: Some(record), ..Done::default() })
    }

    /// What another process has done since this was planned, if that leaves nothing to do; else when
    /// the certificate on disk was saved.
    async fn look_again(&self, lock: &Arc<CertLock>) -> Result<Look, JobError> {
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let found = blocking(move || storage.recover(Place::Live, &kept)).await??;
        for fault in found.faults.iter().filter(|_| !found.fell_back) {
            let error: &dyn Error = &fault.error;
            tracing::warn!(certificate = %self.id, error, "a kept certificate cannot be used");
        }
        self.present.tell_fell_back(&self.id, &self.target, &found);
        let mut record = self.record().await;
        let is_parked = record.parked_until().is_some_and(|until| until > self.now());
        if is_parked && record.since > self.known.since && !self.is_theirs_alone(&record) {
            // Another process has tried, and learnt when the next try is worth it.
            let done = Done { record: Some(record), ..Done::default() };
            return Ok(Look::Done(Box::new(done)));
        }
        let Some(generation) = found.generation else {
            return Ok(Look::Due { saved_at: None, life: None });
        };
        let life = Life::of(&generation.certificate.leaf);
        let saved_at = generation.meta.as_ref().map(|meta| meta.saved_at);
        let meta = generation.meta;
        let issued_by = meta.as_ref().and_then(|meta| meta.issued_by.as_deref());
        let issued = meta.as_ref().map_or(&self.target, |meta| &meta.target);
        let on_disk = OnDisk { target: issued, issued_by, life: &life };
        record.found(Some(on_disk), true, self.now());
        let set = record.set();
        let renew_before = self.present.acme.renew_before.map(seconds);
        let is_due =
            plan(&record.facts(Some(&life), &set, renew_before), self.now()).is_due(self.now());
        let is_another = self.known.certificate.as_deref() != Some(life.tag());
        if !is_another || is_due || self.why == Why::Requested {
            return Ok(Look::Due { saved_at, life: Some(life) });
        }
        tracing::info!(certificate = %self.id, "took over a certificate that was renewed elsewhere");
        self.keep(lock, &record).await;
        let certificate = Some(generation.certificate);
        let done = Done { record: Some(record), certificate, ..Done::default() };
        Ok(Look::Done(Box::new(done)))
    }

    /// Whether a failure says nothing of this instance: what did not come from the authority may be a
    /// fault of another machine, or of its network.
    fn is_theirs_alone(&self, record: &Record) -> bool {
        let is_local = |problem: &LastProblem| problem.kind == LOCAL;
        let is_backoff = matches!(record.state, State::Backoff { .. });
        self.present.storage.fleet().is_some()
            && is_backoff
            && record.last_problem.as_ref().is_some_and(is_local)
    }

    /// Whether an order that was written down is worth going on with: for what is wanted now, not yet
    /// saved, and not so old that the authority has forgotten to end it.
    fn is_ours(&self, journal: &Journal, saved_at: Option<i64>) -> bool {
        let is_wanted = journal.names == self.target.names
            && journal.directory == self.source.settings.directory
            && journal.profile == self.source.settings.profile;
        let is_open = saved_at.is_none_or(|at| journal.created >= at);
        is_wanted && is_open && self.now() - journal.created < LONGEST_ORDER
    }

    async fn issue(
        &self,
        lock: &Arc<CertLock>,
        session: Session,
        journal: Option<&Journal>,
    ) -> Result<(Issued, Option<String>), JobError> {
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let write = move |journal: &Journal| {
            storage.keep_order(&kept, journal).map_err(|error| match error {
                StoreError::Io { source, .. } => source,
                error => io::Error::other(error),
            })
        };
        let challenges = Arc::clone(&self.challenges);
        let board = Notices { storage: self.present.storage.clone(), lock: Arc::clone(lock) };
        let issuer = Issuer::new(session, challenges, Arc::new(write), Limits::default())
            .with_board(Arc::new(board));
        let request = self.request().await;
        if let Some(journal) = journal {
            match issuer.resume(journal, &request).await {
                Ok(issued) => return Ok((issued, Some(journal.order_url.clone()))),
                Err(error) if error.is_lost() => {
                    self.tell_lost(&error);
                    self.drop_order(lock).await;
                }
                Err(error) => return Err(JobError::Order(Box::new(error))),
            }
        }
        match issuer.issue(&request).await {
            Ok(issued) => Ok((issued, None)),
            Err(error) => {
                if error.is_lost() {
                    self.drop_order(lock).await;
                }
                Err(JobError::Order(Box::new(error)))
            }
        }
    }

    fn tell_lost(&self, error: &OrderError) {
        let error: &dyn Error = error;
        tracing::info!(certificate = %self.id, error, "an order came to nothing, made another");
    }

    /// Another way to prove names comes first after each failure: one may be closed to the authority.
    pub(super) async fn request(&self) -> Request {
        let (acme, settings) = (&self.present.acme, &self.source.settings);
        let mut methods: Vec<Method> = acme
            .challenges
            .iter()
            .filter_map(|kind| match kind {
                ChallengeKind::TlsAlpn01 => Some(Method::TlsAlpn01),
                ChallengeKind::Http01 => Some(Method::Http01),
                ChallengeKind::Dns01 => acme.dns.as_ref().map(|dns| Method::Dns01(dns.into())),
                ChallengeKind::DnsPersist01 => Some(Method::DnsPersist01(Persist::default())),
            })
            .collect();
        let fails = self.record().await.fails as usize;
        let count = methods.len().max(1);
        methods.rotate_left(fails % count);
        Request {
            names: self.target.names.clone(),
            profile: settings.profile.clone(),
            require_profile: settings.require_profile,
            replaces: self.replaces.clone(),
            key_type: acme.key_type.into(),
            preferred_chain: settings.preferred_chain.clone(),
            methods,
        }
    }

    /// What is known: by the disk where another process has written since, else by memory, which is
    /// right also where nothing can be written.
    async fn record(&self) -> Record {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let kept = blocking(move || storage.record(&id)).await.ok().and_then(Result::ok).flatten();
        let mut record = match kept {
            // One from the future was written by a clock that was ahead, and says nothing.
            Some(kept) if kept.since > self.known.since && kept.since <= self.now() + MINUTE => {
                kept
            }
            _ => self.known.clone(),
        };
        record.configure(self.target.clone(), self.now());
        record
    }

    async fn drop_order(&self, lock: &Arc<CertLock>) {
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        // One that stays is found to be lost again.
        let _ = blocking(move || storage.drop_order(&kept)).await;
    }

    /// Saves what was issued, and says so.
    async fn install(
        &self,
        lock: &Arc<CertLock>,
        (issued, order_url): (Issued, Option<String>),
    ) -> Result<Done, JobError> {
        let directory = &self.source.settings.directory;
        let issued_by = (*directory != self.target.directory).then(|| directory.clone());
        let meta = Meta {
            target: self.target.clone(),
            issued_by,
            saved_at: self.now(),
            why: Some(self.why),
            order_url,
            ..Meta::default()
        };
        let Issued { key_pem, chain_pem, certificate, .. } = issued;
        let pair = Pair { key_pem: Secret(key_pem), chain_pem, meta };
        let mut record = self.record().await;
        record.resume(self.now());
        record.due(self.why, self.now());
        record.ordering(self.now())?;
        record.installing(self.now())?;
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let saved = blocking(move || storage.save(Place::Live, &kept, &pair).map(|_| pair)).await?;
        let days = Life::of(&certificate.leaf).left(self.now()) / DAY;
        if let Err(error) = saved {
            return Ok(self.serve_unsaved(lock, record, certificate, &error).await);
        }
        let (life, is_first) = (Life::of(&certificate.leaf), record.certificate.is_none());
        record.installed(&life, directory, true, self.now())?;
        let (storage, kept, told) =
            (self.present.storage.clone(), Arc::clone(lock), record.clone());
        let written = blocking(move || {
            let told = storage.keep_record(&kept, &told);
            // It must not be found again, whatever became of the rest.
            storage.drop_order(&kept).and(told)
        });
        if let Ok(Err(error)) = written.await {
            let error: &dyn Error = &error;
            let event = EventKind::StoreError.name();
            tracing::warn!(event, certificate = %self.id, error, "could not write down a success");
            self.tell(Happening::StoreError { op: StoreOp::Record, problem: texts(error) });
        }
        let (why, not_after) = (self.why, life.not_after);
        let happening = match is_first {
            true => Happening::Obtained { why, not_after },
            false => Happening::Renewed { why, not_after },
        };
        let (event, events) = (self.event(happening), self.present.events.clone());
        let news = Some(News { event, events, reason: why.as_str(), days });
        let certificate = Some(certificate);
        Ok(Done { record: Some(record), certificate, news, ..Done::default() })
    }

    /// Serves what cannot be saved. Its order stays written down, and is fetched again soon.
    async fn serve_unsaved(
        &self,
        lock: &Arc<CertLock>,
        mut record: Record,
        certificate: Certificate,
        error: &StoreError,
    ) -> Done {
        self.tell_unsaved(error);
        let problem = LastProblem {
            at: self.now(),
            kind: "unsaved".into(),
            detail: texts(error),
            names: Vec::new(),
        };
        record.stalled(problem, MINUTE, self.now());
        self.keep(lock, &record).await;
        let certificate = Some(certificate);
        Done { record: Some(record), certificate, is_unsaved: true, ..Done::default() }
    }

    fn tell_unsaved(&self, error: &StoreError) {
        let (event, problem) = (EventKind::StoreError.name(), texts(error));
        let error: &dyn Error = error;
        tracing::error!(event, certificate = %self.id, error, "could not save a certificate, serving it from memory");
        self.tell(Happening::StoreError { op: StoreOp::Save, problem });
    }

    fn tell(&self, happening: Happening) {
        self.present.events.tell(self.event(happening));
    }

    fn event(&self, happening: Happening) -> Event {
        let event = self.present.event(&self.id, &self.target, happening);
        event.at(&self.source.settings.directory)
    }

    async fn keep(&self, lock: &Arc<CertLock>, record: &Record) {
        let (storage, kept, record) =
            (self.present.storage.clone(), Arc::clone(lock), record.clone());
        if let Ok(Err(error)) = blocking(move || storage.keep_record(&kept, &record)).await {
            let error: &dyn Error = &error;
            let event = EventKind::StoreError.name();
            tracing::warn!(event, certificate = %self.id, error, "could not write down how an order went");
            self.tell(Happening::StoreError { op: StoreOp::Record, problem: texts(error) });
        }
    }
}

/// Does `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| JobError::Interrupted)
}

#[cfg(test)]
mod tests;
