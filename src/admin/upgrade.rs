//! `POST /upgrade`: what is asked for, and how it ended.
//!
//! An upgrade starts a program in the place of the running process. Whoever has the token may name
//! another program than the one that runs, as the gateway's user could; but not from beyond this
//! machine, where a token that leaked would do more than reload.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::certs::Reply;
use super::control::Control;

/// Time for a new process to become ready, unless somebody grants another.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The most time that may be granted.
pub const LONGEST: Duration = Duration::from_secs(600);

/// What to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// The program; `None` is the one that runs, from where it lies by now.
    pub program: Option<PathBuf>,
    /// Time for it to become ready.
    pub patience: Duration,
}

/// One request for an upgrade.
#[derive(Debug)]
pub struct Upgrade {
    /// Who asks, for the log: `SIGUSR2`, `admin`.
    pub reason: &'static str,
    /// What to start.
    pub wish: Wish,
    /// Gets the outcome; nobody need listen.
    pub(super) answer: oneshot::Sender<Result<Upgraded, UpgradeError>>,
    /// Keeps others from asking.
    pub(super) taken: Taken,
}

impl Upgrade {
    /// Lets others ask, and tells who asked.
    pub fn settle(self, outcome: Result<Upgraded, UpgradeError>) {
        drop(self.taken);
        // Nobody need listen.
        let _ = self.answer.send(outcome);
    }
}

/// Another process has taken over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upgraded {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// Why no other process has taken over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// One after the other.
    #[error("another upgrade is under way")]
    Busy,
    /// The process ends.
    #[error("the gateway is stopping")]
    Stopping,
    /// There would be harm in it, or there is no way.
    #[error("{0}")]
    Unavailable(String),
    /// Nothing was started.
    #[error("cannot start {}", program.display())]
    NotStarted {
        /// What was to be.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was started did not come to serve, and is gone.
    #[error("{why}")]
    NotReady {
        /// In one line.
        why: String,
        /// What it has printed.
        output: String,
    },
}

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<AtomicBool>);

/// The turn of one, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<AtomicBool>);

impl Turn {
    pub(super) fn take(&self) -> Option<Taken> {
        let was_taken = self.0.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Taken(Arc::clone(&self.0)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Default for Wish {
    fn default() -> Self {
        Self { program: None, patience: PATIENCE }
    }
}

impl Wish {
    /// What the body of a request asks for.
    fn read(arguments: &Value, is_loopback: bool) -> Result<Self, Reply> {
        let bad = |text: &str| Err(Reply::error(StatusCode::BAD_REQUEST, text));
        let mut wish = Self::default();
        let nothing = Map::new();
        for (key, value) in arguments.as_object().unwrap_or(&nothing) {
            match (key.as_str(), value) {
                ("binary", Value::String(_)) if !is_loopback => {
                    let text = "a binary may be named on this machine only, through an admin address on loopback";
                    return Err(Reply::error(StatusCode::FORBIDDEN, text));
                }
                ("binary", Value::String(path)) if path.starts_with('/') => {
                    wish.program = Some(PathBuf::from(path));
                }
                ("binary", _) => return bad("\"binary\" is an absolute path"),
                ("timeout", Value::Number(seconds)) => match seconds.as_u64() {
                    Some(seconds) if (1..=LONGEST.as_secs()).contains(&seconds) => {
                        wish.patience = Duration::from_secs(seconds);
                    }
                    _ => return bad("\"timeout\" is between 1 and 600 seconds"),
                },
                ("timeout", _) => return bad("\"timeout\" is a number of seconds"),
                _ => return bad("there are \"binary\" and \"timeout\""),
            }
        }
        Ok(wish)
    }
}

/// Does what `arguments` ask for.
pub(super) async fn answer(control: &Control, arguments: &Value, is_loopback: bool) -> Reply {
    match Wish::read(arguments, is_loopback) {
        Ok(wish) => reply(&control.upgrade("admin", wish).await),
        Err(reply) => reply,
    }
}

fn reply(outcome: &Result<Upgraded, UpgradeError>) -> Reply {
    let own = json!({ "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") });
    match outcome {
        Ok(Upgraded { pid, version }) => Reply::fine(json!({
            "outcome": "upgraded", "from": own, "to": { "pid": pid, "version": version },
        })),
        Err(error) => {
            let status = match error {
                UpgradeError::Busy => StatusCode::CONFLICT,
                UpgradeError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
                UpgradeError::Unavailable(_) => StatusCode::NOT_IMPLEMENTED,
                UpgradeError::NotStarted { .. } | UpgradeError::NotReady { .. } => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
            };
            let mut body = json!({ "outcome": "failed", "error": error.chain(), "serving": own });
            if let UpgradeError::NotReady { output, .. } = error {
                body["output"] = output.as_str().into();
            }
            Reply { status, body }
        }
    }
}

impl UpgradeError {
    /// What happened, with its causes.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to memory does not fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_is_named_by_a_path_and_from_this_machine_alone() {
        let read = |text: &str, is_loopback| {
            let arguments = serde_json::from_str(text).unwrap();
            Wish::read(&arguments, is_loopback).map_err(|reply| reply.status.as_u16())
        };
        let wish = |program: Option<&str>, seconds| {
            let program = program.map(PathBuf::from);
            Ok(Wish { program, patience: Duration::from_secs(seconds) })
        };
        assert_eq!(read("{}", false), wish(None, 60));
        assert_eq!(read(r#"{"timeout":600}"#, false), wish(None, 600));
        let named = r#"{"binary":"/opt/wardgate","timeout":1}"#;
        assert_eq!(read(named, true), wish(Some("/opt/wardgate"), 1));
        assert_eq!(read(named, false), Err(403), "a token that leaks starts no program");
        for bad in [
            r#"{"binary":"wardgate"}"#,
            r#"{"binary":7}"#,
            r#"{"timeout":0}"#,
            r#"{"timeout":601}"#,
            r#"{"timeout":"60s"}"#,
            r#"{"program":"/opt/wardgate"}"#,
        ] {
            assert_eq!(read(bad, true), Err(400), "{bad}");
        }
    }

    #[tokio::test]
    async fn one_is_asked_for_at_a_time() {
        let (control, mut requests) = Control::channel(4);
        let asked = tokio::spawn({
            let control = control.clone();
            async move { control.upgrade("admin", Wish::default()).await }
        });
        let request = requests.recv().await.unwrap();
        let again = control.upgrade("SIGUSR2", Wish::default()).await;
        assert!(matches!(again, Err(UpgradeError::Busy)), "{again:?}");
        asked.abort();
        let again = control.upgrade("SIGUSR2", Wish::default()).await;
        assert!(matches!(again, Err(UpgradeError::Busy)), "whoever asked need not wait: {again:?}");
        drop(request);
        let asked = tokio::spawn(async move { control.upgrade("admin", Wish::default()).await });
        drop(requests.recv().await.unwrap());
        let outcome = asked.await.unwrap();
        assert!(matches!(outcome, Err(UpgradeError::Stopping)), "{outcome:?}");
    }
}
