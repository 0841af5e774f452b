//! What supervises the process: systemd, the service control manager of Windows, or nothing.
//!
//! Answers "who must be told that we are ready, and who hands us sockets or tells us to stop?".
//! Made first thing in `main` and told by `app`. Never decides anything itself.

#[cfg(target_os = "linux")]
mod systemd;
#[cfg(windows)]
pub mod windows;

use std::net::TcpListener;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// What a service manager may want of a running process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// Stop; the text says how it was asked for. The first drains, the second cuts.
    Stop(&'static str),
    /// Read the configuration again.
    Reload,
}

/// The way to whoever supervises the process. All of it does nothing where nobody does.
#[derive(Debug)]
pub struct Manager(Kind);

#[derive(Debug)]
enum Kind {
    None,
    #[cfg(target_os = "linux")]
    Systemd(systemd::Systemd),
    #[cfg(windows)]
    Windows(windows::Control),
}

impl Manager {
    /// Nobody supervises the process.
    #[must_use]
    pub fn none() -> Self {
        Self(Kind::None)
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
        Self(Kind::Systemd(unsafe { systemd::Systemd::from_environment() }))
    }

    /// The sockets that were handed over, non-blocking; each is given once. What does not listen on
    /// TCP is closed with a warning.
    pub fn take_sockets(&mut self) -> Vec<TcpListener> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.take_sockets(),
            _ => Vec::new(),
        }
    }

    /// The process serves; also how a reload ends. `status` is one line for people.
    pub fn ready(&self, status: &str) {
        match &self.0 {
            Kind::None => {}
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.ready(status),
            #[cfg(windows)]
            Kind::Windows(control) => control.ready(),
        }
        let _ = status;
    }

    /// A reload begins. It ends with [`ready`](Self::ready), whatever came of it.
    pub fn reloading(&self) {
        #[cfg(target_os = "linux")]
        if let Kind::Systemd(systemd) = &self.0 {
            systemd.reloading();
        }
    }

    /// The process drains, and ends after `limit` at the latest.
    pub fn stopping(&self, limit: Duration) {
        match &self.0 {
            Kind::None => {}
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.stopping(limit),
            #[cfg(windows)]
            Kind::Windows(control) => control.stopping(limit),
        }
    }

    /// One line for people, where the manager shows one.
    pub fn status(&self, text: &str) {
        #[cfg(target_os = "linux")]
        if let Kind::Systemd(systemd) = &self.0 {
            systemd.status(text);
        }
        let _ = text;
    }

    /// The process does not start, or ends because of an error. `text` is for people.
    pub fn failed(&self, text: &str) {
        match &self.0 {
            Kind::None => {}
            #[cfg(target_os = "linux")]
            Kind::Systemd(systemd) => systemd.status(text),
            #[cfg(windows)]
            Kind::Windows(_) => windows::report_error(text),
        }
        let _ = text;
    }

    /// The next thing that the manager wants. systemd uses signals instead. Can be dropped and asked
    /// again without losing one.
    pub async fn request(&mut self) -> Request {
        #[cfg(windows)]
        if let Kind::Windows(control) = &mut self.0 {
            return control.request().await;
        }
        std::future::pending().await
    }

    /// Shows the watchdog, where there is one, that the runtime runs tasks; ends with `stop`.
    pub fn keep_watchdog(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        #[cfg(target_os = "linux")]
        let watchdog = match &self.0 {
            Kind::Systemd(systemd) => systemd.watchdog(),
            Kind::None => None,
        };
        async move {
            #[cfg(target_os = "linux")]
            if let Some((period, notifier)) = watchdog {
                systemd::keep_watchdog(period, notifier, stop).await;
            }
            #[cfg(not(target_os = "linux"))]
            drop(stop);
        }
    }
}
