//! The layer above the files: what instances of a fleet take over from each other.
//!
//! Files are what counts on this machine; Redis is told after them, and asked before something is
//! begun. What it cannot be told now it is told when the two are compared again.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::fleet::{Fleet, LinkError, Version};
use super::files::{CHALLENGE_LONGEST, Left, revision};
use super::{
    AccountLock, AuthorityId, CertId, CertLock, Generation, Meta, Pair, Place, Secret, Storage,
    StoreError,
};
use crate::acme::journal::Journal;
use crate::acme::schedule::Life;
use crate::acme::state::{Record, Target};
use crate::acme::time::{seconds, unix};
use crate::tls::Certificate;

/// What was found out before about files and pairs, so that it need not be found out again.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Facts>);

#[derive(Debug, Default)]
struct Facts {
    /// What each certificate's generation in service is.
    versions: HashMap<CertId, (u32, Version)>,
    /// What the fleet has and this instance has no use for.
    passed_over: HashMap<CertId, (Version, Target)>,
}

/// A pair as the fleet keeps it.
#[derive(Deserialize, Serialize)]
struct Kept {
    key_pem: String,
    chain_pem: String,
    meta: Meta,
}

impl Storage {
    /// Whether the fleet's Redis can be reached; `None` where there is no fleet.
    #[must_use]
    pub fn is_fleet_reachable(&self) -> Option<bool> {
        self.fleet.as_ref().map(|fleet| fleet.is_reachable())
    }

    /// The same files with a fleet above them.
    #[must_use]
    pub fn with_fleet(self, fleet: Option<Arc<Fleet>>) -> Self {
        Self { fleet, ..self }
    }

    /// Whom it is shared with.
    #[must_use]
    pub fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.as_ref()
    }

    /// Takes over what other instances have kept of a certificate since, and hands them what they
    /// lack. What they had issued for another configuration than `target` is left to them.
    ///
    /// # Errors
    /// [`StoreError`] when what is here cannot be read, or what comes cannot be kept.
    pub fn catch_up(&self, lock: &CertLock, target: &Target) -> Result<(), StoreError> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let Ok(theirs) = fleet.versions([lock.id().as_str()]) else { return Ok(()) };
        self.compare_pair(fleet, lock, target, theirs.into_iter().next().flatten())?;
        self.compare_record(fleet, lock, target)?;
        self.compare_order(fleet, lock)
    }

    /// As [`catch_up`](Self::catch_up) for the pairs of many certificates and the accounts, from time
    /// to time. One that somebody is at is passed over, and what is not done within `patience` waits
    /// for the next time.
    ///
    /// # Errors
    /// [`StoreError`] as there, for one of them; the others are done nevertheless.
    pub fn compare(
        &self,
        wanted: &[(CertId, Target)],
        authorities: &[AuthorityId],
        patience: Duration,
    ) -> Result<(), StoreError> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let began = Instant::now();
        let mut outcome = Ok(());
        for authority in authorities {
            if let Some(lock) = self.lock_account_here(authority)? {
                let caught_up = self.catch_up_account(&lock);
                outcome = outcome.and(caught_up);
            }
        }
        for some in wanted.chunks(AT_ONCE) {
            let Ok(theirs) = fleet.versions(some.iter().map(|(id, _)| id.as_str())) else { break };
            for ((id, target), theirs) in some.iter().zip(theirs) {
                if began.elapsed() > patience {
                    return outcome;
                }
                let compared = self.compare_one(fleet, id, target, theirs);
                outcome = outcome.and(compared);
            }
        }
        outcome
    }

    fn compare_one(
        &self,
        fleet: &Fleet,
        id: &CertId,
        target: &Target,
        theirs: Option<Version>,
    ) -> Result<(), StoreError> {
        // What is newest decides for itself, so that this needs nobody's leave but this machine's.
        if theirs == self.version(id)? {
            return Ok(());
        }
        match self.lock_here(id)? {
            Some(lock) => self.compare_pair(fleet, &lock, target, theirs),
            None => Ok(()),
        }
    }

    fn compare_pair(
        &self,
        fleet: &Fleet,
        lock: &CertLock,
        target: &Target,
        theirs: Option<Version>,
    ) -> Result<(), StoreError> {
        let ours = self.version(lock.id())?;
        match theirs {
            Some(theirs) if Some(&theirs) > ours.as_ref() => {
                self.take_over(fleet, lock, target, &theirs)
            }
            theirs if ours > theirs => {
                let (Some(ours), Some(number)) = (ours, self.current(Place::Live, lock.id())?)
                else {
                    return Ok(());
                };
                // What cannot be served is not handed on.
                if let Ok(pair) = self.pair(Place::Live, lock.id(), number) {
                    hand_over(fleet, lock.id(), &ours, &pair);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes the fleet's pair the newest generation here.
    fn take_over(
        &self,
        fleet: &Fleet,
        lock: &CertLock,
        target: &Target,
        theirs: &Version,
    ) -> Result<(), StoreError> {
        let id = lock.id();
        let offer = (theirs.clone(), target.clone());
        if self.known(|facts| facts.passed_over.get(id) == Some(&offer)) {
            return Ok(());
        }
        let Ok(Some(bytes)) = fleet.kept("pair", id.as_str()) else { return Ok(()) };
        let pass_over = || self.known(|facts| facts.passed_over.insert(id.clone(), offer.clone()));
        let kept: Kept = match serde_json::from_slice(&bytes) {
            Ok(kept) => kept,
            Err(error) => {
                let error: &dyn Error = &error;
                tracing::error!(certificate = %id, error, "what the fleet keeps of a certificate cannot be read");
                pass_over();
                return Ok(());
            }
        };
        if kept.meta.target != *target {
            tracing::debug!(certificate = %id, "left to others what was issued for another configuration");
            pass_over();
            return Ok(());
        }
        let Kept { key_pem, chain_pem, meta } = kept;
        let pair = Pair { key_pem: Secret(key_pem), chain_pem, meta };
        if let Err(error) = pair.certificate() {
            let error: &dyn Error = &error;
            tracing::error!(certificate = %id, error, "what the fleet keeps of a certificate cannot be served");
            pass_over();
            return Ok(());
        }
        self.save_stepwise(Place::Live, lock, &pair, &mut |_| Ok(())).map(|_| ())
    }

    fn compare_record(
        &self,
        fleet: &Fleet,
        lock: &CertLock,
        target: &Target,
    ) -> Result<(), StoreError> {
        let id = lock.id();
        let theirs: Option<Record> = kept(fleet, "record", id.as_str());
        let ours = self.record(id)?;
        let age = |record: &Record| (record.since, record.ari.as_ref().map(|ari| ari.next_poll));
        match (theirs, ours) {
            (Some(theirs), ours) if ours.as_ref().is_none_or(|ours| age(ours) < age(&theirs)) => {
                if theirs.target == *target {
                    self.keep_record(lock, &theirs)
                } else {
                    Ok(())
                }
            }
            (theirs, Some(ours)) if theirs.as_ref() != Some(&ours) => {
                self.share("record", id.as_str(), &ours);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn compare_order(&self, fleet: &Fleet, lock: &CertLock) -> Result<(), StoreError> {
        let theirs: Option<Journal> = kept(fleet, "order", lock.id().as_str());
        let Some(theirs) = theirs else { return Ok(()) };
        let ours = self.order(lock)?;
        if ours.is_none_or(|ours| ours.created < theirs.created) {
            return self.keep_order(lock, &theirs);
        }
        Ok(())
    }

    /// The same for an account.
    pub(super) fn catch_up_account(&self, lock: &AccountLock) -> Result<(), StoreError> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let name = lock.authority().as_str();
        let Ok(bytes) = fleet.kept("account", name) else { return Ok(()) };
        let theirs: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let ours = self.raw_account(lock.authority())?;
        match (theirs, ours) {
            (Some(theirs), Some(ours)) if revision(&ours) > revision(&theirs) => {
                self.share("account", name, &ours);
                Ok(())
            }
            (Some(theirs), ours) if ours.as_ref() != Some(&theirs) => {
                self.write_account(lock, &theirs)
            }
            (None, Some(ours)) => {
                self.share("account", name, &ours);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Which pair is in service here.
    fn version(&self, id: &CertId) -> Result<Option<Version>, StoreError> {
        let Some(number) = self.current(Place::Live, id)? else { return Ok(None) };
        let known = self.known(|facts| facts.versions.get(id).cloned());
        if let Some((_, version)) = known.filter(|(known, _)| *known == number) {
            return Ok(Some(version));
        }
        let Some(generation) = self.load(Place::Live, id)?.generation else { return Ok(None) };
        let meta = generation.meta.unwrap_or_default();
        let version = version_of(&meta, &generation.certificate);
        if generation.number == number {
            let known = (number, version.clone());
            self.known(|facts| facts.versions.insert(id.clone(), known));
        }
        Ok(Some(version))
    }

    /// The revision of what the fleet has of a certificate.
    pub(super) fn shared_revision(&self, place: Place, id: &CertId) -> u64 {
        let Some(fleet) = self.fleet.as_ref().filter(|_| place == Place::Live) else { return 0 };
        let theirs = fleet.versions([id.as_str()]).ok().and_then(|mut all| all.pop().flatten());
        theirs.map_or(0, |theirs| theirs.revision)
    }

    /// Hands a pair that was saved to the fleet.
    pub(super) fn share_pair(&self, place: Place, id: &CertId, pair: &Pair, saved: &Generation) {
        if let (Some(fleet), Place::Live) = (&self.fleet, place) {
            hand_over(fleet, id, &version_of(&pair.meta, &saved.certificate), pair);
        }
    }

    /// Tells the fleet what was written here. It is told again later where it cannot be reached.
    pub(super) fn share(&self, what: &str, id: &str, value: &impl Serialize) {
        if let (Some(fleet), Ok(bytes)) = (&self.fleet, serde_json::to_vec(value)) {
            let _ = fleet.keep(what, id, &bytes);
        }
    }

    pub(super) fn unshare(&self, what: &str, id: &str) {
        if let Some(fleet) = &self.fleet {
            let _ = fleet.forget(what, id);
        }
    }

    /// Leaves a challenge to the fleet, where there is one.
    pub(super) fn share_challenge(&self, name: &str, left: &Left) -> Result<(), LinkError> {
        match (&self.fleet, serde_json::to_vec(left)) {
            (Some(fleet), Ok(bytes)) => fleet.keep_challenge(name, &bytes),
            _ => Ok(()),
        }
    }

    pub(super) fn unshare_challenge(&self, name: &str) {
        if let Some(fleet) = &self.fleet {
            let _ = fleet.drop_challenge(name);
        }
    }

    /// What instances of the fleet have left, by its name.
    pub(super) fn shared_challenges(&self) -> impl Iterator<Item = (String, Left)> + use<> {
        let all = self.fleet.as_ref().and_then(|fleet| fleet.challenges().ok());
        let of_a_field =
            |(name, bytes): (String, Vec<u8>)| Some((name, serde_json::from_slice(&bytes).ok()?));
        all.into_iter().flatten().filter_map(of_a_field)
    }

    /// Takes away what instances left that died; how many.
    pub(super) fn sweep_shared_challenges(&self, now: SystemTime) -> usize {
        let Some(fleet) = &self.fleet else { return 0 };
        let mut swept = 0;
        for (name, bytes) in fleet.challenges().unwrap_or_default() {
            let at = serde_json::from_slice(&bytes).map_or(0, |left: Left| left.at);
            let is_old = at < unix(now) - seconds(CHALLENGE_LONGEST);
            if is_old && fleet.drop_challenge(&name).is_ok() {
                swept += 1;
            }
        }
        swept
    }

    fn known<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.known.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Certificates that Redis is asked about in one question.
const AT_ONCE: usize = 1000;

fn version_of(meta: &Meta, certificate: &Certificate) -> Version {
    let life = Life::of(&certificate.leaf);
    let Life { not_before, .. } = life;
    Version { revision: meta.revision, not_before, tag: life.tag().to_owned() }
}

fn hand_over(fleet: &Fleet, id: &CertId, version: &Version, pair: &Pair) {
    let Pair { key_pem, chain_pem, meta } = pair.clone();
    let kept = Kept { key_pem: key_pem.0, chain_pem, meta };
    if let Ok(bytes) = serde_json::to_vec(&kept) {
        // One that is newer stays, and is taken over at the next look.
        let _ = fleet.keep_pair(id.as_str(), version, &bytes);
    }
}

/// What the fleet keeps as `what`, if it can be read.
fn kept<T: DeserializeOwned>(fleet: &Fleet, what: &str, id: &str) -> Option<T> {
    let bytes = fleet.kept(what, id).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}
