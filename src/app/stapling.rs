//! What issuers say about the certificates in service, kept fresh to be served with them.
//!
//! Answers "which certificate has to be asked about, and when?" for all whose issuers run a responder
//! (OCSP), wherever the certificates come from. One that cannot be asked about is served as it is:
//! nothing here makes a certificate unusable.

mod ask;
mod fetch;
mod shelf;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ask::{AskError, Found, Job, blocking};
use self::fetch::Client;
use self::shelf::Shelf;
use super::certificates::{Certificates, Sources};
use crate::acme::renewer::texts;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Said;
use crate::tls::ocsp::{NoIssuer, Revocation, Staple, Status, Subject};
use crate::tls::{CertStore, Certificate, Entry, Fingerprint};

/// Questions at once, whoever is asked.
const QUESTIONS: usize = 8;

/// Pause after a first question without an answer; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Longest pause after a question without an answer.
const LONGEST_RETRY: Duration = Duration::from_secs(60 * 60);

/// Longest sleep: a clock that is set, or a machine that slept, is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How often files are looked through for those that have ended.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest that a configuration is held up for certificates that demand a staple and have none.
const HOLD_UP: Duration = Duration::from_secs(2);

/// What is known before certificates are served.
#[derive(Clone, Debug, Default)]
pub(super) struct Stock {
    /// What was kept, and still counts.
    pub(super) staples: Vec<(Fingerprint, Arc<Staple>)>,
    /// What demands a staple, and has none.
    demanding: Vec<Arc<Subject>>,
    shelf: Shelf,
}

impl Stock {
    /// What lies below `storage` for `entries`. Blocks on files.
    pub(super) fn find(storage: &Path, entries: &[Arc<Entry>], now: SystemTime) -> Self {
        let shelf = Shelf::new(storage);
        let (mut staples, mut demanding) = (Vec::new(), Vec::new());
        for entry in entries {
            let Ok(Some(subject)) = Subject::of(entry.certificate()) else { continue };
            let staple = shelf.find(&subject, now).map(Arc::new);
            if staple.is_none() && subject.revocation.must_staple {
                demanding.push(Arc::new(subject));
            } else {
                staples.extend(staple.map(|staple| (subject.fingerprint(), staple)));
            }
        }
        Self { staples, demanding, shelf }
    }
}

/// Asks about what demands a staple, so that its first client gets one; at most for a short time.
pub(super) async fn ask_first(sources: &mut Sources, store: &CertStore, metrics: &Metrics) {
    let Stock { staples, demanding, shelf } = &mut sources.stock;
    demanding.retain(|subject| store.known_staple(subject.fingerprint()).is_none());
    if demanding.is_empty() {
        return;
    }
    let client = Arc::new(Client::default());
    let jobs: Vec<_> = std::mem::take(demanding)
        .into_iter()
        .map(|subject| {
            let (fingerprint, shelf) = (subject.fingerprint(), shelf.clone());
            let job = Job { subject, known: None, shelf, client: Arc::clone(&client) };
            async move {
                let outcome = job.run().await;
                count(metrics, &outcome);
                Some((fingerprint, outcome.ok()?.staple))
            }
        })
        .collect();
    let mut found = stream::iter(jobs).buffer_unordered(QUESTIONS);
    let take = async {
        while let Some(answer) = found.next().await {
            staples.extend(answer);
        }
    };
    // Whatever is not there by then is asked for, and told of, while it is served.
    let _ = tokio::time::timeout(HOLD_UP, take).await;
}

/// Keeps the staples of the certificates in service fresh until `stop`.
pub(super) async fn keep(
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut keeper = Keeper {
        certificates,
        metrics,
        client: Arc::default(),
        watched: HashMap::new(),
        jobs: JoinSet::new(),
        shelf: Shelf::default(),
        swept: SystemTime::UNIX_EPOCH,
        is_unsaved: false,
    };
    let _ = stop.run_until_cancelled(keeper.work()).await;
}

struct Keeper {
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    client: Arc<Client>,
    /// Every certificate in service; `None` for those that nobody can be asked about.
    watched: HashMap<Fingerprint, Option<Watched>>,
    jobs: JoinSet<(Fingerprint, Result<Found, AskError>)>,
    shelf: Shelf,
    /// When files were looked through last.
    swept: SystemTime,
    /// Whether it was said that answers cannot be kept.
    is_unsaved: bool,
}

/// A certificate that is asked about.
struct Watched {
    entry: Arc<Entry>,
    subject: Arc<Subject>,
    staple: Option<Arc<Staple>>,
    /// Questions without an answer, in a row.
    fails: u32,
    next: SystemTime,
    is_busy: bool,
    told: Told,
}

/// What the log has been told last.
#[derive(Debug, Eq, PartialEq)]
enum Told {
    Nothing,
    Said(Status),
    Failed(String),
}

/// A certificate that is new in service.
struct Newcomer {
    entry: Arc<Entry>,
    revocation: Revocation,
    subject: Result<Option<Subject>, NoIssuer>,
}

impl Keeper {
    async fn work(&mut self) {
        loop {
            self.take_stock().await;
            loop {
                let pause = self.begin(SystemTime::now());
                let certificates = Arc::clone(&self.certificates);
                tokio::select! {
                    () = certificates.store.replaced() => break,
                    Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                        // None panics, and none is ended before this task.
                        if let Ok((fingerprint, outcome)) = done {
                            self.take_in(fingerprint, outcome, SystemTime::now());
                        }
                    }
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// Takes in what has come into service, and lets go of what has gone.
    async fn take_stock(&mut self) {
        let entries = self.certificates.store.entries();
        let present: HashSet<Fingerprint> = entries.iter().map(|it| fingerprint(it)).collect();
        let gone: Vec<Fingerprint> =
            self.watched.keys().filter(|known| !present.contains(known)).copied().collect();
        gone.iter().for_each(|fingerprint| drop(self.watched.remove(fingerprint)));
        self.certificates.store.forget_staples();
        let mut new = present;
        new.retain(|fingerprint| !self.watched.contains_key(fingerprint));
        let new: Vec<_> =
            entries.into_iter().filter(|entry| new.remove(&fingerprint(entry))).collect();
        let newcomers = blocking(move || new.into_iter().map(Newcomer::meet).collect::<Vec<_>>());
        let now = SystemTime::now();
        for newcomer in newcomers.await.unwrap_or_default() {
            let fingerprint = fingerprint(&newcomer.entry);
            let staple = self.certificates.store.known_staple(fingerprint);
            let mut watched = newcomer.watch(staple, now);
            let known = watched.as_mut().and_then(|watched| watched.greet(now));
            self.watched.insert(fingerprint, watched);
            if let Some(staple) = known {
                self.tell_of(fingerprint, staple);
            }
        }
        self.shelf.turn_to(&self.certificates.storage());
        self.sweep(gone, now).await;
    }

    async fn sweep(&mut self, gone: Vec<Fingerprint>, now: SystemTime) {
        let is_due = now.duration_since(self.swept).is_ok_and(|since| since > SWEEP);
        if gone.is_empty() && !is_due {
            return;
        }
        self.swept = now;
        let shelf = self.shelf.clone();
        if let Ok(Err(error)) = blocking(move || shelf.sweep(&gone, now)).await {
            tracing::debug!(%error, "could not sweep kept OCSP responses");
        }
    }

    /// Asks what is due at `now`. Returns how long there is nothing more to do.
    fn begin(&mut self, now: SystemTime) -> Duration {
        let watched = || self.watched.iter().filter_map(|(key, it)| Some((*key, it.as_ref()?)));
        let is_stapled = |it: &Watched| it.staple.as_ref().is_some_and(|it| it.is_servable(now));
        self.metrics.stapling.set_stapled(watched().filter(|(_, it)| is_stapled(it)).count());
        let mut due: Vec<_> = watched().filter(|(_, it)| it.is_due(now)).collect();
        // Those that have nothing go first.
        due.sort_by_key(|(_, it)| it.staple.as_ref().map(|staple| staple.until));
        let free = QUESTIONS.saturating_sub(self.jobs.len());
        let due: Vec<Fingerprint> = due.into_iter().map(|(key, _)| key).take(free).collect();
        for fingerprint in due {
            self.ask(fingerprint);
        }
        let next = self.watched.values().flatten().filter(|it| it.next > now).map(|it| it.next);
        let next = next.min().and_then(|next| next.duration_since(now).ok());
        next.map_or(LONGEST_SLEEP, |pause| pause.min(LONGEST_SLEEP))
    }

    fn ask(&mut self, fingerprint: Fingerprint) {
        let Some(Some(watched)) = self.watched.get_mut(&fingerprint) else { return };
        watched.is_busy = true;
        let job = Job {
            subject: Arc::clone(&watched.subject),
            known: watched.staple.clone(),
            shelf: self.shelf.clone(),
            client: Arc::clone(&self.client),
        };
        self.jobs.spawn(async move {
            let outcome = AssertUnwindSafe(job.run()).catch_unwind().await;
            (fingerprint, outcome.unwrap_or(Err(AskError::Panicked)))
        });
    }

    fn take_in(
        &mut self,
        fingerprint: Fingerprint,
        outcome: Result<Found, AskError>,
        now: SystemTime,
    ) {
        count(&self.metrics, &outcome);
        // It may have gone in the meantime.
        let Some(Some(watched)) = self.watched.get_mut(&fingerprint) else { return };
        watched.is_busy = false;
        match outcome {
            Ok(Found { staple, is_asked, unsaved }) => {
                if let (Some(error), false) = (&unsaved, self.is_unsaved) {
                    let (certificate, error): (_, &dyn Error) = (watched.entry.id(), error);
                    tracing::warn!(%certificate, error, "could not keep an OCSP response, staples it from memory");
                }
                self.is_unsaved = unsaved.is_some() || (self.is_unsaved && !is_asked);
                watched.learn(Arc::clone(&staple), now);
                self.tell_of(fingerprint, staple);
            }
            Err(error) => watched.fail(&error, now),
        }
    }

    /// Has `staple` served, and lets the renewer know if there is something to do for it.
    fn tell_of(&self, fingerprint: Fingerprint, staple: Arc<Staple>) {
        self.certificates.store.staple(fingerprint, &staple);
        if let (Status::Revoked, Some(Some(watched))) =
            (staple.status, self.watched.get(&fingerprint))
        {
            self.certificates.revocations.tell(&watched.entry.certificate().leaf);
        }
    }
}

fn count(metrics: &Metrics, outcome: &Result<Found, AskError>) {
    let said = match outcome {
        Ok(found) if !found.is_asked => return,
        Ok(found) if found.staple.status == Status::Good => Said::Good,
        Ok(_) => Said::Revoked,
        Err(_) => Said::Nothing,
    };
    metrics.stapling.asked(said);
}

fn fingerprint(entry: &Entry) -> Fingerprint {
    entry.certificate().leaf.fingerprint
}

impl Newcomer {
    fn meet(entry: Arc<Entry>) -> Self {
        let certificate: &Certificate = entry.certificate();
        let (revocation, subject) = (Revocation::of(certificate), Subject::of(certificate));
        Self { entry, revocation, subject }
    }

    /// What is to be kept of it; says what an operator should know.
    fn watch(self, staple: Option<Arc<Staple>>, now: SystemTime) -> Option<Watched> {
        let Self { entry, revocation, subject } = self;
        let certificate = entry.id();
        let subject = match subject {
            Ok(Some(subject)) => Arc::new(subject),
            Ok(None) => {
                if revocation.must_staple {
                    tracing::warn!(%certificate, "the certificate demands a staple and names no responder, some clients refuse it");
                }
                return None;
            }
            Err(error) => {
                let error: &dyn Error = &error;
                tracing::warn!(%certificate, error, "cannot ask the certificate's responder");
                return None;
            }
        };
        if revocation.must_staple && !staple.as_ref().is_some_and(|it| it.is_servable(now)) {
            tracing::warn!(%certificate, "the certificate demands a staple and there is none yet, some clients refuse it");
        }
        let next = staple.as_ref().map_or(now, |staple| staple.refresh_at(now));
        let (fails, is_busy, told) = (0, false, Told::Nothing);
        Some(Watched { entry, subject, staple, fails, next, is_busy, told })
    }
}

impl Watched {
    fn is_due(&self, now: SystemTime) -> bool {
        // Nobody answers for what has ended.
        let end = self.entry.certificate().leaf.not_after;
        !self.is_busy && self.next <= now && now < end
    }

    fn learn(&mut self, staple: Arc<Staple>, now: SystemTime) {
        let certificate = self.entry.id();
        let told = Told::Said(staple.status);
        if self.told != told {
            match staple.status {
                Status::Good => tracing::info!(%certificate, "staples an OCSP response"),
                Status::Revoked => tracing::error!(%certificate, "the certificate is revoked"),
            }
        }
        (self.told, self.fails) = (told, 0);
        self.next = later(staple.refresh_at(now), now);
        self.staple = Some(staple);
    }

    /// Takes in what was known at the start.
    fn greet(&mut self, now: SystemTime) -> Option<Arc<Staple>> {
        let staple = self.staple.clone()?;
        self.learn(Arc::clone(&staple), now);
        Some(staple)
    }

    fn fail(&mut self, error: &AskError, now: SystemTime) {
        let pause = pause_after(self.fails);
        self.fails = self.fails.saturating_add(1);
        self.next = later(now + pause, now);
        let (certificate, text) = (self.entry.id(), texts(error));
        let is_news = !matches!(&self.told, Told::Failed(before) if *before == text);
        if is_news {
            let (error, seconds): (&dyn Error, _) = (error, pause.as_secs());
            tracing::warn!(%certificate, error, seconds, "could not obtain an OCSP response");
        }
        self.told = Told::Failed(text);
    }
}

/// How long to wait after a failure that `fails` others came before.
fn pause_after(fails: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << fails.min(16)).min(LONGEST_RETRY)
}

/// A little after `at`, so that what came at once is not asked for at once for ever.
fn later(at: SystemTime, now: SystemTime) -> SystemTime {
    let wait = at.duration_since(now).unwrap_or_default();
    at + wait.mul_f64(fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_each_failure_up_to_an_hour_and_a_tenth() {
        let now = SystemTime::now();
        for (fails, least) in
            [(0, 60), (1, 120), (5, 1920), (6, 3600), (40, 3600), (u32::MAX, 3600)]
        {
            let least = Duration::from_secs(least);
            assert_eq!(pause_after(fails), least, "{fails}");
            for _ in 0..100 {
                let wait = later(now + least, now).duration_since(now).unwrap();
                assert!(wait >= least && wait <= least.mul_f64(1.1), "{fails}: {wait:?}");
            }
        }
        assert_eq!(later(now - LONGEST_RETRY, now), now - LONGEST_RETRY, "what is due is due");
    }
}
