//! What operators ask of the renewer while it runs, and what becomes of it.
//!
//! Answers "how do certificates stand, and will you do this now?". What is asked goes through the
//! same task, locks and jobs as what is due by the rule, so that nothing is done twice.

mod deed;
mod known;
mod revoke;

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

pub use self::deed::{Deed, RestoreError, Work, restore};
pub use self::known::Known;
use super::job::Done;
use super::{Assignment, Managed, Renewer};
use crate::acme::backoff::{Draft, Limits};
use crate::acme::schedule::{Guard, too_early};
use crate::acme::state::{Record, State};
use crate::acme::storage::CertId;
use crate::acme::time::seconds;

/// Requests that wait for the renewer; whoever comes beyond that waits for a turn to ask.
const PENDING: usize = 16;

/// Asks the renewer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Command>);

/// One thing that is asked.
#[derive(Debug)]
pub enum Command {
    /// How certificates stand: all of them, or one.
    Look(Option<CertId>, oneshot::Sender<Vec<Known>>),
    /// Something is to be done with one.
    Act(Act),
}

/// Something that is to be done with a certificate.
#[derive(Debug)]
pub struct Act {
    id: CertId,
    deed: Deed,
    caller: Caller,
}

/// Who asks. Nobody need listen.
#[derive(Debug)]
struct Caller {
    /// Told at once: what is decided already, or that it is begun.
    taken: Option<oneshot::Sender<Option<Verdict>>>,
    end: oneshot::Sender<Verdict>,
}

/// What became of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is done, and what is served is saved.
    Done,
    /// It is served, and could not be saved.
    Unsaved {
        /// Why not.
        problem: String,
    },
    /// There is no need: only by force.
    Early {
        /// What speaks against it.
        guard: Guard,
        /// Until when.
        until: i64,
    },
    /// A rate limit of the authority stands against it.
    Limited {
        /// Its end.
        until: i64,
    },
    /// Somebody has to change something first.
    Blocked {
        /// What.
        reason: String,
        /// Where, when the authority named an address.
        link: Option<String>,
    },
    /// Another process or task is at it.
    Busy,
    /// The configuration in force wants no such certificate of an authority, or no longer.
    Unwanted,
    /// It did not work.
    Failed {
        /// Why.
        problem: String,
        /// When it is tried again by itself.
        next_at: Option<i64>,
    },
}

/// The renewer has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the gateway is stopping")]
pub struct Ended;

/// What the renewer said at once.
#[derive(Debug)]
pub enum Taken {
    /// It is decided.
    Decided(Verdict),
    /// It is begun, or waits for its turn.
    Begun(Pending),
}

/// The end of what was begun.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Verdict>);

impl Commands {
    /// The asking end, and the one for the renewer.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(PENDING);
        (Self(sender), receiver)
    }

    /// How certificates stand: all that are wanted, or the one.
    ///
    /// # Errors
    /// [`Ended`]: the process ends.
    pub async fn look(&self, id: Option<CertId>) -> Result<Vec<Known>, Ended> {
        let (answer, known) = oneshot::channel();
        self.0.send(Command::Look(id, answer)).await.map_err(|_| Ended)?;
        known.await.map_err(|_| Ended)
    }

    /// Has `deed` done to a certificate.
    ///
    /// # Errors
    /// [`Ended`]: the process ends.
    pub async fn act(&self, id: CertId, deed: Deed) -> Result<Taken, Ended> {
        let ((taken, said), (end, verdict)) = (oneshot::channel(), oneshot::channel());
        let act = Act { id, deed, caller: Caller { taken: Some(taken), end } };
        self.0.send(Command::Act(act)).await.map_err(|_| Ended)?;
        Ok(match said.await.map_err(|_| Ended)? {
            Some(verdict) => Taken::Decided(verdict),
            None => Taken::Begun(Pending(verdict)),
        })
    }
}

impl Pending {
    /// Waits for the end, which may take minutes.
    pub async fn verdict(self) -> Verdict {
        // A reload has taken the certificate away.
        self.0.await.unwrap_or(Verdict::Unwanted)
    }
}

impl Caller {
    /// One who has been told that it is begun.
    fn again(end: oneshot::Sender<Verdict>) -> Self {
        Self { taken: None, end }
    }

    fn refuse(self, verdict: Verdict) {
        let _ = match self.taken {
            Some(taken) => taken.send(Some(verdict)).is_ok(),
            None => self.end.send(verdict).is_ok(),
        };
    }

    fn accept(self) -> oneshot::Sender<Verdict> {
        if let Some(taken) = self.taken {
            let _ = taken.send(None);
        }
        self.end
    }
}

impl Verdict {
    /// What an order came to.
    pub(super) fn of(done: &Done) -> Self {
        let state = done.record.as_ref().map(|record| &record.state);
        match state {
            _ if done.is_elsewhere => Self::Busy,
            Some(State::Backoff { problem, .. }) if done.is_unsaved => {
                Self::Unsaved { problem: problem.detail.clone() }
            }
            _ if done.certificate.is_some() => Self::Done,
            Some(State::Limited { until, .. }) => Self::Limited { until: *until },
            Some(State::Blocked { reason, link }) => {
                Self::Blocked { reason: reason.clone(), link: link.clone() }
            }
            Some(State::Backoff { problem, until, .. }) => {
                Self::Failed { problem: problem.detail.clone(), next_at: Some(*until) }
            }
            _ => Self::Failed { problem: "nothing came of it".to_owned(), next_at: None },
        }
    }
}

/// Somebody who waits for a renewal.
#[derive(Debug)]
struct Waiter {
    end: oneshot::Sender<Verdict>,
    /// What is to be done once it is there.
    then: Option<Work>,
}

/// Something that follows a renewal.
#[derive(Debug)]
pub(super) struct Sequel {
    work: Work,
    end: oneshot::Sender<Verdict>,
}

/// Renewals that were asked for and have not ended.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<CertId, Vec<Waiter>>,
    /// What has to wait until a short job is done.
    later: Vec<Act>,
}

impl Requests {
    /// Whether it is to be ordered whatever the rule says.
    pub(super) fn is_open(&self, id: &CertId) -> bool {
        self.open.contains_key(id)
    }

    /// Tells whoever has asked. Returns what is to be done now that there is a new one.
    pub(super) fn end(&mut self, id: &CertId, verdict: &Verdict) -> Vec<Sequel> {
        let mut sequels = Vec::new();
        for Waiter { end, then } in self.open.remove(id).into_iter().flatten() {
            match then {
                Some(work) if *verdict == Verdict::Done => sequels.push(Sequel { work, end }),
                _ => {
                    let _ = end.send(verdict.clone());
                }
            }
        }
        sequels
    }

    /// Forgets what the configuration no longer wants.
    pub(super) fn retain(&mut self, managed: &BTreeMap<CertId, Managed>) {
        self.open.retain(|id, _| managed.contains_key(id));
    }

    fn join(&mut self, id: CertId, caller: Caller, then: Option<Work>) {
        self.open.entry(id).or_default().push(Waiter { end: caller.accept(), then });
    }
}

/// The end of the rate limit that an order at the next of `directories` would meet.
fn limit(record: &Record, directories: &[&str], limits: &Limits, now: i64) -> Option<i64> {
    let own = match record.state {
        State::Limited { until, .. } => Some(until),
        _ => None,
    };
    let next = record.turns.next(directories, now);
    let turn = record.turns.is_limited(next.directory).then_some(next.at);
    let draft = Draft { directory: next.directory, account: None, names: &record.target.names };
    let parks = limits.parks(&draft, now).map(|(_, until)| until);
    [own, turn, parks].into_iter().flatten().filter(|until| *until > now).max()
}

impl Renewer {
    /// Answers what is asked, or begins it.
    pub(super) fn hear(&mut self, command: Command) {
        match command {
            Command::Look(id, answer) => {
                let _ = answer.send(self.known(id.as_ref()));
            }
            Command::Act(act) => self.take(act),
        }
    }

    /// Takes up again what had to wait.
    pub(super) fn hear_again(&mut self) {
        for act in std::mem::take(&mut self.requests.later) {
            self.take(act);
        }
    }

    /// Ends the requests for a certificate, and begins what follows.
    pub(super) fn end_requests(&mut self, id: &CertId, verdict: &Verdict) {
        for Sequel { work, end } in self.requests.end(id, verdict) {
            let act = Act { id: id.clone(), deed: Deed::Work(work), caller: Caller::again(end) };
            self.requests.later.push(act);
        }
    }

    fn known(&self, id: Option<&CertId>) -> Vec<Known> {
        let Some(present) = &self.present else { return Vec::new() };
        let wanted = self.managed.iter().filter(|(other, _)| id.is_none_or(|id| id == *other));
        let now = self.clock.now();
        wanted.map(|(id, managed)| Known::new(id, managed, present, &self.limits, now)).collect()
    }

    fn take(&mut self, act: Act) {
        let Act { id, deed, caller } = act;
        let (Some(present), Some(managed)) = (self.present.clone(), self.managed.get_mut(&id))
        else {
            return caller.refuse(Verdict::Unwanted);
        };
        match deed {
            Deed::Renew { force } => self.request(&present, id, (force, None), caller),
            Deed::Reissue { reason } => {
                let Some(life) = &managed.life else {
                    let problem = "there is no certificate to revoke".to_owned();
                    return caller.refuse(Verdict::Failed { problem, next_at: None });
                };
                let then = Work::Revoke { reason, tag: Some(life.tag().to_owned()) };
                self.request(&present, id, (true, Some(then)), caller);
            }
            Deed::Work(_) if managed.is_ordering => caller.refuse(Verdict::Busy),
            Deed::Work(_) if managed.is_busy => self.requests.later.push(Act { id, deed, caller }),
            Deed::Work(work) => {
                managed.is_busy = true;
                let job = deed::Job::new(&present, &self.challenges, &id, managed);
                self.act(job, work, caller.accept());
            }
        }
    }

    /// Has a certificate ordered as soon as its turn comes, unless something speaks against it.
    fn request(
        &mut self,
        present: &Assignment,
        id: CertId,
        (force, then): (bool, Option<Work>),
        caller: Caller,
    ) {
        let Some(managed) = self.managed.get_mut(&id) else {
            return caller.refuse(Verdict::Unwanted);
        };
        let now = self.clock.now();
        if managed.is_ordering || self.requests.is_open(&id) {
            return self.requests.join(id, caller, then);
        }
        if managed.again_at.is_some_and(|at| at > now) {
            return caller.refuse(Verdict::Busy);
        }
        let mut record = managed.record.clone();
        record.reset(now);
        let limited = limit(&record, &present.directories(), &self.limits, now);
        if let Some(until) = limited {
            return caller.refuse(Verdict::Limited { until });
        }
        let set = record.set();
        let renew_before = present.acme.renew_before.map(seconds);
        let facts = record.facts(managed.life.as_ref(), &set, renew_before);
        if let (false, Some((guard, until))) = (force, too_early(&facts, now)) {
            return caller.refuse(Verdict::Early { guard, until });
        }
        managed.record = record;
        self.requests.join(id, caller, then);
    }
}
