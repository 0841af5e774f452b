//! Signs of life, for a manager that ends a process which gives none.

use std::fmt;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Somebody who waits for signs of life.
pub struct Watchdog {
    /// How long it waits for the next.
    period: Duration,
    sign: Box<dyn Fn() + Send + Sync>,
}

impl Watchdog {
    /// Waits for `period`; `sign` gives the sign.
    #[must_use]
    pub fn new(period: Duration, sign: impl Fn() + Send + Sync + 'static) -> Self {
        Self { period, sign: Box::new(sign) }
    }

    /// Gives signs of life until `stop`: twice in each period, as sd_watchdog_enabled(3) recommends, but
    /// only after `is_alive` has come to its end and said so.
    pub async fn feed<Alive>(self, is_alive: impl Fn() -> Alive, stop: CancellationToken)
    where
        Alive: Future<Output = bool>,
    {
        // An interval of nothing would panic.
        let mut tick = tokio::time::interval((self.period / 2).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match stop.run_until_cancelled(is_alive()).await {
                Some(true) => (self.sign)(),
                Some(false) => {}
                None => return,
            }
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").field("period", &self.period).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_answer_gives_no_sign_of_life() {
        type Answer = Pin<Box<dyn Future<Output = bool>>>;
        let period = Duration::from_secs(30);
        for (case, answer, wanted) in [
            ("it lives", (|| Box::pin(async { true })) as fn() -> Answer, 20..=21),
            ("it says no", || Box::pin(async { false }), 0..=0),
            ("it hangs", || Box::pin(std::future::pending()), 0..=0),
        ] {
            let signs = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&signs);
            let sign = move || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            let feed = Watchdog::new(period, sign).feed(answer, CancellationToken::new());
            assert!(
                tokio::time::timeout(10 * period, feed).await.is_err(),
                "{case}: until the end"
            );
            let signs = signs.load(Ordering::Relaxed);
            assert!(wanted.contains(&signs), "{case}: {signs}");
        }
    }
}
