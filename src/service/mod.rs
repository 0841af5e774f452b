//! What supervises the process: systemd, the service control manager of Windows, or nothing.
//!
//! Answers "who must be told that we are ready, and who hands us sockets or tells us to stop?".
//! Made first thing in `main` and told by `app`. Never decides anything itself.
//!
//! On Linux the process may have been started in the place of an older one, which then hands over
//! sockets as systemd does, and waits to be told; and it may make way for another
//! ([`Successor`]).

#[cfg(not(target_os = "linux"))]
mod no_successor;
#[cfg(target_os = "linux")]
mod predecessor;
mod request;
#[cfg(target_os = "linux")]
mod successor;
#[cfg(target_os = "linux")]
mod systemd;
mod watchdog;
#[cfg(windows)]
pub mod windows;

use std::io;
use std::net::TcpListener;
use std::time::Duration;

#[cfg(not(target_os = "linux"))]
pub use no_successor::{Ended, HandOver, Successor, obstacle, own_program};
pub use request::{Reloads, Requester, Stops};
#[cfg(target_os = "linux")]
pub use successor::{Ended, Successor, obstacle, own_program};
#[cfg(target_os = "linux")]
pub use systemd::HandOver;
pub use watchdog::Watchdog;

/// The way to whoever supervises the process. All of it does nothing where nobody does.
#[derive(Debug)]
pub struct Manager {
    kind: Kind,
    stops: Stops,
    reloads: Reloads,
}

#[derive(Debug)]
enum Kind {
    None,
    #[cfg(target_os = "linux")]
    Systemd(systemd::Systemd),
    #[cfg(windows)]
    Windows(windows::Reporter),
}

impl Manager {
    /// Nobody supervises the process.
    #[must_use]
    pub fn none() -> Self {
        Self { kind: Kind::None, stops: Stops::none(), reloads: Reloads::none() }
    }

    /// What systemd's variables say (sd_listen_fds(3), sd_notify(3)). Those for sockets are removed,
    /// so that no child takes them for its own.
    ///
    /// # Safety
    /// No other thread may be running, because the environment is changed, and descriptors from 3 on
    /// may belong to nobody yet: they are taken over as the variables say.
    #[cfg(target_os = "linux")]
    #[must_use]
    #[expect(unsafe_code, reason = "the caller vouches for the process's state")]
    pub unsafe fn from_environment() -> Self {
        // SAFETY: the caller's promise is the one that is asked for.
        Self {
            kind: Kind::Systemd(unsafe { systemd::Systemd::from_environment() }),
            ..Self::none()
        }
    }

    /// The sockets that were handed over, non-blocking and with their names; each is given once. What
    /// does not listen on TCP is closed with a warning.
    ///
    /// # Errors
    /// When this process is started in the place of one that is gone.
    pub fn take_sockets(&mut self) -> io::Result<Vec<(String, TcpListener)>> {
        match &mut self.kind {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.take_sockets(),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether those sockets come from the gateway in whose place this process is started.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.has_predecessor(),
            _ => false,
        }
    }

    /// Has standard error go where it is to go from now on, for the log begins. What is printed before
    /// is read by the process in whose place this one is started, if it is.
    pub fn begin_log(&mut self) {
        #[cfg(target_os = "linux")]
        if let Kind::Systemd(systemd) = &mut self.kind {
            systemd.begin_log();
        }
    }

    /// Its requests to stop, given once. systemd uses signals instead.
    pub fn take_stops(&mut self) -> Stops {
        std::mem::replace(&mut self.stops, Stops::none())
    }

    /// Its requests for a reload, given once. systemd uses signals instead.
    pub fn take_reloads(&mut self) -> Reloads {
        std::mem::replace(&mut self.reloads, Reloads::none())
    }

    /// Tells the process in whose place this one is started that it serves. Returns what to wait for, if
    /// there is one: nobody else is told anything before.
    ///
    /// # Errors
    /// When that process is gone. Whoever supervised it knows nothing of this one.
    pub fn take_over(&mut self) -> io::Result<Option<HandOver>> {
        match &mut self.kind {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.take_over(),
            _ => Ok(None),
        }
    }

    /// The process with the number `pid` is the one to supervise from here on, and this one is silent.
    ///
    /// # Errors
    /// When the manager cannot be told: it would take the end of this process for that of both.
    pub async fn hand_over(&self, pid: u32) -> io::Result<()> {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.hand_over(pid).await,
            _ => {
                let _ = pid;
                Ok(())
            }
        }
    }

    /// The process serves; also how a reload ends. `status` is one line for people.
    pub fn ready(&self, status: &str) {
        match &self.kind {
            Kind::None => {}
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.ready(status),
            #[cfg(windows)]
            Kind::Windows(reporter) => reporter.ready(),
        }
        let _ = status;
    }

    /// A reload begins. It ends with [`ready`](Self::ready), whatever came of it.
    pub fn reloading(&self) {
        #[cfg(target_os = "linux")]
        if let Kind::Systemd(systemd) = &self.kind {
            systemd.reloading();
        }
    }

    /// The process drains, and ends after `limit` at the latest.
    pub fn stopping(&self, limit: Duration) {
        match &self.kind {
            Kind::None => {}
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.stopping(limit),
            #[cfg(windows)]
            Kind::Windows(reporter) => reporter.stopping(limit),
        }
        let _ = limit;
    }

    /// The process does not start. `text` is one line for people, where the manager shows one.
    pub fn failed(&self, text: &str) {
        #[cfg(target_os = "linux")]
        if let Kind::Systemd(systemd) = &self.kind {
            systemd.failed(text);
        }
        let _ = text;
    }

    /// Where the log's errors have to go besides the log; `None` where the log is enough.
    #[must_use]
    pub fn error_log(&self) -> Option<fn(&str)> {
        match &self.kind {
            #[cfg(windows)]
            Kind::Windows(_) => Some(windows::report_error),
            _ => None,
        }
    }

    /// The watchdog, where there is one.
    #[must_use]
    pub fn watchdog(&self) -> Option<Watchdog> {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.watchdog(),
            _ => None,
        }
    }
}
