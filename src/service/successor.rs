//! A process that is started in the place of this one, with its sockets.
//!
//! Answers "does it come up, and what did it say if not?". Called by `app` for an upgrade. The other
//! side of it is [`predecessor`](super::predecessor), which says what the two tell each other.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr};
use tokio::signal::unix::{self, SignalKind};

use super::predecessor::{FAILED, READY, VARIABLE};

/// The first descriptor that is handed over (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// What is kept of what it prints: the end.
const MOST_PRINTED: usize = 16 << 10;

/// Time for what it has said last to be read, once it has ended. Whatever it has started may keep the
/// pipes open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A process that is to take over, and is ended with this value unless it has.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    pid: u32,
    /// That one of our own has ended.
    ends: unix::Signal,
    connection: tokio::net::UnixStream,
    /// The same, to write on without waiting.
    word: UnixStream,
    stderr: ChildStderr,
    /// What it has said over the connection, and what it has printed.
    told: Vec<u8>,
    printed: Vec<u8>,
    /// It has taken over, or has ended and been waited for: its number may be another's.
    is_left_alone: bool,
}

/// It has ended before it served.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Why, if it has said so.
    pub reason: Option<String>,
}

impl Successor {
    /// Starts `program` as this one was started, with `sockets`, which have names. Blocks for the time
    /// that a fork takes; needs a runtime. `is_watched` says whether a watchdog waits for signs of life.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        program: &Path,
        sockets: Vec<(String, TcpListener)>,
        is_watched: bool,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let names: Vec<String> = sockets.iter().map(|(name, _)| name.clone()).collect();
        let mut passed: Vec<OwnedFd> =
            sockets.into_iter().map(|(_, socket)| OwnedFd::from(socket)).collect();
        passed.push(theirs.into());
        passed.push(io::stderr().as_fd().try_clone_to_owned()?);
        let numbers: Vec<i32> = (FIRST..).take(passed.len()).collect();
        let [.., connection, stderr] = numbers[..] else { return Err(io::ErrorKind::Other.into()) };
        // What the standard library opens to hear of a failed exec must not be where one of them is
        // put: while it starts, all those numbers are in use.
        let _in_use = occupy(stderr)?;
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1)).stderr(Stdio::piped());
        // What it starts in turn has our sockets as well, and is to end with it. It comes back to our own
        // group once it takes over.
        command.process_group(0);
        command.env(VARIABLE, format!("{}:{connection}:{stderr}", std::process::id()));
        command.env("LISTEN_FDS", names.len().to_string());
        if names.is_empty() {
            // No name is not the same as an empty one.
            command.env_remove("LISTEN_FDNAMES");
        } else {
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        // Whoever reads these is meant by them.
        command.env_remove("LISTEN_PID").env_remove("WATCHDOG_PID");
        if !is_watched {
            command.env_remove("WATCHDOG_USEC");
        }
        let map = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
        let mappings = passed.into_iter().zip(numbers).map(map).collect();
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        ours.set_nonblocking(true)?;
        let word = ours.try_clone()?;
        let connection = tokio::net::UnixStream::from_std(ours)?;
        let ends = unix::signal(SignalKind::child())?;
        let mut child = tokio::process::Command::from(command).spawn()?;
        let gone = || io::Error::other("the process is gone");
        let (pid, stderr) = (child.id().ok_or_else(gone)?, child.stderr.take().ok_or_else(gone)?);
        let (told, printed) = (Vec::new(), Vec::new());
        let is_left_alone = false;
        Ok(Self { child, pid, ends, connection, word, stderr, told, printed, is_left_alone })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it serves. Returns its version.
    ///
    /// # Errors
    /// [`Ended`], when it has instead.
    pub async fn ready(&mut self) -> Result<String, Ended> {
        let (mut is_told, mut is_printed) = (false, false);
        loop {
            tokio::select! {
                biased;
                more = read(&mut self.connection, &mut self.told), if !is_told => {
                    is_told = !more;
                    if let Some(version) = said(&self.told, READY) {
                        return Ok(version);
                    }
                }
                more = read(&mut self.stderr, &mut self.printed), if !is_printed => {
                    is_printed = !more;
                }
                () = end(self.pid, &mut self.ends) => {
                    let status = self.ended().await;
                    let last_words = async {
                        while read(&mut self.connection, &mut self.told).await {}
                        while read(&mut self.stderr, &mut self.printed).await {}
                    };
                    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
                    return Err(Ended { status, reason: said(&self.told, FAILED) });
                }
            }
        }
    }

    /// Waits for its end. What it has started ends with it, unless it has taken over.
    pub async fn ended(&mut self) -> ExitStatus {
        if !self.is_left_alone {
            // Its number is its own until it is waited for, whoever else is in the group.
            end(self.pid, &mut self.ends).await;
            self.kill_group();
        }
        // What was waited for already has ended.
        let status = self.child.wait().await.unwrap_or_default();
        self.is_left_alone = true;
        status
    }

    /// What it has printed before it had a log, or the end of that.
    #[must_use]
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed).into_owned()
    }

    /// Tells it that all is its own, and never ends it from here on.
    pub fn hand_over(&mut self) {
        self.is_left_alone = true;
        // If it has just ended there is nobody to tell.
        let _ = self.word.write_all(b"\n");
    }

    /// Ends it and what it has started, and waits until it has ended.
    pub async fn kill(mut self) {
        if !self.is_left_alone {
            self.kill_group();
            // Fails only when it has ended.
            let _ = self.child.start_kill();
        }
        self.ended().await;
    }

    /// Ends all of its group. It may have ended itself, and have left others there. Only before it is
    /// waited for.
    fn kill_group(&self) {
        if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // Fails only when there is nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_left_alone {
            self.kill_group();
            // Fails only when it has ended. The runtime waits for it.
            let _ = self.child.start_kill();
        }
    }
}

/// Why this process cannot make way for another without harm; `None` when it can.
#[must_use]
pub fn obstacle() -> Option<String> {
    let pid = std::process::id();
    if pid == 1 {
        return Some(
            "the gateway is process 1: the container ends with it. Start a new container instead"
                .to_owned(),
        );
    }
    let reaper = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if std::os::unix::process::parent_id() == 1 && INITS.contains(&reaper.trim()) {
        let reaper = reaper.trim();
        return Some(format!(
            "the container ends with the process that {reaper} has started, which is this one. Start a \
             new container instead"
        ));
    }
    if is_blind_main(|name| env::var(name).ok(), pid, std::os::unix::process::parent_id()) {
        return Some(
            "systemd is not told which process is the main one, and would end both: the unit needs \
             Type=notify or Type=notify-reload"
                .to_owned(),
        );
    }
    None
}

/// Whether the process `pid` is the main one of a unit whose manager cannot be told of another.
fn is_blind_main(variable: impl Fn(&str) -> Option<String>, pid: u32, parent: u32) -> bool {
    if variable("NOTIFY_SOCKET").is_some() {
        return false;
    }
    match variable("SYSTEMD_EXEC_PID") {
        Some(main) => main == pid.to_string(),
        // systemd before 248 does not say. What a unit's processes start has the same number of
        // invocation, but another parent.
        None => variable("INVOCATION_ID").is_some() && parent == 1,
    }
}

/// What containers have as process 1 that ends with what it has started.
const INITS: [&str; 4] = ["tini", "docker-init", "dumb-init", "catatonit"];

/// The program of this process, from where it lies by now.
///
/// The path by which it was called goes first, for it may be a link that leads to a newer one by now;
/// then where the kernel knows it to be, which after an update says that the old file is gone.
///
/// # Errors
/// When there is none any more.
pub fn own_program() -> io::Result<PathBuf> {
    let called = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1
        && let Ok(path) = std::path::absolute(&called)
        && is_program(&path)
    {
        return Ok(path);
    }
    let path = env::current_exe()?;
    let bytes = path.as_os_str().as_bytes();
    let path = PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(GONE).unwrap_or(bytes)));
    if is_program(&path) {
        return Ok(path);
    }
    let text = format!("{} is gone: name the new program with --binary", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// What the kernel appends to the path of a file that was removed or replaced (proc_pid_exe(5)).
const GONE: &[u8] = b" (deleted)";

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Waits until our child with this number has ended, and leaves its status to be waited for. `ends` has
/// to be older than the child.
async fn end(pid: u32, ends: &mut unix::Signal) {
    let Some(child) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    // An error says that it is no child of ours any more.
    while let Ok(None) = waitid(WaitId::Pid(child), options) {
        if ends.recv().await.is_none() {
            return;
        }
    }
}

/// Keeps all descriptors up to `last` in use.
fn occupy(last: i32) -> io::Result<Vec<OwnedFd>> {
    let mut taken = Vec::new();
    loop {
        let next = io::stderr().as_fd().try_clone_to_owned()?;
        if next.as_raw_fd() > last {
            return Ok(taken);
        }
        taken.push(next);
    }
}

/// Reads more, and keeps the end of it all. False when there will be no more.
async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    let Ok(count) = from.read(&mut buffer).await else { return false };
    into.extend_from_slice(&buffer[..count]);
    let surplus = into.len().saturating_sub(MOST_PRINTED);
    into.drain(..surplus);
    count > 0
}

/// What follows `word`, once its line is whole. A reason has several.
fn said(told: &[u8], word: &str) -> Option<String> {
    let rest = told.strip_prefix(word.as_bytes())?.strip_suffix(b"\n")?;
    Some(String::from_utf8_lossy(rest).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_much_is_kept() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (mut from, mut kept) = (&text[..], Vec::new());
        while read(&mut from, &mut kept).await {}
        assert_eq!(kept, text[text.len() - MOST_PRINTED..]);
    }

    #[test]
    fn a_word_counts_once_its_line_is_whole() {
        assert_eq!(said(b"ready 1.2.3\n", READY).as_deref(), Some("1.2.3"));
        for early in [&b"ready 1.2"[..], b"rea", b"", b"failed x\n"] {
            assert_eq!(said(early, READY), None);
        }
        assert_eq!(said(b"failed a: b\nc\n", FAILED).as_deref(), Some("a: b\nc"));
    }

    #[test]
    fn a_unit_that_tells_nobody_is_known_by_its_variables() {
        let [invocation, main] = [("INVOCATION_ID", "0f3a"), ("SYSTEMD_EXEC_PID", "17")];
        let socket = ("NOTIFY_SOCKET", "/run/systemd/notify");
        for (case, variables, parent, wanted) in [
            ("no systemd", &[][..], 1, false),
            ("its main process", &[invocation, main], 1, true),
            ("that of another manager than process 1", &[invocation, main], 900, true),
            ("another process of the unit", &[invocation, ("SYSTEMD_EXEC_PID", "16")], 1, false),
            ("its main process, before systemd 248", &[invocation], 1, true),
            ("another process of the unit, before that", &[invocation], 16, false),
            ("it may tell", &[invocation, main, socket], 1, false),
            ("it may tell, before that", &[invocation, socket], 1, false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|variable| variable.0 == name);
                found.map(|variable| variable.1.to_owned())
            };
            assert_eq!(is_blind_main(variable, 17, parent), wanted, "{case}");
        }
    }

    #[test]
    fn all_numbers_are_in_use_while_another_process_starts() {
        let last = 40;
        let taken = occupy(last).unwrap();
        assert!(taken.iter().all(|each| each.as_raw_fd() <= last));
        let next = io::stderr().as_fd().try_clone_to_owned().unwrap();
        assert!(next.as_raw_fd() > last || !taken.is_empty(), "{next:?}");
    }
}
