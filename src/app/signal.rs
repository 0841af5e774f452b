//! What the system and the service manager tell the process.
//!
//! SIGUSR2 asks for an upgrade, as with other gateways that can be replaced while they run; where
//! there are no upgrades it is left alone.

use std::io;

use tokio_util::sync::CancellationToken;

use crate::admin::control::Control;
use crate::admin::upgrade::{UpgradeError, Wish};
use crate::service;

/// Requests to stop, one after the other: the first drains, the second cuts.
#[derive(Debug)]
pub struct StopRequests {
    signals: StopSignals,
    manager: service::Stops,
}

impl StopRequests {
    /// Takes the signals over from the system, and listens to `manager` as well.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(manager: service::Stops) -> io::Result<Self> {
        Ok(Self { signals: StopSignals::listen()?, manager })
    }

    /// The next request, and what it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            reason = self.signals.next() => reason,
            reason = self.manager.next() => reason,
        }
    }
}

#[cfg(unix)]
#[derive(Debug)]
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct StopSignals {
    interrupt: tokio::signal::windows::CtrlC,
    broken: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl StopSignals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self {
            interrupt: ctrl_c()?,
            broken: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.broken.recv() => "Ctrl-Break",
            _ = self.close.recv() => "the console closed",
            _ = self.shutdown.recv() => "the system shuts down",
        }
    }
}

/// Requests to read the configuration again: SIGHUP, which Windows does not have, and those of the
/// service manager.
#[derive(Debug)]
pub struct ReloadRequests {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
    manager: service::Reloads,
}

impl ReloadRequests {
    /// Takes SIGHUP over from the system, and listens to `manager` as well.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(manager: service::Reloads) -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
            manager,
        })
    }

    /// Asks for a reload at every request until `stop`. Requests that come during one are one. When the
    /// process drains, nothing is reloaded any more, but `reopen` is called: whoever moves a log file away
    /// asks for a reload.
    pub async fn pass_on(mut self, control: Control, reopen: impl Fn(), stop: CancellationToken) {
        while let Some(reason) = stop.run_until_cancelled(self.next()).await {
            if let Some(Err(_)) = stop.run_until_cancelled(control.reload(reason)).await {
                reopen();
            }
        }
    }

    #[cfg(unix)]
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            // Nothing comes any more once the signal's stream has ended, which it never does.
            _ = self.hangup.recv() => "SIGHUP",
            () = self.manager.next() => "service",
        }
    }

    #[cfg(windows)]
    async fn next(&mut self) -> &'static str {
        self.manager.next().await;
        "service"
    }
}

/// Requests to start another process in the place of this one.
#[derive(Debug)]
pub struct UpgradeRequests {
    #[cfg(target_os = "linux")]
    signal: tokio::signal::unix::Signal,
}

impl UpgradeRequests {
    /// Takes SIGUSR2 over from the system.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(target_os = "linux")]
            signal: {
                use tokio::signal::unix::{SignalKind, signal};
                signal(SignalKind::user_defined2())?
            },
        })
    }

    /// Asks for an upgrade at every request until `stop`. Those that come during one are lost, as one
    /// at a time is enough. The log tells what became of it.
    pub async fn pass_on(mut self, control: Control, stop: CancellationToken) {
        while stop.run_until_cancelled(self.next()).await.is_some() {
            let upgrade = control.upgrade("SIGUSR2", Wish::default());
            match stop.run_until_cancelled(upgrade).await {
                Some(Err(UpgradeError::Stopping)) | None => return,
                Some(Err(UpgradeError::Busy)) => {
                    tracing::warn!(reason = "SIGUSR2", "another upgrade is under way");
                }
                Some(Ok(_) | Err(_)) => {}
            }
        }
    }

    #[cfg(target_os = "linux")]
    async fn next(&mut self) {
        // Nothing comes any more once the signal's stream has ended, which it never does.
        let _ = self.signal.recv().await;
    }

    #[cfg(not(target_os = "linux"))]
    async fn next(&mut self) {
        std::future::pending().await
    }
}
