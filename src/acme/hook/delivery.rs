//! Telling one hook of one event: a POST, or the run of a program.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::acme::dns::last_words;
use crate::acme::http::{Client, RequestError, Transport};
use crate::config::acme_event::PLACEHOLDERS;

/// How a hook is told.
#[derive(Clone, Debug)]
pub(super) enum Carrier {
    /// By a POST.
    Webhook {
        /// To where. It may hold a secret.
        url: String,
        /// Which has the time that is allowed.
        client: Client,
    },
    /// By a program.
    Run {
        /// It and its arguments.
        run: Vec<String>,
        /// The time that is allowed.
        patience: Duration,
    },
}

/// Why a hook did not take an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    /// The request cannot be made.
    #[error("there is no such request")]
    Url(#[source] http::Error),
    /// A defect of ours; the log has its place.
    #[error("telling it panicked")]
    Fault,
    /// There is no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer is no success.
    #[error("the webhook answered {0}")]
    Status(u16),
    /// The program cannot be run.
    #[error("the program cannot be run")]
    Run(#[source] io::Error),
    /// The program says that it failed.
    #[error("the program ended with {status}: {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The program did not end, and was ended.
    #[error("the program did not end within {patience:?}: {said}")]
    Endless {
        /// The time allowed.
        patience: Duration,
        /// The end of what it wrote.
        said: String,
    },
}

impl Carrier {
    /// Where it leads to, without what may be secret: scheme, host and port, or the program.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Webhook { url, .. } => {
                let uri = url.parse::<http::Uri>().ok();
                let parts =
                    uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
                parts.map_or_else(String::new, |(scheme, host)| format!("{scheme}://{host}"))
            }
            Self::Run { run, .. } => run.first().cloned().unwrap_or_default(),
        }
    }

    /// Whether it is a program.
    pub(super) fn is_program(&self) -> bool {
        matches!(self, Self::Run { .. })
    }

    /// Tells of an event, once.
    pub(super) async fn deliver(&self, payload: &Map<String, Value>) -> Result<(), DeliveryError> {
        match self {
            Self::Webhook { url, client } => post(client, url, payload).await,
            Self::Run { run, patience } => execute(run, *patience, payload).await,
        }
    }
}

async fn post(
    client: &Client,
    url: &str,
    payload: &Map<String, Value>,
) -> Result<(), DeliveryError> {
    let request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", text(payload, "id"))
        .body(Bytes::from(json(payload)));
    let answer = client.send(request.map_err(DeliveryError::Url)?).await?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(DeliveryError::Status(status.as_u16())),
    }
}

/// How long what a program has left running may keep its output open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

async fn execute(
    run: &[String],
    patience: Duration,
    payload: &Map<String, Value>,
) -> Result<(), DeliveryError> {
    let mut child = command(run, payload).spawn().map_err(DeliveryError::Run)?;
    let said = Mutex::new(Vec::new());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let writing = async {
        if let Some(mut stdin) = stdin {
            // One that does not read it has what it needs from its environment.
            let _ = stdin.write_all(&json(payload)).await;
        }
    };
    let following = async {
        tokio::join!(writing, follow(stdout, &said), follow(stderr, &said));
    };
    let ended = tokio::time::timeout(patience, end_of(&mut child, following)).await;
    let said = || last_words(&said.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(DeliveryError::Failed { status, said: said() }),
        Ok(Err(source)) => Err(DeliveryError::Run(source)),
        Err(_) => {
            // It is ended when it is dropped in any case; this reaps it.
            let _ = child.kill().await;
            Err(DeliveryError::Endless { patience, said: said() })
        }
    }
}

/// Waits for the end of `child` while its output is followed, and a moment longer for the rest of that.
async fn end_of(child: &mut Child, following: impl Future<Output = ()>) -> io::Result<ExitStatus> {
    let mut following = std::pin::pin!(following);
    let mut is_followed = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = &mut following, if !is_followed => is_followed = true,
        }
    };
    if !is_followed {
        let _ = tokio::time::timeout(LAST_OUTPUT, following).await;
    }
    Ok(status)
}

/// Keeps the end of what comes out of `stream`.
async fn follow(stream: Option<impl AsyncRead + Unpin>, said: &Mutex<Vec<u8>>) {
    const LONGEST: usize = 4096;
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..count]);
        let excess = said.len().saturating_sub(LONGEST);
        said.drain(..excess);
    }
}

fn command(run: &[String], payload: &Map<String, Value>) -> Command {
    let mut arguments = run.iter().map(|argument| filled(argument, payload));
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments).kill_on_drop(true);
    for (name, value) in payload {
        let name = if name == "id" { "event_id" } else { name };
        command.env(format!("WARDGATE_{}", name.to_uppercase()), spelled(value));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The argument with what stands for something replaced, each once, in one go.
fn filled(argument: &str, payload: &Map<String, Value>) -> String {
    let mut text = String::new();
    let mut rest = argument;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let found = after.split_once('}').filter(|(word, _)| PLACEHOLDERS.contains(word));
        match found {
            Some((word, behind)) => {
                text.push_str(&spelled(payload.get(word).unwrap_or(&Value::Null)));
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text + rest
}

/// A value in an environment variable: lists with spaces, nothing as nothing.
fn spelled(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(spelled).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    text.replace('\0', "")
}

fn text<'p>(payload: &'p Map<String, Value>, name: &str) -> &'p str {
    payload.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn json(payload: &Map<String, Value>) -> Vec<u8> {
    // A map with texts as keys can be written.
    serde_json::to_vec(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn payload() -> Map<String, Value> {
        let value = json!({
            "event": "cert.failed", "id": "77", "certificate": "acme:{id}",
            "names": ["a.test", "b.test"], "attempt": 3, "link": null,
        });
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn placeholders_are_replaced_once_and_other_braces_stay() {
        for (argument, wanted) in [
            ("{event}", "cert.failed"),
            ("--id={id}/{certificate}", "--id=77/acme:{id}"),
            ("{ \"a\": {} }", "{ \"a\": {} }"),
            ("{{id}", "{77"),
            ("{", "{"),
        ] {
            assert_eq!(filled(argument, &payload()), wanted, "{argument}");
        }
    }

    #[cfg(unix)]
    mod with_a_program {
        use super::*;

        fn shell(script: &str) -> Carrier {
            let run = ["/bin/sh", "-c", script, "hook", "{event}"].map(str::to_owned).into();
            Carrier::Run { run, patience: Duration::from_millis(1500) }
        }

        async fn said(script: &str) -> String {
            shell(script).deliver(&payload()).await.unwrap_err().to_string()
        }

        #[tokio::test]
        async fn it_is_told_by_arguments_environment_and_input() {
            let script = "echo \"$1|$WARDGATE_EVENT_ID|$WARDGATE_NAMES|$WARDGATE_ATTEMPT|$WARDGATE_LINK|\"; cat >&2; exit 7";
            let said = said(script).await;
            assert!(said.starts_with("the program ended with exit status: 7: "), "{said}");
            assert!(said.contains("cert.failed|77|a.test b.test|3||"), "{said}");
            assert!(said.contains("\"certificate\":\"acme:{id}\""), "{said}");
        }

        #[tokio::test]
        async fn one_that_does_not_end_is_ended_and_one_that_leaves_another_is_not_waited_for() {
            let said = said("echo begun; exec sleep 600").await;
            assert_eq!(said, "the program did not end within 1.5s: begun");
            let leaves = shell("sleep 600 & exit 0");
            leaves.deliver(&payload()).await.unwrap();
        }

        #[tokio::test]
        async fn one_that_reads_nothing_or_is_absent() {
            shell("exec 0<&-; exit 0").deliver(&payload()).await.unwrap();
            let run = vec!["/nonexistent/hook".to_owned()];
            let absent = Carrier::Run { run, patience: Duration::from_secs(1) };
            let error = absent.deliver(&payload()).await.unwrap_err();
            assert_eq!(error.to_string(), "the program cannot be run");
        }
    }
}
