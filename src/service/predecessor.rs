//! The gateway in whose place this process is started: an older one that upgrades.
//!
//! Answers "who hands us sockets, how does it learn that we serve, and when are we alone?". The
//! sockets come as systemd hands them over (sd_listen_fds(3)); beside them is one connection to the
//! older process.
//!
//! # Over that connection
//! We say `ready VERSION`, or `failed` and why, each as one line; then it says a line when all is ours.
//! It closes the connection when it goes on without us, or ends. What both sides say is the same in
//! every version.
//!
//! # Why a variable of our own
//! `LISTEN_PID` is to be our number, which nobody knows before we are there. So the older process
//! says its own, which we compare with that of our parent.

use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, getpgid, setpgid};
use tokio::io::AsyncReadExt as _;

/// Holds `PID:CONNECTION:STDERR`: the older process, and the descriptors of the connection to it and
/// of what is to be our standard error.
pub(super) const VARIABLE: &str = "WARDGATE_UPGRADE";

/// What precedes the version, once we serve.
pub(super) const READY: &str = "ready ";

/// What precedes the reason, when we shall not.
pub(super) const FAILED: &str = "failed ";

/// The gateway in whose place this process is started.
#[derive(Debug)]
pub(super) struct Predecessor {
    connection: UnixStream,
    /// Until then our standard error is a pipe to it, for what is printed before there is a log.
    stderr: Option<OwnedFd>,
    /// The process group it is in: a terminal, and many a supervisor, speaks to all of that.
    group: Option<Pid>,
}

impl Predecessor {
    /// The one that the environment names. Its sockets are ours then.
    ///
    /// # Errors
    /// When that is not our parent: it is gone, and nobody waits for us.
    ///
    /// # Safety
    /// As [`super::Manager::from_environment`].
    #[expect(unsafe_code, reason = "descriptors come as numbers, and variables are changed")]
    pub(super) unsafe fn from_environment() -> io::Result<Option<Self>> {
        let Ok(text) = std::env::var(VARIABLE) else { return Ok(None) };
        // SAFETY: the caller says that no other thread runs.
        unsafe { std::env::remove_var(VARIABLE) };
        let (parent, connection, stderr) = match parse(&text) {
            Some(read) if read.0 == std::os::unix::process::parent_id() => read,
            _ => {
                let text = format!("{VARIABLE}={text} names no parent of this process");
                return Err(io::Error::other(text));
            }
        };
        // SAFETY: our parent has put these descriptors there for us, and the caller says that nobody
        // has used any yet.
        let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
        // Copies, which unlike what is inherited are closed in programs that we start.
        let connection = UnixStream::from(own(connection)).try_clone()?;
        let stderr = Some(own(stderr).try_clone()?);
        // SAFETY: the caller says that no other thread runs.
        unsafe {
            std::env::set_var("LISTEN_PID", std::process::id().to_string());
        }
        let group = getpgid(i32::try_from(parent).ok().and_then(Pid::from_raw)).ok();
        Ok(Some(Self { connection, stderr, group }))
    }

    /// Has standard error go where it is to go from now on.
    pub(super) fn release_stderr(&mut self) {
        if let Some(stderr) = self.stderr.take()
            && let Err(error) = rustix::stdio::dup2_stderr(&stderr)
        {
            // It stays a pipe, and what is said reaches nobody once the older process has ended.
            eprintln!("wardgate: cannot turn to the standard error of the process before: {error}");
        }
    }

    /// Says that we serve.
    ///
    /// # Errors
    /// When there is nobody left to tell.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        self.connection.write_all(format!("{READY}{}\n", env!("CARGO_PKG_VERSION")).as_bytes())
    }

    /// Says why we shall not.
    pub(super) fn failed(&self, reason: &str) {
        // Without anybody left to tell, it is in the log.
        let _ = (&self.connection).write_all(format!("{FAILED}{reason}\n").as_bytes());
    }

    /// Waits until all is ours. False when the older process is gone without a word.
    pub(super) async fn handed_over(self) -> bool {
        let connection = self.connection.set_nonblocking(true);
        let connection =
            connection.and_then(|()| tokio::net::UnixStream::from_std(self.connection));
        let is_told = match connection {
            Ok(mut connection) => matches!(connection.read(&mut [0]).await, Ok(1)),
            Err(_) => false,
        };
        if let (true, Some(group)) = (is_told, self.group) {
            // Until here a group of our own let us be ended with all that we might have started. Fails
            // only when the older one has ended meanwhile, and nobody else is in its group.
            let _ = setpgid(None, Some(group));
        }
        is_told
    }
}

fn parse(text: &str) -> Option<(u32, i32, i32)> {
    let mut parts = text.split(':');
    let (parent, connection, stderr) = (parts.next()?, parts.next()?, parts.next()?);
    let descriptor = |text: &str| text.parse().ok().filter(|number| *number > 2);
    let read = (parent.parse().ok()?, descriptor(connection)?, descriptor(stderr)?);
    (parts.next().is_none() && read.1 != read.2).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_read() {
        assert_eq!(parse("17:5:6"), Some((17, 5, 6)));
        for bad in ["", "17", "17:5", "17:5:6:7", "17:5:5", "17:2:6", "17:5:-1", "x:5:6", "17:5:6 "]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
