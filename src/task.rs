//! Background work: every task has a name, an owner and a way to be told to stop.
//!
//! Answers "what is still running, and how do we wait for it?". Called by everything that starts a
//! task; [`Tasks::finish`] is called once, at the end of the process or of a generation.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Tasks with one owner.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// What `stop` says, for those who would ask it at every step.
    is_stopped: Arc<AtomicBool>,
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The signal that these tasks are told to stop by.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Starts a task that ends by itself or when its token fires. `name` is for debugging.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task.instrument(tracing::trace_span!("task", name)));
    }

    /// Starts a task that belongs to one connection; there are many of them and they are not
    /// traced by name. [`stop`](Self::stop) drops it where it stands.
    pub fn spawn_connection<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let is_stopped = Arc::clone(&self.is_stopped);
        self.tracker.spawn(until_stopped(Box::pin(task), self.stop.clone(), is_stopped));
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Tells all tasks to stop, and drops those of connections.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// Waits for all tasks to end, at most `limit`. Returns how many are left.
    pub async fn finish(&self, limit: Duration) -> usize {
        self.tracker.close();
        // What is left is what the caller wants to know, in time or not.
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.tracker.len()
    }
}

/// Runs `task` until `is_stopped` is set.
///
/// The token only wakes the task and is asked once: it takes a lock that all connections share,
/// and a task's waker stays the same.
///
/// In a box, since an `async fn` would have room for it twice: as it came, and where it is pinned.
async fn until_stopped<F: Future<Output = ()>>(
    mut task: Pin<Box<F>>,
    stop: CancellationToken,
    is_stopped: Arc<AtomicBool>,
) {
    let mut stop = pin!(stop.cancelled_owned());
    let mut is_watching = false;
    poll_fn(|cx| {
        let was_watching = std::mem::replace(&mut is_watching, true);
        let is_late = !was_watching && stop.as_mut().poll(cx).is_ready();
        if is_late || is_stopped.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        task.as_mut().poll(cx)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says when it is dropped.
    struct Guard(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.take().map(|sender| sender.send(()));
        }
    }

    #[tokio::test]
    async fn stopping_drops_connections_where_they_stand() {
        let tasks = Tasks::new();
        let (started, begun) = tokio::sync::oneshot::channel();
        let (sender, dropped) = tokio::sync::oneshot::channel();
        let guard = Guard(Some(sender));
        tasks.spawn_connection(async move {
            let _guard = guard;
            let _ = started.send(());
            std::future::pending::<()>().await;
        });
        begun.await.unwrap();
        assert_eq!(tasks.finish(Duration::from_millis(10)).await, 1, "it does not end by itself");
        tasks.stop();
        dropped.await.unwrap();
        assert_eq!(tasks.finish(Duration::from_secs(30)).await, 0);
    }

    #[tokio::test]
    async fn a_connection_that_comes_after_the_stop_does_not_begin() {
        let tasks = Tasks::new();
        tasks.stop();
        tasks.spawn_connection(std::future::pending());
        assert_eq!(tasks.finish(Duration::from_secs(30)).await, 0);
    }
}
