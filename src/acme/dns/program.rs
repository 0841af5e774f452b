//! A program of the operator's that puts records up and takes them down.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{DnsError, Record};

/// A program, run as `program present NAME VALUE` and `program cleanup NAME VALUE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Its file.
    pub file: PathBuf,
    /// What it is given before what is to be done.
    pub arguments: Vec<String>,
    /// How long it may take. Default 2 min.
    pub patience: Duration,
}

/// A record is a matter of seconds; some providers' tools wait for their own servers.
const HOOK_PATIENCE: Duration = Duration::from_secs(2 * 60);

impl Program {
    /// A program without arguments of its own.
    pub(super) fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), arguments: Vec::new(), patience: HOOK_PATIENCE }
    }

    /// Has it do what `verb` says, and waits until it has.
    pub(super) async fn run(&self, verb: &str, record: &Record) -> Result<(), DnsError> {
        let (program, patience) = (&self.file, self.patience);
        let failed = |source| DnsError::Run { program: program.clone(), source };
        let mut command = self.command(verb, record);
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
        match tokio::time::timeout(patience, end).await {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => {
                let said = last_words(&said);
                Err(DnsError::Failed { program: program.clone(), status, said })
            }
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(DnsError::Endless { program: program.clone(), patience }),
        }
    }

    /// Has it take `record` down, without waiting.
    pub(super) fn start_clean_up(&self, record: &Record) -> std::io::Result<()> {
        // The runtime reaps it. Outside of one, at the end of the process, nobody is left to.
        if tokio::runtime::Handle::try_current().is_err() {
            return Ok(());
        }
        self.command("cleanup", record).spawn().map(drop)
    }

    fn command(&self, verb: &str, record: &Record) -> Command {
        let mut command = Command::new(&self.file);
        command.args(&self.arguments).args([verb, &record.name, &record.value]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// The end of what a program said, as one line.
pub(in crate::acme) fn last_words(said: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(said);
    let words = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(LONGEST);
    words.chars().skip(skipped).filter(|c| !c.is_control()).collect()
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Dns, Provider};
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
        assert!(error.to_string().ends_with("ended with exit status: 3: no such zone"), "{error}");
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(log, "present\ncleanup\n");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut dns = dns(directory.path(), "[ \"$1\" = cleanup ] || exec sleep 600");
        let Provider::Run(program) = &mut dns.provider else { panic!("it is a program") };
        program.patience = Duration::from_millis(300);
        let error = dns.present(record()).await.unwrap_err();
        assert!(matches!(error, DnsError::Endless { .. }), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_absent_is_named() {
        let error = Dns::run("/nonexistent/hook").present(record()).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot run /nonexistent/hook");
    }
}
