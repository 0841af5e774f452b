//! What a service manager wants of the running process, for managers that call us instead of sending
//! signals.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Requests to stop. The first drains, the second cuts.
#[derive(Debug)]
pub struct Stops(Option<UnboundedReceiver<&'static str>>);

/// Requests to read the configuration again. Those that nobody has asked for yet are one.
#[derive(Debug)]
pub struct Reloads(Option<Arc<Notify>>);

/// The manager's ends of both.
#[derive(Clone, Debug)]
pub struct Requester {
    stops: UnboundedSender<&'static str>,
    reloads: Arc<Notify>,
}

impl Requester {
    /// The manager's ends, and the process's.
    #[must_use]
    pub fn channel() -> (Self, Stops, Reloads) {
        let (stops, wanted) = unbounded_channel();
        let reloads = Arc::new(Notify::new());
        let process = Reloads(Some(Arc::clone(&reloads)));
        (Self { stops, reloads }, Stops(Some(wanted)), process)
    }

    /// Asks to stop; `reason` says how the manager was asked, for the log.
    pub fn stop(&self, reason: &'static str) {
        // Nobody listens any more when the process is about to end.
        let _ = self.stops.send(reason);
    }

    /// Asks for a reload.
    pub fn reload(&self) {
        self.reloads.notify_one();
    }
}

impl Stops {
    /// Nobody asks.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The next request, and what it was. Can be dropped and asked again without losing one.
    pub async fn next(&mut self) -> &'static str {
        if let Some(stops) = &mut self.0
            && let Some(reason) = stops.recv().await
        {
            return reason;
        }
        // There is no manager, or it will not ask again.
        std::future::pending().await
    }
}

impl Reloads {
    /// Nobody asks.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The next request. Can be dropped and asked again without losing one.
    pub async fn next(&mut self) {
        match &self.0 {
            Some(reloads) => reloads.notified().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn each_stop_counts_and_reloads_in_between_are_one() {
        let (manager, mut stops, mut reloads) = Requester::channel();
        assert_eq!(stops.next().now_or_never(), None);
        for _ in 0..2 {
            manager.stop("service stop");
            manager.reload();
        }
        assert_eq!(stops.next().now_or_never(), Some("service stop"));
        assert_eq!(stops.next().now_or_never(), Some("service stop"));
        assert_eq!(reloads.next().now_or_never(), Some(()));
        assert_eq!(reloads.next().now_or_never(), None);
        drop(manager);
        assert_eq!(stops.next().now_or_never(), None, "nobody left to ask is no request");
    }
}
