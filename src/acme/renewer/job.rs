//! One try to have a certificate: the lock, a second look at the disk, the order, the save.

use std::error::Error;
use std::io;
use std::sync::Arc;

use super::{Assignment, now};
use crate::acme::account::AccountError;
use crate::acme::backoff;
use crate::acme::dns::Dns;
use crate::acme::journal::Journal;
use crate::acme::order::{Issued, Issuer, Limits, Method, OrderError, Request};
use crate::acme::problem::{Kind, Problem, Scope};
use crate::acme::schedule::{Life, Why, plan};
use crate::acme::session::Session;
use crate::acme::state::{LastProblem, OutOfTurn, Record, Target};
use crate::acme::storage::{CertId, CertLock, Meta, Pair, Place, Secret, StoreError};
use crate::acme::time::{DAY, HOUR, MINUTE, seconds, unix};
use crate::config::acme::{ChallengeKind, DnsProvider};
use crate::tls::{Certificate, Challenges};

/// One certificate that is to be ordered.
pub(super) struct Job {
    pub(super) present: Arc<Assignment>,
    pub(super) challenges: Arc<Challenges>,
    pub(super) id: CertId,
    pub(super) target: Target,
    /// What was known when this was planned.
    pub(super) known: Record,
    /// The certificate in service, as RFC 9773 §4.1 names it.
    pub(super) replaces: Option<String>,
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
}

/// What a second look at the disk comes to.
enum Look {
    /// There is nothing to do.
    Done(Box<Done>),
    /// It is to be ordered.
    Due {
        /// When the certificate on disk was saved.
        saved_at: Option<i64>,
    },
}

/// An order that is older is made anew: authorities end theirs after a week at most.
const LONGEST_ORDER: i64 = 2 * DAY;

/// Longest time that a rate limit is believed to last, as for other failures.
const LONGEST_LIMIT: i64 = 7 * DAY;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error("cannot keep certificates")]
    Store(#[from] StoreError),
    #[error("there is no account at the certificate authority")]
    Account(#[from] AccountError),
    #[error("the certificate authority has lost the account twice in a day")]
    AccountLost,
    #[error("the key of `eab` is no base64")]
    Binding,
    #[error(transparent)]
    Order(Box<OrderError>),
    #[error("a step was taken out of turn")]
    Turn(#[from] OutOfTurn),
    #[error("interrupted")]
    Interrupted,
}

impl Job {
    pub(super) async fn run(self) -> Done {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let lock = match blocking(move || storage.lock(&id)).await {
            Ok(Ok(Some(lock))) => Arc::new(lock),
            Ok(Ok(None)) => return Done { is_elsewhere: true, ..Done::default() },
            Ok(Err(error)) => return self.failed(None, &error.into()).await,
            Err(error) => return self.failed(None, &error).await,
        };
        match self.work(&lock).await {
            Ok(done) => done,
            Err(error) => self.failed(Some(&lock), &error).await,
        }
    }

    async fn work(&self, lock: &Arc<CertLock>) -> Result<Done, JobError> {
        let saved_at = match self.look_again(lock).await? {
            Look::Done(done) => return Ok(*done),
            Look::Due { saved_at } => saved_at,
        };
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let journal = blocking(move || {
            storage.has_room(&kept)?;
            storage.order(&kept)
        });
        let journal = journal.await??.filter(|journal| self.is_ours(journal, saved_at));
        let issued = match self.issue(lock, self.present.session().await?, journal.as_ref()).await {
            Err(error) if error.is_account_unknown() => {
                self.issue(lock, self.present.session_again().await?, None).await
            }
            outcome => outcome,
        };
        self.install(lock, issued?).await
    }

    /// What another process has done since this was planned, if that leaves nothing to do; else when
    /// the certificate on disk was saved.
    async fn look_again(&self, lock: &Arc<CertLock>) -> Result<Look, JobError> {
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let found = blocking(move || storage.recover(Place::Live, &kept)).await??;
        for fault in &found.faults {
            let error: &dyn Error = &fault.error;
            tracing::error!(certificate = %self.id, error, "a kept certificate cannot be used");
        }
        let mut record = self.record().await;
        let is_parked = record.parked_until().is_some_and(|until| until > now());
        if is_parked && record.since > self.known.since {
            // Another process has tried, and learnt when the next try is worth it.
            let done = Done { record: Some(record), ..Done::default() };
            return Ok(Look::Done(Box::new(done)));
        }
        let Some(generation) = found.generation else { return Ok(Look::Due { saved_at: None }) };
        let life = Life::of(&generation.certificate.leaf);
        let saved_at = generation.meta.as_ref().map(|meta| meta.saved_at);
        let issued = generation.meta.map_or_else(|| self.target.clone(), |meta| meta.target);
        record.found(Some((&issued, &life)), true, now());
        let set = record.set();
        let renew_before = self.present.acme.renew_before.map(seconds);
        let is_due = plan(&record.facts(Some(&life), &set, renew_before), now()).is_due(now());
        let is_another = self.known.certificate.as_deref() != Some(life.tag());
        if !is_another || is_due || self.why == Why::Requested {
            return Ok(Look::Due { saved_at });
        }
        tracing::info!(certificate = %self.id, "took over a certificate that was renewed elsewhere");
        self.keep(lock, &record).await;
        let certificate = Some(generation.certificate);
        let done = Done { record: Some(record), certificate, ..Done::default() };
        Ok(Look::Done(Box::new(done)))
    }

    /// Whether an order that was written down is worth going on with: for what is wanted now, not yet
    /// saved, and not so old that the authority has forgotten to end it.
    fn is_ours(&self, journal: &Journal, saved_at: Option<i64>) -> bool {
        let is_wanted = journal.names == self.target.names
            && journal.directory == self.target.directory
            && journal.profile == self.target.profile;
        let is_open = saved_at.is_none_or(|at| journal.created >= at);
        is_wanted && is_open && now() - journal.created < LONGEST_ORDER
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
        let issuer = Issuer::new(session, challenges, Arc::new(write), Limits::default());
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
    async fn request(&self) -> Request {
        let acme = &self.present.acme;
        let mut methods: Vec<Method> = acme
            .challenges
            .iter()
            .filter_map(|kind| match kind {
                ChallengeKind::TlsAlpn01 => Some(Method::TlsAlpn01),
                ChallengeKind::Http01 => Some(Method::Http01),
                ChallengeKind::Dns01 => acme.dns.as_ref().map(|DnsProvider::Run(run)| {
                    let program = run.first().map(String::as_str).unwrap_or_default();
                    Method::Dns01(Dns::run(program).with_arguments(run.iter().skip(1)))
                }),
            })
            .collect();
        let fails = self.record().await.fails as usize;
        let count = methods.len().max(1);
        methods.rotate_left(fails % count);
        Request {
            names: self.target.names.clone(),
            profile: acme.profile.clone(),
            require_profile: acme.require_profile,
            replaces: self.replaces.clone(),
            key_type: acme.key_type.into(),
            preferred_chain: acme.preferred_chain.clone(),
            methods,
        }
    }

    /// What is known: by the disk where another process has written since, else by memory, which is
    /// right also where nothing can be written.
    async fn record(&self) -> Record {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let kept = blocking(move || storage.record(&id)).await.ok().and_then(Result::ok).flatten();
        let mut record = match kept {
            Some(kept) if kept.since > self.known.since => kept,
            _ => self.known.clone(),
        };
        record.configure(self.target.clone(), now());
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
        let meta =
            Meta { target: self.target.clone(), saved_at: now(), why: Some(self.why), order_url };
        let Issued { key_pem, chain_pem, certificate, .. } = issued;
        let pair = Pair { key_pem: Secret(key_pem), chain_pem, meta };
        let mut record = self.record().await;
        record.resume(now());
        record.due(self.why, now());
        record.ordering(now())?;
        record.installing(now())?;
        let (storage, kept) = (self.present.storage.clone(), Arc::clone(lock));
        let saved = blocking(move || storage.save(Place::Live, &kept, &pair).map(|_| pair)).await?;
        let days = certificate.leaf.not_after.duration_since(std::time::SystemTime::now());
        let days = days.map_or(0, |left| left.as_secs() / (24 * 60 * 60));
        if let Err(error) = saved {
            return Ok(self.serve_unsaved(lock, record, certificate, &error).await);
        }
        record.installed(&Life::of(&certificate.leaf), true, now())?;
        let (storage, kept, told) =
            (self.present.storage.clone(), Arc::clone(lock), record.clone());
        let written = blocking(move || {
            let told = storage.keep_record(&kept, &told);
            // It must not be found again, whatever became of the rest.
            storage.drop_order(&kept).and(told)
        });
        if let Ok(Err(error)) = written.await {
            let error: &dyn Error = &error;
            tracing::warn!(certificate = %self.id, error, "could not write down a success");
        }
        tracing::info!(certificate = %self.id, reason = self.why.as_str(), days, "obtained a certificate");
        Ok(Done { record: Some(record), certificate: Some(certificate), ..Done::default() })
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
            at: now(),
            kind: "unsaved".into(),
            detail: texts(error),
            names: Vec::new(),
        };
        record.failed(self.id.as_str(), problem, Some(0), Some(MINUTE), now());
        self.keep(lock, &record).await;
        let certificate = Some(certificate);
        Done { record: Some(record), certificate, is_unsaved: true, ..Done::default() }
    }

    fn tell_unsaved(&self, error: &StoreError) {
        let error: &dyn Error = error;
        tracing::error!(certificate = %self.id, error, "could not save a certificate, serving it from memory");
    }

    async fn keep(&self, lock: &Arc<CertLock>, record: &Record) {
        let (storage, kept, record) =
            (self.present.storage.clone(), Arc::clone(lock), record.clone());
        if let Ok(Err(error)) = blocking(move || storage.keep_record(&kept, &record)).await {
            let error: &dyn Error = &error;
            tracing::warn!(certificate = %self.id, error, "could not write down how an order went");
        }
    }

    /// Notes why there is no certificate, and when to try again.
    async fn failed(&self, lock: Option<&Arc<CertLock>>, error: &JobError) -> Done {
        let mut record = self.record().await;
        let storage = self.present.storage.clone();
        let id = self.id.clone();
        let life = blocking(move || storage.load(Place::Live, &id)).await.ok().and_then(Result::ok);
        let life = life.and_then(|found| found.generation).map(|it| Life::of(&it.certificate.leaf));
        self.note(&mut record, error, life.map(|life| life.left(now())));
        if let Some(lock) = lock {
            self.keep(lock, &record).await;
        }
        Done { record: Some(record), ..Done::default() }
    }

    /// `left` is what is left of the certificate in service, in seconds.
    fn note(&self, record: &mut Record, error: &JobError, left: Option<i64>) {
        let (problem, retry_after) = (error.last_problem(), error.retry_after());
        let told: &dyn Error = error;
        let certificate = &self.id;
        if error.is_permanent() {
            let link = error.problem().and_then(Problem::link).map(str::to_owned);
            record.blocked(problem, link, now());
            tracing::error!(%certificate, error = told, "cannot obtain a certificate until something is changed");
        } else if error.problem().is_some_and(|problem| problem.kind == Kind::RateLimited) {
            let until = now() + retry_after.unwrap_or(HOUR).clamp(MINUTE, LONGEST_LIMIT);
            record.limited(error.limited_scope(&self.target), until, now());
            let seconds = until - now();
            tracing::warn!(%certificate, error = told, seconds, "met a rate limit of the authority");
        } else {
            let until = record.failed(self.id.as_str(), problem, left, retry_after, now());
            let seconds = until - now();
            tracing::warn!(%certificate, error = told, seconds, "could not obtain a certificate");
        }
    }
}

impl JobError {
    /// What the authority said, if it said something.
    pub(super) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Order(error) => error.problem(),
            Self::Account(error) => error.call()?.problem(),
            _ => None,
        }
    }

    fn is_permanent(&self) -> bool {
        match self {
            Self::Order(error) => error.is_permanent(),
            Self::Account(error) => error.call().is_some_and(|call| call.is_permanent()),
            Self::Binding => true,
            _ => false,
        }
    }

    /// In seconds from now.
    fn retry_after(&self) -> Option<i64> {
        let at = match self {
            Self::Order(error) => error.retry_after(),
            Self::Account(error) => error.call()?.retry_after(),
            _ => None,
        };
        at.map(|at| unix(at) - now())
    }

    fn limited_scope(&self, target: &Target) -> backoff::Scope {
        let scope = self.problem().map(Problem::scope);
        match scope {
            Some(Scope::Names(names)) if names.len() == 1 => {
                backoff::Scope::Domain(names.into_iter().next().unwrap_or_default())
            }
            Some(Scope::Account | Scope::Authority) => backoff::Scope::Authority,
            _ => backoff::Scope::Set(crate::acme::schedule::set_id(&target.names)),
        }
    }

    fn last_problem(&self) -> LastProblem {
        let kind = self.problem().map_or_else(|| "local".to_owned(), |it| it.r#type.clone());
        let names = match self {
            Self::Order(error) => error.bad_names(),
            _ => Vec::new(),
        };
        LastProblem { at: now(), kind, detail: texts(self), names }
    }
}

/// An error with its causes, in one line.
fn texts(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Does `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| JobError::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::Request as Asked;

    use super::*;
    use crate::acme::http::{RequestError, Sending, Transport};
    use crate::acme::session::Authority;
    use crate::acme::state::State;
    use crate::acme::storage::Storage;
    use crate::config;

    /// An authority that nobody reaches, and how often it was tried.
    #[derive(Default)]
    struct Nobody(Arc<AtomicUsize>);

    impl Transport for Nobody {
        fn send(&self, request: Asked<Bytes>) -> Sending {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Err(RequestError::Url(request.uri().to_string())) })
        }
    }

    struct Scene {
        job: Job,
        asked: Arc<AtomicUsize>,
        storage: Storage,
        _directory: tempfile::TempDir,
    }

    /// A job that was planned when there was no certificate.
    fn scene() -> Scene {
        crate::tls::install();
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let text = "sites: { a.example.com: { upstream: \"http://b\" } }\nacme: {}\n";
        let loaded = config::from_text("gateway.yaml", text, std::path::Path::new("")).unwrap();
        let nobody = Nobody::default();
        let asked = Arc::clone(&nobody.0);
        let acme = loaded.config.acme.unwrap();
        let target = Target::new(vec!["a.example.com".into()], &acme.directory, None);
        let authority = Authority::new(acme.directory.as_str(), Arc::new(nobody));
        let present = Assignment { acme, storage: storage.clone(), authority, wanted: Vec::new() };
        let job = Job {
            present: Arc::new(present),
            challenges: Arc::default(),
            id: CertId::new("a.example.com"),
            known: Record::new(target.clone(), now()),
            target,
            replaces: None,
            why: Why::Missing,
        };
        Scene { job, asked, storage, _directory: directory }
    }

    impl Scene {
        /// As another process saves a certificate.
        fn save(&self) -> Record {
            let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
            let meta = Meta { target: self.job.target.clone(), saved_at: now(), ..Meta::default() };
            let key_pem = Secret(made.signing_key.serialize_pem());
            let pair = Pair { key_pem, chain_pem: made.cert.pem(), meta };
            let lock = self.storage.lock(&self.job.id).unwrap().unwrap();
            let saved = self.storage.save(Place::Live, &lock, &pair).unwrap();
            let mut record = Record::new(self.job.target.clone(), now());
            record.due(Why::Missing, now());
            record.ordering(now()).unwrap();
            record.installing(now()).unwrap();
            record.installed(&Life::of(&saved.certificate.leaf), true, now()).unwrap();
            self.storage.keep_record(&lock, &record).unwrap();
            record
        }
    }

    #[tokio::test]
    async fn what_another_process_has_renewed_is_taken_over_and_not_ordered() {
        let scene = scene();
        let written = scene.save();
        let done = scene.job.run().await;
        assert!(done.certificate.is_some(), "{:?}", done.record);
        assert_eq!(done.record.unwrap().certificate, written.certificate);
        assert_eq!(scene.asked.load(Ordering::Relaxed), 0, "the authority is left alone");
    }

    #[tokio::test]
    async fn what_another_process_has_learnt_of_a_failure_is_believed() {
        let mut scene = scene();
        scene.job.known.since -= 10;
        let mut record = scene.job.known.clone();
        let problem = LastProblem { kind: "dns".into(), ..LastProblem::default() };
        record.failed("a.example.com", problem, None, None, now());
        let lock = scene.storage.lock(&scene.job.id).unwrap().unwrap();
        scene.storage.keep_record(&lock, &record).unwrap();
        drop(lock);
        let done = scene.job.run().await;
        assert_eq!(done.record.unwrap().state, record.state);
        assert_eq!(scene.asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn failures_add_up_where_nothing_can_be_written() {
        let mut scene = scene();
        for fails in 1..4 {
            // As if what was written were lost.
            let done = Job { known: scene.job.known.clone(), ..scene.job.again() }.run().await;
            let record = done.record.unwrap();
            assert_eq!(record.fails, fails);
            assert!(matches!(record.state, State::Backoff { .. }), "{:?}", record.state);
            scene.job.known = Record { since: record.since + 1, ..record };
        }
        assert!(scene.asked.load(Ordering::Relaxed) >= 3);
    }

    #[tokio::test]
    async fn one_that_is_busy_elsewhere_waits() {
        let scene = scene();
        let _lock = scene.storage.lock(&scene.job.id).unwrap().unwrap();
        let done = scene.job.again().run().await;
        assert!(done.is_elsewhere && done.record.is_none());
    }

    impl Job {
        fn again(&self) -> Self {
            Self {
                present: Arc::clone(&self.present),
                challenges: Arc::clone(&self.challenges),
                id: self.id.clone(),
                target: self.target.clone(),
                known: self.known.clone(),
                replaces: None,
                why: self.why,
            }
        }
    }
}
