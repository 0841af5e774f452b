//! The task that keeps certificates: it plans, has them ordered, asks authorities for their wishes and
//! hands over what has come.
//!
//! Answers "what is to be done now, and when is the next look?" by [`schedule`](super::schedule), for
//! every certificate of the configuration in force. Orders are jobs beside it, so that one that
//! takes minutes delays nobody. Nothing here serves a certificate: [`Install`] does.

mod account;
mod job;
mod managed;
mod poll;
mod standing;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::job::{Done, Job};
use self::managed::{Change, Managed, read_all};
pub use self::standing::{Standing, Standings};
use super::backoff::{Draft, Limits, Pace, Start};
use super::schedule::{Life, Priority, Why, next_wake, plan, priority};
use super::session::Authority;
use super::state::{State, Target};
use super::storage::{CertId, Storage};
use super::time::{seconds, unix};
use crate::config::acme::Acme;
use crate::tls::issued;
use crate::tls::{Certificate, Challenges};

/// Serves a certificate from the next handshake on.
pub type Install = dyn Fn(&CertId, Certificate) + Send + Sync;

/// Longest sleep: a clock that is set, or a machine that slept, is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Until a certificate is looked at again that another process is busy with, in seconds.
const BUSY_ELSEWHERE: i64 = 30;

/// Questions to authorities that are under way at once: thousands may be due after a start.
const QUESTIONS: usize = 8;

/// What the configuration in force wants.
#[derive(Debug)]
pub struct Assignment {
    /// How certificates are ordered.
    pub acme: Acme,
    /// Where they are kept.
    pub storage: Storage,
    /// Who issues them.
    pub authority: Authority,
    /// Which are wanted.
    pub wanted: Vec<Wanted>,
}

/// A certificate that is to be there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// What it is kept as.
    pub id: CertId,
    /// DNS names in ASCII, `*.` before wildcards, and addresses.
    pub names: Vec<String>,
}

/// Keeps the certificates of one assignment after the other.
pub struct Renewer {
    challenges: Arc<Challenges>,
    install: Arc<Install>,
    assignments: watch::Receiver<Option<Arc<Assignment>>>,
    /// The one that is worked on.
    present: Option<Arc<Assignment>>,
    managed: BTreeMap<CertId, Managed>,
    limits: Limits,
    pace: Pace,
    /// Questions under way.
    questions: usize,
    jobs: JoinSet<Finished>,
    standings: Standings,
}

/// What a job came to.
#[derive(Debug)]
enum Finished {
    Ordered(CertId, Box<Done>),
    Asked(CertId, Box<poll::Asked>),
}

/// What is to be done, and when there is more.
#[derive(Default)]
struct Turn {
    due: Vec<(Priority, CertId, Why)>,
    polls: Vec<CertId>,
    wake: i64,
}

impl Renewer {
    /// A task for whatever comes through `assignments`, which tells `standings` how they stand.
    #[must_use]
    pub fn new(
        challenges: Arc<Challenges>,
        install: Arc<Install>,
        assignments: watch::Receiver<Option<Arc<Assignment>>>,
        standings: Standings,
    ) -> Self {
        Self {
            challenges,
            install,
            assignments,
            present: None,
            managed: BTreeMap::new(),
            limits: Limits::default(),
            pace: Pace::new(now()),
            questions: 0,
            jobs: JoinSet::new(),
            standings,
        }
    }

    /// Keeps certificates until `stop`. An order that is cut off then goes on after the next start.
    pub async fn keep(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                let next = self.assignments.borrow_and_update().clone();
                self.adopt(next).await;
                if !self.work_until_changed().await {
                    return;
                }
            }
        };
        let _ = stop.run_until_cancelled(work).await;
    }

    /// Works on the present assignment until there is another; false when there will be none.
    async fn work_until_changed(&mut self) -> bool {
        loop {
            let turn = self.look(now());
            let wake = self.begin(turn);
            let pause = Duration::from_secs(u64::try_from(wake - now()).unwrap_or(0).max(1));
            tokio::select! {
                changed = self.assignments.changed() => return changed.is_ok(),
                Some(finished) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    // None panics, and none is ended before this task.
                    if let Ok(finished) = finished {
                        self.take_in(finished);
                    }
                    // A look is at all certificates: not one for each that is done.
                    while let Some(Ok(finished)) = self.jobs.try_join_next() {
                        self.take_in(finished);
                    }
                }
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Turns to `next`, with what the disk knows of its certificates.
    async fn adopt(&mut self, next: Option<Arc<Assignment>>) {
        let last = std::mem::replace(&mut self.present, next);
        let Some(present) = self.present.clone() else { return self.managed.clear() };
        let change = match last {
            None => Change::Begun,
            Some(last) if last.acme != present.acme => Change::Settings,
            Some(_) => Change::None,
        };
        let known = std::mem::take(&mut self.managed);
        let read = tokio::task::spawn_blocking(move || read_all(&present, change, now()));
        let Ok(found) = read.await else { return };
        for (id, mut read) in found {
            if let Some(known) = known.get(&id) {
                // Another process may have renewed it since the configuration was prepared. What
                // was known before is served already, or something newer that could not be saved.
                let is_known = known.life.as_ref().is_none_or(|life| read.managed.is_about(life));
                if let (false, Some(certificate)) = (is_known, read.certificate) {
                    (self.install)(&id, certificate);
                }
                read.managed.go_on_from(known, change, now());
            }
            self.managed.insert(id, read.managed);
        }
        for managed in self.managed.values() {
            if let State::Limited { until, scope } = &managed.record.state {
                self.limits.park(&managed.record.target.directory, scope.clone(), *until);
            }
        }
    }

    /// What is to be done at `now`.
    fn look(&mut self, now: i64) -> Turn {
        let mut turn = Turn { wake: i64::MAX, ..Turn::default() };
        let mut standings = Vec::with_capacity(self.managed.len());
        let renew_before = self.present.as_ref().and_then(|it| it.acme.renew_before).map(seconds);
        for (id, managed) in &mut self.managed {
            if managed.life.as_ref().is_some_and(|life| life.is_expired(now)) {
                managed.record.expired(now);
            }
            let record = &managed.record;
            let set = record.set();
            let facts = record.facts(managed.life.as_ref(), &set, renew_before);
            let plan = plan(&facts, now);
            let Target { names, directory, .. } = &record.target;
            let draft = Draft { directory, account: None, names };
            let limited = self.limits.parks(&draft, now).map(|(_, until)| until);
            let parked =
                [record.parked_until(), limited, managed.again_at].into_iter().flatten().max();
            standings.push(Standing::new(id, managed, &plan, parked));
            if managed.is_busy {
                continue;
            }
            if plan.is_due(now) && parked.is_none_or(|until| until <= now) {
                turn.due.push((priority(&facts, now), id.clone(), plan.why));
            } else if record.ari.as_ref().is_some_and(|ari| ari.next_poll <= now) {
                turn.polls.push(id.clone());
            } else {
                turn.wake = turn.wake.min(next_wake(&plan, &facts, parked, now).max(now + 1));
            }
        }
        turn.due.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        self.standings.store(Arc::new(standings));
        turn
    }

    /// Begins what is due, as far as the pace allows. Returns when to look again.
    fn begin(&mut self, turn: Turn) -> i64 {
        let Turn { due, polls, mut wake } = turn;
        let Some(present) = self.present.clone() else { return wake };
        for id in polls.into_iter().take(QUESTIONS.saturating_sub(self.questions)) {
            self.ask(&present, id);
        }
        for (_, id, why) in due {
            match self.pace.start(now()) {
                Start::Go => self.order(&present, id, why),
                Start::Busy => break,
                Start::At(at) => {
                    wake = wake.min(at);
                    break;
                }
            }
        }
        wake
    }

    fn ask(&mut self, present: &Arc<Assignment>, id: CertId) {
        let Some(managed) = self.managed.get_mut(&id) else { return };
        managed.is_busy = true;
        self.questions += 1;
        let question = poll::Question::new(present, &id, managed);
        let ari = managed.record.ari.clone();
        self.jobs.spawn(async move {
            let asked = AssertUnwindSafe(question.ask()).catch_unwind().await;
            Finished::Asked(id, Box::new(asked.unwrap_or_else(|_| poll::Asked::failed(ari))))
        });
    }

    fn order(&mut self, present: &Arc<Assignment>, id: CertId, why: Why) {
        let Some(managed) = self.managed.get_mut(&id) else { return self.pace.finish() };
        managed.is_busy = true;
        let job = Job {
            present: Arc::clone(present),
            challenges: Arc::clone(&self.challenges),
            id: id.clone(),
            target: managed.record.target.clone(),
            known: managed.record.clone(),
            replaces: managed.renewal_id.clone(),
            why,
        };
        self.jobs.spawn(async move {
            let done = AssertUnwindSafe(job.run()).catch_unwind().await;
            // The panic is in the log; the certificate waits as for another process.
            let failed = |_| Done { is_elsewhere: true, ..Done::default() };
            Finished::Ordered(id, Box::new(done.unwrap_or_else(failed)))
        });
    }

    fn take_in(&mut self, finished: Finished) {
        match finished {
            Finished::Ordered(id, done) => {
                self.pace.finish();
                self.ordered(&id, *done);
            }
            Finished::Asked(id, asked) => {
                self.questions = self.questions.saturating_sub(1);
                let Some(managed) = self.managed.get_mut(&id) else { return };
                managed.is_busy = false;
                managed.record.ari = asked.ari;
            }
        }
    }

    fn ordered(&mut self, id: &CertId, done: Done) {
        let Done { record, certificate, is_elsewhere, is_unsaved } = done;
        let managed = self.managed.get_mut(id);
        if let Some(certificate) = certificate {
            let life = Life::of(&certificate.leaf);
            let renewal_id = issued::renewal_id_of(&certificate);
            (self.install)(id, certificate);
            // What is not saved is due on, as if it were not there.
            if let (Some(managed), false) = (managed, is_unsaved) {
                (managed.life, managed.renewal_id) = (Some(life), renewal_id);
            }
        }
        // A reload may have taken it away.
        let Some(managed) = self.managed.get_mut(id) else { return };
        managed.is_busy = false;
        managed.again_at = is_elsewhere.then(|| now() + BUSY_ELSEWHERE);
        let Some(record) = record else { return };
        if let State::Limited { until, scope } = &record.state {
            self.limits.park(&record.target.directory, scope.clone(), *until);
        }
        // Or have changed what is wanted.
        let target = std::mem::take(&mut managed.record.target);
        managed.record = record;
        managed.record.configure(target, now());
    }
}

fn now() -> i64 {
    unix(SystemTime::now())
}
