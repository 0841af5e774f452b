//! What runs: sockets, connections, pools and certificates of the configuration in force, and their
//! replacement by those of the next.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certificates::Certificates;
use super::inputs::Inputs;
use super::listeners::{self, NextSocket, Origin, Socket};
use super::prepare::{AdminPlace, Basis, Current, NextAdmin, Prepared};
use super::state::Stage;
use super::{LAST_STEPS, StartError};
use crate::acme::renewer::Commands;
use crate::admin::{self, Control, Desk, LastReload, View};
use crate::config::listener::BindAddress;
use crate::config::process::LogFile;
use crate::listen::connection::{Census, Door, Surroundings, accept};
use crate::listen::{Heirs, Owner};
use crate::proxy::engine::Engine;
use crate::proxy::gateway::Shared;
use crate::proxy::generation::Generation;
use crate::task::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLog;
use crate::telemetry::log::LogControl;
use crate::tls::RevocationList;
use crate::upstream::{self, Pool, Resolver};

/// Longest wait for requests that are handing in their access line to a log that is replaced. They
/// take microseconds.
const LAST_WRITERS: Duration = Duration::from_secs(5);

/// What runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<Engine>,
    pub(super) census: Arc<Census>,
    pub(super) certificates: Arc<Certificates>,
    /// Asks the renewer.
    pub(super) commands: Commands,
    /// The file that a reload reads.
    pub(super) file: Option<PathBuf>,
    pub(super) inputs: Inputs,
    /// What is watched for changes.
    pub(super) watched: watch::Sender<Vec<PathBuf>>,
    /// The revocation lists in force.
    pub(super) lists: watch::Sender<Vec<RevocationList>>,
    pub(super) stage: Stage,
    pub(super) log: LogControl,
    /// Where access lines go instead of standard output.
    access_file: Option<LogFile>,
    pub(super) control: Control,
    pub(super) last: LastReload,
    /// What lasts as long as the process.
    pub(super) background: Tasks,
    /// Admin listeners, and what is asked of them.
    admins: Tasks,
    /// What looks after certificates and changes, until another process does.
    pub(super) caretakers: Tasks,
    /// By index of the configuration's listeners.
    doors: Vec<Arc<Door>>,
    sockets: Vec<Socket>,
    pools: Vec<KeptPool>,
    admin: Option<AdminSocket>,
    /// What the admin listener shows of the configuration in force.
    pub(super) view: Arc<ArcSwap<View>>,
    pub(super) started: Instant,
    /// Accept loops.
    accepting: Tasks,
    /// Listeners that drain because a reload has removed them.
    retiring: Tasks,
    /// Fires when the process accepts no more.
    close: CancellationToken,
    /// Fires when all connections are to end after what they are doing.
    drain: CancellationToken,
}

/// A pool and the end of its task.
#[derive(Debug)]
struct KeptPool {
    pool: Arc<Pool>,
    stop: CancellationToken,
}

/// The admin listener.
#[derive(Debug)]
struct AdminSocket {
    at: AdminPlace,
    desk: Arc<Desk>,
    /// Ends its accept loop.
    close: CancellationToken,
    /// Fires when that has ended.
    closed: CancellationToken,
    stop: CancellationToken,
    /// The other handle to the socket.
    handle: std::net::TcpListener,
}

impl Running {
    /// What is to run `first`, before it does.
    pub(super) fn new(
        first: &Prepared,
        (certificates, commands): (Arc<Certificates>, Commands),
        metrics: Arc<Metrics>,
        stage: Stage,
        launch: (Option<PathBuf>, LogControl, Option<LogFile>, Control, LastReload),
    ) -> Self {
        let shared = Arc::new(Shared::new(
            Arc::clone(&first.generation),
            Arc::clone(&certificates.store),
            Arc::clone(&first.access),
            metrics,
        ));
        let (file, log, access_file, control, last) = launch;
        Self {
            engine: Arc::new(Engine::new(Arc::clone(&shared))),
            shared,
            census: Arc::default(),
            certificates,
            commands,
            file,
            inputs: Inputs::default(),
            watched: watch::Sender::default(),
            lists: watch::Sender::default(),
            stage,
            log,
            access_file,
            control,
            last,
            background: Tasks::new(),
            admins: Tasks::new(),
            caretakers: Tasks::new(),
            doors: Vec::new(),
            sockets: Vec::new(),
            pools: Vec::new(),
            admin: None,
            view: Arc::new(ArcSwap::from_pointee(first.view.clone())),
            started: Instant::now(),
            accepting: Tasks::new(),
            retiring: Tasks::new(),
            close: CancellationToken::new(),
            drain: CancellationToken::new(),
        }
    }

    /// What the next configuration builds on.
    pub(super) fn basis(&self) -> Basis {
        Basis {
            current: Some(Current {
                generation: self.shared.current.load_full(),
                access: self.shared.access.load_full(),
            }),
            inputs: self.inputs.clone(),
            doors: self.doors.clone(),
            sockets: self.sockets.iter().map(|socket| socket.at.clone()).collect(),
            handles: self.sockets.iter().map(|socket| Arc::clone(&socket.handle)).collect(),
            admin: self.admin.as_ref().map(|admin| admin.at.clone()),
            store: Arc::clone(&self.certificates.store),
            tickets: self.certificates.tickets.clone(),
            fleet: self.certificates.fleet(),
            metrics: Arc::clone(&self.shared.metrics),
            events: self.certificates.events.clone(),
            access_file: self.access_file.clone(),
        }
    }

    /// Has all sockets of `next` listen. Until then nobody waits at one of them.
    ///
    /// # Errors
    /// [`StartError`] when one cannot.
    pub(super) fn open(&self, next: &mut Prepared) -> Result<(), StartError> {
        let handles: Vec<_> = self.sockets.iter().map(|socket| &*socket.handle).collect();
        listeners::open(&mut next.sockets, &next.doors, &handles)
    }

    /// Puts `next` in force, which is [open](Self::open). Cannot fail, and never waits: it is done at once or not begun.
    pub(super) fn put_in_force(&mut self, next: Prepared) {
        let Prepared {
            generation,
            access,
            sources,
            assignment,
            doors,
            sockets,
            admin,
            view,
            inputs,
        } = next;
        let surroundings = || self.surroundings();
        let doors: Vec<Arc<Door>> = doors.into_iter().map(|door| door.open(surroundings)).collect();
        self.certificates.replace(sources, assignment);
        let retired = self.keep_pools(&generation.pools);
        // A connection that comes in through a new door needs the new configuration, and its first
        // request takes longer to come than the next lines take.
        let fresh = self.keep_sockets(sockets, &doors);
        let lists = generation.policies.lists();
        self.shared.current.store(generation);
        self.lists.send_replace(lists);
        self.view.store(Arc::new(view));
        for (socket, door, heirs, close) in fresh {
            self.accepting.spawn("accept", accept(socket, door, heirs, close));
        }
        for pool in retired {
            pool.stop.cancel();
        }
        self.replace_access(access);
        for gone in std::mem::replace(&mut self.doors, doors) {
            if !self.doors.iter().any(|door| Arc::ptr_eq(&door.facts, &gone.facts)) {
                self.retire(&gone);
            }
        }
        self.replace_admin(admin);
        self.watch(inputs.paths());
        self.inputs = inputs;
    }

    /// Has `files` watched for changes, and no others.
    pub(super) fn watch(&self, files: Vec<PathBuf>) {
        self.watched.send_if_modified(|watched| {
            let is_changed = *watched != files;
            *watched = files;
            is_changed
        });
    }

    /// What connections of a new listener are served with.
    fn surroundings(&self) -> Surroundings {
        let drain = self.drain.child_token();
        Surroundings {
            engine: Arc::clone(&self.engine),
            census: Arc::clone(&self.census),
            tasks: Tasks::new(),
            leave: drain.child_token(),
            drain,
        }
    }

    /// Starts what new pools need while they live. Returns those that are no longer asked.
    fn keep_pools(&mut self, pools: &[Arc<Pool>]) -> Vec<KeptPool> {
        let mut resolver = None;
        let mut present = std::mem::take(&mut self.pools);
        for pool in pools {
            if let Some(at) = present.iter().position(|kept| Arc::ptr_eq(&kept.pool, pool)) {
                self.pools.push(present.swap_remove(at));
                continue;
            }
            let has_names = pool.named_servers().next().is_some();
            let resolver =
                has_names.then(|| resolver.get_or_insert_with(Resolver::from_system).clone());
            let stop = self.background.stop_token();
            self.background.spawn("pool", upstream::keep(Arc::clone(pool), resolver, stop.clone()));
            self.pools.push(KeptPool { pool: Arc::clone(pool), stop });
        }
        present
    }

    /// Turns the sockets that stay to their new doors and closes those that go. Returns what accept
    /// loops of new ones need.
    fn keep_sockets(&mut self, next: Vec<NextSocket>, doors: &[Arc<Door>]) -> Vec<Fresh> {
        let mut present: Vec<Option<Socket>> =
            std::mem::take(&mut self.sockets).into_iter().map(Some).collect();
        let mut fresh = Vec::new();
        for NextSocket { listener, at, origin } in next {
            let door = &doors[listener];
            match origin {
                Origin::Kept(index) => {
                    let Some(mut socket) = present.get_mut(index).and_then(Option::take) else {
                        continue;
                    };
                    if socket.at.listener != at.listener {
                        log_listening(&at.listener, at.local);
                    }
                    socket.turn_to(at, door);
                    self.sockets.push(socket);
                }
                Origin::Bound { socket, handle } => {
                    log_listening(&at.listener, at.local);
                    let kept = Socket::new(at, handle, door, self.close.child_token());
                    let (door, heirs) = (Arc::clone(&kept.door), Arc::clone(&kept.heirs));
                    fresh.push((socket, door, heirs, kept.close.clone()));
                    self.sockets.push(kept);
                }
                // None is left that is not open.
                Origin::Reserved { .. } => {}
            }
        }
        for gone in present.into_iter().flatten() {
            gone.close(&self.sockets);
            let (listener, address) = (&gone.at.listener, gone.at.local);
            tracing::info!(%listener, server.address = %address, "stopped listening");
        }
        fresh
    }

    /// Lets the connections of a listener that is gone end as at the end of the process: after what
    /// they are doing, and within `shutdown.grace`.
    fn retire(&self, door: &Arc<Door>) {
        let (facts, around) = (Arc::clone(&door.facts), Arc::clone(&door.around));
        facts.retire();
        around.drain.cancel();
        let grace = self.shared.current.load().config.shutdown.grace;
        let stop = self.retiring.stop_token();
        self.retiring.spawn("retire", async move {
            // A stop comes in after the process's own time for this.
            let _ = stop.run_until_cancelled(around.tasks.finish(grace)).await;
            let left = around.tasks.running();
            if left > 0 {
                facts.cut();
                around.tasks.stop();
                around.tasks.finish(LAST_STEPS).await;
                tracing::warn!(listener = %facts.name, connections = left, "drained in part");
            } else {
                tracing::info!(listener = %facts.name, "drained");
            }
        });
    }

    /// Hands access lines to `next` from here on. The one before ends when all it was given is
    /// written.
    fn replace_access(&self, next: Arc<AccessLog>) {
        let old = self.shared.access.swap(Arc::clone(&next));
        if Arc::ptr_eq(&old, &next) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.background.spawn("access log", async move {
            // Whoever loaded it before is writing at this moment, and tells nobody when it is done.
            let last_writers = async {
                while Arc::strong_count(&old) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WRITERS, last_writers).await;
            old.close().await;
            shared.count_lines_dropped(old.dropped());
        });
    }

    fn replace_admin(&mut self, next: NextAdmin) {
        let next = match next {
            NextAdmin::Kept(at) => {
                if let Some(present) = &mut self.admin {
                    present.desk.token.store(at.token.clone().map(Arc::new));
                    present.at = at;
                }
                return;
            }
            NextAdmin::Off => None,
            NextAdmin::Bound { at, socket, handle } => Some(self.start_admin(at, socket, handle)),
        };
        if let Some(old) = std::mem::replace(&mut self.admin, next) {
            old.stop.cancel();
            tracing::info!(server.address = %old.at.local, "admin stopped listening");
        }
    }

    fn start_admin(
        &self,
        at: AdminPlace,
        socket: tokio::net::TcpListener,
        handle: std::net::TcpListener,
    ) -> AdminSocket {
        tracing::info!(server.address = %at.local, "admin listening");
        let desk = Arc::new(self.desk(at.token.clone()));
        let (close, closed) = (CancellationToken::new(), CancellationToken::new());
        let stop = self.admins.stop_token();
        let ends = (close.clone(), closed.clone().drop_guard());
        self.admins.spawn("admin", admin::serve(socket, Arc::clone(&desk), ends, stop.clone()));
        AdminSocket { at, desk, close, closed, stop, handle }
    }

    /// Where the admin listener is.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.at.local)
    }

    /// Every socket that is accepted on, with its name, for another process to accept on as well.
    pub(super) fn sockets_to_pass_on(&self) -> io::Result<Vec<(String, std::net::TcpListener)>> {
        let mut passed =
            self.sockets.iter().map(Socket::to_pass_on).collect::<io::Result<Vec<_>>>()?;
        if let Some(admin) = &self.admin {
            let address = BindAddress::Addr(admin.at.address);
            let name = Owner::Admin.name_to_hand_over(address, admin.at.is_held);
            passed.push((name, admin.handle.try_clone()?));
        }
        Ok(passed)
    }

    /// Leaves new connections to another process, those of the admin listener as well.
    pub(super) async fn stop_accepting(&mut self) {
        self.close();
        if let Some(admin) = self.admin.take() {
            admin.close.cancel();
            // It is about to look.
            let _ = tokio::time::timeout(LAST_STEPS, admin.closed.cancelled()).await;
        }
        self.accepting.finish(LAST_STEPS).await;
    }

    /// Answers those that are connected for the last time. Who has no answer to come is not told yet,
    /// for at most `patience`.
    pub(super) async fn give_way(&self, patience: Duration) {
        self.engine.stop();
        for door in &self.doors {
            door.around.leave.cancel();
        }
        join_all(self.doors.iter().map(|door| door.around.tasks.finish(patience))).await;
    }

    /// Lets what was asked of the admin listener be answered, if it accepts no more, and ends it.
    pub(super) async fn finish_admin(&self) {
        if self.admin.is_none() {
            self.admins.finish(LAST_STEPS).await;
        }
        self.admins.stop();
        self.admins.finish(LAST_STEPS).await;
    }

    /// Accepts no more.
    pub(super) fn close(&mut self) {
        self.close.cancel();
        self.sockets.clear();
    }

    /// Finishes what is in flight, at most `grace`.
    pub(super) async fn finish(&self, grace: Duration) {
        self.engine.stop();
        self.drain.cancel();
        // They end at once, and whoever came in last is waited for as well.
        self.accepting.finish(LAST_STEPS).await;
        let listeners = join_all(self.doors.iter().map(|door| door.around.tasks.finish(grace)));
        tokio::join!(listeners, self.retiring.finish(grace));
    }

    /// Ends what is still in flight; `started` is when the end began.
    pub(super) async fn cut(&self, started: Instant) {
        let left = self.census.count();
        self.shared.cut();
        for door in &self.doors {
            door.around.tasks.stop();
        }
        self.retiring.stop();
        self.finish(LAST_STEPS).await;
        let seconds = started.elapsed().as_secs_f64();
        if left > 0 {
            tracing::warn!(connections = left, seconds, "drained in part");
        } else {
            tracing::info!(seconds, "drained");
        }
    }

    /// The configuration in force.
    pub(super) fn generation(&self) -> Arc<Generation> {
        self.shared.current.load_full()
    }
}

/// What the accept loop of a new socket needs.
type Fresh = (tokio::net::TcpListener, Arc<ArcSwap<Door>>, Arc<Heirs>, CancellationToken);

fn log_listening(listener: &str, address: SocketAddr) {
    tracing::info!(%listener, server.address = %address, "listening");
}
