//! An upgrade: another process starts with the sockets of this one, and this one drains once that
//! one serves.
//!
//! Until then this process serves everything, and goes on if nothing comes of it. The sockets are the
//! same ones in both, so that a connection which nobody has accepted yet is accepted by either.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::running::Running;
use crate::admin::upgrade::{Upgrade, UpgradeError, Upgraded, Wish};
use crate::config;
use crate::config::process::Shutdown;
use crate::service::{self, Ended, Manager, Successor};

/// How long the other process has to have served before this one makes way: what fails with the first
/// requests fails while both accept.
const TRIAL: Duration = Duration::from_secs(1);

/// Longest wait for clients that have sent nothing since the other process serves. Most send their
/// next request within it, which is answered, and come again elsewhere.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Running {
    /// Does what `request` asks for, and answers it. Returns the process that has taken over, if one
    /// has; then this one accepts no more. Dropped before its end it has done nothing.
    pub(super) async fn upgrade(
        &mut self,
        request: Upgrade,
        manager: &Manager,
        is_waiting: bool,
    ) -> Option<Successor> {
        let (reason, wish) = (request.reason, request.wish.clone());
        let started = Instant::now();
        let outcome = match is_waiting {
            // Whoever has started us has not made way yet.
            true => Err(UpgradeError::Busy),
            false => self.succeed(reason, wish, manager).await,
        };
        let seconds = started.elapsed().as_secs_f64();
        if outcome.is_err() {
            self.shared.metrics.upgraded(false);
        }
        let (outcome, successor) = match outcome {
            Ok((upgraded, successor)) => {
                // Before anybody is told: who asks next is to meet the other process.
                self.stop_accepting().await;
                let (pid, version) = (upgraded.pid, &upgraded.version);
                tracing::info!(reason, pid, %version, seconds, "upgraded");
                (Ok(upgraded), Some(successor))
            }
            Err(error) => {
                let output = match &error {
                    UpgradeError::NotReady { output, .. } => config::without_excerpts(output),
                    _ => String::new(),
                };
                let (cause, output) = (&error as &dyn Error, output.trim_end());
                tracing::error!(
                    reason,
                    error = cause,
                    output,
                    seconds,
                    "did not upgrade, goes on serving"
                );
                (Err(error), None)
            }
        };
        request.settle(outcome);
        successor
    }

    /// Starts another process and waits until it has shown that it serves.
    async fn succeed(
        &self,
        reason: &'static str,
        wish: Wish,
        manager: &Manager,
    ) -> Result<(Upgraded, Successor), UpgradeError> {
        if let Some(obstacle) = service::obstacle() {
            return Err(UpgradeError::Unavailable(obstacle));
        }
        let program = match wish.program {
            Some(program) => program,
            None => service::own_program().map_err(|source| not_started("wardgate", source))?,
        };
        let is_watched = manager.watchdog().is_some();
        let mut successor = self.start_successor(program.clone(), is_watched).await?;
        let pid = successor.pid();
        tracing::info!(reason, pid, path = %program.display(), "starting another process in the place of this one");
        let outcome = match timeout(wish.patience, successor.ready()).await {
            Ok(Ok(version)) => match timeout(TRIAL, successor.ended()).await {
                Ok(status) => Err(format!("it served, and ended right away ({status})")),
                Err(_) => Ok(version),
            },
            Ok(Err(ended)) => Err(cause(ended)),
            Err(_) => Err(format!("it was not ready within {} s", wish.patience.as_secs())),
        };
        let outcome = match outcome {
            Ok(version) => match manager.hand_over(pid).await {
                Ok(()) => Ok(version),
                Err(error) => Err(format!("the service manager cannot be told of it: {error}")),
            },
            Err(why) => Err(why),
        };
        match outcome {
            Ok(version) => {
                successor.print_on();
                successor.hand_over();
                Ok((Upgraded { pid, version }, successor))
            }
            Err(why) => {
                let output = successor.printed();
                successor.kill().await;
                Err(UpgradeError::NotReady { why, output })
            }
        }
    }

    async fn start_successor(
        &self,
        program: PathBuf,
        is_watched: bool,
    ) -> Result<Successor, UpgradeError> {
        let fault = |source| UpgradeError::NotStarted { program: program.clone(), source };
        let sockets = self.sockets_to_pass_on().map_err(fault)?;
        let path = program.clone();
        // With much memory a fork takes its time.
        let start = move || Successor::start(&path, sockets, is_watched);
        match tokio::task::spawn_blocking(start).await {
            Ok(started) => started.map_err(fault),
            Err(_) => Err(UpgradeError::Stopping),
        }
    }

    /// Leaves everything to `successor` but what is in flight, and lets that end within
    /// `shutdown.grace`.
    pub(super) async fn make_way(&mut self, successor: Successor, shutdown: Shutdown) {
        self.background.spawn("successor", watch(successor, self.background.stop_token()));
        let began = Instant::now();
        self.caretakers.stop();
        self.give_way((shutdown.grace / 2).min(LONGEST_WAIT)).await;
        self.finish(shutdown.grace.saturating_sub(began.elapsed())).await;
    }
}

/// Why it did not come to serve.
fn cause(ended: Ended) -> String {
    let Ended { status, reason } = ended;
    reason.unwrap_or_else(|| format!("it ended before it served ({status})"))
}

fn not_started(program: &str, source: std::io::Error) -> UpgradeError {
    UpgradeError::NotStarted { program: program.into(), source }
}

/// Says so if the process that has taken over fails while this one still drains: nobody serves then.
async fn watch(mut successor: Successor, stop: CancellationToken) {
    let Some(status) = stop.run_until_cancelled(successor.ended()).await else { return };
    let pid = successor.pid();
    if status.success() {
        tracing::info!(pid, "the process that has taken over has ended");
    } else {
        tracing::error!(pid, outcome = %status, "the process that has taken over has failed");
    }
}
