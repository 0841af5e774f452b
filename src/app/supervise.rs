//! What a service manager is told of the process: one line for people, and that it lives.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::running::Running;
use super::{LAST_LINES, LAST_STEPS};
use crate::admin::control::Outcome;
use crate::config::process::Shutdown;

/// Whoever feels a pulse asks for a beat, and gets it.
type Beat = oneshot::Sender<()>;

/// The task that owns the configuration, as far as it answers. What answers for it runs in that
/// very task, so that nothing answers while something blocks it.
#[derive(Debug)]
pub(super) struct Pulse(mpsc::Receiver<Beat>);

/// Feels a [`Pulse`], from a task of the runtime's workers.
#[derive(Clone, Debug)]
pub(super) struct Probe(mpsc::Sender<Beat>);

impl Pulse {
    /// A pulse, and who feels it.
    pub(super) fn begin() -> (Self, Probe) {
        let (probe, pulse) = mpsc::channel(1);
        (Self(pulse), Probe(probe))
    }

    /// Beats when asked to, without end.
    pub(super) async fn beat(mut self) -> Infallible {
        while let Some(beat) = self.0.recv().await {
            // Who asked need not wait any more.
            let _ = beat.send(());
        }
        std::future::pending().await
    }
}

impl Probe {
    /// Waits for a beat; `false` when there will be none.
    pub(super) async fn feel(&self) -> bool {
        let (beat, felt) = oneshot::channel();
        self.0.send(beat).await.is_ok() && felt.await.is_ok()
    }
}

/// One line about what runs.
pub(super) fn summary(running: &Running) -> String {
    let generation = running.generation();
    let last = running.last.get();
    let is_rejected = last.is_some_and(|last| matches!(last.outcome, Outcome::Rejected { .. }));
    spell(generation.config.sites.len(), generation.number, is_rejected)
}

fn spell(sites: usize, generation: u64, is_rejected: bool) -> String {
    let plural = if sites == 1 { "" } else { "s" };
    let rejected = if is_rejected { "; the last reload was rejected, see the log" } else { "" };
    format!("serving {sites} site{plural}, generation {generation}{rejected}")
}

/// How long the end of the process can take.
pub(super) fn longest_end(shutdown: Shutdown) -> Duration {
    // After the grace: those that were told to end in `finish`, those that are cut, the background.
    shutdown.delay + shutdown.grace + 4 * LAST_STEPS + LAST_LINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pulse_is_felt_only_while_its_task_runs() {
        let (pulse, probe) = Pulse::begin();
        let felt = async {
            assert!(probe.feel().await);
            assert!(probe.feel().await);
        };
        tokio::select! {
            never = pulse.beat() => match never {},
            () = felt => {}
        }
        assert!(!probe.feel().await, "the task is gone");

        let (_blocked, probe) = Pulse::begin();
        let felt = tokio::time::timeout(Duration::from_millis(10), probe.feel()).await;
        assert!(felt.is_err(), "it does not come to its answers");
    }

    #[test]
    fn the_status_says_what_runs_and_that_a_reload_was_rejected() {
        assert_eq!(spell(1, 1, false), "serving 1 site, generation 1");
        let wanted = "serving 0 sites, generation 3; the last reload was rejected, see the log";
        assert_eq!(spell(0, 3, true), wanted);
    }
}
