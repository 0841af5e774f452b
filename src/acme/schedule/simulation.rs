//! A year of the rule in a second: one certificate, one authority that is a pure function, every
//! length of life there is, with and without renewal information, with and without failures.

use super::*;
use crate::acme::backoff::Failure;
use crate::acme::time::{DAY, HOUR, MINUTE};

const YEAR: i64 = 365 * DAY;
const START: i64 = 1_800_000_000;
const LIVES: [(&str, i64); 6] = [
    ("90 d", 90 * DAY),
    ("64 d", 64 * DAY),
    ("45 d", 45 * DAY),
    ("30 d", 30 * DAY),
    ("160 h", 160 * HOUR),
    ("24 h", 24 * HOUR),
];

/// How the authority answers a question for renewal information.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wishes {
    /// It has no such resource.
    None,
    /// As Let's Encrypt: a window of a fiftieth of the life, around two thirds of it, or a half
    /// where it is short; polled every six hours.
    Sound,
    /// Sound, but nobody answers from the second month on.
    Silent,
    /// A window that ended an hour before the certificate began, for ever.
    Past,
    /// A window that is now, for ever: renew, renew, renew.
    Now,
    /// A window whose end is before its start.
    Inverted,
}

struct Simulation {
    length: i64,
    wishes: Wishes,
    failures_percent: u32,
    /// When the authority cannot be reached.
    outage: std::ops::Range<i64>,
    random: fastrand::Rng,
    now: i64,
    life: Option<Life>,
    ari: Option<Ari>,
    history: History,
    fails: u32,
    parked: Option<i64>,
    row: Row,
    all: Vec<(i64, Why)>,
    wakes: u32,
}

#[derive(Debug)]
struct Row {
    issued: u32,
    refused: u32,
    /// Least left at a renewal, in millionths of the life.
    least_left_ppm: u32,
    expired: bool,
    /// Most issuances in seven days that were not the authority's wish.
    busiest_week: usize,
}

impl Simulation {
    fn run(length: i64, wishes: Wishes, failures_percent: u32, seed: u64) -> Self {
        Self::run_with_outage(length, wishes, failures_percent, 0..0, seed)
    }

    fn run_with_outage(
        length: i64,
        wishes: Wishes,
        failures_percent: u32,
        outage: std::ops::Range<i64>,
        seed: u64,
    ) -> Self {
        let row = Row {
            issued: 0,
            refused: 0,
            least_left_ppm: 1_000_000,
            expired: false,
            busiest_week: 0,
        };
        let mut year = Self {
            length,
            wishes,
            failures_percent,
            outage,
            random: fastrand::Rng::with_seed(seed),
            now: START,
            life: None,
            ari: None,
            history: History::default(),
            fails: 0,
            parked: None,
            row,
            all: Vec::new(),
            wakes: 0,
        };
        while year.now < START + YEAR {
            year.step();
        }
        year.row.busiest_week = year.busiest_week();
        year
    }

    fn step(&mut self) {
        self.wakes += 1;
        if self.ari.as_ref().is_some_and(|ari| ari.next_poll <= self.now) {
            self.ask();
        }
        let facts = Facts {
            life: self.life.as_ref(),
            ari: self.ari.as_ref(),
            is_revoked: false,
            change: None,
            history: &self.history,
            set: "set",
            renew_before: None,
        };
        let plan = plan(&facts, self.now);
        let is_parked = self.parked.is_some_and(|until| until > self.now);
        if plan.is_due(self.now) && !is_parked {
            let why = plan.why;
            self.order(why);
            return;
        }
        let wake = next_wake(&plan, &facts, self.parked, self.now);
        assert!(wake > self.now, "a wake-up without anything to do: {plan:?}");
        self.now = wake;
        let left = self.life.as_ref().map(|life| life.left_ppm(self.now));
        self.row.least_left_ppm = self.row.least_left_ppm.min(left.unwrap_or(u32::MAX));
        self.row.expired |= left == Some(0);
    }

    fn ask(&mut self) {
        let (Some(ari), Some(life)) = (&mut self.ari, &self.life) else { return };
        let now = self.now;
        let centre = match self.length {
            short if short < 10 * DAY => life.not_before + short / 2,
            long => life.not_before + long * 2 / 3,
        };
        let sound = Window { start: centre - self.length / 100, end: centre + self.length / 100 };
        let window = match self.wishes {
            Wishes::Silent if now > START + 30 * DAY => return ari.failed(None, now),
            Wishes::None => return,
            Wishes::Sound | Wishes::Silent => sound,
            Wishes::Past => {
                Window { start: life.not_before - 2 * HOUR, end: life.not_before - HOUR }
            }
            Wishes::Now => Window { start: life.not_before, end: now + DAY },
            Wishes::Inverted => Window { start: now + DAY, end: now },
        };
        if self.outage.contains(&now) || self.random.u32(0..100) < self.failures_percent {
            return ari.failed(None, now);
        }
        let answer = Suggestion { window, explanation_url: None, retry_after: Some(6 * HOUR) };
        let heard = ari.heard(answer, life, now);
        assert_eq!(heard.is_err(), self.wishes == Wishes::Inverted);
    }

    /// One order: ten seconds, and a certificate or a failure.
    fn order(&mut self, why: Why) {
        self.now += 10;
        let is_away = self.outage.contains(&self.now);
        if is_away || self.random.u32(0..100) < self.failures_percent {
            self.fails += 1;
            self.row.refused += 1;
            let left = self.life.as_ref().map(|life| life.left(self.now));
            let failure = Failure { id: "a.test", fails: self.fails, left, retry_after: None };
            self.parked = Some(failure.next_try(self.now));
            return;
        }
        let serial = self.random.u128(..).to_be_bytes();
        let life = Life::new(self.now, self.now + self.length - 1, &serial);
        self.ari = (self.wishes != Wishes::None).then(|| Ari::start(&life, self.now));
        self.life = Some(life);
        self.history.note(Issuance { at: self.now, set: "set".into(), why });
        self.all.push((self.now, why));
        self.fails = 0;
        self.parked = None;
        self.row.issued += 1;
    }

    fn busiest_week(&self) -> usize {
        let own: Vec<i64> =
            self.all.iter().filter(|(_, why)| *why != Why::Ari).map(|(at, _)| *at).collect();
        let within =
            |first: i64| own.iter().filter(move |at| (first..first + 7 * DAY).contains(at));
        own.iter().map(|first| within(*first).count()).max().unwrap_or(0)
    }

    fn allowance(&self) -> usize {
        history::allowance(Some(&Life::new(0, self.length - 1, b"")))
    }
}

/// Runs each length of life and checks what must hold in every world.
fn table(title: &str, wishes: Wishes, failures: u32, check: impl Fn(&str, i64, &Simulation)) {
    println!("{title}, {failures} % of the orders fail");
    println!("  life    issued  refused  least left  busiest week  wake-ups");
    for (name, length) in LIVES {
        let year = Simulation::run(length, wishes, failures, 7);
        let row = &year.row;
        println!(
            "  {name:<6} {:>7} {:>8} {:>10.1}% {:>8} of {:<3} {:>8}",
            row.issued,
            row.refused,
            f64::from(row.least_left_ppm) / 10_000.0,
            row.busiest_week,
            year.allowance(),
            year.wakes
        );
        assert!(!row.expired, "{name}: {row:?}");
        assert!(row.busiest_week <= year.allowance(), "{name}: {row:?}");
        assert!(year.wakes < 40_000, "{name}: a timer spins");
        check(name, length, &year);
    }
}

/// Renewals in a year at `share` percent of the life, give or take what jitter does.
fn expected(length: i64, age_percent: i64) -> std::ops::RangeInclusive<i64> {
    let age = length * age_percent / 100;
    YEAR / age..=YEAR / (age - length / 40) + 2
}

fn age_percent(length: i64) -> i64 {
    if length < 10 * DAY { 50 } else { 67 }
}

#[test]
fn without_renewal_information_each_life_is_renewed_at_its_share() {
    table("no renewal information", Wishes::None, 0, |name, length, year| {
        let issued = i64::from(year.row.issued);
        assert!(expected(length, age_percent(length)).contains(&issued), "{name}: {issued}");
        let left = Life::new(0, length - 1, b"").renew_left(None);
        let least = i64::from(year.row.least_left_ppm) * length / 1_000_000;
        assert!((left - MINUTE..left + length / 50).contains(&least), "{name}: {least} left");
    });
}

#[test]
fn with_renewal_information_each_life_is_renewed_in_its_window() {
    table("renewal information", Wishes::Sound, 0, |name, length, year| {
        let issued = i64::from(year.row.issued);
        assert!(expected(length, age_percent(length)).contains(&issued), "{name}: {issued}");
        let own = year.all.iter().skip(1).filter(|(_, why)| *why != Why::Ari).count();
        assert_eq!(own, 0, "{name}: every renewal is the authority's wish");
    });
}

#[test]
fn failures_cost_tries_but_no_certificate() {
    for wishes in [Wishes::None, Wishes::Sound] {
        let title = format!("{wishes:?}");
        table(&title, wishes, 30, |name, length, year| {
            let issued = i64::from(year.row.issued);
            assert!(
                expected(length, age_percent(length)).contains(&(issued + 2)) || {
                    // Late tries make a year a little shorter.
                    expected(length, age_percent(length)).contains(&issued)
                },
                "{name}: {issued}"
            );
            let share = f64::from(year.row.refused) / f64::from(year.row.refused + year.row.issued);
            assert!(share < 0.6, "{name}: {share}");
        });
    }
}

#[test]
fn garbage_costs_a_few_certificates_but_never_the_limit() {
    table("a window in the past for ever", Wishes::Past, 0, |name, length, year| {
        let most = 2 * *expected(length, age_percent(length)).end() + 2;
        assert!(i64::from(year.row.issued) <= most, "{name}: {:?}", year.row);
    });
    table("a window that is now for ever", Wishes::Now, 0, |name, _, year| {
        let most = (year.allowance() * 2 + year.allowance()) * 53;
        assert!(usize::try_from(year.row.issued).unwrap() <= most, "{name}: {:?}", year.row);
    });
    for wishes in [Wishes::Inverted, Wishes::Silent] {
        let title = format!("{wishes:?}");
        table(&title, wishes, 0, |name, length, year| {
            let issued = i64::from(year.row.issued);
            assert!(expected(length, age_percent(length)).contains(&issued), "{name}: {issued}");
        });
    }
}

#[test]
fn no_seed_lets_a_certificate_end() {
    for seed in 0..12 {
        for (name, length) in LIVES {
            for wishes in [Wishes::None, Wishes::Sound] {
                let year = Simulation::run(length, wishes, 30, seed);
                assert!(!year.row.expired, "{name} {wishes:?} seed {seed}: {:?}", year.row);
                assert!(year.row.busiest_week <= year.allowance(), "{name} {wishes:?} seed {seed}");
            }
        }
    }
}

/// Whenever it begins: an authority that is away for four fifths of what is left at renewal costs
/// no certificate, since tries become more frequent as less is left.
#[test]
fn no_outage_shorter_than_what_is_left_at_renewal_ends_a_certificate() {
    let mut random = fastrand::Rng::with_seed(3);
    for (name, length) in LIVES {
        let left = Life::new(0, length - 1, b"").renew_left(None);
        for seed in 0..12 {
            let begin = START + HOUR + random.i64(0..YEAR - 2 * left);
            let outage = begin..begin + left * 4 / 5;
            let wishes = if seed % 2 == 0 { Wishes::None } else { Wishes::Sound };
            let year = Simulation::run_with_outage(length, wishes, 10, outage.clone(), seed);
            assert!(!year.row.expired, "{name} {wishes:?} away in {outage:?}: {:?}", year.row);
            assert!(year.row.busiest_week <= year.allowance(), "{name}: {:?}", year.row);
        }
    }
}
