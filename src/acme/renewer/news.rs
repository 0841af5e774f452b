//! What other processes and instances have saved: looked for from time to time, taken over without an
//! order. And the other way about, what they may be asked on behalf of this one.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::job::blocking;
use super::managed::{Managed, Read};
use super::{Assignment, Finished, Renewer};
use crate::acme::order::Board;
use crate::acme::state::Target;
use crate::acme::storage::{CertId, CertLock, Place, Storage, StoreError};
use crate::acme::time::HOUR;
use crate::tls::challenge::Answer;

/// Between two looks, in seconds.
const LOOK: i64 = 30;

/// The same while another process is at one of the certificates, which may end soon.
const LOOK_SOON: i64 = 2;

/// Longest look at a fleet; what is left is the next one's.
const LONGEST: Duration = Duration::from_secs(60);

/// When to look next.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// The first look is as soon as anything.
    last: i64,
    is_out: bool,
    swept: i64,
}

/// A certificate that was saved by somebody else.
#[derive(Debug)]
pub(super) struct News {
    id: CertId,
    number: u32,
    /// What the disk says of it.
    read: Read,
}

impl Renewer {
    /// Begins a look where it is time for one. Returns when there is to be another.
    pub(super) fn look_out(&mut self, now: i64) -> i64 {
        let Some(present) = self.present.clone() else { return i64::MAX };
        let is_awaited = self.managed.values().any(|it| it.again_at.is_some_and(|at| at > now));
        let next = self.lookout.last + if is_awaited { LOOK_SOON } else { LOOK };
        // A clock that was set back must not put it off.
        if self.lookout.is_out || (next > now && self.lookout.last <= now) {
            return next.max(now + 1);
        }
        self.lookout.last = now;
        self.lookout.is_out = true;
        let sweeps = now - self.lookout.swept >= HOUR;
        if sweeps {
            self.lookout.swept = now;
        }
        let known = self
            .managed
            .iter()
            .map(|(id, managed)| (id.clone(), managed.record.target.clone(), managed.number));
        let known = known.collect();
        self.jobs.spawn(async move {
            let news = blocking(move || look(&present, known, sweeps)).await;
            Finished::Looked(news.unwrap_or_default())
        });
        now + LOOK_SOON
    }

    /// Serves what others have saved, unless an order of ours is under way: that has a look of its own.
    pub(super) fn hear_of(&mut self, news: Vec<News>) {
        self.lookout.is_out = false;
        for News { id, number, read } in news {
            let Some(known) = self.managed.get_mut(&id).filter(|known| !known.is_busy) else {
                continue;
            };
            // A reload may have come between.
            if known.record.target != read.managed.record.target {
                continue;
            }
            known.number = Some(number);
            let is_known = known.life.as_ref().is_some_and(|life| read.managed.is_about(life));
            if let (false, Some(certificate)) = (is_known, read.certificate) {
                tracing::info!(certificate = %id, "took over a certificate that was renewed elsewhere");
                *known = read.managed;
                (self.install)(&id, certificate);
            }
        }
    }
}

/// What was saved since, by whomever, for what this configuration wants.
fn look(
    present: &Assignment,
    known: Vec<(CertId, Target, Option<u32>)>,
    sweeps: bool,
) -> Vec<News> {
    let storage = &present.storage;
    if sweeps && let Err(error) = storage.sweep_challenges(SystemTime::now()) {
        let error: &dyn Error = &error;
        tracing::warn!(error, "could not take away old challenges");
    }
    if storage.fleet().is_some() {
        let wanted: Vec<(CertId, Target)> =
            known.iter().map(|(id, target, _)| (id.clone(), target.clone())).collect();
        if let Err(error) = storage.compare(&wanted, &present.accounts(), LONGEST) {
            let error: &dyn Error = &error;
            tracing::error!(error, "could not take over what the fleet has kept");
        }
    }
    let now = present.clock.now();
    let news = |(id, target, last)| news(storage, id, &target, last, now);
    known.into_iter().filter_map(news).collect()
}

/// What is new of one certificate. An older generation than the one that is known is no news: that
/// was put back for something that is wrong with a disk, and memory has the better one.
fn news(
    storage: &Storage,
    id: CertId,
    target: &Target,
    last: Option<u32>,
    now: i64,
) -> Option<News> {
    let number = storage.current(Place::Live, &id).ok().flatten()?;
    if Some(number) <= last {
        return None;
    }
    let read = Managed::read(storage, &id, target, now).ok()?;
    // What another configuration has ordered is the business of those that have it.
    let is_ours = read.managed.record.issued.as_ref() == Some(target);
    is_ours.then_some(News { id, number, read })
}

/// What proves names, left in the storage for every instance that shares it.
pub(super) struct Notices {
    pub(super) storage: Storage,
    pub(super) lock: Arc<CertLock>,
}

impl Board for Notices {
    fn put_up(&self, answers: &[Answer]) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for answer in answers {
            // One that fails keeps the others from nobody.
            let kept = self.storage.keep_challenge(&self.lock, &answer.token, answer);
            outcome = outcome.and(kept);
        }
        // A handshake asks for no token. What stays is older, and is not shown before these.
        let keys = answers.iter().map(|answer| &*answer.token);
        let _ = self.storage.drop_other_challenges(&self.lock, keys);
        outcome
    }

    fn take_down(&self, answers: &[Answer]) {
        for answer in answers {
            let _ = self.storage.drop_challenge(&self.lock, &answer.token);
        }
    }
}
