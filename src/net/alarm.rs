//! A timer that is set often and rings seldom.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

/// A timer for deadlines that keep moving away, such as "75 s after the last byte".
///
/// The runtime's timer is armed for some moment that is not after the deadline; whether the
/// deadline has moved is looked at only when it rings. Progress therefore costs no timer
/// operation, and a connection that never waits owns no timer.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once `deadline` has passed; otherwise the task is woken at or before it.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if tokio::time::Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_away_rings_at_its_last_place() {
        let mut alarm = Alarm::default();
        let start = tokio::time::Instant::now();
        let first = start + Duration::from_secs(1);
        let moved = start + Duration::from_secs(5);
        poll_fn(|cx| {
            assert!(alarm.poll(cx, first.into_std()).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, moved.into_std())).await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_comes_nearer_rings_there() {
        let mut alarm = Alarm::default();
        let start = tokio::time::Instant::now();
        poll_fn(|cx| {
            assert!(alarm.poll(cx, (start + Duration::from_secs(9)).into_std()).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, (start + Duration::from_secs(2)).into_std())).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
