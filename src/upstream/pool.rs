//! An upstream pool: its servers' endpoints, its places, and the choice among them.
//!
//! Answers "which endpoint gets this request, and may it go there now?". Called by `proxy` for
//! each attempt.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::balance::{self, Candidate};
use super::endpoint::{Endpoint, Occupied};
use super::peer::EngineTls;
use super::resolve;
use crate::config::listener::Alpn;
use crate::config::upstream::{Balance, Server, Upstream};
use crate::net::Host;
use crate::tls::client_config;
use crate::tls::{ClientConfig, ClientConfigError, ServerName, SystemRoots};

/// An upstream pool as it runs.
#[derive(Debug)]
pub struct Pool {
    spec: Upstream,
    /// By server; `None` for plain ones.
    client_tls: Vec<ServerTls>,
    engine_tls: Option<EngineTls>,
    endpoints: ArcSwap<Endpoints>,
    /// One place per request in flight (`limits.connections`).
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    turn: AtomicUsize,
    /// Servers whose names have not been looked up yet, by index.
    unknown: watch::Sender<Vec<usize>>,
}

/// How TLS is spoken to one server, if it is, and under which name.
type ServerTls = Option<(Arc<ClientConfig>, ServerName<'static>)>;

/// The endpoints at one moment, replaced whole when addresses change.
#[derive(Debug, Default)]
struct Endpoints {
    /// In the servers' order, each with the index of its server.
    list: Vec<(usize, Arc<Endpoint>)>,
    schedule: Vec<u16>,
}

/// A place in the pool, held while a request is in flight.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Why a request gets no place in a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the pool is full")]
pub struct PoolFull;

impl Pool {
    /// A pool whose literal addresses are in place and whose names are yet to be looked up.
    ///
    /// # Errors
    /// [`ClientConfigError`] when the CA or the client certificate cannot be used.
    pub fn new(spec: Upstream, roots: &SystemRoots) -> Result<Self, ClientConfigError> {
        let client_tls = client_tls(&spec, roots)?;
        let mut list = Vec::new();
        let mut unknown = Vec::new();
        for (index, server) in spec.servers.iter().enumerate() {
            match resolve::literal(&server.host) {
                Some((address, alternate)) => {
                    let at = |ip: IpAddr| SocketAddr::new(ip, server.port);
                    let endpoint =
                        Endpoint::new(index, server.clone(), at(address), alternate.map(at));
                    list.push((index, Arc::new(endpoint)));
                }
                None => unknown.push(index),
            }
        }
        Ok(Self {
            engine_tls: EngineTls::load(&spec)?,
            client_tls,
            endpoints: ArcSwap::from_pointee(Endpoints::new(list)),
            places: Arc::new(Semaphore::new(spec.limits.connections)),
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            unknown: watch::Sender::new(unknown),
            spec,
        })
    }

    /// The pool as configured.
    #[must_use]
    pub fn spec(&self) -> &Upstream {
        &self.spec
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How TLS is spoken to the server at `index`; `None` when it is not.
    #[must_use]
    pub fn client_tls(&self, index: usize) -> Option<(&Arc<ClientConfig>, ServerName<'static>)> {
        let (config, name) = self.client_tls.get(index)?.as_ref()?;
        Some((config, name.clone()))
    }

    /// What the engine's own TLS needs, where it is used.
    #[must_use]
    pub fn engine_tls(&self) -> Option<&EngineTls> {
        self.engine_tls.as_ref()
    }

    /// The name `server` is asked for in TLS and must have in its certificate.
    #[must_use]
    pub fn server_name(&self, server: &Server) -> String {
        match (&self.spec.tls.server_name, &server.host) {
            (Some(name), _) | (None, Host::Name(name)) => name.to_string(),
            (None, Host::Address(address)) => address.to_string(),
        }
    }

    /// Indices of the servers that need a look-up.
    pub fn named_servers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.spec.servers.len())
            .filter(|index| resolve::literal(&self.spec.servers[*index].host).is_none())
    }

    /// Every endpoint known now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.load().list.iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }

    /// A place for one request: at once when there is one, else after a wait of at most
    /// `timeouts.connect`, which at most `limits.pending` requests do.
    ///
    /// # Errors
    /// [`PoolFull`] when there is none.
    pub async fn place(&self) -> Result<Place, PoolFull> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place(permit));
        }
        let _waiting = Waiting::enter(&self.waiting, self.spec.limits.pending)?;
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(self.spec.timeouts.connect, place).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(_)) | Err(_) => Err(PoolFull),
        }
    }

    /// An endpoint that is not among `tried`, by the pool's balance; waits for the first look-up
    /// when no address is known yet. `None` when there is none left.
    pub async fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Occupied> {
        let picked = self.pick_now(tried);
        if picked.is_some() || !self.endpoints.load().list.is_empty() {
            return picked;
        }
        let mut unknown = self.unknown.subscribe();
        let known = unknown.wait_for(Vec::is_empty);
        // Either way the answer is what is known by then.
        let _ = tokio::time::timeout(self.spec.timeouts.connect, known).await;
        self.pick_now(tried)
    }

    fn pick_now(&self, tried: &[Arc<Endpoint>]) -> Option<Occupied> {
        let endpoints = self.endpoints.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let [(_, only)] = endpoints.list.as_slice() {
            return (!is_among(tried, only)).then(|| only.occupy());
        }
        if tried.is_empty() && self.spec.balance == Balance::RoundRobin {
            let index = *endpoints.schedule.get(turn % endpoints.schedule.len().max(1))?;
            return endpoints.list.get(usize::from(index)).map(|(_, endpoint)| endpoint.occupy());
        }
        let chance = |below| fastrand::u64(..below);
        let facts = |endpoint: &Endpoint| Candidate {
            weight: endpoint.server.weight,
            in_flight: endpoint.in_flight(),
        };
        if tried.is_empty() {
            let list = &endpoints.list;
            let of = |index: usize| facts(&list[index].1);
            return balance::choose(self.spec.balance, list.len(), of, turn, chance)
                .map(|index| list[index].1.occupy());
        }
        let left: Vec<&Arc<Endpoint>> = endpoints
            .list
            .iter()
            .map(|(_, endpoint)| endpoint)
            .filter(|endpoint| !is_among(tried, endpoint))
            .collect();
        balance::choose(self.spec.balance, left.len(), |index| facts(left[index]), turn, chance)
            .map(|index| left[index].occupy())
    }

    /// Replaces the addresses of the server at `index`; what stays keeps its endpoint, and with it
    /// its connections and counters. Returns whether anything changed.
    pub fn set_addresses(&self, index: usize, addresses: &[IpAddr]) -> bool {
        let Some(server) = self.spec.servers.get(index) else { return false };
        let mut changed = false;
        let previous = self.endpoints.rcu(|current| {
            let mine = |entry: &&(usize, Arc<Endpoint>)| entry.0 == index;
            let old: Vec<_> = current.list.iter().filter(mine).collect();
            let same = old.len() == addresses.len()
                && old.iter().all(|(_, endpoint)| addresses.contains(&endpoint.address.ip()));
            changed = !same;
            let mut list: Vec<_> =
                current.list.iter().filter(|entry| entry.0 != index).cloned().collect();
            for address in addresses {
                let kept = old.iter().find(|(_, endpoint)| endpoint.address.ip() == *address);
                let endpoint = kept.map_or_else(
                    || {
                        let at = SocketAddr::new(*address, server.port);
                        Arc::new(Endpoint::new(index, server.clone(), at, None))
                    },
                    |(_, endpoint)| Arc::clone(endpoint),
                );
                list.push((index, endpoint));
            }
            list.sort_by_key(|(index, _)| *index);
            Endpoints::new(list)
        });
        for (owner, endpoint) in &previous.list {
            if *owner == index && !addresses.contains(&endpoint.address.ip()) {
                endpoint.close_idle();
            }
        }
        self.looked_up(index);
        changed
    }

    /// Notes that the server at `index` was looked up, successfully or not: requests that wait for
    /// it go on.
    pub fn looked_up(&self, index: usize) {
        self.unknown.send_if_modified(|unknown| {
            let before = unknown.len();
            unknown.retain(|one| *one != index);
            unknown.len() != before
        });
    }
}

impl Endpoints {
    fn new(list: Vec<(usize, Arc<Endpoint>)>) -> Self {
        let weights: Vec<u32> = list.iter().map(|(_, endpoint)| endpoint.server.weight).collect();
        Self { schedule: balance::schedule(&weights), list }
    }
}

/// Closes connections of `pool` that have waited too long or that the server closed, until `stop`.
pub async fn sweep_idle(pool: Arc<Pool>, stop: CancellationToken) {
    let max_idle = pool.spec.timeouts.pool_idle;
    let period = (max_idle / 4).clamp(Duration::from_millis(250), Duration::from_secs(15));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = Instant::now();
        for endpoint in pool.endpoints() {
            endpoint.sweep(now, max_idle);
        }
    }
    for endpoint in pool.endpoints() {
        endpoint.close_idle();
    }
}

/// One configuration for the whole pool, so that its servers share sessions, and each server's
/// name.
fn client_tls(spec: &Upstream, roots: &SystemRoots) -> Result<Vec<ServerTls>, ClientConfigError> {
    if !spec.servers.iter().any(|server| server.https) {
        return Ok(vec![None; spec.servers.len()]);
    }
    let built = client_config::build(&spec.tls, &[Alpn::Http1], roots, SystemTime::now())?;
    for warning in &built.warnings {
        tracing::warn!(pool = %spec.name, %warning, "client certificate");
    }
    spec.servers
        .iter()
        .map(|server| {
            if !server.https {
                return Ok(None);
            }
            let name = client_config::server_name(&spec.tls, &server.host)?;
            Ok(Some((Arc::clone(&built.config), name)))
        })
        .collect()
}

fn is_among(tried: &[Arc<Endpoint>], endpoint: &Arc<Endpoint>) -> bool {
    tried.iter().any(|one| Arc::ptr_eq(one, endpoint))
}

/// One of the `limits.pending` requests that wait for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Result<Self, PoolFull> {
        let waiting = Self(count);
        // Counted first, so that two at once cannot both pass; the drop takes it back.
        if count.fetch_add(1, Ordering::Relaxed) < limit { Ok(waiting) } else { Err(PoolFull) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
