//! The command line.
//!
//! Answers "what does the operator want done?", and turns failures into messages and exit codes:
//! 0 fine, 1 it did not work (a file cannot be read, an address cannot be bound, no gateway answers),
//! 2 the configuration has faults or the command line is wrong.

mod ask;
mod certs;
mod status;
mod upgrade;
mod windows_service;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::config::process::LogFile;
use crate::config::{self, LoadError, Loaded};
use crate::demo;
use crate::proxy::engine;
use crate::service;
use crate::telemetry::log;
use crate::tls::{self, LocalCa};

const FAILED: u8 = 1;
const FAULTY: u8 = 2;

/// What stands below the list of commands.
const AFTER_HELP: &str = "\
Without FILE: gateway.yaml in the working directory, else the system's
(/etc/wardgate/gateway.yaml; on Windows %ProgramData%\\Wardgate\\gateway.yaml).

Exit status:
  0  done; for run: stopped by SIGTERM or Ctrl-C; for check: no fault, perhaps warnings
  1  could not do it: a file cannot be read, an address cannot be bound, no gateway answers
  2  the configuration or the command line has faults; for certs check: something is in the way;
     for upgrade: the new process did not come up, and the old one goes on";

/// Reverse proxy and TLS gateway, configured by one gateway.yaml.
#[derive(Debug, Parser)]
#[command(name = "wardgate", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until it is told to stop
    Run {
        /// Default: gateway.yaml here, else the system's
        file: Option<PathBuf>,
        /// Write wardgate.log and access.log into this directory, and rotate them, instead of
        /// standard error and standard output
        #[arg(long, value_name = "DIR")]
        logs: Option<PathBuf>,
    },
    /// Check a configuration and list everything that is wrong with it
    Check {
        /// Default: gateway.yaml here, else the system's
        file: Option<PathBuf>,
    },
    /// Show the configuration with every default filled in and secrets masked
    Config {
        /// Default: gateway.yaml here, else the system's
        file: Option<PathBuf>,
    },
    /// Have a running gateway read its configuration again
    Reload(ask::Where),
    /// Start a new binary in the place of a running gateway
    Upgrade(upgrade::Upgrade),
    /// Show how a running gateway stands: sites, servers and their health, certificates
    Status {
        #[command(flatten)]
        place: ask::Where,
        /// Print what the admin interface answers, for programs
        #[arg(long)]
        json: bool,
    },
    /// Look at certificates, check, renew, revoke or import them
    Certs(certs::Certs),
    /// Print the JSON Schema of gateway.yaml
    Schema,
    /// Run a gateway for one name and one server, without a file
    Proxy {
        /// Name or address to serve over https, such as app.localhost; with a port if not 443
        #[arg(long, value_name = "NAME[:PORT]")]
        from: String,
        /// Server to send requests to
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// Print the local CA and how to make systems trust it
    Trust {
        /// Default: gateway.yaml here, else the system's
        file: Option<PathBuf>,
    },
    /// Run a small HTTP server that shows what it is asked
    DemoBackend {
        /// Address to serve on
        #[arg(long, default_value = "127.0.0.1:9000")]
        bind: SocketAddr,
        /// What it calls itself in its answers
        #[arg(long, default_value = "demo")]
        name: String,
    },
    /// Install, control or be the Windows service
    Service {
        #[command(subcommand)]
        command: windows_service::Command,
    },
    /// Print the version
    Version,
}

/// Runs the program, supervised by `manager`.
#[must_use]
pub fn main(manager: service::Manager) -> ExitCode {
    tls::install();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let code = if error.use_stderr() { FAULTY } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match perform(arguments.command, manager) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("wardgate: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn perform(command: Command, manager: service::Manager) -> anyhow::Result<u8> {
    match command {
        Command::Run { file, logs } => match load(file.as_deref())? {
            Ok(loaded) => {
                let path = config::find(file.as_deref());
                let by = invocation(Some(file.as_deref()));
                run(loaded, Some(path), &by, logs.as_deref(), manager)
            }
            Err(code) => Ok(code),
        },
        Command::Check { file } => Ok(check(file.as_deref())?),
        Command::Config { file } => match load(file.as_deref())? {
            Ok(loaded) => print(&config::effective::yaml(&loaded)),
            Err(code) => Ok(code),
        },
        Command::Reload(place) => ask::reload(&place),
        Command::Upgrade(wish) => upgrade::perform(&wish),
        Command::Status { place, json } => ask::status(&place, json),
        Command::Certs(certs) => certs::perform(certs),
        Command::Schema => print(&format!("{:#}\n", config::schema::json())),
        Command::Proxy { from, to } => proxy(&from, &to, manager),
        Command::Trust { file } => match load(file.as_deref())? {
            Ok(loaded) => trust(&loaded),
            Err(code) => Ok(code),
        },
        Command::DemoBackend { bind, name } => demo_backend(bind, &name),
        Command::Service { command } => windows_service::perform(command),
        Command::Version => print(&format!("wardgate {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// The checked configuration, its warnings printed; or the exit code when there is none.
fn load(file: Option<&Path>) -> anyhow::Result<Result<Loaded, u8>> {
    let path = config::find(file);
    match config::load(&path) {
        Ok(loaded) => {
            eprint!("{}", loaded.warnings);
            Ok(Ok(loaded))
        }
        Err(LoadError::Faults(faults)) => {
            eprint!("{faults}");
            Ok(Err(FAULTY))
        }
        Err(LoadError::Read { source, .. }) if file.is_none() && is_missing(&source) => {
            anyhow::bail!(NO_FILE)
        }
        Err(error @ LoadError::Read { .. }) => Err(error.into()),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// What a person is told who has no configuration yet.
const NO_FILE: &str = "there is no gateway.yaml here, and the system has none
  name one:            wardgate run FILE
  or do without:       wardgate proxy --from app.localhost --to http://localhost:5000";

fn check(file: Option<&Path>) -> anyhow::Result<u8> {
    let path = config::find(file);
    Ok(match load(file)? {
        Ok(_) => print(&format!("{}: fine\n", path.display()))?,
        Err(code) => code,
    })
}

fn run(
    loaded: Loaded,
    file: Option<PathBuf>,
    by: &app::Invocation,
    logs: Option<&Path>,
    mut manager: service::Manager,
) -> anyhow::Result<u8> {
    manager.begin_log();
    let is_for_people = log::is_text(&loaded.config.log);
    let own_file = logs.map(|logs| log_file(logs, "wardgate.log"));
    let control = log::install(&loaded.config.log, own_file.as_ref(), manager.error_log())?;
    report_panics();
    let greet = |greeting: &app::Greeting<'_>| {
        if is_for_people && std::io::stderr().is_terminal() {
            eprint!("{}", greeting.text(by));
        }
    };
    let threads = loaded.config.runtime.threads;
    let access_file = logs.map(|logs| log_file(logs, "access.log"));
    let launch = app::Launch::new(loaded, file, control).with_access_file(access_file);
    let Err(error) = serve(launch, threads, &mut manager, greet) else { return Ok(0) };
    manager.failed(&format!("did not start: {error:#}"));
    if !is_for_people || logs.is_some() {
        let error: &dyn std::error::Error = error.as_ref();
        tracing::error!(error, "did not start");
    }
    // With a directory for logs, whoever has started it sees nothing of them.
    if is_for_people || logs.is_some() {
        eprintln!("wardgate: {error:#}");
    }
    Ok(FAILED)
}

/// A log that nobody has said more about than the directory: at most 1.5 GiB over two weeks.
fn log_file(directory: &Path, name: &str) -> LogFile {
    LogFile { path: directory.join(name), daily: true, max_size: Some(100 << 20), keep: 14 }
}

/// Serves until the end.
fn serve(
    launch: app::Launch,
    threads: Option<usize>,
    manager: &mut service::Manager,
    greet: impl FnOnce(&app::Greeting<'_>),
) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    let outcome = runtime.block_on(app::run(launch, manager, greet));
    // What outlived the drain is not waited for.
    runtime.shutdown_background();
    Ok(outcome?)
}

/// How this program was called, and with which file; `None` without one.
fn invocation(file: Option<Option<&Path>>) -> app::Invocation {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let program = called.strip_prefix(&here).unwrap_or(&called).display().to_string();
    let shown = |file: &Path| {
        let file = file.strip_prefix(&here).unwrap_or(file);
        if file == Path::new("gateway.yaml") {
            return String::new();
        }
        format!(" {}", file.display())
    };
    app::Invocation { program, file: file.map(|file| file.map(shown).unwrap_or_default()) }
}

/// A panic becomes one line of the log: where it was, what it said, and which request met it.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or_default();
        match engine::present_request() {
            Some(request_id) => tracing::error!(%request_id, place, text, "panicked"),
            None => tracing::error!(place, text, "panicked"),
        }
    }));
}

/// A configuration of one site, made from the command line.
fn proxy(from: &str, to: &str, manager: service::Manager) -> anyhow::Result<u8> {
    let (name, port) = match from.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.is_empty() => (name, port),
        _ => (from, "443"),
    };
    if !to.contains("://") {
        eprintln!("wardgate: {to:?} is not a URL; did you mean \"http://{to}\"?");
        return Ok(FAULTY);
    }
    let text = format!(
        "listeners:\n  secure: {{ bind: \":{port}\", protocol: https }}\nsites:\n  {}:\n    \
         certificate: internal\n    upstream: {}\n",
        quoted(name),
        quoted(to),
    );
    match config::from_text("the command line", &text, Path::new("")) {
        Ok(loaded) => run(loaded, None, &invocation(None), None, manager),
        Err(faults) => {
            // The file does not exist, so its positions would mislead.
            for fault in faults.iter() {
                eprintln!("wardgate: {}", fault.message);
            }
            Ok(FAULTY)
        }
    }
}

/// A YAML scalar in double quotes; JSON's strings are a subset of YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn trust(loaded: &Loaded) -> anyhow::Result<u8> {
    let ca = LocalCa::open_or_create(&loaded.config.storage, SystemTime::now())?;
    print(&tls::trust::instructions(&ca))
}

fn demo_backend(bind: SocketAddr, name: &str) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stops = app::signal::StopRequests::listen(service::Stops::none())?;
        let server = demo::DemoBackend::bind(bind, name).await?;
        print(&format!("demo backend on http://{}/\n", server.local_addr()))?;
        let stop = CancellationToken::new();
        let mut serving = std::pin::pin!(server.serve(stop.clone()));
        tokio::select! {
            _ = &mut serving => {}
            _ = stops.next() => {
                stop.cancel();
                serving.await;
            }
        }
        anyhow::Ok(0)
    })
}

/// Prints to standard output; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}
