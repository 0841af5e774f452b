//! `wardgate service`: the gateway as a service of Windows.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;

/// What is done with the service.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Install it: starts with the system, and again after failures
    Install {
        /// Default: %ProgramData%\Wardgate\gateway.yaml
        file: Option<PathBuf>,
        /// Directory for wardgate.log and access.log; default: %ProgramData%\Wardgate\logs
        #[arg(long, value_name = "DIR")]
        logs: Option<PathBuf>,
        /// Account without a password, such as "NT SERVICE\Wardgate"; default: LocalSystem
        #[arg(long)]
        account: Option<OsString>,
    },
    /// Stop and remove it; configuration, certificates and logs stay
    Uninstall,
    /// Start it and wait until it serves
    Start,
    /// Stop it and wait until what is in flight is done
    Stop,
    /// Have it read its configuration again; the outcome is in its log
    Reload,
    /// Show its state and settings; exit status 1 unless it runs
    Status,
    /// Be the service; only for the service control manager
    Run {
        /// The configuration
        file: PathBuf,
        /// Directory for wardgate.log and access.log
        #[arg(long, value_name = "DIR")]
        logs: PathBuf,
    },
}

#[cfg(not(windows))]
pub(super) fn perform(_command: Command) -> anyhow::Result<u8> {
    anyhow::bail!("`wardgate service` is for Windows; on Linux use the systemd units in deploy/")
}

#[cfg(windows)]
pub(super) use on_windows::perform;

#[cfg(windows)]
mod on_windows {
    use std::ffi::{OsStr, OsString};
    use std::fs::{OpenOptions, create_dir_all};
    use std::path::{Path, PathBuf, absolute};
    use std::process::Stdio;

    use anyhow::Context as _;

    use super::Command;
    use crate::app::Invocation;
    use crate::cli::{FAILED, FAULTY, print, run};
    use crate::config::{self, LoadError};
    use crate::service::{Manager, windows};

    pub(in crate::cli) fn perform(command: Command) -> anyhow::Result<u8> {
        match command {
            Command::Install { file, logs, account } => install(file, logs, account),
            Command::Uninstall => {
                windows::uninstall()?;
                print("removed\n")
            }
            Command::Start => {
                windows::start().context(
                    "the service's log and the event log say why (`wardgate service status`)",
                )?;
                print("running\n")
            }
            Command::Stop => {
                windows::stop()?;
                print("stopped\n")
            }
            Command::Reload => {
                windows::reload()?;
                print("asked for a reload\n")
            }
            Command::Status => {
                let report = windows::status()?;
                print(&report.to_string())?;
                Ok(if report.is_running() { 0 } else { FAILED })
            }
            Command::Run { file, logs } => {
                windows::run(Box::new(move |manager| serve(&file, &logs, manager))).context(
                    "only the service control manager runs this; use `wardgate run` or \
                     `wardgate service start`",
                )?;
                Ok(0)
            }
        }
    }

    fn install(
        file: Option<PathBuf>,
        logs: Option<PathBuf>,
        account: Option<OsString>,
    ) -> anyhow::Result<u8> {
        let data = config::system_directory();
        let file = file.unwrap_or_else(|| data.join("gateway.yaml"));
        let logs = logs.unwrap_or_else(|| data.join("logs"));
        // A service begins in a directory of the system.
        let whole = |path: &Path| {
            absolute(path).with_context(|| format!("{} has no place", path.display()))
        };
        let (file, logs) = (whole(&file)?, whole(&logs)?);
        let program = std::env::current_exe()?;
        let arguments =
            vec!["service".into(), "run".into(), "--logs".into(), logs.into(), file.into()];
        let may_enter = account.clone();
        windows::install(windows::Command { program, arguments, account })?;
        // Only now does an account of the service's own name exist.
        close_to_others(&data, may_enter.as_deref()).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = windows::uninstall();
        })?;
        print("installed; `wardgate service start` starts it\n")
    }

    /// What runs as the service, up to the exit status. Nobody sees what is printed, so that what the
    /// log does not have goes to the event log as well.
    fn serve(file: &Path, logs: &Path, manager: Manager) -> u8 {
        let outcome = print_to_log(logs).and_then(|()| match config::load(file) {
            Ok(loaded) => {
                eprint!("{}", loaded.warnings);
                let by = Invocation { program: String::new(), file: None };
                run(loaded, Some(file.to_owned()), &by, Some(logs), manager)
            }
            Err(LoadError::Faults(faults)) => {
                eprint!("{faults}");
                // Every user may read it, and a line of the file may be a secret.
                windows::report_error(&config::without_excerpts(&faults.to_string()));
                Ok(FAULTY)
            }
            Err(error) => Err(error.into()),
        });
        outcome.unwrap_or_else(|error| {
            eprintln!("wardgate: {error:#}");
            windows::report_error(&format!("{error:#}"));
            FAILED
        })
    }

    /// What is printed, before there is a log or because there is none, goes where the log will be.
    fn print_to_log(logs: &Path) -> anyhow::Result<()> {
        create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let path = logs.join("wardgate.log");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(windows::redirect(file.try_clone()?, file)?)
    }

    /// `%ProgramData%` lets every user make files in what is below it, and the service would take its
    /// configuration from them: only SYSTEM, Administrators and the service's account get in.
    fn close_to_others(data: &Path, account: Option<&OsStr>) -> anyhow::Result<()> {
        create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        let administrators = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F"].map(OsStr::new);
        change_access(
            data,
            &[OsStr::new("/inheritance:r"), OsStr::new("/grant:r")],
            &administrators,
        )?;
        let Some(account) = account else { return Ok(()) };
        // What an administrator's `wardgate run` has made there is closed to the account by itself.
        let mut grant = account.to_owned();
        grant.push(":(OI)(CI)M");
        change_access(data, &[OsStr::new("/t"), OsStr::new("/grant")], &[&grant])
    }

    /// std cannot write access lists; `icacls` is part of every Windows.
    fn change_access(data: &Path, how: &[&OsStr], grants: &[&OsStr]) -> anyhow::Result<()> {
        let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
        let status = std::process::Command::new(Path::new(&root).join(r"System32\icacls.exe"))
            .arg(data)
            .args(how)
            .args(grants)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("cannot run icacls")?;
        anyhow::ensure!(status.success(), "icacls cannot close {} to other users", data.display());
        Ok(())
    }
}
