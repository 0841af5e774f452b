//! A certificate's validity, and the moments that follow from it.

use crate::acme::time::{DAY, HOUR, MINUTE, unix};
use crate::tls::Leaf;
use crate::tls::certificate::sha256;

/// How long a certificate is good for, and what sets it apart from others of the same length.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Life {
    /// First second of validity.
    pub not_before: i64,
    /// Last second of validity (RFC 5280 §4.1.2.5: inclusive).
    pub not_after: i64,
    seed: [u8; 32],
    tag: String,
}

impl Life {
    /// A life between two moments; `serial` seeds what spreads certificates over time.
    #[must_use]
    pub fn new(not_before: i64, not_after: i64, serial: &[u8]) -> Self {
        let seed = sha256(serial);
        let tag = seed[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { not_before, not_after, seed, tag }
    }

    /// The life of `leaf`.
    #[must_use]
    pub fn of(leaf: &Leaf) -> Self {
        Self::new(unix(leaf.not_before), unix(leaf.not_after), &leaf.serial)
    }

    /// Names the certificate among those that one set of names ever had: 16 hexadecimal digits.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// `L`: the whole length in seconds, at least one.
    #[must_use]
    pub fn length(&self) -> i64 {
        self.not_after.saturating_sub(self.not_before).saturating_add(1).max(1)
    }

    /// Seconds left at `now`; 0 once it has ended.
    #[must_use]
    pub fn left(&self, now: i64) -> i64 {
        self.not_after.saturating_add(1).saturating_sub(now).max(0)
    }

    /// What is left in millionths of the whole.
    #[must_use]
    pub fn left_ppm(&self, now: i64) -> u32 {
        let share = i128::from(self.left(now)) * 1_000_000 / i128::from(self.length());
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        now > self.not_after
    }

    /// How much is left when it is renewed: half of a life below ten days, else a third, at most 30
    /// days. What an operator configured counts instead, within half of the life.
    #[must_use]
    pub fn renew_left(&self, configured: Option<i64>) -> i64 {
        let length = self.length();
        match configured {
            Some(wanted) => wanted.clamp(0, length / 2),
            None if length < 10 * DAY => length / 2,
            None => (length / 3).min(RENEW_BEFORE),
        }
    }

    /// Up to a fiftieth of the life, from the serial number: certificates that were issued together
    /// are renewed apart, while every instance and every restart agrees on the moment.
    #[must_use]
    pub fn jitter(&self) -> i64 {
        uniform(&self.seed, self.length() / 50)
    }

    /// When it is renewed if the authority has no wish.
    #[must_use]
    pub fn backstop(&self, configured: Option<i64>) -> i64 {
        self.not_after + 1 - self.renew_left(configured) - self.jitter()
    }

    /// From when on nothing but its end matters: a twentieth is left, or one minute where that is
    /// longer, but never more than a tenth.
    #[must_use]
    pub fn emergency(&self) -> i64 {
        let length = self.length();
        self.not_after + 1 - (length / 20).max(TICK.min(length / 10))
    }

    /// When a quarter has passed; a younger one that is due by our own rule is a sign of a fault.
    #[must_use]
    pub fn matures(&self) -> i64 {
        self.not_before.saturating_add(self.length() / 4)
    }

    /// A number below `bound` that depends on the certificate and `purpose` alone.
    pub(super) fn draw(&self, purpose: &[u8], bound: i64) -> i64 {
        uniform(&sha256(&[&self.seed[..], purpose].concat()), bound)
    }
}

/// What Let's Encrypt recommends for its 90 days (2025): renew with a third left.
const RENEW_BEFORE: i64 = 30 * DAY;

/// The coarsest a timer of ours may be.
const TICK: i64 = MINUTE;

/// Below `bound`, or 0 where that is not positive. The bias is below 2⁻³⁰: no span here has more
/// than 34 bits.
pub(crate) fn uniform(hash: &[u8; 32], bound: i64) -> i64 {
    let mut head = [0; 8];
    head.copy_from_slice(&hash[..8]);
    let number = i64::from_be_bytes(head) & i64::MAX;
    if bound > 0 { number % bound } else { 0 }
}

const _: () = assert!(TICK < HOUR, "the scheduler looks at least once an hour");

#[cfg(test)]
mod tests {
    use super::*;

    fn life(length: i64) -> Life {
        Life::new(1_000_000, 1_000_000 + length - 1, b"serial")
    }

    #[test]
    fn what_is_left_at_renewal_is_a_share_of_the_life() {
        for (length, configured, wanted) in [
            (90 * DAY, None, 30 * DAY),
            (398 * DAY, None, 30 * DAY),
            (64 * DAY, None, 64 * DAY / 3),
            (45 * DAY, None, 15 * DAY),
            (30 * DAY, None, 10 * DAY),
            (10 * DAY, None, 10 * DAY / 3),
            (10 * DAY - 1, None, (10 * DAY - 1) / 2),
            (160 * HOUR, None, 80 * HOUR),
            (DAY, None, 12 * HOUR),
            (60, None, 30),
            (90 * DAY, Some(40 * DAY), 40 * DAY),
            (90 * DAY, Some(60 * DAY), 45 * DAY),
            (45 * DAY, Some(30 * DAY), 45 * DAY / 2),
            (90 * DAY, Some(0), 0),
            (90 * DAY, Some(-5), 0),
            (1, Some(DAY), 0),
        ] {
            assert_eq!(life(length).renew_left(configured), wanted, "{length} {configured:?}");
        }
    }

    #[test]
    fn an_emergency_is_a_twentieth_or_a_tick_but_never_more_than_a_tenth() {
        for (length, wanted) in
            [(90 * DAY, 90 * DAY / 20), (DAY, DAY / 20), (20 * MINUTE, MINUTE), (60, 6), (5, 0)]
        {
            let life = life(length);
            assert_eq!(life.not_after + 1 - life.emergency(), wanted, "{length}");
        }
    }

    #[test]
    fn jitter_is_the_same_for_a_serial_and_spread_between_serials() {
        let jitter = |serial: u32| Life::new(0, 90 * DAY - 1, &serial.to_be_bytes()).jitter();
        let all: Vec<i64> = (0..2000).map(jitter).collect();
        assert_eq!(all[7], jitter(7));
        let bound = 90 * DAY / 50;
        assert!(all.iter().all(|jitter| (0..bound).contains(jitter)));
        let mean = all.iter().sum::<i64>() / 2000;
        assert!((bound * 47 / 100..bound * 53 / 100).contains(&mean), "{mean} of {bound}");
        assert!(
            *all.iter().min().unwrap() < bound / 50 && *all.iter().max().unwrap() > bound * 49 / 50
        );
    }

    #[test]
    fn the_last_second_is_valid_and_nonsense_does_no_harm() {
        let day = life(DAY);
        assert_eq!((day.length(), day.left(day.not_before)), (DAY, DAY));
        assert_eq!((day.left(day.not_after), day.is_expired(day.not_after)), (1, false));
        assert_eq!((day.left(day.not_after + 1), day.is_expired(day.not_after + 1)), (0, true));
        assert_eq!(day.left_ppm(day.not_before + DAY / 4), 750_000);
        assert_eq!(day.left_ppm(i64::MIN), u32::MAX);
        let inverted = Life::new(500, 100, b"");
        assert_eq!((inverted.length(), inverted.jitter(), inverted.backstop(None)), (1, 0, 101));
    }
}
