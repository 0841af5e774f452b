//! The rule: from what is known of a certificate to the moment it is ordered.

use serde::{Deserialize, Serialize};

use super::ari::Ari;
use super::history::{History, allowance};
use super::life::Life;
use crate::acme::time::HOUR;

/// What the rule needs to know of one certificate.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Of the certificate in service; `None` when there is none.
    pub life: Option<&'a Life>,
    /// The authority's wish; `None` when it has no opinion (no `renewalInfo` in its directory).
    pub ari: Option<&'a Ari>,
    /// The certificate is known to be revoked.
    pub is_revoked: bool,
    /// How the configuration differs from what the certificate was ordered with.
    pub change: Option<Change>,
    /// What was issued lately.
    pub history: &'a History,
    /// The set of names that would be ordered, as [`set_id`](super::set_id) has it.
    pub set: &'a str,
    /// `renew_before` as configured, in seconds.
    pub renew_before: Option<i64>,
}

/// How a configuration differs from the certificate in service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Other names.
    Names,
    /// Another profile.
    Profile,
    /// Another authority.
    Authority,
}

/// Why a certificate is ordered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Why {
    /// There is none.
    Missing,
    /// It is revoked, or the authority recalls it by a window in the past: with a new key.
    Revoked,
    /// It has ended.
    Expired,
    /// It is about to end: the authority's wish no longer counts.
    Emergency,
    /// The authority wishes so (RFC 9773).
    Ari,
    /// Our own share of its life is left.
    Backstop,
    /// It is to be for other names.
    NamesChanged,
    /// It is to have another profile.
    ProfileChanged,
    /// It is to come from another authority.
    AuthorityChanged,
    /// An operator asked for it.
    Requested,
}

/// What keeps an order from being made when it is wished for: the sign of a loop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Guard {
    /// The certificate is younger than a quarter of its life.
    Young,
    /// The same names were issued too often in seven days.
    Weekly,
}

/// When to order, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The moment; not before `now`.
    pub at: i64,
    /// The reason.
    pub why: Why,
    /// Set when the order was wished for earlier.
    pub guard: Option<Guard>,
}

/// Who goes first when several are due: the least is the most urgent.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Priority {
    /// 0 for what clients refuse already, else 1.
    class: u8,
    /// Millionths of the life that are left.
    left_ppm: u32,
}

impl Plan {
    /// Whether to order now.
    #[must_use]
    pub fn is_due(&self, now: i64) -> bool {
        self.at <= now
    }
}

impl Why {
    /// The metric's and the log's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Emergency => "emergency",
            Self::Ari => "ari",
            Self::Backstop => "backstop",
            Self::NamesChanged => "names_changed",
            Self::ProfileChanged => "profile_changed",
            Self::AuthorityChanged => "authority_changed",
            Self::Requested => "requested",
        }
    }

    /// Whether a young certificate speaks against it: only where nobody but our own rule wants it.
    fn needs_age(self) -> bool {
        matches!(self, Self::Backstop | Self::Emergency | Self::Expired)
    }
}

impl From<Change> for Why {
    fn from(change: Change) -> Self {
        match change {
            Change::Names => Self::NamesChanged,
            Change::Profile => Self::ProfileChanged,
            Change::Authority => Self::AuthorityChanged,
        }
    }
}

/// When to order the certificate that `facts` are about, seen from `now`.
///
/// In this order: missing, revoked, expired, recalled by the authority, changed, about to end, the
/// authority's moment, our own. Then the guards: by itself never a certificate younger than a
/// quarter of its life, and never more issuances of one set in seven days than `allowance`; a
/// renewal at the authority's wish counts towards neither (Let's Encrypt exempts it from its
/// limits), but past twice the allowance the wish is not believed.
#[must_use]
pub fn plan(facts: &Facts<'_>, now: i64) -> Plan {
    let (wished, why) = wish(facts, now);
    let wished = wished.max(now);
    let mut plan = Plan { at: wished, why, guard: None };
    if let Some(life) = facts.life
        && why.needs_age()
        && life.matures() > plan.at
    {
        plan.at = life.matures();
        plan.guard = Some(Guard::Young);
    }
    if why != Why::Ari {
        let limit = allowance(facts.life);
        let free = facts.history.free_at(facts.set, limit, plan.at, now, |past| past != Why::Ari);
        if free > plan.at {
            plan.at = free;
            plan.guard = Some(Guard::Weekly);
        }
    }
    plan
}

/// The moment and the reason before the guards are asked.
fn wish(facts: &Facts<'_>, now: i64) -> (i64, Why) {
    let Some(life) = facts.life else { return (now, Why::Missing) };
    if facts.is_revoked {
        return (now, Why::Revoked);
    }
    if life.is_expired(now) {
        return (now, Why::Expired);
    }
    let recalled = facts.ari.and_then(|ari| ari.recalled(life, now));
    if recalled.is_some_and(|end| !facts.history.doubts_recall(facts.set, end, now)) {
        return (now, Why::Revoked);
    }
    if let Some(change) = facts.change {
        return (now, change.into());
    }
    let picked = facts.ari.and_then(|ari| ari.fresh_pick(life, now));
    let picked = picked.filter(|pick| recalled.is_none() && is_believed(facts, life, *pick, now));
    let (at, why) = match picked {
        Some(pick) => (pick, Why::Ari),
        None => (life.backstop(facts.renew_before), Why::Backstop),
    };
    let emergency = life.emergency();
    if emergency < at.max(now) { (emergency, Why::Emergency) } else { (at, why) }
}

/// Whether a moment of the authority's is followed: not when its wishes have become a loop.
fn is_believed(facts: &Facts<'_>, life: &Life, pick: i64, now: i64) -> bool {
    let limit = allowance(Some(life)).saturating_mul(2);
    let at = pick.max(now);
    facts.history.free_at(facts.set, limit, at, now, |past| past == Why::Ari) <= at
}

/// What speaks against an order that somebody asks for at `now`, and until when: the guards, for the
/// authority counts it like any other. `None` where the rule wants it as well.
#[must_use]
pub fn too_early(facts: &Facts<'_>, now: i64) -> Option<(Guard, i64)> {
    let planned = plan(facts, now);
    if planned.is_due(now) {
        return None;
    }
    if let Some(guard) = planned.guard {
        return Some((guard, planned.at));
    }
    let young = facts.life.map(Life::matures).filter(|at| *at > now);
    if let Some(at) = young {
        return Some((Guard::Young, at));
    }
    let limit = allowance(facts.life);
    let free = facts.history.free_at(facts.set, limit, now, now, |past| past != Why::Ari);
    (free > now).then_some((Guard::Weekly, free))
}

/// Who goes first: what clients refuse already, then what has least of its life left.
#[must_use]
pub fn priority(facts: &Facts<'_>, now: i64) -> Priority {
    let left_ppm = facts.life.map_or(0, |life| life.left_ppm(now));
    let is_refused = facts.is_revoked
        || facts.life.is_some_and(|life| {
            life.is_expired(now) || facts.ari.is_some_and(|ari| ari.recalled(life, now).is_some())
        });
    Priority { class: u8::from(!is_refused), left_ppm }
}

/// When to look at the certificate again, exactly: at its order (not before `parked`, the end of a
/// back-off or a limit), at the next question to the authority, when its last answer becomes stale,
/// and after an hour in any case. Later than `now`, unless there is something to do at once.
#[must_use]
pub fn next_wake(plan: &Plan, facts: &Facts<'_>, parked: Option<i64>, now: i64) -> i64 {
    let order = plan.at.max(parked.unwrap_or(plan.at));
    let poll = facts.ari.map(|ari| ari.next_poll);
    let stale = facts.ari.zip(facts.life).and_then(|(ari, life)| ari.stale_at(life));
    let moments = [Some(order), poll, stale.filter(|at| *at > now), Some(now + HOUR)];
    moments.into_iter().flatten().min().unwrap_or(order).max(now)
}

#[cfg(test)]
mod tests {
    use super::super::ari::{Suggestion, Window};
    use super::super::history::Issuance;
    use super::*;
    use crate::acme::time::DAY;

    const START: i64 = 1_700_000_000;

    fn life(length: i64) -> Life {
        Life::new(START, START + length - 1, b"serial")
    }

    fn wishes(life: &Life, start: i64, end: i64, now: i64) -> Ari {
        let mut ari = Ari::start(life, now);
        let window = Window { start, end };
        let answer = Suggestion { window, explanation_url: None, retry_after: None };
        ari.heard(answer, life, now).unwrap();
        ari
    }

    fn issued(moments: &[(i64, Why)]) -> History {
        let mut history = History::default();
        for (at, why) in moments {
            history.note(Issuance { at: *at, set: "s".into(), why: *why });
        }
        history
    }

    fn facts<'a>(life: Option<&'a Life>, ari: Option<&'a Ari>, history: &'a History) -> Facts<'a> {
        Facts { life, ari, is_revoked: false, change: None, history, set: "s", renew_before: None }
    }

    #[test]
    fn the_reason_is_the_gravest_one() {
        let life = life(90 * DAY);
        let none = History::default();
        let end = START + 90 * DAY;
        let backstop = end - 30 * DAY - life.jitter();
        let quiet = facts(Some(&life), None, &none);
        let emergency = end - 90 * DAY / 20;
        for (facts, now, at, why) in [
            (facts(None, None, &none), START, START, Why::Missing),
            (quiet, START, backstop, Why::Backstop),
            (quiet, backstop + 5, backstop + 5, Why::Backstop),
            (quiet, emergency, emergency, Why::Backstop),
            (quiet, emergency + 1, emergency + 1, Why::Emergency),
            (quiet, end - 1, end - 1, Why::Emergency),
            (quiet, end, end, Why::Expired),
            (Facts { renew_before: Some(0), ..quiet }, START, emergency, Why::Emergency),
            (
                Facts { renew_before: Some(40 * DAY), ..quiet },
                START,
                backstop - 10 * DAY,
                Why::Backstop,
            ),
            (Facts { is_revoked: true, ..quiet }, end, end, Why::Revoked),
            (Facts { is_revoked: true, ..quiet }, START + 5, START + 5, Why::Revoked),
            (Facts { change: Some(Change::Names), ..quiet }, START, START, Why::NamesChanged),
            (Facts { change: Some(Change::Profile), ..quiet }, START, START, Why::ProfileChanged),
            (Facts { change: Some(Change::Authority), ..quiet }, end, end, Why::Expired),
        ] {
            assert_eq!(plan(&facts, now), Plan { at, why, guard: None }, "{facts:?} at {now}");
        }
    }

    #[test]
    fn the_authoritys_moment_goes_first_while_it_is_fresh() {
        let life = life(90 * DAY);
        let none = History::default();
        let end = START + 90 * DAY;
        let emergency = end - 90 * DAY / 20;
        let late = wishes(&life, end - 20 * DAY, end - 19 * DAY, START);
        let pick = late.selected.unwrap();
        let with = |ari| facts(Some(&life), Some(ari), &none);
        assert_eq!(plan(&with(&late), START), Plan { at: pick, why: Why::Ari, guard: None });
        let stale = plan(&with(&late), START + 9 * DAY);
        assert_eq!(stale.why, Why::Backstop, "no answer for a tenth of the life");
        let too_late = wishes(&life, end - DAY, end, START);
        assert_eq!(
            plan(&with(&too_late), START),
            Plan { at: emergency, why: Why::Emergency, guard: None }
        );
        let soon = wishes(&life, START + HOUR, START + 2 * HOUR, START);
        assert!(
            plan(&with(&soon), START + 2 * HOUR - 1).is_due(START + 2 * HOUR - 1),
            "however young"
        );
    }

    #[test]
    fn a_recall_is_honoured_once() {
        let life = life(90 * DAY);
        let past = wishes(&life, START - 2 * HOUR, START - HOUR, START);
        let first = issued(&[(START, Why::Missing)]);
        let now = START + 60;
        assert_eq!(
            plan(&facts(Some(&life), Some(&past), &first), now),
            Plan { at: now, why: Why::Revoked, guard: None }
        );
        let again = issued(&[(START, Why::Missing), (now, Why::Revoked)]);
        let planned = plan(&facts(Some(&life), Some(&past), &again), now);
        assert_eq!(planned.why, Why::Backstop, "its successor was recalled too: garbage");
        let past = wishes(&life, START - 2 * HOUR, START - HOUR, START + 8 * DAY);
        let later = facts(Some(&life), Some(&past), &again);
        assert_eq!(plan(&later, START + 8 * DAY).why, Why::Backstop, "for good");
        let real = wishes(&life, START + 9 * DAY, START + 10 * DAY, START + 9 * DAY);
        let later = facts(Some(&life), Some(&real), &again);
        assert_eq!(plan(&later, START + 11 * DAY).why, Why::Revoked, "another incident");
    }

    #[test]
    fn the_guards_hold_what_looks_like_a_loop() {
        let life = life(90 * DAY);
        let three = issued(&[
            (START - 3 * DAY, Why::Missing),
            (START - 2 * DAY, Why::NamesChanged),
            (START, Why::Requested),
        ]);
        let changed = Facts { change: Some(Change::Names), ..facts(Some(&life), None, &three) };
        assert_eq!(
            plan(&changed, START + HOUR),
            Plan { at: START + 4 * DAY, why: Why::NamesChanged, guard: Some(Guard::Weekly) }
        );
        let other = Facts { set: "t", ..changed };
        assert!(plan(&other, START).is_due(START), "limits are per exact set");
        let gone = facts(None, None, &three);
        assert_eq!(plan(&gone, START).guard, Some(Guard::Weekly), "even when it is missing");
        let none = History::default();
        let future = facts(Some(&life), None, &none);
        let planned = plan(&future, START - 400 * DAY);
        assert_eq!((planned.why, planned.guard), (Why::Backstop, None), "our clock is behind");
        let soon = wishes(&life, START, START + 2 * HOUR, START + HOUR);
        let loops = issued(&[(START, Why::Ari); 6]);
        let now = START + 2 * HOUR - 1;
        assert_eq!(
            plan(&facts(Some(&life), Some(&soon), &issued(&[(START, Why::Ari); 5])), now).why,
            Why::Ari
        );
        assert_eq!(plan(&facts(Some(&life), Some(&soon), &loops), now).why, Why::Backstop);
    }

    #[test]
    fn what_is_asked_for_is_guarded_as_well() {
        let life = life(90 * DAY);
        let none = History::default();
        let quiet = facts(Some(&life), None, &none);
        let matures = life.matures();
        let early = |facts: &Facts<'_>, now| too_early(facts, now);
        assert_eq!(early(&quiet, START + HOUR), Some((Guard::Young, matures)));
        assert_eq!(early(&quiet, matures), None);
        assert_eq!(early(&facts(None, None, &none), START), None, "there is none");
        for wanted in
            [Facts { is_revoked: true, ..quiet }, Facts { change: Some(Change::Names), ..quiet }]
        {
            assert_eq!(early(&wanted, START + HOUR), None, "{wanted:?}");
        }
        let now = matures + DAY;
        let often = issued(&[
            (now - 3, Why::Missing),
            (now - 2, Why::Requested),
            (now - 1, Why::Requested),
        ]);
        let often = facts(Some(&life), None, &often);
        assert_eq!(early(&often, now), Some((Guard::Weekly, now - 3 + 7 * DAY)));
    }

    #[test]
    fn the_most_urgent_goes_first() {
        let none = History::default();
        let (long, short) = (life(90 * DAY), life(10 * DAY));
        let now = START + 9 * DAY;
        let of = |facts: Facts<'_>| priority(&facts, now);
        let expired = Life::new(START - DAY, START, b"");
        let revoked = Facts { is_revoked: true, ..facts(Some(&long), None, &none) };
        let order = [
            of(facts(Some(&expired), None, &none)),
            of(revoked),
            of(facts(None, None, &none)),
            of(facts(Some(&short), None, &none)),
            of(facts(Some(&long), None, &none)),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert!(order[1] < order[2]);
    }

    #[test]
    fn somebody_looks_again_at_the_earliest_moment_that_matters() {
        let life = life(90 * DAY);
        let none = History::default();
        let mut ari = wishes(&life, START + 60 * DAY, START + 61 * DAY, START);
        let now = START;
        let at = |at| Plan { at, why: Why::Ari, guard: None };
        let wake = |ari: Option<&Ari>, plan: Plan, parked| {
            next_wake(&plan, &facts(Some(&life), ari, &none), parked, now) - now
        };
        assert_eq!(wake(None, at(now + 7), None), 7, "exact");
        assert_eq!(wake(None, at(now + DAY), None), HOUR);
        assert_eq!(wake(None, at(now), None), 0, "due");
        assert_eq!(wake(None, at(now), Some(now + 90)), 90, "due, but parked");
        assert_eq!(wake(None, at(now), Some(i64::MAX)), HOUR, "blocked");
        assert_eq!(wake(Some(&ari), at(now + DAY), None), HOUR);
        ari.next_poll = now + 61;
        assert_eq!(wake(Some(&ari), at(now + DAY), None), 61);
        ari.next_poll = now - 5;
        assert_eq!(wake(Some(&ari), at(now + DAY), None), 0, "to be asked now");
        ari.next_poll = now + DAY;
        ari.heard_at = Some(now - 9 * DAY + 30);
        assert_eq!(wake(Some(&ari), at(now + DAY), None), 30, "stale then");
    }
}
