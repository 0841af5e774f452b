//! Everything that a configuration needs, built beside what is in force.
//!
//! Answers "can this configuration be served?". Whatever may fail happens here; putting the result
//! in force cannot. When it fails nothing has changed, and what was bound is closed again.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;

use super::StartError;
use super::certificates::{self, Sources};
use super::inputs::Inputs;
use super::listeners::{self, NextDoor, NextSocket, Place};
use crate::config::Config;
use crate::config::process::Admin;
use crate::config::upstream::Upstream;
use crate::listen::connection::Door;
use crate::proxy::generation::Generation;
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLog;
use crate::tls::{CertStore, SystemRoots, Table, Tickets};
use crate::upstream::Pool;

/// What is in force, as far as the next configuration builds on it; almost nothing at the start.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) current: Option<Current>,
    pub(super) inputs: Inputs,
    pub(super) doors: Vec<Arc<Door>>,
    pub(super) sockets: Vec<Place>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) store: Arc<CertStore>,
    pub(super) tickets: Tickets,
    pub(super) metrics: Arc<Metrics>,
}

/// What serves now.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) generation: Arc<Generation>,
    pub(super) access: Arc<AccessLog>,
}

/// A configuration that can be put in force.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) generation: Arc<Generation>,
    pub(super) access: Arc<AccessLog>,
    pub(super) table: Table,
    pub(super) sources: Sources,
    pub(super) doors: Vec<NextDoor>,
    pub(super) sockets: Vec<NextSocket>,
    pub(super) admin: NextAdmin,
    pub(super) inputs: Inputs,
}

/// The admin socket of the next configuration.
#[derive(Debug)]
pub(super) enum NextAdmin {
    /// There is none.
    Off,
    /// The one that is there, if any.
    Kept,
    /// A new one.
    Bound {
        /// As configured.
        address: SocketAddr,
        /// To accept on.
        socket: tokio::net::TcpListener,
    },
}

/// Builds what `config` needs. Blocks on files, and needs a runtime for its sockets.
///
/// # Errors
/// [`StartError`] for the first thing that cannot be had.
pub(super) fn prepare(
    config: Config,
    inputs: Inputs,
    basis: &Basis,
) -> Result<Prepared, StartError> {
    let sockets = listeners::place(&config.listeners, &basis.sockets)?;
    let admin = next_admin(config.admin.as_ref(), basis.admin)?;
    let (table, sources) = certificates::load(&config, SystemTime::now())?;
    let current = basis.current.as_ref();
    let pools = pools(&config, &inputs, basis)?;
    let access = match current {
        Some(current) if is_same_access(&current.generation.config, &config) => {
            Arc::clone(&current.access)
        }
        Some(_) | None => Arc::new(AccessLog::open(&config.log)?),
    };
    let door = |listener| NextDoor::new(listener, basis);
    let doors = config.listeners.iter().map(door).collect::<Result<Vec<_>, _>>()?;
    let bound = listeners::bound_listeners(&doors, &sockets);
    let previous = current.map(|current| &*current.generation);
    let generation = Arc::new(Generation::new(previous, config, pools, bound, &basis.metrics));
    Ok(Prepared { generation, access, table, sources, doors, sockets, admin, inputs })
}

fn next_admin(admin: Option<&Admin>, present: Option<SocketAddr>) -> Result<NextAdmin, StartError> {
    let Some(admin) = admin else { return Ok(NextAdmin::Off) };
    let address = admin.bind;
    if present == Some(address) {
        return Ok(NextAdmin::Kept);
    }
    let bound = TcpListener::bind(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket)
    });
    match bound {
        Ok(socket) => Ok(NextAdmin::Bound { address, socket }),
        Err(source) => Err(StartError::Admin { address, source }),
    }
}

fn is_same_access(one: &Config, other: &Config) -> bool {
    (&one.log.access, one.log.format) == (&other.log.access, other.log.format)
}

/// The pools of `config`. One whose settings and files are the same is the very one in force.
fn pools(config: &Config, inputs: &Inputs, basis: &Basis) -> Result<Vec<Arc<Pool>>, StartError> {
    let mut roots = None;
    let present = basis.current.as_ref().map_or(&[][..], |current| &current.generation.pools);
    let build = |spec: &Upstream| {
        let previous = present.iter().find(|pool| pool.name() == spec.name);
        if let Some(previous) = previous
            && previous.spec() == spec
            && inputs.is_same_for(&spec.tls, &basis.inputs)
        {
            return Ok(Arc::clone(previous));
        }
        let has_tls = spec.servers.iter().any(|server| server.https);
        let roots =
            if has_tls { roots.get_or_insert_with(system_roots) } else { &SystemRoots::none() };
        match Pool::new(spec.clone(), roots, previous.map(|previous| &**previous)) {
            Ok(pool) => Ok(Arc::new(pool)),
            Err(source) => Err(StartError::Pool { name: spec.name.clone(), source }),
        }
    };
    config.upstreams.iter().map(build).collect()
}

fn system_roots() -> SystemRoots {
    let roots = SystemRoots::load();
    if roots.skipped > 0 {
        tracing::warn!(count = roots.skipped, "skipped CAs of the system that cannot be read");
    }
    roots
}
