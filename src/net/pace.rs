//! How long a peer may keep us waiting for bytes, and how slowly it may move them.

use std::time::{Duration, Instant};

/// Patience with a peer that is to send bytes, or to take some.
///
/// An account of time. It begins full, with the longest gap allowed; waiting takes from it, and each
/// byte that moves brings in the time that it may take at the slowest rate allowed, up to the gap
/// again. When nothing is left the peer is too slow. Without a rate any byte fills it. Only waiting
/// counts: who has nothing to send or to take, or waits for us, is not slow.
///
/// Pure: the caller brings the clock, which is asked only where somebody waits.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    gap: Duration,
    /// Bytes a second.
    rate: Option<u64>,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// A full account.
    #[must_use]
    pub fn new(gap: Duration, rate: Option<u64>) -> Self {
        Self { gap, rate, left: gap, waiting_since: None }
    }

    /// We wait, from `now` on unless we did already. Returns when patience ends.
    pub fn wait(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        *self.waiting_since.get_or_insert_with(now) + self.left
    }

    /// So many bytes moved, and whoever waited waits no more.
    pub fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        } else if self.left == self.gap {
            return;
        }
        let earned = match self.rate {
            Some(rate) => Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1)),
            None => self.gap,
        };
        self.left = self.gap.min(self.left.saturating_add(earned));
    }

    /// So much of the present wait was not the peer's doing.
    pub fn excuse(&mut self, time: Duration, now: impl FnOnce() -> Instant) {
        if let Some(since) = &mut self.waiting_since
            && !time.is_zero()
        {
            *since = (*since + time).min(now());
        }
    }

    /// From here on any byte will do.
    pub fn ignore_rate(&mut self) {
        self.rate = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(30);

    /// When patience ends after the peer has moved `bytes` every `step` seconds, `times` times.
    fn after(rate: Option<u64>, step: u64, bytes: u64, times: u64) -> Option<u64> {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(GAP, rate);
        for number in 0..times {
            let end = pace.wait(|| at(number * step));
            if end < at((number + 1) * step) {
                return Some((end - start).as_secs());
            }
            pace.moved(bytes, || at((number + 1) * step));
        }
        None
    }

    #[test]
    fn a_byte_now_and_then_is_too_slow_and_a_slow_link_is_not() {
        assert_eq!(after(Some(240), 29, 1, 100), Some(30), "a byte every 29 seconds");
        assert_eq!(after(Some(240), 1, 100, 1000), Some(50), "100 bytes a second");
        assert_eq!(after(Some(240), 1, 240, 10_000), None, "just what is asked");
        assert_eq!(after(Some(240), 25, 25 * 240, 1000), None, "the same in pieces");
        assert_eq!(after(None, 29, 1, 1000), None, "no rate, so that the gap alone counts");
        assert_eq!(after(None, 31, 1 << 20, 1000), Some(30), "and it does");
    }

    #[test]
    fn what_came_early_pays_for_one_gap_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(GAP, Some(240));
        pace.moved(1 << 30, || panic!("nobody waited"));
        assert_eq!(pace.wait(|| start), start + GAP);
        pace.moved(1 << 30, || start + GAP / 2);
        assert_eq!(pace.wait(|| start + GAP), start + GAP + GAP, "full again");
    }

    #[test]
    fn what_is_not_the_peers_doing_is_not_counted() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(GAP, Some(240));
        let _ = pace.wait(|| at(0));
        pace.excuse(Duration::from_secs(20), || at(25));
        assert_eq!(pace.wait(|| at(99)), at(50));
        pace.excuse(Duration::from_secs(20), || at(25));
        assert_eq!(pace.wait(|| at(99)), at(55), "no time is given beyond now");
    }
}
