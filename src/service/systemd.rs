//! systemd: notification (sd_notify(3)), watchdog (sd_watchdog_enabled(3)) and handed-over sockets
//! (sd_listen_fds(3)).

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::{Socket, Type};

use super::Watchdog;
use super::predecessor::Predecessor;

/// Between two tries to say what has to be heard, and how many there are: a manager that is busy has
/// room for ten words.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 250;

/// What systemd handed over, and when it wants to hear from us.
#[derive(Debug)]
pub(super) struct Systemd {
    sockets: Vec<(String, Socket)>,
    /// Why there are none although the variables promise some.
    fault: Option<io::Error>,
    watchdog: Option<Duration>,
    notifier: Notifier,
    /// In whose place this process is started.
    predecessor: Option<Predecessor>,
    /// Why there is none although the variable names one.
    orphaned: Option<io::Error>,
}

/// The word of the process before that everything is handed over.
#[derive(Debug)]
pub struct HandOver {
    predecessor: Predecessor,
    notifier: Notifier,
    is_watched: bool,
}

impl HandOver {
    /// Waits for it; false when that process is gone without a word. The service manager hears from
    /// this process from here on.
    pub async fn wait(self) -> bool {
        let is_told = self.predecessor.handed_over().await;
        self.notifier.silence(false);
        if self.is_watched {
            // The last sign of the other process may be half a period old, and ours so far were not heard.
            self.notifier.notify(&[NotifyState::Watchdog]);
        }
        is_told
    }
}

/// The way to `NOTIFY_SOCKET`; there is none where that is not set.
#[derive(Clone, Debug)]
struct Notifier {
    address: Option<OsString>,
    /// Another process is the unit's main one: it is the one that systemd listens to.
    is_silent: Arc<AtomicBool>,
}

impl Systemd {
    /// Takes the descriptors over.
    ///
    /// # Safety
    /// As [`super::Manager::from_environment`].
    #[expect(unsafe_code, reason = "descriptors come as numbers, and variables are removed")]
    pub(super) unsafe fn from_environment() -> Self {
        // SAFETY: the caller's promise is the one that is asked for.
        let (predecessor, orphaned) = match unsafe { Predecessor::from_environment() } {
            Ok(predecessor) => (predecessor, None),
            Err(error) => (None, Some(error)),
        };
        let watchdog = sd_notify::watchdog_enabled();
        // SAFETY: the caller says that no other thread runs.
        let (sockets, fault) = match unsafe { sd_notify::listen_fds_with_names_and_unset_env() } {
            Ok(numbers) => {
                let own = |(number, name)| {
                    // SAFETY: the crate has seen that it is open, and the caller says that nobody
                    // else owns it.
                    (name, Socket::from(unsafe { OwnedFd::from_raw_fd(number) }))
                };
                (numbers.map(own).collect(), None)
            }
            Err(error) => (Vec::new(), Some(error)),
        };
        let notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET"));
        notifier.silence(predecessor.is_some());
        Self { sockets, fault, watchdog, notifier, predecessor, orphaned }
    }

    pub(super) fn begin_log(&mut self) {
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.release_stderr();
        }
    }

    pub(super) fn take_over(&mut self) -> io::Result<Option<HandOver>> {
        let Some(mut predecessor) = self.predecessor.take() else { return Ok(None) };
        predecessor.ready()?;
        let (notifier, is_watched) = (self.notifier.clone(), self.watchdog.is_some());
        Ok(Some(HandOver { predecessor, notifier, is_watched }))
    }

    /// systemd takes the word of the main process for it, whatever `NotifyAccess=` says.
    pub(super) async fn hand_over(&self, pid: u32) -> io::Result<()> {
        let Some(address) = &self.notifier.address else { return Ok(()) };
        let text = NotifyState::MainPid(pid).to_string();
        let mut outcome = send(address, &text);
        for _ in 0..TRIES {
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(PAUSE).await;
                    outcome = send(address, &text);
                }
                _ => break,
            }
        }
        self.notifier.silence(outcome.is_ok());
        outcome
    }

    /// Whether sockets come from a gateway.
    pub(super) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    pub(super) fn take_sockets(&mut self) -> io::Result<Vec<(String, TcpListener)>> {
        if let Some(error) = self.orphaned.take() {
            return Err(error);
        }
        if let Some(error) = self.fault.take() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot use the sockets that the service manager hands over");
        }
        let usable = |(name, socket): (String, Socket)| {
            if is_tcp_listener(&socket) && socket.set_nonblocking(true).is_ok() {
                return Some((name, TcpListener::from(socket)));
            }
            tracing::warn!(name, "closed an inherited socket that does not listen on tcp");
            None
        };
        Ok(std::mem::take(&mut self.sockets).into_iter().filter_map(usable).collect())
    }

    pub(super) fn ready(&self, status: &str) {
        self.notifier.notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notifier.notify(&[NotifyState::Reloading, now]),
            Err(error) => warn(&error),
        }
    }

    /// Asks for as much time as the drain may take; without that a `TimeoutStopSec` that is shorter
    /// than it would cut.
    pub(super) fn stopping(&self, limit: Duration) {
        let limit = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        self.notifier.notify(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(limit),
            NotifyState::Status("finishing what is in flight"),
        ]);
    }

    pub(super) fn failed(&self, text: &str) {
        self.notifier.notify(&[NotifyState::Status(&one_line(text))]);
        if let Some(predecessor) = &self.predecessor {
            predecessor.failed(text);
        }
    }

    /// The watchdog, if the unit has one for this process.
    pub(super) fn watchdog(&self) -> Option<Watchdog> {
        let notifier = self.notifier.clone();
        Some(Watchdog::new(self.watchdog?, move || notifier.notify(&[NotifyState::Watchdog])))
    }
}

impl Notifier {
    fn new(address: Option<OsString>) -> Self {
        Self { address, is_silent: Arc::default() }
    }

    fn silence(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Release);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        if self.is_silent.load(Ordering::Acquire) {
            return;
        }
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        if let Err(error) = send(address, &lines.join("\n")) {
            warn(&error);
        }
    }
}

/// Connects anew each time, since systemd makes its socket anew when it is replaced itself. The
/// crate's own function knows no abstract addresses.
fn send(address: &OsStr, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Whoever does not read must not hold the runtime up.
    socket.set_nonblocking(true)?;
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

fn warn(error: &io::Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "cannot notify the service manager");
}

/// A line end would begin another variable.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_tcp_listener(socket: &Socket) -> bool {
    let is_listening = || socket.is_listener().unwrap_or(false);
    let is_internet = || socket.local_addr().is_ok_and(|address| address.as_socket().is_some());
    socket.r#type().is_ok_and(|kind| kind == Type::STREAM) && is_listening() && is_internet()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is told, and the way to it.
    fn manager(directory: &std::path::Path) -> (UnixDatagram, Notifier) {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, Notifier::new(Some(path.into_os_string())))
    }

    fn told(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 1024];
        let size = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
    }

    #[test]
    fn a_status_is_one_line_and_sets_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, notifier) = manager(directory.path());
        let systemd = Systemd {
            sockets: Vec::new(),
            fault: None,
            watchdog: None,
            notifier,
            predecessor: None,
            orphaned: None,
        };
        systemd.ready("three sites\nMAINPID=1");
        assert_eq!(told(&socket).as_deref(), Some("READY=1\nSTATUS=three sites MAINPID=1"));
        systemd.reloading();
        let text = told(&socket).unwrap();
        let since_boot = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_default();
        assert!(since_boot.parse::<u64>().is_ok(), "{text}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(systemd.hand_over(17)).unwrap();
        assert_eq!(told(&socket).as_deref(), Some("MAINPID=17"));
        systemd.stopping(Duration::from_secs(1));
        assert_eq!(told(&socket), None, "it is not the unit that stops");
        drop(socket);
        std::fs::remove_file(directory.path().join("notify")).unwrap();
        assert!(runtime.block_on(systemd.hand_over(18)).is_err(), "nobody has heard it");
    }
}
