//! DNS-01 (RFC 8555 §8.4): records that prove a name, who puts them up, and whether they are seen.
//!
//! Answers "does every server of the zone show the record?" before an authority looks, since what it
//! does not find then counts as a failure against the name. Today a program of the operator's puts
//! records up; a protocol for it is another variant of [`Provider`].

mod propagation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How names are proven by DNS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Who puts records up.
    pub provider: Provider,
    /// Which servers have to show a record; `None` asks DNS for those of the zone.
    pub servers: Option<Vec<SocketAddr>>,
    /// How long to wait until they do. Default 10 min.
    pub patience: Duration,
}

/// Who puts records up and takes them down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Provider {
    /// A program, run as `program present NAME VALUE` and `program cleanup NAME VALUE`.
    Run {
        /// The program.
        program: PathBuf,
        /// What it is given before what is to be done.
        arguments: Vec<String>,
        /// How long it may take. Default 2 min.
        patience: Duration,
    },
}

/// A TXT record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// `_acme-challenge.example.com`, without a dot at the end.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// A record that is up until it is cleaned up. Dropped before that, it starts the clean-up and does
/// not wait for it.
#[derive(Debug)]
pub struct Presented {
    provider: Provider,
    record: Option<Record>,
}

/// Why a record proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The program cannot be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program says that it failed.
    #[error("{} ended with {status}: {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        said: String,
    },
    /// The program does not end.
    #[error("{} did not end within {patience:?}", program.display())]
    Endless {
        /// The program.
        program: PathBuf,
        /// The time allowed.
        patience: Duration,
    },
    /// The record cannot be seen.
    #[error("{server} does not show the TXT record of {name} after {patience:?}")]
    NotSeen {
        /// The record's name.
        name: String,
        /// A server that does not show it.
        server: String,
        /// The time allowed.
        patience: Duration,
    },
    /// The system's DNS settings cannot be read.
    #[error("the system's DNS settings cannot be used")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Dns {
    /// With a program that puts records up.
    #[must_use]
    pub fn run(program: impl Into<PathBuf>) -> Self {
        Self {
            provider: Provider::Run {
                program: program.into(),
                arguments: Vec::new(),
                patience: HOOK_PATIENCE,
            },
            servers: None,
            patience: PROPAGATION_PATIENCE,
        }
    }

    /// The same with `arguments` before what the program is to do.
    #[must_use]
    pub fn with_arguments(mut self, arguments: impl IntoIterator<Item: Into<String>>) -> Self {
        let Provider::Run { arguments: given, .. } = &mut self.provider;
        *given = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Puts `record` up.
    ///
    /// # Errors
    /// [`DnsError`] of the provider.
    pub async fn present(&self, record: Record) -> Result<Presented, DnsError> {
        // Whatever a provider that fails has done already is taken down with the rest.
        let presented = Presented { provider: self.provider.clone(), record: Some(record.clone()) };
        match self.provider.run("present", &record).await {
            Ok(()) => Ok(presented),
            Err(error) => {
                presented.clean_up().await;
                Err(error)
            }
        }
    }

    /// Waits until all of `records` are seen.
    ///
    /// # Errors
    /// [`DnsError::NotSeen`] after [`Dns::patience`].
    pub async fn wait_for(&self, records: &[Record]) -> Result<(), DnsError> {
        propagation::wait(records, self.servers.as_deref(), self.patience).await
    }
}

/// A record is a matter of seconds; some providers' tools wait for their own servers.
const HOOK_PATIENCE: Duration = Duration::from_secs(2 * 60);

/// Slow providers take minutes; what takes longer is broken.
const PROPAGATION_PATIENCE: Duration = Duration::from_secs(10 * 60);

impl Record {
    /// The record that proves `name`, which may be a wildcard, by `key_authorization`.
    #[must_use]
    pub fn new(name: &str, key_authorization: &str) -> Self {
        let name = name.strip_prefix("*.").unwrap_or(name);
        let value = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key_authorization.as_bytes()));
        Self { name: format!("_acme-challenge.{name}"), value }
    }
}

impl Presented {
    /// Takes the record down. A failure is logged: the proof is over, whatever is left of it.
    pub async fn clean_up(mut self) {
        let Some(record) = self.record.take() else { return };
        if let Err(error) = self.provider.run("cleanup", &record).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(record = %record.name, error, "could not clean up");
        }
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let Provider::Run { program, arguments, .. } = &self.provider;
        // The runtime reaps it. Outside of one, at the end of the process, nobody is left to.
        if tokio::runtime::Handle::try_current().is_ok() {
            let started = command(program, arguments, "cleanup", &record).spawn();
            if let Err(error) = started {
                tracing::warn!(record = %record.name, %error, "could not clean up");
            }
        }
    }
}

impl Provider {
    async fn run(&self, verb: &str, record: &Record) -> Result<(), DnsError> {
        let Self::Run { program, arguments, patience } = self;
        let failed = |source| DnsError::Run { program: program.clone(), source };
        let mut command = command(program, arguments, verb, record);
        let mut child =
            command.stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
        let mut said = child.stderr.take();
        let end = async {
            let mut text = Vec::new();
            if let Some(said) = &mut said {
                said.read_to_end(&mut text).await?;
            }
            Ok((child.wait().await?, text))
        };
        match tokio::time::timeout(*patience, end).await {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => {
                let said = last_words(&said);
                Err(DnsError::Failed { program: program.clone(), status, said })
            }
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(DnsError::Endless { program: program.clone(), patience: *patience }),
        }
    }
}

fn command(
    program: &std::path::Path,
    arguments: &[String],
    verb: &str,
    record: &Record,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).args([verb, &record.name, &record.value]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The end of what a program said, as one line.
fn last_words(said: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(said);
    let words = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(LONGEST);
    words.chars().skip(skipped).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_digest_at_the_name_below_the_star() {
        let record = Record::new("*.example.org", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA");
        assert_eq!(record.name, "_acme-challenge.example.org");
        assert_eq!(
            record,
            Record::new("example.org", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA")
        );
        assert_eq!(record.value.len(), 43);
    }

    #[cfg(unix)]
    mod with_a_program {
        use std::os::unix::fs::PermissionsExt;

        use super::*;

        fn dns(directory: &std::path::Path, script: &str) -> Dns {
            let program = directory.join("hook");
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
            Dns::run(program)
        }

        fn record() -> Record {
            Record { name: "_acme-challenge.a.test".to_owned(), value: "digest".to_owned() }
        }

        #[tokio::test]
        async fn it_is_told_what_to_put_up_and_to_take_down() {
            let directory = tempfile::tempdir().unwrap();
            let dns = dns(directory.path(), "echo \"$@\" >>\"$(dirname \"$0\")/log\"");
            dns.present(record()).await.unwrap().clean_up().await;
            let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
            assert_eq!(
                log,
                "present _acme-challenge.a.test digest\ncleanup _acme-challenge.a.test digest\n"
            );
        }

        #[tokio::test]
        async fn one_that_fails_is_quoted_and_cleans_up() {
            let directory = tempfile::tempdir().unwrap();
            let script = "echo $1 >>\"$(dirname \"$0\")/log\"; echo no such zone >&2; exit 3";
            let error = dns(directory.path(), script).present(record()).await.unwrap_err();
            assert!(
                error.to_string().ends_with("ended with exit status: 3: no such zone"),
                "{error}"
            );
            let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
            assert_eq!(log, "present\ncleanup\n");
        }

        #[tokio::test]
        async fn one_that_does_not_end_is_ended() {
            let directory = tempfile::tempdir().unwrap();
            let mut dns = dns(directory.path(), "[ \"$1\" = cleanup ] || exec sleep 600");
            let Provider::Run { patience, .. } = &mut dns.provider;
            *patience = Duration::from_millis(300);
            let error = dns.present(record()).await.unwrap_err();
            assert!(matches!(error, DnsError::Endless { .. }), "{error}");
        }

        #[tokio::test]
        async fn one_that_is_absent_is_named() {
            let error = Dns::run("/nonexistent/hook").present(record()).await.unwrap_err();
            assert_eq!(error.to_string(), "cannot run /nonexistent/hook");
        }
    }
}
