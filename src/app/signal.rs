//! What the system tells the process.

use tokio_util::sync::CancellationToken;

use crate::admin::control::Control;

/// Requests to stop, one after the other: the first drains, the second cuts.
#[cfg(unix)]
#[derive(Debug)]
pub struct StopRequests {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopRequests {
    /// Takes SIGTERM and SIGINT over from the system.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next request, and what it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Requests to stop, one after the other: the first drains, the second cuts.
#[cfg(windows)]
#[derive(Debug)]
pub struct StopRequests {
    interrupt: tokio::signal::windows::CtrlC,
    broken: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl StopRequests {
    /// Takes the console's events over from the system.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self {
            interrupt: ctrl_c()?,
            broken: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// The next request, and what it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.broken.recv() => "Ctrl-Break",
            _ = self.close.recv() => "the console closed",
            _ = self.shutdown.recv() => "the system shuts down",
        }
    }
}

/// Requests to read the configuration again.
#[cfg(unix)]
#[derive(Debug)]
pub struct Hangups(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangups {
    /// Takes SIGHUP over from the system.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map(Self)
    }

    /// Asks for a reload at every signal until `stop`. Signals that come during one are one.
    pub async fn reload(mut self, control: Control, stop: CancellationToken) {
        while let Some(Some(())) = stop.run_until_cancelled(self.0.recv()).await {
            if let Some(Err(_)) = stop.run_until_cancelled(control.reload("SIGHUP")).await {
                return;
            }
        }
    }
}

/// Windows has no such signal.
#[cfg(windows)]
#[derive(Debug)]
pub struct Hangups;

#[cfg(windows)]
impl Hangups {
    /// Takes nothing over.
    ///
    /// # Errors
    /// Never.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Ends at once.
    pub async fn reload(self, _: Control, _: CancellationToken) {}
}
