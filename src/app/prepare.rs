//! Everything that a configuration needs, built beside what is in force.
//!
//! Answers "can this configuration be served?". Whatever may fail happens here; putting the result
//! in force cannot. When it fails nothing has changed, and what was bound is closed again.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::StartError;
use super::certificates::{self, Sources};
use super::desk;
use super::inputs::Inputs;
use super::listeners::{self, NextDoor, NextSocket, Place};
use crate::acme::event::Events;
use crate::acme::fleet::Fleet;
use crate::acme::renewer::Assignment;
use crate::admin::{Token, View};
use crate::config::listener::BindAddress;
use crate::config::process::{AccessLog as Destination, Admin, Log, LogFile};
use crate::config::upstream::Upstream;
use crate::config::{Config, Loaded, effective};
use crate::listen::connection::Door;
use crate::listen::{Inherited, Owner};
use crate::proxy::generation::Generation;
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLog;
use crate::tls::{CertStore, Policies, SystemRoots, Tickets};
use crate::upstream::Pool;

/// What is in force, as far as the next configuration builds on it; almost nothing at the start.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) current: Option<Current>,
    pub(super) inputs: Inputs,
    pub(super) doors: Vec<Arc<Door>>,
    pub(super) sockets: Vec<Place>,
    /// Of the same sockets.
    pub(super) handles: Vec<Arc<TcpListener>>,
    pub(super) admin: Option<AdminPlace>,
    pub(super) store: Arc<CertStore>,
    pub(super) tickets: Tickets,
    /// Whom certificates are shared with.
    pub(super) fleet: Option<Arc<Fleet>>,
    pub(super) metrics: Arc<Metrics>,
    /// Who is told what becomes of certificates.
    pub(super) events: Events,
    /// Where access lines go instead of standard output.
    pub(super) access_file: Option<LogFile>,
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
    pub(super) sources: Sources,
    /// What is wanted of an authority.
    pub(super) assignment: Option<Arc<Assignment>>,
    pub(super) doors: Vec<NextDoor>,
    pub(super) sockets: Vec<NextSocket>,
    pub(super) admin: NextAdmin,
    /// What the admin listener shows of it.
    pub(super) view: View,
    pub(super) inputs: Inputs,
}

/// The admin socket of the next configuration.
#[derive(Debug)]
pub(super) enum NextAdmin {
    /// There is none.
    Off,
    /// The one that is there.
    Kept(AdminPlace),
    /// A new one.
    Bound {
        /// Where it is.
        at: AdminPlace,
        /// To accept on.
        socket: tokio::net::TcpListener,
        /// The same socket.
        handle: TcpListener,
    },
}

/// Where the admin listener is.
#[derive(Clone, Debug)]
pub(super) struct AdminPlace {
    /// As configured.
    pub(super) address: SocketAddr,
    /// As bound.
    pub(super) local: SocketAddr,
    /// Whether a service manager has it open as well.
    pub(super) is_held: bool,
    /// Where `token` lies, and beside it `local`.
    storage: PathBuf,
    /// `None` where none could be made.
    pub(super) token: Option<Token>,
}

/// Builds what the configuration `loaded` needs, with `inherited` sockets where they fit. Blocks on
/// files, and needs a runtime for its sockets.
///
/// # Errors
/// [`StartError`] for the first thing that cannot be had.
pub(super) fn prepare(
    loaded: &Loaded,
    inputs: Inputs,
    basis: &Basis,
    mut inherited: Inherited,
) -> Result<Prepared, StartError> {
    let mut config = loaded.config.clone();
    config.gather_names();
    let present = (&basis.sockets[..], &basis.handles[..]);
    let sockets = listeners::place(&config.listeners, present, &mut inherited)?;
    let mut admin = next_admin(config.admin.as_ref(), basis.admin.as_ref(), &mut inherited)?;
    inherited.close();
    let (fleet, events) = (basis.fleet.clone(), &basis.events);
    let (sources, assignment) = certificates::load(&config, fleet, events, SystemTime::now())?;
    let current = basis.current.as_ref();
    let pools = pools(&config, &inputs, basis)?;
    let access = match current {
        Some(current) if is_same_access(&current.generation.config, &config) => {
            Arc::clone(&current.access)
        }
        Some(_) | None => Arc::new(AccessLog::open(&logs(&config, basis))?),
    };
    let previous = current.map(|current| &*current.generation);
    let policies = previous.map(|previous| &previous.policies);
    let policies = Policies::load(&config, policies, &basis.tickets, SystemTime::now())?;
    let door = |listener| NextDoor::new(listener, &policies, basis);
    let doors = config.listeners.iter().enumerate().map(door).collect::<Result<Vec<_>, _>>()?;
    let view = desk::view(&config, effective::yaml(loaded), &sockets);
    let bound = listeners::bound_listeners(&doors, &sockets);
    // The last step: it writes down where the next configuration is reached.
    admin.find_token(&config.storage, basis.admin.as_ref());
    let metrics = &basis.metrics;
    let generation = Generation::new(previous, config, pools, policies, bound, metrics);
    let generation = Arc::new(generation);
    Ok(Prepared { generation, access, sources, assignment, doors, sockets, admin, view, inputs })
}

impl NextAdmin {
    /// Makes the token under `storage`, unless the listener that is there has it from the same place.
    fn find_token(&mut self, storage: &Path, present: Option<&AdminPlace>) {
        let (Self::Kept(at) | Self::Bound { at, .. }) = self else { return };
        let is_written = |present: &AdminPlace| {
            (present.storage.as_path(), present.local) == (storage, at.local)
        };
        if !present.is_some_and(is_written) {
            at.token = desk::token(storage, at.local);
            storage.clone_into(&mut at.storage);
        }
    }
}

fn next_admin(
    admin: Option<&Admin>,
    present: Option<&AdminPlace>,
    inherited: &mut Inherited,
) -> Result<NextAdmin, StartError> {
    let Some(admin) = admin else { return Ok(NextAdmin::Off) };
    let address = admin.bind;
    if let Some(present) = present.filter(|present| present.address == address) {
        return Ok(NextAdmin::Kept(present.clone()));
    }
    let found = inherited.take(Owner::Admin, BindAddress::Addr(address)).pop();
    let is_held = found.as_ref().is_some_and(|found| found.is_held);
    let bound = found.map_or_else(|| TcpListener::bind(address), |found| Ok(found.socket));
    let bound = bound.and_then(|handle| {
        handle.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(handle.try_clone()?)?;
        Ok((handle.local_addr()?, socket, handle))
    });
    match bound {
        Ok((local, socket, handle)) => {
            let at = AdminPlace { address, local, is_held, storage: PathBuf::new(), token: None };
            Ok(NextAdmin::Bound { at, socket, handle })
        }
        Err(source) => Err(StartError::Admin { address, source }),
    }
}

/// `log:`, with a file in the place of standard output where there is to be one.
fn logs(config: &Config, basis: &Basis) -> Log {
    let mut log = config.log.clone();
    if let (Destination::Stdout, Some(file)) = (&log.access, &basis.access_file) {
        log.access = Destination::File(file.clone());
    }
    log
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
