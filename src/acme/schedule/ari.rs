//! ACME Renewal Information (RFC 9773): when the authority wishes a certificate to be renewed.

use serde::{Deserialize, Serialize};

use super::life::Life;
use crate::acme::time::{DAY, HOUR, MINUTE};

/// What is known of an authority's wish for one certificate; persisted, so that a restart neither
/// asks too early nor draws another moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Ari {
    /// [`Life::tag`] of the certificate it is about.
    pub certificate: String,
    /// The last window that was valid.
    pub window: Option<Window>,
    /// The moment drawn from it.
    pub selected: Option<i64>,
    /// Where the authority says why, for people (RFC 9773 §4.2).
    pub explanation_url: Option<String>,
    /// When the last good answer came.
    pub heard_at: Option<i64>,
    /// When to ask next.
    pub next_poll: i64,
    /// Answers in a row that were none.
    pub errors: u32,
}

/// When to renew, as an authority suggests it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Window {
    /// From this moment on.
    pub start: i64,
    /// Until this one.
    pub end: i64,
}

/// An authority's answer (RFC 9773 §4.2), not checked yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suggestion {
    /// `suggestedWindow`.
    pub window: Window,
    /// `explanationURL`.
    pub explanation_url: Option<String>,
    /// The answer's `Retry-After`, in seconds.
    pub retry_after: Option<i64>,
}

/// Why a window is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadWindow {
    /// RFC 9773 §4.2: to be treated like no answer at all.
    #[error("the window ends at {end}, which is not after its start at {start}")]
    Inverted {
        /// Its start.
        start: i64,
        /// Its end.
        end: i64,
    },
    /// Waiting for it would end in an expired certificate.
    #[error("the window starts at {start}, and the certificate ends at {not_after}")]
    AfterExpiry {
        /// Its start.
        start: i64,
        /// The certificate's end.
        not_after: i64,
    },
}

impl Window {
    /// The window, cut to the certificate's life.
    ///
    /// # Errors
    /// [`BadWindow`], to be treated like no answer.
    pub fn checked(self, life: &Life) -> Result<Self, BadWindow> {
        let Self { start, end } = self;
        if end <= start {
            return Err(BadWindow::Inverted { start, end });
        }
        if start >= life.not_after {
            return Err(BadWindow::AfterExpiry { start, not_after: life.not_after });
        }
        Ok(Self { start, end: end.min(life.not_after) })
    }

    /// One moment, uniform over certificates, in the first four fifths (RFC 9773 §4.2 asks for the
    /// whole window; the last fifth is kept for second tries). It depends on the certificate and
    /// the window alone, so instances that share a certificate agree on it.
    #[must_use]
    pub fn pick(self, life: &Life) -> i64 {
        let span = self.end.saturating_sub(self.start);
        let purpose = format!("{}-{}", self.start, self.end);
        self.start + life.draw(purpose.as_bytes(), span - span / 5)
    }
}

impl Ari {
    /// Nothing known yet of the certificate with this life; to be asked for at once (RFC 9773 §4.3).
    #[must_use]
    pub fn start(life: &Life, now: i64) -> Self {
        Self { certificate: life.tag().to_owned(), next_poll: now, ..Self::default() }
    }

    /// The authority answers no such questions; it is asked again after a day.
    pub fn silent(&mut self, now: i64) {
        self.errors = 0;
        self.next_poll = now + DAY;
    }

    /// Takes an answer in; whether it changes the window. The moment is drawn anew only then.
    ///
    /// # Errors
    /// [`BadWindow`]: what was known stays, and the next question waits six hours.
    pub fn heard(&mut self, answer: Suggestion, life: &Life, now: i64) -> Result<bool, BadWindow> {
        let window = match answer.window.checked(life) {
            Ok(window) => window,
            Err(fault) => {
                self.errors = self.errors.saturating_add(1);
                self.next_poll = now + ERROR_GAP_LONGEST;
                return Err(fault);
            }
        };
        let is_news = self.window != Some(window);
        if is_news {
            self.window = Some(window);
            self.selected = Some(window.pick(life));
        }
        self.explanation_url = answer.explanation_url;
        self.heard_at = Some(now);
        self.errors = 0;
        self.next_poll = now + answer.retry_after.unwrap_or(GAP).clamp(GAP_SHORTEST, GAP_LONGEST);
        Ok(is_news)
    }

    /// Notes that no answer came: 1, 10, 100 minutes, then six hours (RFC 9773 §4.3.3), never
    /// before a `Retry-After`, which is cut to a day.
    pub fn failed(&mut self, retry_after: Option<i64>, now: i64) {
        self.errors = self.errors.saturating_add(1);
        let gap = match self.errors {
            0 | 1 => MINUTE,
            2 => 10 * MINUTE,
            3 => 100 * MINUTE,
            _ => ERROR_GAP_LONGEST,
        };
        self.next_poll = now + gap.max(retry_after.unwrap_or(0).min(GAP_LONGEST));
    }

    /// When what is known stops to count: no good answer for two days, or a tenth of the life where
    /// that is longer. `None`: there is nothing to become stale.
    #[must_use]
    pub fn stale_at(&self, life: &Life) -> Option<i64> {
        self.heard_at.map(|at| at.saturating_add((2 * DAY).max(life.length() / 10)))
    }

    /// The moment to renew at, while it is about this certificate and not stale. An answer from the
    /// future (the clock was set back) does not count either.
    #[must_use]
    pub fn fresh_pick(&self, life: &Life, now: i64) -> Option<i64> {
        let is_fresh = self.certificate == life.tag()
            && self.heard_at.is_some_and(|at| at <= now.saturating_add(HOUR))
            && self.stale_at(life).is_some_and(|stale| now < stale);
        self.selected.filter(|_| is_fresh)
    }

    /// The window's end, if it is over and lies where no plan for a healthy certificate has it, in
    /// the first half of its life: the way an authority says "revoked, or about to be" (RFC 9773 §4.2).
    #[must_use]
    pub fn recalled(&self, life: &Life, now: i64) -> Option<i64> {
        let half = life.not_before.saturating_add(life.length() / 2);
        let end = self.fresh_pick(life, now).and(self.window)?.end;
        (end <= now && end < half).then_some(end)
    }
}

/// Between two questions when the authority names no time (RFC 9773 §4.3.2 leaves it to us).
const GAP: i64 = 6 * HOUR;
/// RFC 9773 §4.3.2: less than a minute is a minute…
const GAP_SHORTEST: i64 = MINUTE;
/// …and more than a day a day, so that one odd header cannot park a certificate past its end.
const GAP_LONGEST: i64 = DAY;
/// RFC 9773 §4.3.3: after lasting errors the next question waits six hours.
const ERROR_GAP_LONGEST: i64 = 6 * HOUR;

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000;

    fn life() -> Life {
        Life::new(START, START + 90 * DAY - 1, b"a")
    }

    fn says(start: i64, end: i64, retry_after: Option<i64>) -> Suggestion {
        Suggestion { window: Window { start, end }, explanation_url: None, retry_after }
    }

    #[test]
    fn a_window_is_checked_and_cut_to_the_life() {
        let end = life().not_after;
        for (start, stop, wanted) in [
            (START + 1, START + 2, Ok((START + 1, START + 2))),
            (START - DAY, START - 1, Ok((START - DAY, START - 1))),
            (end - 5, end + DAY, Ok((end - 5, end))),
            (0, i64::MAX, Ok((0, end))),
            (5, 5, Err(BadWindow::Inverted { start: 5, end: 5 })),
            (6, 5, Err(BadWindow::Inverted { start: 6, end: 5 })),
            (end, end + 1, Err(BadWindow::AfterExpiry { start: end, not_after: end })),
            (
                i64::MAX - 1,
                i64::MAX,
                Err(BadWindow::AfterExpiry { start: i64::MAX - 1, not_after: end }),
            ),
        ] {
            let checked = Window { start, end: stop }.checked(&life());
            assert_eq!(checked.map(|window| (window.start, window.end)), wanted);
        }
    }

    #[test]
    fn picks_are_uniform_in_the_first_four_fifths() {
        let window = Window { start: START, end: START + 100_000 };
        let pick = |serial: u32| {
            window.pick(&Life::new(START, START + 90 * DAY, &serial.to_be_bytes())) - START
        };
        let mut buckets = [0; 8];
        for serial in 0..4000 {
            let at = pick(serial);
            assert!((0..80_000).contains(&at));
            buckets[usize::try_from(at / 10_000).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|count| (420..580).contains(count)), "{buckets:?}");
        assert_eq!(Window { start: 5, end: 6 }.pick(&life()), 5, "the shortest window");
    }

    #[test]
    fn the_moment_is_drawn_once_and_again_only_when_the_window_changes() {
        let life = life();
        let mut ari = Ari::start(&life, START);
        let (start, end) = (START + 60 * DAY, START + 62 * DAY);
        assert_eq!(ari.heard(says(start, end, None), &life, START), Ok(true));
        let first = ari.selected;
        for hour in 1..50 {
            assert_eq!(ari.heard(says(start, end, None), &life, START + hour * HOUR), Ok(false));
            assert_eq!(ari.selected, first);
        }
        let text = serde_json::to_string(&ari).unwrap();
        assert_eq!(serde_json::from_str::<Ari>(&text).unwrap(), ari, "a restart keeps it");
        assert_eq!(ari.heard(says(start, end + 7, None), &life, START), Ok(true));
        assert_ne!(ari.selected, first);
        let kept = ari.clone();
        assert!(ari.heard(says(end, start, None), &life, START + DAY).is_err());
        assert_eq!(
            (ari.selected, ari.heard_at),
            (kept.selected, kept.heard_at),
            "garbage changes nothing"
        );
        assert_eq!(ari.next_poll, START + DAY + 6 * HOUR);
    }

    #[test]
    fn the_next_question_waits_between_a_minute_and_a_day() {
        let life = life();
        let mut ari = Ari::start(&life, START);
        assert_eq!(ari.next_poll, START, "at once");
        for (retry_after, wanted) in [
            (None, 6 * HOUR),
            (Some(0), MINUTE),
            (Some(-5), MINUTE),
            (Some(HOUR), HOUR),
            (Some(i64::MAX), DAY),
        ] {
            ari.heard(says(START, START + DAY, retry_after), &life, START).unwrap();
            assert_eq!(ari.next_poll - START, wanted, "{retry_after:?}");
        }
        for (retry_after, wanted) in [
            (None, MINUTE),
            (None, 10 * MINUTE),
            (None, 100 * MINUTE),
            (None, 6 * HOUR),
            (Some(HOUR), 6 * HOUR),
            (Some(8 * HOUR), 8 * HOUR),
            (Some(i64::MAX), DAY),
        ] {
            ari.failed(retry_after, START);
            assert_eq!(ari.next_poll - START, wanted, "{} errors, {retry_after:?}", ari.errors);
        }
        ari.heard(says(START, START + DAY, None), &life, START).unwrap();
        ari.failed(None, START);
        assert_eq!(ari.next_poll - START, MINUTE, "an answer resets the count");
    }

    #[test]
    fn what_is_stale_or_about_another_certificate_does_not_count() {
        let life = life();
        let mut ari = Ari::start(&life, START);
        assert_eq!(ari.fresh_pick(&life, START), None, "nothing was heard");
        ari.heard(says(START + DAY, START + 2 * DAY, None), &life, START).unwrap();
        let stale = START + 9 * DAY;
        assert_eq!(ari.stale_at(&life), Some(stale), "a tenth of 90 days");
        assert!(ari.fresh_pick(&life, stale - 1).is_some());
        assert_eq!(ari.fresh_pick(&life, stale), None);
        assert_eq!(ari.fresh_pick(&life, START - 2 * HOUR), None, "an answer from the future");
        let other = Life::new(START, START + 90 * DAY - 1, b"b");
        assert_eq!(ari.fresh_pick(&other, START), None);
        let short = Life::new(START, START + 160 * HOUR - 1, b"a");
        assert_eq!(ari.stale_at(&short), Some(START + 2 * DAY));
    }

    #[test]
    fn a_window_that_ended_in_the_first_half_recalls_the_certificate() {
        let life = life();
        for (start, end, now, wanted) in [
            (START - DAY, START - HOUR, START, true),
            (START + DAY, START + 2 * DAY, START + 2 * DAY, true),
            (START + DAY, START + 2 * DAY, START + 2 * DAY - 1, false),
            (START + 60 * DAY, START + 62 * DAY, START + 70 * DAY, false),
        ] {
            let mut ari = Ari::start(&life, now);
            ari.heard(says(start, end, None), &life, now).unwrap();
            assert_eq!(ari.recalled(&life, now).is_some(), wanted, "{start} {end} {now}");
        }
    }
}
