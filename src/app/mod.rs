//! The process: what is started, in which order, and how it ends.
//!
//! Answers "what runs?". Called by `cli` once. Binds everything before anything runs, so that a
//! start fails early or not at all.

mod certificates;
mod greeting;
pub mod signal;
pub mod state;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::config::Config;
use crate::config::listener::Protocol;
use crate::config::process::Shutdown;
use crate::listen::connection::{Census, Door, Surroundings, accept, enable_fast_open};
use crate::listen::{BindError, Bound, bind_or_take};
use crate::proxy::connection::ListenerFacts;
use crate::proxy::engine::Engine;
use crate::proxy::gateway::Shared;
use crate::proxy::generation::Generation;
use crate::service;
use crate::task::Tasks;
use crate::telemetry::access::{AccessLog, AccessLogError};
use crate::tls::server_config::{self, ServerConfigError};
use crate::tls::ticket::TicketError;
use crate::tls::{CertStore, ClientConfigError, SystemRoots, Tickets};
use crate::upstream::{Pool, Resolver, pool, resolve};

pub use certificates::CertificatesError;
pub use greeting::{Greeting, Invocation};
use signal::StopRequests;
use state::{Stage, State};

/// Time the access log gets to write what it holds when the process ends.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Time for tasks that were told to stop. They are at an `await`, or will be in an instant.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// Why the process does not start.
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
}

/// Runs a gateway with `config` until it is told to stop, and tells `manager` how it goes.
/// `on_ready` is called once it serves.
///
/// # Errors
/// [`StartError`]; after the start nothing ends it but a signal.
pub async fn run(
    config: Config,
    manager: &mut service::Manager,
    on_ready: impl FnOnce(&Greeting<'_>),
) -> Result<(), StartError> {
    let stage = Stage::new();
    stage.enter(State::Initializing);
    let mut stops = StopRequests::listen().map_err(StartError::Signals)?;
    let sockets = bind_all(&config, manager.take_sockets())?;
    let admin = bind_admin(&config).await?;
    let access = Arc::new(AccessLog::open(&config.log)?);
    let (table, sources) = certificates::load(&config, SystemTime::now())?;
    let store = Arc::new(CertStore::new(table));
    let tickets = Tickets::new()?;
    let pools = build_pools(&config)?;
    let ports = free_ports(&sockets);
    let generation = Arc::new(Generation::new(1, config.clone(), pools.clone(), &ports));
    let shared = Arc::new(Shared::new(generation, Arc::clone(&store), Arc::clone(&access)));
    let background = Tasks::new();
    keep_pools(&pools, &background);
    let config = Arc::new(config);
    let keep = certificates::keep(
        Arc::clone(&config),
        sources,
        Arc::clone(&store),
        tickets.clone(),
        background.stop_token(),
    );
    background.spawn("certificates", keep);
    let around = Arc::new(Surroundings {
        engine: Arc::new(Engine::new(Arc::clone(&shared))),
        census: Arc::new(Census::default()),
        tasks: Tasks::new(),
        drain: CancellationToken::new(),
    });
    let doors = open_doors(&config, sockets, &store, &tickets)?;
    let admin = admin.map(|socket| start_admin(socket, &stage, &background)).transpose()?;
    let close = CancellationToken::new();
    for (socket, door) in doors {
        around.tasks.spawn("accept", accept(socket, door, Arc::clone(&around), close.clone()));
    }
    stage.enter(State::Running);
    tracing::info!(sites = config.sites.len(), pools = pools.len(), "ready");
    on_ready(&Greeting { config: &config, ports: &ports, admin });
    report_ready(manager, &config, &background);
    let reason = stop_requested(&mut stops, manager).await;
    manager.stopping(config.shutdown.delay + config.shutdown.grace + LAST_STEPS + LAST_LINES);
    let connections = around.census.count();
    let (delay, grace) = (config.shutdown.delay.as_secs_f64(), config.shutdown.grace.as_secs_f64());
    tracing::info!(reason, connections, delay, grace, "stopping");
    stage.enter(State::Stopping);
    drain(&around, &close, config.shutdown, stop_requested(&mut stops, manager)).await;
    background.stop();
    background.finish(LAST_STEPS).await;
    stage.enter(State::Terminated);
    end_logs(&shared, &access).await;
    Ok(())
}

/// Tells the service manager that the gateway serves, and goes on telling its watchdog.
fn report_ready(manager: &service::Manager, config: &Config, tasks: &Tasks) {
    manager.ready(&summary(config));
    tasks.spawn("watchdog", manager.keep_watchdog(tasks.stop_token()));
}

async fn end_logs(shared: &Shared, access: &AccessLog) {
    // Lines that a stalled disk keeps back longer than this are lost, and counted as such.
    let _ = tokio::time::timeout(LAST_LINES, access.close()).await;
    let (panics, dropped_lines) = (shared.panics(), access.dropped());
    tracing::info!(panics, dropped_lines, "terminated");
}

/// What the service manager shows of a gateway that serves.
fn summary(config: &Config) -> String {
    match config.sites.len() {
        1 => "serving 1 site".to_owned(),
        count => format!("serving {count} sites"),
    }
}

/// Binds every address that is not among the `inherited` sockets; of those, what no listener names
/// is closed.
fn bind_all(
    config: &Config,
    mut inherited: Vec<std::net::TcpListener>,
) -> Result<Vec<(usize, Bound)>, StartError> {
    let mut sockets = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        for bound in bind_or_take(listener, &mut inherited)? {
            if let Some(queue) = listener.tcp_fast_open {
                enable_fast_open(&bound.socket, queue).map_err(StartError::Socket)?;
            }
            sockets.push((index, bound));
        }
    }
    for unused in inherited {
        let address = unused.local_addr().map_err(StartError::Socket)?;
        tracing::warn!(server.address = %address, "closed an inherited socket that no listener names");
    }
    Ok(sockets)
}

async fn bind_admin(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(admin) = &config.admin else { return Ok(None) };
    let bound = TcpListener::bind(admin.bind).await;
    bound.map(Some).map_err(|source| StartError::Admin { address: admin.bind, source })
}

/// The ports of listeners, as bound.
fn free_ports(sockets: &[(usize, Bound)]) -> HashMap<usize, u16> {
    // The first socket of a listener counts, so it is inserted last.
    sockets.iter().rev().map(|(index, bound)| (*index, bound.local.port())).collect()
}

fn build_pools(config: &Config) -> Result<Vec<Arc<Pool>>, StartError> {
    let roots = SystemRoots::load();
    if roots.skipped > 0 {
        tracing::warn!(count = roots.skipped, "skipped CAs of the system that cannot be read");
    }
    let build = |spec: &crate::config::upstream::Upstream| match Pool::new(spec.clone(), &roots) {
        Ok(pool) => Ok(Arc::new(pool)),
        Err(source) => Err(StartError::Pool { name: spec.name.clone(), source }),
    };
    config.upstreams.iter().map(build).collect()
}

/// Starts what pools need while they live: look-ups of names, and the end of idle connections.
fn keep_pools(pools: &[Arc<Pool>], tasks: &Tasks) {
    let mut resolver = None;
    for pool in pools {
        tasks.spawn("idle connections", pool::sweep_idle(Arc::clone(pool), tasks.stop_token()));
        for index in pool.named_servers() {
            let resolver = resolver.get_or_insert_with(Resolver::from_system).clone();
            let stop = tasks.stop_token();
            tasks.spawn("resolve", resolve::keep_resolved(Arc::clone(pool), index, resolver, stop));
        }
    }
}

type Doors = Vec<(TcpListener, Arc<Door>)>;

fn open_doors(
    config: &Config,
    sockets: Vec<(usize, Bound)>,
    store: &Arc<CertStore>,
    tickets: &Tickets,
) -> Result<Doors, StartError> {
    let mut doors = Vec::new();
    let mut by_listener = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let tls = match listener.protocol {
            Protocol::Http => None,
            Protocol::Https => {
                let config = server_config::build(listener, Arc::clone(store), tickets)?;
                Some((config, Arc::clone(store)))
            }
        };
        let facts = Arc::new(ListenerFacts { index, name: listener.name.clone() });
        by_listener.push(Arc::new(Door { listener: listener.clone(), facts, tls }));
    }
    for (index, bound) in sockets {
        let socket = TcpListener::from_std(bound.socket).map_err(StartError::Socket)?;
        let door = Arc::clone(&by_listener[index]);
        tracing::info!(listener = %door.facts.name, server.address = %bound.local, "listening");
        doors.push((socket, door));
    }
    Ok(doors)
}

fn start_admin(
    socket: TcpListener,
    stage: &Stage,
    tasks: &Tasks,
) -> Result<SocketAddr, StartError> {
    let address = socket.local_addr().map_err(StartError::Socket)?;
    tracing::info!(server.address = %address, "admin listening");
    let mut state = stage.watch();
    let ready = move || {
        let state = *state.borrow_and_update();
        (state == State::Running, state.as_str())
    };
    tasks.spawn("admin", admin::serve(socket, ready, tasks.stop_token()));
    Ok(address)
}

/// Waits for a request to stop from the system or the service manager, and says what it was.
async fn stop_requested(stops: &mut StopRequests, manager: &mut service::Manager) -> &'static str {
    loop {
        tokio::select! {
            reason = stops.next() => return reason,
            request = manager.request() => match request {
                service::Request::Stop(reason) => return reason,
                service::Request::Reload => {}
            },
        }
    }
}

/// Finishes what is in flight, at most `shutdown.grace`; a second request to stop cuts. What is
/// left then is dropped, and has its access line.
async fn drain(
    around: &Surroundings,
    close: &CancellationToken,
    shutdown: Shutdown,
    second: impl Future<Output = &'static str>,
) {
    let started = Instant::now();
    let finish = async {
        tokio::time::sleep(shutdown.delay).await;
        close.cancel();
        around.engine.stop();
        around.drain.cancel();
        around.tasks.finish(shutdown.grace).await;
    };
    tokio::select! {
        () = finish => {}
        reason = second => {
            tracing::warn!(reason, "cutting what is in flight");
            close.cancel();
        }
    }
    let left = around.census.count();
    around.engine.shared().cut();
    around.tasks.stop();
    around.tasks.finish(LAST_STEPS).await;
    let seconds = started.elapsed().as_secs_f64();
    if left > 0 {
        tracing::warn!(connections = left, seconds, "drained in part");
    } else {
        tracing::info!(seconds, "drained");
    }
}
