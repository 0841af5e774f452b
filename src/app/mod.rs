//! The process: what is started, in which order, and how it ends.
//!
//! Answers "what runs?". Called by `cli` once. Binds everything before anything runs, so that a
//! start fails early or not at all.

mod certificates;
pub mod certs;
mod crl;
mod desk;
mod fleet;
mod greeting;
mod inputs;
mod launch;
mod lifetimes;
mod listeners;
mod overload;
mod prepare;
mod reload;
mod running;
pub mod signal;
mod stapling;
pub mod state;
mod supervise;
mod upgrade;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use crate::acme::event::{Events, Told};
use crate::acme::renewer::{Command, Commands};
use crate::admin::control::Request;
use crate::config::process::Shutdown;
use crate::listen::{BindError, Inherited};
use crate::proxy::failure::Failure;
use crate::proxy::gateway::Shared;
use crate::service::{self, HandOver, Successor};
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLogError;
use crate::telemetry::metrics::give_memory_back;
use crate::tls::client_auth::PolicyError;
use crate::tls::server_config::ServerConfigError;
use crate::tls::ticket::TicketError;
use crate::tls::{ClientConfigError, Tickets};

use certificates::Certificates;
pub use certificates::CertificatesError;
pub use greeting::{Greeting, Invocation};
use inputs::Inputs;
pub use launch::Launch;
use prepare::{Basis, prepare};
use running::Running;
use signal::{ReloadRequests, StopRequests, UpgradeRequests};
use state::{Stage, State};
use supervise::Pulse;

/// Time the access log gets to write what it holds when the process ends.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Time for tasks that were told to stop. They are at an `await`, or will be in an instant.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// Why a configuration cannot be put in force: the process does not start, or goes on with the one it
/// has.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener has no socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A bound socket cannot be served.
    #[error("cannot serve a socket")]
    Socket(#[source] std::io::Error),
    /// The admin address has no socket.
    #[error("cannot bind the admin address {address}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// A rule about client certificates.
    #[error(transparent)]
    ClientAuth(#[from] PolicyError),
    /// A pool's TLS settings.
    #[error("the TLS settings of upstream {name:?} cannot be used")]
    Pool {
        /// The pool.
        name: String,
        /// What is wrong with them.
        source: ClientConfigError,
    },
    /// TLS of the listeners.
    #[error(transparent)]
    ServerConfig(#[from] ServerConfigError),
    /// Session tickets.
    #[error(transparent)]
    Tickets(#[from] TicketError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// Signals.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// Whoever supervised it knows nothing of this process.
    #[error("the gateway in whose place this one was started has ended")]
    Orphaned(#[source] std::io::Error),
    /// A defect of ours; the log has its place.
    #[error("building what the configuration needs panicked")]
    Panicked,
}

/// Runs a gateway until it is told to stop, and tells `manager` how it goes. `on_ready` is called
/// once it serves.
///
/// # Errors
/// [`StartError`]; after the start nothing ends it but a request to stop.
pub async fn run(
    launch: Launch,
    manager: &mut service::Manager,
    on_ready: impl FnOnce(&Greeting<'_>),
) -> Result<(), StartError> {
    let stage = Stage::new();
    stage.enter(State::Initializing);
    let mut stops = StopRequests::listen(manager.take_stops()).map_err(StartError::Signals)?;
    let reloads = ReloadRequests::listen(manager.take_reloads()).map_err(StartError::Signals)?;
    let upgrades = UpgradeRequests::listen().map_err(StartError::Signals)?;
    let (mut running, mut requests, before) = start(launch, manager, stage.clone()).await?;
    greet(&running, on_ready);
    let pulse = begin_background(&running, reloads, upgrades, manager);
    manager.ready(&supervise::summary(&running));
    let life = async {
        let end = serve(&mut running, &mut requests, &mut stops, (manager, before)).await;
        drop(requests);
        let shutdown = running.generation().config.shutdown;
        manager.stopping(supervise::longest_end(shutdown));
        announce_stop(end.reason(), running.census.count(), shutdown);
        stage.enter(end.state());
        drain(&mut running, shutdown, &mut stops, end).await;
    };
    tokio::select! {
        () = life => {}
        never = pulse.beat() => match never {},
    }
    running.caretakers.stop();
    running.caretakers.finish(LAST_STEPS).await;
    running.finish_admin().await;
    running.background.stop();
    running.background.finish(LAST_STEPS).await;
    stage.enter(State::Terminated);
    say_goodbye(&running.shared).await;
    Ok(())
}

/// Why a process does not go on.
enum End {
    /// Somebody has told it to stop, in this way.
    Stop(&'static str),
    /// Another process has taken over.
    Upgraded(Box<Successor>),
}

impl End {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stop(reason) => reason,
            Self::Upgraded(_) => "upgrade",
        }
    }

    fn state(&self) -> State {
        match self {
            Self::Stop(_) => State::Stopping,
            Self::Upgraded(_) => State::Upgraded,
        }
    }
}

fn greet(running: &Running, on_ready: impl FnOnce(&Greeting<'_>)) {
    let generation = running.generation();
    tracing::info!(sites = generation.config.sites.len(), pools = generation.pools.len(), "ready");
    let ports = generation.listeners().iter().map(|listener| listener.port).enumerate().collect();
    let admin = running.admin_address();
    on_ready(&Greeting { config: &generation.config, ports: &ports, admin });
}

/// Starts what asks for reloads and upgrades, and what feeds a watchdog as long as the pulse is felt.
fn begin_background(
    running: &Running,
    reloads: ReloadRequests,
    upgrades: UpgradeRequests,
    manager: &service::Manager,
) -> Pulse {
    let (background, control) = (&running.background, &running.control);
    let shared = Arc::clone(&running.shared);
    let reopen = move || shared.access.load().reopen();
    background.spawn("reloads", reloads.pass_on(control.clone(), reopen, background.stop_token()));
    background.spawn("upgrades", upgrades.pass_on(control.clone(), background.stop_token()));
    if running.file.is_some() {
        let files = running.watched.subscribe();
        background.spawn("files", watch::watch(control.clone(), files, background.stop_token()));
    }
    let (pulse, probe) = Pulse::begin();
    if let Some(watchdog) = manager.watchdog() {
        let is_alive = move || {
            let probe = probe.clone();
            async move { probe.feel().await }
        };
        background.spawn("watchdog", watchdog.feed(is_alive, background.stop_token()));
    }
    pulse
}

fn announce_stop(reason: &'static str, connections: usize, shutdown: Shutdown) {
    let (delay, grace) = (shutdown.delay.as_secs_f64(), shutdown.grace.as_secs_f64());
    tracing::info!(reason, connections, delay, grace, "stopping");
}

async fn say_goodbye(shared: &Shared) {
    // Lines that a stalled disk keeps back longer than this are lost, and counted as such.
    let access = shared.access.load_full();
    let _ = tokio::time::timeout(LAST_LINES, access.close()).await;
    let (panics, dropped_lines) = (shared.panics(), shared.lines_dropped());
    tracing::info!(panics, dropped_lines, "terminated");
}

/// Builds what the configuration needs, and puts it in force. Returns what runs, what it is asked for,
/// and what the process before has yet to say, if there is one.
async fn start(
    launch: Launch,
    manager: &mut service::Manager,
    stage: Stage,
) -> Result<(Running, mpsc::Receiver<Request>, Option<HandOver>), StartError> {
    let inherited = manager.take_sockets().map_err(StartError::Orphaned)?;
    let inherited = Inherited::new(inherited, manager.has_predecessor());
    let Launch { loaded, file, log, access_file, control, requests, last } = launch;
    let metrics = begin_metrics();
    let (events, told) = Events::new(Arc::clone(&metrics));
    let certificates = Arc::new(Certificates::new(Tickets::new()?, events.clone()));
    let basis = Basis {
        current: None,
        inputs: Inputs::default(),
        doors: Vec::new(),
        sockets: Vec::new(),
        handles: Vec::new(),
        admin: None,
        store: Arc::clone(&certificates.store),
        tickets: certificates.tickets.clone(),
        fleet: None,
        metrics: Arc::clone(&metrics),
        events,
        access_file: access_file.clone(),
    };
    let path = file.clone();
    let first = tokio::task::spawn_blocking(move || {
        let inputs = Inputs::of(path.as_deref(), &loaded, &Inputs::default());
        prepare(&loaded, inputs, &basis, inherited)
    });
    let mut first = first.await.map_err(|_| StartError::Panicked)??;
    // What the file was read into is free now, and with thousands of sites much.
    give_memory_back();
    stapling::ask_first(&mut first.sources, &certificates.store, &metrics).await;
    let launch = (file, log, access_file, control, last);
    let (commands, receiver) = Commands::channel();
    let counted = Arc::clone(&metrics);
    let mut running =
        Running::new(&first, (certificates, commands), metrics, stage.clone(), launch);
    // Nothing can fail any more, and nothing is accepted yet.
    let before = manager.take_over().map_err(StartError::Orphaned)?;
    if before.is_some() {
        counted.upgraded(true);
    }
    stage.enter(State::Running);
    running.put_in_force(first);
    care(&running, receiver, told);
    let watch = overload::Watch::begin(Arc::clone(&running.shared));
    running.background.spawn("overload", watch.keep(running.background.stop_token()));
    Ok((running, requests, before))
}

/// Starts what looks after certificates.
fn care(running: &Running, commands: mpsc::Receiver<Command>, told: Told) {
    let certificates = || Arc::clone(&running.certificates);
    let (tasks, stop) = (&running.caretakers, || running.caretakers.stop_token());
    tasks.spawn("certificates", certificates::keep(certificates(), stop()));
    tasks.spawn("imported certificates", certificates::hand_over(certificates(), stop()));
    let counted = Arc::clone(&running.shared.metrics);
    tasks.spawn("stapling", stapling::keep(certificates(), counted, stop()));
    tasks.spawn("acme", running.certificates.renewer(commands).keep(stop()));
    tasks.spawn("hooks", running.certificates.hooks(told).run(stop()));
    tasks.spawn("lifetimes", lifetimes::watch(certificates(), stop()));
    tasks.spawn("revocation lists", crl::watch(running.lists.subscribe(), stop()));
}

fn begin_metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(Failure::ALL.iter().map(Failure::token), SystemTime::now()))
}

/// Serves, and does what is asked for, until a request to stop or until another process has taken
/// over. `before` is what the process before has yet to say.
async fn serve(
    running: &mut Running,
    requests: &mut mpsc::Receiver<Request>,
    stops: &mut StopRequests,
    (manager, before): (&service::Manager, Option<HandOver>),
) -> End {
    let mut is_waiting = before.is_some();
    let handed_over = async {
        match before {
            Some(before) => before.wait().await,
            None => std::future::pending().await,
        }
    };
    let work = async {
        let mut handed_over = std::pin::pin!(handed_over);
        loop {
            tokio::select! {
                is_told = &mut handed_over, if is_waiting => {
                    is_waiting = false;
                    if !is_told {
                        tracing::warn!("the process before is gone without handing over");
                    }
                    manager.ready(&supervise::summary(running));
                }
                request = requests.recv() => match request {
                    Some(Request::Reload(request)) => running.reload(request, manager).await,
                    Some(Request::Upgrade(request)) => {
                        let upgrade = running.upgrade(request, manager, is_waiting);
                        if let Some(succession) = upgrade.await {
                            return succession;
                        }
                    }
                    // Whoever may ask is gone; the process itself may.
                    None => std::future::pending().await,
                }
            }
        }
    };
    let succession = tokio::select! {
        reason = stops.next() => return End::Stop(reason),
        succession = work => succession,
    };
    // Nothing takes it back from here on: a stop is heard afterwards.
    End::Upgraded(Box::new(running.step_back(succession).await))
}

/// Finishes what is in flight, at most `shutdown.grace`; a second request to stop cuts. What is
/// left then is dropped, and has its access line.
async fn drain(running: &mut Running, shutdown: Shutdown, stops: &mut StopRequests, end: End) {
    let started = Instant::now();
    // A service manager that stops the next process tells this one as well.
    let is_first = matches!(end, End::Upgraded(_));
    let finish = async {
        match end {
            End::Stop(_) => {
                tokio::time::sleep(shutdown.delay).await;
                running.close();
                running.finish(shutdown.grace).await;
            }
            End::Upgraded(next) => running.make_way(*next, shutdown).await,
        }
    };
    let cut = async {
        if is_first {
            let reason = stops.next().await;
            tracing::info!(reason, "finishes what is in flight already");
        }
        stops.next().await
    };
    tokio::select! {
        () = finish => {}
        reason = cut => tracing::warn!(reason, "cutting what is in flight"),
    }
    running.close();
    running.cut(started).await;
}
