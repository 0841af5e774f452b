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

/// An upgrade that has succeeded, and of which nobody has been told.
pub(super) struct Succession {
    request: Upgrade,
    upgraded: Upgraded,
    successor: Successor,
    began: Instant,
}

impl Running {
    /// Does what `request` asks for. Answers it unless another process has taken over, which is
    /// returned then: nothing takes that back. Dropped before its end it has done nothing.
    pub(super) async fn upgrade(
        &mut self,
        request: Upgrade,
        manager: &Manager,
        is_waiting: bool,
    ) -> Option<Succession> {
        let (reason, wish) = (request.reason, request.wish.clone());
        let began = Instant::now();
        let outcome = match is_waiting {
            // Whoever has started us has not made way yet.
            true => Err(UpgradeError::Busy),
            false => self.succeed(reason, wish, manager).await,
        };
        match outcome {
            // From here on nothing is waited for: a stop would end this as if it had come to nothing.
            Ok((upgraded, successor)) => Some(Succession { request, upgraded, successor, began }),
            Err(error) => {
                self.shared.metrics.upgraded(false);
                let output = match &error {
                    UpgradeError::NotReady { output, .. } => config::without_excerpts(output),
                    _ => String::new(),
                };
                let seconds = began.elapsed().as_secs_f64();
                let (cause, output) = (&error as &dyn Error, output.trim_end());
                tracing::error!(
                    reason,
                    error = cause,
                    output,
                    seconds,
                    "did not upgrade, goes on serving"
                );
                request.settle(Err(error));
                None
            }
        }
    }

    /// Accepts no more, and answers who asked for the upgrade.
    pub(super) async fn step_back(&mut self, succession: Succession) -> Successor {
        let Succession { request, upgraded, successor, began } = succession;
        // Before anybody is told: who asks next is to meet the other process.
        self.stop_accepting().await;
        let (reason, seconds) = (request.reason, began.elapsed().as_secs_f64());
        let (pid, version) = (upgraded.pid, &upgraded.version);
        let output = config::without_excerpts(&successor.printed());
        match output.trim_end() {
            "" => {}
            output => tracing::warn!(pid, output, "what the new process has printed"),
        }
        tracing::info!(reason, pid, %version, seconds, "upgraded");
        request.settle(Ok(upgraded));
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
                // At once, for nobody speaks to the service manager until it has heard.
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
