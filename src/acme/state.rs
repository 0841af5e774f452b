//! Where a certificate stands between "missing" and "in service"; persisted beside it.
//!
//! Answers "what was going on when the process ended, and what may be done now?". The scheduler
//! calls a method per event and writes the [`Record`] down; every step can be taken again after a
//! crash, from the order's [`Journal`](super::journal::Journal).

mod setback;

use serde::{Deserialize, Serialize};

use super::backoff::{Draft, Scope};
use super::schedule::{Ari, Change, Facts, History, Issuance, Life, Why, set_id};
use super::turns::Turns;
pub use setback::Attempt;

/// Where a certificate stands.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum State {
    /// There is none, and nothing was tried yet.
    #[default]
    Missing,
    /// It is to be ordered as soon as its turn comes.
    Due {
        /// The reason.
        why: Why,
    },
    /// An order is being made (RFC 8555 §7.4).
    Ordering,
    /// The authority checks that the names are ours (§7.5).
    Validating,
    /// The authority signs it (§7.4, `processing`).
    Finalizing,
    /// It is being saved and put in service.
    Installing,
    /// In service, nothing to do.
    Active,
    /// The last try failed.
    Backoff {
        /// How many in a row.
        fails: u32,
        /// The next try.
        until: i64,
        /// What went wrong.
        problem: LastProblem,
    },
    /// A rate limit parks it.
    Limited {
        /// Its end.
        until: i64,
        /// What it concerns.
        scope: Scope,
        /// The directory of the authority whose limit it is.
        #[serde(default)]
        directory: String,
    },
    /// Nothing will change unless somebody changes something.
    Blocked {
        /// What, for people.
        reason: String,
        /// Where to go, when the authority named an address.
        link: Option<String>,
    },
    /// It has ended and is still served: clients show an error that says so.
    Expired,
    /// It was revoked.
    Revoked,
}

/// What went wrong last.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct LastProblem {
    /// When.
    pub at: i64,
    /// Its kind in one word: the last part of the problem's type (RFC 8555 §6.7), or ours.
    pub kind: String,
    /// What was said, for people.
    pub detail: String,
    /// The names it concerns, when that is known.
    pub names: Vec<String>,
}

/// What is ordered, and where.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Target {
    /// DNS names in ASCII, `*.` before wildcards, and addresses. Sorted, none twice.
    pub names: Vec<String>,
    /// The directory of the authority that is asked first.
    pub directory: String,
    /// The profile that it is asked for.
    pub profile: Option<String>,
}

/// All that is kept of one certificate beside its files: `live/<id>/state.json`.
///
/// Fields that a file lacks have their defaults, so that an older one is read; one that cannot be
/// read at all is as good as none, for everything here can be found out again.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: i64,
    /// What the configuration wants.
    pub target: Target,
    /// What the certificate in service was ordered as; `None` when there is none.
    pub issued: Option<Target>,
    /// The directory of the authority that it came from, where that is another than the first.
    pub issued_by: Option<String>,
    /// [`Life::tag`] of the certificate in service.
    pub certificate: Option<String>,
    /// Failures in a row.
    pub fails: u32,
    /// How each authority has done since the last success.
    pub turns: Turns,
    /// The last one, until the next success.
    pub last_problem: Option<LastProblem>,
    /// The certificate in service is known to be revoked.
    pub is_revoked: bool,
    /// [`Life::tag`] of those that were revoked here, the last few: they are not served again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<String>,
    /// Why the order under way was begun.
    pub why: Option<Why>,
    /// The authority's wish for the certificate in service.
    pub ari: Option<Ari>,
    /// What was issued in the last seven days.
    pub history: History,
}

/// A certificate as it lies on disk.
#[derive(Clone, Copy, Debug)]
pub struct OnDisk<'a> {
    /// What it was ordered as.
    pub target: &'a Target,
    /// The directory of the authority that it came from, where that is another than the first.
    pub issued_by: Option<&'a str>,
    /// Its life.
    pub life: &'a Life,
}

/// A step was taken that does not follow from where the certificate stands.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{to} does not follow {from}")]
pub struct OutOfTurn {
    from: &'static str,
    to: &'static str,
}

/// Revoked certificates that are remembered: more than generations are kept.
const REVOKED: usize = 8;

impl State {
    /// The metric's and the log's word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Due { .. } => "due",
            Self::Ordering => "ordering",
            Self::Validating => "validating",
            Self::Finalizing => "finalizing",
            Self::Installing => "installing",
            Self::Active => "active",
            Self::Backoff { .. } => "backoff",
            Self::Limited { .. } => "limited",
            Self::Blocked { .. } => "blocked",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// Whether an order is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Ordering | Self::Validating | Self::Finalizing | Self::Installing)
    }
}

impl Target {
    /// `names` sorted and once each, at `directory`.
    #[must_use]
    pub fn new(mut names: Vec<String>, directory: &str, profile: Option<&str>) -> Self {
        names.sort_unstable();
        names.dedup();
        let profile = profile.map(str::to_owned);
        Self { names, directory: directory.to_owned(), profile }
    }

    /// How it differs from `other`, in the order in which a difference matters.
    #[must_use]
    pub fn change(&self, other: &Self) -> Option<Change> {
        if self.names != other.names {
            Some(Change::Names)
        } else if self.directory != other.directory {
            Some(Change::Authority)
        } else if self.profile != other.profile {
            Some(Change::Profile)
        } else {
            None
        }
    }
}

impl Record {
    /// Nothing known yet of a certificate for `target`.
    #[must_use]
    pub fn new(target: Target, now: i64) -> Self {
        Self { target, since: now, ..Self::default() }
    }

    /// The names to be ordered, as the guards and limits know them.
    #[must_use]
    pub fn set(&self) -> String {
        set_id(&self.target.names)
    }

    /// How the certificate in service differs from what the configuration wants.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.issued.as_ref().and_then(|issued| self.target.change(issued))
    }

    /// Until when nothing is to be tried; `i64::MAX` while it is blocked.
    #[must_use]
    pub fn parked_until(&self) -> Option<i64> {
        match self.state {
            State::Backoff { until, .. } | State::Limited { until, .. } => Some(until),
            State::Blocked { .. } => Some(i64::MAX),
            _ => None,
        }
    }

    /// What the rule is to be asked with. `life` is that of the certificate in service, `set` what
    /// [`set`](Self::set) gives.
    #[must_use]
    pub fn facts<'a>(
        &'a self,
        life: Option<&'a Life>,
        set: &'a str,
        renew_before: Option<i64>,
    ) -> Facts<'a> {
        Facts {
            life,
            ari: self.ari.as_ref(),
            is_revoked: self.is_revoked,
            change: self.change(),
            history: &self.history,
            set,
            renew_before,
        }
    }

    /// Takes a (new) configuration in; whether it differs from the one before. If it does, old
    /// failures say nothing about it: the back-off begins anew, and a rate limit that does not
    /// concern it parks it no longer.
    pub fn configure(&mut self, target: Target, now: i64) -> bool {
        let old = std::mem::replace(&mut self.target, target);
        if old == self.target {
            return false;
        }
        self.reset(now);
        let is_free = match &self.state {
            State::Limited { scope, .. } => {
                let Target { names, directory, .. } = &self.target;
                let draft = Draft { directory, account: None, names };
                let concerned = matches!(scope, Scope::Account(_)) || scope.concerns(&draft);
                !concerned || old.directory != *directory
            }
            _ => false,
        };
        if is_free {
            self.enter(self.resting(), now);
        }
        true
    }

    /// Forgets failures and what blocks it: something that an order depends on was changed (the
    /// account, a challenge's set-up), or an operator asks. A rate limit stays, since the authority
    /// knows of no such change.
    pub fn reset(&mut self, now: i64) {
        self.fails = 0;
        self.turns.reset();
        if matches!(self.state, State::Backoff { .. } | State::Blocked { .. }) {
            self.enter(self.resting(), now);
        }
    }

    /// After a start: an order that was under way is due again, and is found in its journal.
    pub fn resume(&mut self, now: i64) {
        if self.state.is_under_way() {
            let why = self.why.unwrap_or(Why::Requested);
            self.enter(State::Due { why }, now);
        }
    }

    /// What was found on disk, after a start or after taking the lock: a certificate and what it was
    /// ordered as, or none. `asks` as in [`installed`](Self::installed). Whether it is another than
    /// before: then somebody renewed it, or this process did before it died, and there is nothing
    /// left to do or to wait for.
    pub fn found(&mut self, on_disk: Option<OnDisk<'_>>, asks: bool, now: i64) -> bool {
        let certificate = on_disk.map(|found| found.life.tag().to_owned());
        let is_another = self.certificate != certificate;
        self.certificate = certificate;
        self.issued = on_disk.map(|found| found.target.clone());
        self.issued_by = on_disk.and_then(|found| found.issued_by).map(str::to_owned);
        if is_another {
            if let (true, Some(why), Some(_)) = (self.state.is_under_way(), self.why, on_disk) {
                self.history.note(Issuance { at: now, set: self.set(), why });
            }
            self.is_revoked = false;
            self.fails = 0;
            self.turns.clear();
            self.why = None;
            self.enter(self.resting(), now);
        }
        self.ari = on_disk.filter(|_| asks).map(|found| match self.ari.take() {
            Some(ari) if ari.certificate == found.life.tag() => ari,
            _ => Ari::start(found.life, now),
        });
        is_another
    }

    /// It is to be ordered.
    pub fn due(&mut self, why: Why, now: i64) {
        if !self.state.is_under_way() {
            self.why = Some(why);
            self.enter(State::Due { why }, now);
        }
    }

    /// An order is made.
    ///
    /// # Errors
    /// [`OutOfTurn`] unless it is due, or already ordering.
    pub fn ordering(&mut self, now: i64) -> Result<(), OutOfTurn> {
        let follows = matches!(self.state, State::Due { .. } | State::Ordering);
        self.step(follows, State::Ordering, now)
    }

    /// Challenges are answered.
    ///
    /// # Errors
    /// [`OutOfTurn`] unless an order was made.
    pub fn validating(&mut self, now: i64) -> Result<(), OutOfTurn> {
        let follows = matches!(self.state, State::Ordering | State::Validating);
        self.step(follows, State::Validating, now)
    }

    /// The certificate is asked for. Authorizations that are valid already need no challenges, so
    /// this may follow the order at once (RFC 8555 §7.1.6).
    ///
    /// # Errors
    /// [`OutOfTurn`] unless an order was made.
    pub fn finalizing(&mut self, now: i64) -> Result<(), OutOfTurn> {
        let follows = matches!(self.state, State::Ordering | State::Validating | State::Finalizing);
        self.step(follows, State::Finalizing, now)
    }

    /// The certificate has come. A journalled order may turn out to be finished.
    ///
    /// # Errors
    /// [`OutOfTurn`] unless an order was made.
    pub fn installing(&mut self, now: i64) -> Result<(), OutOfTurn> {
        let follows = matches!(self.state, State::Ordering | State::Finalizing | State::Installing);
        self.step(follows, State::Installing, now)
    }

    /// The certificate with this life, from the authority with `directory`, is saved and in service.
    /// `asks` says whether that has renewal information to be asked for.
    ///
    /// # Errors
    /// [`OutOfTurn`] unless it was being installed.
    pub fn installed(
        &mut self,
        life: &Life,
        directory: &str,
        asks: bool,
        now: i64,
    ) -> Result<(), OutOfTurn> {
        let follows = self.state == State::Installing;
        self.step(follows, State::Active, now)?;
        let why = self.why.take().unwrap_or(Why::Requested);
        self.history.note(Issuance { at: now, set: self.set(), why });
        self.issued = Some(self.target.clone());
        self.issued_by = (directory != self.target.directory).then(|| directory.to_owned());
        self.certificate = Some(life.tag().to_owned());
        self.ari = asks.then(|| Ari::start(life, now));
        self.fails = 0;
        self.turns.clear();
        self.last_problem = None;
        self.is_revoked = false;
        Ok(())
    }

    /// The certificate in service has ended. What is going on to replace it goes on.
    pub fn expired(&mut self, now: i64) {
        if self.state == State::Active {
            self.enter(State::Expired, now);
        }
    }

    /// The certificate in service has not ended, as it may have seemed by a clock that was wrong.
    pub fn lives(&mut self, now: i64) {
        if self.state == State::Expired {
            self.enter(self.resting(), now);
        }
    }

    /// The certificate with this [`Life::tag`] was revoked. What is going on to replace the one in
    /// service goes on.
    pub fn revoked(&mut self, tag: &str, now: i64) {
        if !self.was_revoked(tag) {
            self.revoked.push(tag.to_owned());
        }
        let surplus = self.revoked.len().saturating_sub(REVOKED);
        self.revoked.drain(..surplus);
        if self.certificate.as_deref() != Some(tag) {
            return;
        }
        self.is_revoked = self.issued.is_some();
        if self.is_revoked && matches!(self.state, State::Active | State::Expired) {
            self.enter(State::Revoked, now);
        }
    }

    /// Whether the certificate with this [`Life::tag`] was revoked here.
    #[must_use]
    pub fn was_revoked(&self, tag: &str) -> bool {
        self.revoked.iter().any(|revoked| revoked == tag)
    }

    /// Where it stands when nothing is going on.
    fn resting(&self) -> State {
        match &self.issued {
            None => State::Missing,
            Some(_) if self.is_revoked => State::Revoked,
            Some(_) => State::Active,
        }
    }

    fn step(&mut self, follows: bool, to: State, now: i64) -> Result<(), OutOfTurn> {
        if !follows {
            return Err(OutOfTurn { from: self.state.as_str(), to: to.as_str() });
        }
        self.enter(to, now);
        Ok(())
    }

    /// Taking a step again does not change since when.
    fn enter(&mut self, state: State, now: i64) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::time::{DAY, HOUR, MINUTE};

    fn target(name: &str) -> Target {
        Target::new(vec![name.to_owned()], "https://ca/dir", None)
    }

    const DIRECTORY: &str = "https://ca/dir";

    fn attempt(left: Option<i64>) -> Attempt<'static> {
        let directories = &[DIRECTORY];
        Attempt { id: "a", directory: DIRECTORY, directories, left, retry_after: None }
    }

    fn on_disk<'a>(target: &'a Target, life: &'a Life) -> Option<OnDisk<'a>> {
        Some(OnDisk { target, issued_by: None, life })
    }

    fn problem(detail: &str) -> LastProblem {
        LastProblem { at: 7, kind: "dns".into(), detail: detail.into(), names: vec![] }
    }

    fn life() -> Life {
        Life::new(0, 90 * DAY - 1, b"1")
    }

    /// A record with a certificate in service.
    fn active() -> Record {
        let mut record = Record::new(target("a.test"), 0);
        record.due(Why::Missing, 1);
        record.ordering(2).unwrap();
        record.validating(3).unwrap();
        record.finalizing(4).unwrap();
        record.installing(5).unwrap();
        record.installed(&life(), DIRECTORY, true, 6).unwrap();
        record
    }

    #[test]
    fn a_certificate_goes_from_missing_to_active_and_every_step_may_be_repeated() {
        let record = active();
        assert_eq!((record.state.as_str(), record.since, record.fails), ("active", 6, 0));
        assert_eq!(record.history.issuances().len(), 1);
        assert_eq!(record.history.issuances()[0].why, Why::Missing);
        assert_eq!(record.change(), None);
        assert_eq!(record.ari.unwrap().next_poll, 6, "asked right after issuance");
        let mut twice = Record::new(target("a.test"), 0);
        twice.due(Why::Ari, 1);
        for _ in 0..2 {
            twice.ordering(2).unwrap();
            twice.due(Why::Backstop, 2);
        }
        for _ in 0..2 {
            twice.finalizing(3).unwrap();
        }
        for now in 4..6 {
            twice.installing(now).unwrap();
        }
        assert_eq!((twice.since, twice.why), (4, Some(Why::Ari)));
    }

    #[test]
    fn steps_out_of_turn_are_refused_and_change_nothing() {
        let mut record = Record::new(target("a.test"), 0);
        let before = record.clone();
        assert_eq!(record.ordering(1).unwrap_err().to_string(), "ordering does not follow missing");
        assert!(record.validating(1).is_err());
        assert!(record.finalizing(1).is_err());
        assert!(record.installing(1).is_err());
        assert!(record.installed(&life(), DIRECTORY, true, 1).is_err());
        assert_eq!(record, before);
        assert!(active().ordering(9).is_err());
    }

    #[test]
    fn every_state_survives_a_restart() {
        let mut states = vec![Record::new(target("*.a.test"), 5), active()];
        let mut add = |change: &dyn Fn(&mut Record)| {
            let mut record = active();
            record.due(Why::Ari, 9);
            change(&mut record);
            states.push(record);
        };
        add(&|_| {});
        add(&|record| record.ordering(10).unwrap());
        add(&|record| {
            record.failed(attempt(Some(DAY)), problem("no such name"), 10);
        });
        add(&|record| {
            record.limited(attempt(None), Scope::Domain("a.test".into()), 99, problem("l"), 10);
        });
        add(&|record| {
            record.limited(attempt(None), Scope::Authority, 99, problem("l"), 10);
        });
        add(&|record| {
            record.blocked(attempt(None), problem("paused"), Some("https://ca/unpause".into()), 10);
        });
        for record in states {
            let text = serde_json::to_string_pretty(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
        }
        let older: Record = serde_json::from_str(r#"{"state":{"is":"active"},"later":1}"#).unwrap();
        assert_eq!((older.state, older.fails), (State::Active, 0));
        assert_eq!(serde_json::from_str::<Record>("{}").unwrap_or_default(), Record::default());
    }

    #[test]
    fn an_order_that_was_under_way_is_due_after_a_start() {
        let mut record = Record::new(target("a.test"), 0);
        record.due(Why::Expired, 1);
        record.ordering(2).unwrap();
        record.validating(3).unwrap();
        record.resume(4);
        assert_eq!(record.state, State::Due { why: Why::Expired });
        record.ordering(5).unwrap();
        record.installing(6).unwrap();
        let mut still = active();
        still.resume(9);
        assert_eq!(still.state, State::Active);
    }

    #[test]
    fn failures_add_up_until_a_success_or_another_configuration() {
        let mut record = active();
        for (fails, least, most) in
            [(1, 54, 66), (2, 600, 660), (3, 90 * MINUTE, 110 * MINUTE), (4, 21 * HOUR, 27 * HOUR)]
        {
            record.due(Why::Backstop, 100);
            record.ordering(100).unwrap();
            let until = record.failed(attempt(Some(30 * DAY)), problem("x"), 100);
            assert!((least..=most).contains(&(until - 100)), "{fails}: {until}");
            assert_eq!((record.parked_until(), record.fails), (Some(until), fails));
        }
        assert!(!record.configure(target("a.test"), 200), "the same");
        assert_eq!(record.fails, 4);
        assert!(record.configure(target("b.test"), 200));
        assert_eq!((record.fails, record.parked_until()), (0, None));
        assert_eq!(record.change(), Some(Change::Names));
        assert_eq!(record.state, State::Active, "the old certificate serves on");
        let mut limited = active();
        limited.limited(attempt(None), Scope::Authority, 500, problem("l"), 100);
        limited.reset(200);
        assert_eq!(limited.parked_until(), Some(500), "the authority has not forgotten");
        let mut blocked = Record::new(target("a.test"), 0);
        blocked.blocked(attempt(None), problem("needs a key"), None, 5);
        assert_eq!(blocked.parked_until(), Some(i64::MAX));
        blocked.reset(6);
        assert_eq!(blocked.state, State::Missing);
    }

    #[test]
    fn expired_and_revoked_do_not_stop_what_replaces_it() {
        let mut record = active();
        record.expired(10);
        record.lives(10);
        assert_eq!(record.state, State::Active);
        record.expired(10);
        assert_eq!(record.state, State::Expired);
        record.revoked("another", 11);
        assert_eq!(record.state, State::Expired, "not the one in service");
        record.revoked(life().tag(), 11);
        assert!(record.was_revoked("another") && record.was_revoked(life().tag()));
        assert_eq!((&record.state, record.is_revoked), (&State::Revoked, true));
        record.due(Why::Revoked, 12);
        record.ordering(13).unwrap();
        record.expired(14);
        record.revoked(life().tag(), 14);
        assert_eq!(record.state, State::Ordering);
        let until = record.failed(attempt(Some(60 * DAY)), problem("x"), 100);
        assert!(until < 200);
        for _ in 0..5 {
            record.turns.failed(DIRECTORY, 0);
        }
        let until = record.failed(attempt(Some(60 * DAY)), problem("x"), 0);
        assert!(until <= 110 * MINUTE, "as urgent as an expired one: {until}");
        record.reset(200);
        assert_eq!(record.state, State::Revoked);
        record.due(Why::Revoked, 201);
        record.ordering(201).unwrap();
        record.installing(202).unwrap();
        record.installed(&life(), DIRECTORY, false, 203).unwrap();
        assert_eq!((record.is_revoked, record.ari, record.last_problem), (false, None, None));
    }

    #[test]
    fn what_lies_on_disk_decides_whether_it_is_missing() {
        let (own, other) = (target("a.test"), target("b.test"));
        let mut record = Record::new(target("a.test"), 0);
        assert!(record.found(on_disk(&own, &life()), true, 5));
        assert_eq!((&record.state, record.since), (&State::Active, 5));
        let ari = record.ari.clone().unwrap();
        assert!(!record.found(on_disk(&own, &life()), true, 6), "the same");
        assert_eq!(record.ari, Some(ari));
        record.expired(7);
        record.found(on_disk(&own, &life()), false, 8);
        assert_eq!((&record.state, &record.ari), (&State::Expired, &None));
        record.found(None, true, 9);
        assert_eq!((&record.state, &record.ari), (&State::Missing, &None));
        record.found(on_disk(&other, &life()), true, 10);
        assert_eq!(record.change(), Some(Change::Names));
    }

    #[test]
    fn a_certificate_that_came_meanwhile_ends_order_and_back_off() {
        let newer = Life::new(60 * DAY, 150 * DAY, b"2");
        let mut waiting = active();
        waiting.due(Why::Backstop, 10);
        waiting.failed(attempt(Some(DAY)), problem("x"), 10);
        assert!(waiting.found(on_disk(&target("a.test"), &newer), true, 20));
        assert_eq!((&waiting.state, waiting.fails), (&State::Active, 0));
        assert_eq!(waiting.history.issuances().len(), 1, "whoever renewed it noted it");
        let mut died = active();
        died.due(Why::Backstop, 10);
        died.ordering(10).unwrap();
        died.installing(10).unwrap();
        assert!(died.found(on_disk(&target("a.test"), &newer), true, 20));
        assert_eq!((&died.state, died.history.issuances().len()), (&State::Active, 2));
    }

    #[test]
    fn a_limit_parks_a_new_configuration_only_if_it_concerns_it() {
        let set = set_id(&["a.test"]);
        for (scope, name, directory, stays) in [
            (Scope::Set(set.clone()), "b.test", "https://ca/dir", false),
            (Scope::Name("a.test".into()), "b.test", "https://ca/dir", false),
            (Scope::Domain("test".into()), "b.test", "https://ca/dir", true),
            (Scope::Account("https://ca/1".into()), "b.test", "https://ca/dir", true),
            (Scope::Authority, "b.test", "https://ca/dir", true),
            (Scope::Authority, "a.test", "https://other/dir", false),
            (Scope::Set(set), "a.test", "https://ca/dir", true),
        ] {
            let mut record = active();
            record.limited(attempt(None), scope.clone(), 500, problem("l"), 100);
            record.configure(Target::new(vec![name.into()], directory, None), 200);
            assert_eq!(record.parked_until().is_some(), stays, "{scope:?} {name} {directory}");
        }
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_written_waits_no_longer_for_it() {
        let ahead = 300 * DAY;
        let mut record = active();
        record.due(Why::Backstop, ahead);
        record.ordering(ahead).unwrap();
        let until = record.failed(attempt(Some(60 * DAY)), problem("x"), ahead);
        let mut again = record.clone();
        again.mistrust_future(ahead - 30);
        assert_eq!(again, record, "clocks differ by seconds");
        record.mistrust_future(1000);
        assert_eq!(record.parked_until(), Some(1000 + until - ahead));
        assert_eq!(record.since, 1000);
    }

    #[test]
    fn another_authority_is_asked_after_three_failures_or_a_refusal() {
        let directories = &[DIRECTORY, "https://other/dir"];
        let at = |directory| Attempt { directory, directories, ..attempt(Some(60 * DAY)) };
        let mut record = active();
        for _ in 0..2 {
            record.failed(at(DIRECTORY), problem("x"), 0);
        }
        assert_eq!(record.turns.next(directories, 0).directory, DIRECTORY);
        assert_eq!(record.failed(at(DIRECTORY), problem("x"), 0), MINUTE);
        assert_eq!(record.turns.next(directories, MINUTE).directory, "https://other/dir");
        let until = record.failed(at("https://other/dir"), problem("x"), 100);
        assert!(until < 100 + 2 * MINUTE, "its first failure: {until}");
        let mut record = active();
        assert_eq!(record.blocked(at(DIRECTORY), problem("x"), None, 5), Some(5));
        assert_eq!(record.state.as_str(), "backoff");
        assert_eq!(record.blocked(at("https://other/dir"), problem("x"), None, 6), None);
        assert_eq!(record.state.as_str(), "blocked");
        let mut record = active();
        let set = Scope::Set("s".into());
        assert_eq!(record.limited(at(DIRECTORY), set, 500, problem("x"), 5), None);
        assert_eq!(record.state.as_str(), "limited", "its own limit is nobody else's affair");
        assert_eq!(record.limited(at(DIRECTORY), Scope::Authority, 500, problem("x"), 5), Some(5));
        record.due(Why::Backstop, 6);
        record.ordering(6).unwrap();
        record.installing(6).unwrap();
        record.installed(&life(), "https://other/dir", true, 7).unwrap();
        assert_eq!(
            (record.issued_by.as_deref(), record.change()),
            (Some("https://other/dir"), None)
        );
    }

    #[test]
    fn a_change_is_named_by_what_matters_most() {
        let base = Target::new(vec!["b".into(), "a".into(), "a".into()], "d", None);
        assert_eq!(base.names, ["a", "b"]);
        for (names, directory, profile, wanted) in [
            (vec!["a", "b"], "d", None, None),
            (vec!["a", "b"], "d", Some("short"), Some(Change::Profile)),
            (vec!["a", "b"], "e", Some("short"), Some(Change::Authority)),
            (vec!["a"], "e", Some("short"), Some(Change::Names)),
        ] {
            let names = names.into_iter().map(str::to_owned).collect();
            assert_eq!(Target::new(names, directory, profile).change(&base), wanted);
        }
    }
}
