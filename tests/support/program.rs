//! A child process whose output is followed, and which is ended with its value.

use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use super::lines::Lines;
use super::within;

/// A running process.
pub(crate) struct Program {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Program {
    /// Starts `command`. Its standard input is a pipe that closes when the value is dropped, or when
    /// the test's own process dies.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (stdout, stderr) = (Lines::new(), Lines::new());
        stdout.follow(child.stdout.take().expect("standard output is piped"));
        stderr.follow(child.stderr.take().expect("standard error is piped"));
        Self { child, stdout, stderr }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name without SIG, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill can be run");
        assert!(sent.success(), "process {id} did not take SIG{name}");
    }

    /// Waits for the end of the process itself, whoever writes to the same streams after it.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let end = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the process is ours") {
                    return status;
                }
                // The system tells of it by a signal, which tests share.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("end of the process", end).await
    }

    /// Waits for the end of the process.
    pub(crate) async fn exit_status(&mut self) -> ExitStatus {
        self.stdout.wait_for_end().await;
        self.stderr.wait_for_end().await;
        self.child.wait().expect("the process is ours")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program of the system, such as curl, to its end.
pub(crate) async fn run(name: &str, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null());
    let shown = format!("end of {command:?}");
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = within(&shown, output).await.expect("the program is waited for");
    output.unwrap_or_else(|error| panic!("cannot run {name}: {error}"))
}
