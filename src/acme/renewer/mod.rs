//! The task that keeps certificates: it plans, has them ordered, asks authorities for their wishes and
//! hands over what has come.
//!
//! Answers "what is to be done now, and when is the next look?" by [`schedule`](super::schedule), for
//! every certificate of the configuration in force. Orders are jobs beside it, so that one that
//! takes minutes delays nobody. Nothing here serves a certificate: [`Install`] does.

mod account;
mod accounts;
mod command;
mod job;
mod lasting;
mod managed;
mod news;
mod poll;
mod revocations;
mod source;
mod standing;
mod tell;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::accounts::{AccountProblem, AccountStanding};
use self::command::Requests;
pub use self::command::{
    Command, Commands, Deed, Ended, Known, Pending, RestoreError, Taken, Verdict, Work, restore,
};
pub use self::job::texts;
use self::job::{Done, Job};
pub use self::lasting::{Lasting, LastingError, Look};
use self::managed::{Change, Managed, read_all};
use self::news::{Lookout, News};
pub use self::revocations::Revocations;
pub use self::source::{Assignment, Source, Wanted};
pub use self::standing::{Standing, Standings};
use super::backoff::{Draft, Limits, Pace, Start};
use super::schedule::{Ari, Life, Priority, Why, next_wake, plan, priority};
use super::state::State;
use super::storage::CertId;
use super::time::{Clock, MINUTE, seconds};
use crate::tls::issued;
use crate::tls::{Certificate, Challenges};

/// Serves a certificate from the next handshake on.
pub type Install = dyn Fn(&CertId, Certificate) + Send + Sync;

/// Longest sleep: a clock that is set, or a machine that slept, is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Questions to authorities that are under way at once: thousands may be due after a start.
const QUESTIONS: usize = 8;

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
    /// Looks at what others have saved.
    lookout: Lookout,
    jobs: JoinSet<Finished>,
    standings: Standings,
    revocations: Arc<Revocations>,
    /// That of the present assignment.
    clock: Clock,
    /// How far the authority's clock was ahead when that was said last.
    told_ahead: i64,
    /// The last look.
    seen_at: i64,
    commands: mpsc::Receiver<Command>,
    requests: Requests,
}

/// What a job came to.
#[derive(Debug)]
enum Finished {
    Ordered(CertId, Arc<Assignment>, Box<Done>),
    Asked(CertId, Box<poll::Asked>),
    Looked(Vec<News>),
    Nothing,
    Acted(CertId, Box<Done>, Verdict, oneshot::Sender<Verdict>),
}

/// What is to be done, and when there is more.
#[derive(Default)]
struct Turn {
    due: Vec<(Priority, CertId, Why)>,
    polls: Vec<CertId>,
    wake: i64,
}

impl Renewer {
    /// A task for whatever comes through `assignments`, which tells `standings` how they stand and
    /// does what is asked through `commands`.
    #[must_use]
    pub fn new(
        challenges: Arc<Challenges>,
        install: Arc<Install>,
        assignments: watch::Receiver<Option<Arc<Assignment>>>,
        standings: Standings,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            challenges,
            install,
            assignments,
            present: None,
            managed: BTreeMap::new(),
            limits: Limits::default(),
            pace: Pace::new(Clock::default().now()),
            questions: 0,
            lookout: Lookout::default(),
            jobs: JoinSet::new(),
            standings,
            revocations: Arc::default(),
            clock: Clock::default(),
            told_ahead: 0,
            seen_at: 0,
            commands,
            requests: Requests::default(),
        }
    }

    /// Replaces certificates that `revocations` is told of.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<Revocations>) -> Self {
        self.revocations = revocations;
        self
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
        // What they have published is withdrawn while there is still a process to do it.
        self.jobs.shutdown().await;
    }

    /// Works on the present assignment until there is another; false when there will be none.
    async fn work_until_changed(&mut self) -> bool {
        loop {
            self.tell_clock();
            self.mind_the_clock();
            self.hear_again();
            let turn = self.look(self.clock.now());
            let wake = self.begin(turn).min(self.look_out(self.clock.now()));
            let pause = wake.saturating_sub(self.clock.now());
            let pause = Duration::from_secs(u64::try_from(pause).unwrap_or(0).max(1));
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
                Some(command) = self.commands.recv() => self.hear(command),
                () = self.revocations.told() => {}
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Turns to `next`, with what the disk knows of its certificates.
    async fn adopt(&mut self, next: Option<Arc<Assignment>>) {
        let last = std::mem::replace(&mut self.present, next);
        let Some(present) = self.present.clone() else {
            self.managed.clear();
            self.standings.store(Arc::default());
            return self.requests.retain(&self.managed);
        };
        present.clock.follow(&self.clock);
        self.clock = present.clock.clone();
        let now = self.clock.now();
        let change = present.change(last.as_deref());
        if change == Change::Begun {
            self.ask_the_time(&present);
        }
        let known = std::mem::take(&mut self.managed);
        let events = present.events.clone();
        let read = tokio::task::spawn_blocking(move || read_all(&present, change, now));
        let Ok(found) = read.await else { return };
        for (id, mut read) in found {
            if let Some(known) = known.get(&id) {
                // Another process may have renewed it since the configuration was prepared. What
                // was known before is served already, or something newer that could not be saved.
                let is_known = known.life.as_ref().is_none_or(|life| read.managed.is_about(life));
                if let (false, Some(certificate)) = (is_known, read.certificate) {
                    (self.install)(&id, certificate);
                }
                read.managed.go_on_from(known, change, now);
            }
            self.managed.insert(id, read.managed);
        }
        self.requests.retain(&self.managed);
        for managed in self.managed.values() {
            if let State::Limited { until, scope, directory } = &managed.record.state {
                events.limited(directory, scope.as_str(), *until);
                self.limits.park(directory, scope.clone(), *until);
            }
        }
    }

    /// Has the first authority tell its time: a certificate that seems to have ended may be good.
    fn ask_the_time(&mut self, present: &Arc<Assignment>) {
        let Some(source) = present.sources.first().cloned() else { return };
        self.jobs.spawn(async move {
            // It tells the clock; an authority that does not answer is found out by orders.
            let _ = source.authority.fetch_directory().await;
            Finished::Nothing
        });
    }

    /// Judges waits anew when time has gone back, and asks for the time when our clock was set.
    fn mind_the_clock(&mut self) {
        let now = self.clock.now();
        if self.clock.was_set()
            && let Some(present) = self.present.clone()
        {
            self.ask_the_time(&present);
        }
        if now < self.seen_at - MINUTE {
            self.limits = Limits::default();
            for managed in self.managed.values_mut() {
                managed.again_at = None;
                managed.record.mistrust_future(now);
                if let State::Limited { until, scope, directory } = &managed.record.state {
                    self.limits.park(directory, scope.clone(), *until);
                }
            }
        }
        self.seen_at = now;
    }

    /// Says so when our clock is wrong.
    fn tell_clock(&mut self) {
        let seconds = self.clock.ahead();
        if (seconds - self.told_ahead).abs() < MINUTE {
            return;
        }
        self.told_ahead = seconds;
        if seconds.abs() > MINUTE {
            tracing::warn!(
                seconds,
                "the clock of this machine is behind the authority's (below zero: ahead)"
            );
        } else {
            tracing::info!(seconds, "the clock of this machine agrees with the authority's again");
        }
    }

    /// What is to be done at `now`.
    fn look(&mut self, now: i64) -> Turn {
        let mut turn = Turn { wake: i64::MAX, ..Turn::default() };
        let mut standings = Vec::with_capacity(self.managed.len());
        let Some(present) = self.present.clone() else { return turn };
        present.events.metrics().certificates.fleet(present.storage.is_fleet_reachable());
        let directories = present.directories();
        let renew_before = present.acme.renew_before.map(seconds);
        for (id, managed) in &mut self.managed {
            match &managed.life {
                Some(life) if life.is_expired(now) => managed.record.expired(now),
                _ => managed.record.lives(now),
            }
            if let Some(life) = managed.life.as_ref().filter(|life| self.revocations.has(life)) {
                managed.record.revoked(life.tag(), now);
            }
            managed.tell_revoked(id, &present);
            let record = &managed.record;
            let set = record.set();
            let facts = record.facts(managed.life.as_ref(), &set, renew_before);
            let plan = plan(&facts, now);
            let directory = record.turns.next(&directories, now).directory;
            let draft = Draft { directory, account: None, names: &record.target.names };
            let limited = self.limits.parks(&draft, now).map(|(_, until)| until);
            let parked =
                [record.parked_until(), limited, managed.again_at].into_iter().flatten().max();
            standings.push(Standing::new(id, managed, &plan, parked));
            if managed.is_busy {
                continue;
            }
            let is_requested = self.requests.is_open(id);
            if let (true, Some(until)) = (is_requested, limited) {
                // Another certificate has met it in the meantime.
                let _ = self.requests.end(id, &Verdict::Limited { until });
            } else if is_requested {
                turn.due.push((priority(&facts, now), id.clone(), Why::Requested));
            } else if plan.is_due(now) && parked.is_none_or(|until| until <= now) {
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
            match self.pace.start(self.clock.now()) {
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
        let (ari, now) = (managed.record.ari.clone(), self.clock.now());
        self.jobs.spawn(async move {
            let asked = AssertUnwindSafe(question.ask()).catch_unwind().await;
            Finished::Asked(id, Box::new(asked.unwrap_or_else(|_| poll::Asked::failed(ari, now))))
        });
    }

    fn order(&mut self, present: &Arc<Assignment>, id: CertId, why: Why) {
        let Some(managed) = self.managed.get_mut(&id) else { return self.pace.finish() };
        (managed.is_busy, managed.is_ordering) = (true, true);
        let next = managed.record.turns.next(&present.directories(), self.clock.now());
        let source = present.source(next.directory).or_else(|| present.sources.first());
        let Some(source) = source.cloned() else { return self.pace.finish() };
        let is_issuer = managed
            .issuer(present)
            .is_some_and(|issuer| issuer.settings.directory == source.settings.directory);
        let job = Job {
            present: Arc::clone(present),
            source,
            challenges: Arc::clone(&self.challenges),
            id: id.clone(),
            target: managed.record.target.clone(),
            known: managed.record.clone(),
            replaces: managed.renewal_id.clone().filter(|_| is_issuer),
            life: managed.life.clone(),
            why,
        };
        let present = Arc::clone(present);
        self.jobs.spawn(async move {
            let after_panic = job.after_panic();
            let done = AssertUnwindSafe(job.run()).catch_unwind().await;
            Finished::Ordered(id, present, Box::new(done.unwrap_or_else(|_| after_panic())))
        });
    }

    fn take_in(&mut self, finished: Finished) {
        match finished {
            Finished::Ordered(id, then, done) => {
                self.pace.finish();
                let verdict = Verdict::of(&done);
                self.ordered(&id, *done);
                self.forgive_what_was_changed(&id, &then);
                self.end_requests(&id, &verdict);
            }
            Finished::Acted(id, done, verdict, end) => {
                self.ordered(&id, *done);
                let _ = end.send(verdict);
            }
            Finished::Asked(id, asked) => {
                self.questions = self.questions.saturating_sub(1);
                let Some(managed) = self.managed.get_mut(&id) else { return };
                managed.is_busy = false;
                // A certificate that another process has renewed in the meantime has wishes of its own.
                let tag = |ari: &Option<Ari>| ari.as_ref().map(|ari| ari.certificate.clone());
                if asked.ari.is_none() || tag(&asked.ari) == tag(&managed.record.ari) {
                    managed.record.ari = asked.ari;
                }
            }
            Finished::Looked(news) => self.hear_of(news),
            Finished::Nothing => {}
        }
    }

    /// What failed by the settings of `then` may succeed by the present ones.
    fn forgive_what_was_changed(&mut self, id: &CertId, then: &Arc<Assignment>) {
        let Some(present) = self.present.clone() else { return };
        if !Arc::ptr_eq(&present, then)
            && present.change(Some(&**then)) == Change::Settings
            && let Some(managed) = self.managed.get_mut(id)
        {
            managed.record.reset(self.clock.now());
        }
    }

    fn ordered(&mut self, id: &CertId, done: Done) {
        let now = self.clock.now();
        let Done { record, certificate, is_elsewhere, is_unsaved, news } = done;
        let managed = self.managed.get_mut(id);
        let is_installed = certificate.is_some();
        if let Some(certificate) = certificate {
            let life = Life::of(&certificate.leaf);
            let renewal_id = issued::renewal_id_of(&certificate);
            (self.install)(id, certificate);
            // What is not saved is due on, as if it were not there.
            if let (Some(managed), false) = (managed, is_unsaved) {
                (managed.life, managed.renewal_id) = (Some(life), renewal_id);
            }
        }
        if let Some(news) = news {
            news.tell(id);
        }
        // A reload may have taken it away.
        let Some(managed) = self.managed.get_mut(id) else { return };
        (managed.is_busy, managed.is_ordering) = (false, false);
        managed.again_at = is_elsewhere.then(|| now + managed.busy_elsewhere());
        managed.is_unsaved = is_unsaved || (managed.is_unsaved && !is_installed);
        let Some(record) = record else { return };
        if let State::Limited { until, scope, directory } = &record.state {
            self.limits.park(directory, scope.clone(), *until);
        }
        // Or have changed what is wanted.
        let target = std::mem::take(&mut managed.record.target);
        managed.record = record;
        managed.record.configure(target, now);
    }
}

#[cfg(test)]
mod tests;
