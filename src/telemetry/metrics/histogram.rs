//! How long something took, counted in buckets.
//!
//! # Why
//! Two relaxed additions and no lock; the histogram of `prometheus-client` (0.26) keeps its buckets
//! behind a mutex. A scrape in between may see one of the two, which the next one corrects.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets but the last, which has none, in seconds: from a millisecond, below
/// which a gateway adds nothing that matters, to a minute, beyond which timeouts end most things.
pub(super) const BOUNDS: [&str; 14] = [
    "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5",
    "10", "60",
];

/// [`BOUNDS`] in microseconds.
const MICROS: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 60_000_000,
];

/// Durations counted in buckets. Two lines of memory, of which those up to 100 ms touch the first.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    micros: AtomicU64,
    /// Not cumulative; the last has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

impl Histogram {
    /// Has the processor fetch the line that most durations add to.
    pub fn expect(&self) {
        std::hint::black_box(self.micros.load(Ordering::Relaxed));
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.read().0[BOUNDS.len()]
    }

    /// How many were at most each bound, then how many there were, and their sum in seconds.
    pub(super) fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut below = 0;
        let cumulative = std::array::from_fn(|bucket| {
            below += self.buckets[bucket].load(Ordering::Relaxed);
            below
        });
        (cumulative, self.micros.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_same_in_both_spellings() {
        for (text, micros) in BOUNDS.iter().zip(MICROS) {
            assert!((text.parse::<f64>().unwrap() * 1e6 - micros as f64).abs() < 0.1, "{text}");
        }
    }

    #[test]
    fn a_duration_counts_in_every_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [1, 2, 60_000, 60_001, 3_600_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let (buckets, sum) = histogram.read();
        assert_eq!(buckets, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 5]);
        assert!((sum - 3720.004).abs() < 1e-6, "{sum}");
    }
}
