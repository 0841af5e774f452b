//! An upstream pool: its servers' endpoints, its places, and the choice among them.
//!
//! Answers "which endpoint gets this request, and may it go there now?". Called by `proxy` for
//! each attempt.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::balance::{self, Candidate};
use super::endpoint::{Endpoint, Occupied};
use super::peer::EngineTls;
use super::resolve;
use super::selection::{Selection, is_available};
use crate::config::listener::Alpn;
use crate::config::upstream::{Balance, Server, Upstream, UpstreamProtocol};
use crate::net::Host;
use crate::tls::client_config;
use crate::tls::{ClientConfig, ClientConfigError, ServerName, SystemRoots};

/// An upstream pool as it runs.
#[derive(Debug)]
pub struct Pool {
    spec: Upstream,
    /// By server; `None` for plain ones.
    client_tls: Vec<ServerTls>,
    /// Leaves the choice between h2 and HTTP/1.1 to the server, where the pool does.
    choosing_tls: Option<Arc<ClientConfig>>,
    engine_tls: Option<EngineTls>,
    /// Tells TLS settings apart, by the files' contents as well.
    tls_print: u64,
    members: Mutex<Members>,
    selection: ArcSwap<Selection>,
    /// Touched whenever members or selection change.
    changes: watch::Sender<()>,
    /// One place per request in flight (`limits.connections`).
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    turn: AtomicUsize,
    retrying: Arc<AtomicUsize>,
}

/// How TLS is spoken to one server, if it is, and under which name.
type ServerTls = Option<(Arc<ClientConfig>, ServerName<'static>)>;

/// The endpoints at one moment.
#[derive(Debug, Default)]
struct Members {
    /// In the servers' order.
    list: Vec<Arc<Endpoint>>,
    /// Servers whose names have not been looked up yet, by index.
    unresolved: Vec<usize>,
}

/// A place in the pool, held while a request is in flight.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Why a request gets no place in a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the pool is full")]
pub struct PoolFull;

/// A request that is being tried again, counted while this lives.
#[derive(Debug)]
pub struct Retrying(Arc<AtomicUsize>);

/// Retries that are always allowed at once, however few requests are in flight.
const MIN_RETRIES: usize = 3;

impl Pool {
    /// A pool whose literal addresses are in place and whose names are yet to be looked up.
    ///
    /// From `previous`, the pool of that name in the generation before, it takes over what is known
    /// of endpoints with the same URL, address and TLS settings: requests in flight, connections
    /// and health; and the addresses of named servers. `previous` serves on as if nothing had been.
    ///
    /// Blocks on files.
    ///
    /// # Errors
    /// [`ClientConfigError`] when the CA or the client certificate cannot be used.
    pub fn new(
        spec: Upstream,
        roots: &SystemRoots,
        previous: Option<&Self>,
    ) -> Result<Self, ClientConfigError> {
        let client_tls = client_tls(&spec, roots)?;
        let choosing_tls = choosing_tls(&spec, roots)?;
        let tls_print = tls_print(&spec);
        let previous = previous.filter(|it| it.spec.name == spec.name && it.tls_print == tls_print);
        let members = Members::new(&spec, previous);
        let same = previous.filter(|it| it.spec.limits.connections == spec.limits.connections);
        let places = same.map_or_else(
            || Arc::new(Semaphore::new(spec.limits.connections)),
            |previous| Arc::clone(&previous.places),
        );
        Ok(Self {
            engine_tls: EngineTls::load(&spec, tls_print)?,
            client_tls,
            choosing_tls,
            tls_print,
            selection: ArcSwap::from_pointee(Selection::of(
                &spec,
                &members.list,
                &members.unresolved,
            )),
            members: Mutex::new(members),
            changes: watch::Sender::new(()),
            places,
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            retrying: Arc::default(),
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

    /// The same, with the choice between h2 and HTTP/1.1 left to the server; `None` where the pool
    /// does not leave it.
    #[must_use]
    pub fn choosing_tls(&self, index: usize) -> Option<(&Arc<ClientConfig>, ServerName<'static>)> {
        let (_, name) = self.client_tls.get(index)?.as_ref()?;
        Some((self.choosing_tls.as_ref()?, name.clone()))
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
        self.members().list.clone()
    }

    /// Told of every change of endpoints and their health.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Requests in flight, to all servers together.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.spec.limits.connections.saturating_sub(self.places.available_permits())
    }

    /// Leave to try a request again, for as long as the result lives; `None` when `retry.budget` is
    /// spent.
    #[must_use]
    pub fn retry(&self) -> Option<Retrying> {
        let share = self.in_flight().saturating_mul(self.spec.retry.budget as usize) / 100;
        // Counted first, so that two at once cannot both pass; the drop takes it back.
        let retrying = Retrying(Arc::clone(&self.retrying));
        let before = self.retrying.fetch_add(1, Ordering::Relaxed);
        (before < share.max(MIN_RETRIES)).then_some(retrying)
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

    /// An endpoint, by the pool's balance, and one that is not among `tried` if there is any; waits
    /// for the first look-up and the first check when all depends on them. `None` when no endpoint
    /// is available.
    pub async fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Occupied> {
        let picked = self.pick_now(tried);
        let pending = self.selection.load().pending;
        if picked.is_some() || !pending.is_any() {
            return picked;
        }
        let mut changes = self.changes.subscribe();
        let decided = async {
            while self.selection.load().pending.is_any() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Either way the answer is what is known by then.
        let _ = tokio::time::timeout(self.patience(pending.look_up), decided).await;
        self.pick_now(tried)
            .or_else(|| self.choose(&self.untried(tried), None).map(|endpoint| endpoint.occupy()))
    }

    /// How long a request waits for what is not known yet.
    fn patience(&self, has_look_up: bool) -> Duration {
        let look_up = if has_look_up { self.spec.timeouts.connect } else { Duration::ZERO };
        look_up + self.spec.health.as_ref().map_or(Duration::ZERO, |health| health.timeout)
    }

    fn pick_now(&self, tried: &[Arc<Endpoint>]) -> Option<Occupied> {
        let selection = self.selection.load();
        if !tried.is_empty() {
            let untried = self.untried(tried);
            let left = if untried.is_empty() { &selection.chosen } else { &untried };
            return self.choose(left, None).map(|endpoint| endpoint.occupy());
        }
        if let Some(full_at) = selection.full_at {
            let now = Instant::now();
            if now < full_at {
                let present = self.by_share(&selection.chosen, now);
                return self.choose(&present, None).map(|endpoint| endpoint.occupy());
            }
        }
        self.choose(&selection.chosen, Some(&selection.schedule)).map(|endpoint| endpoint.occupy())
    }

    /// One of `among`; the schedule is theirs.
    fn choose<'a>(
        &self,
        among: &'a [Arc<Endpoint>],
        schedule: Option<&[u16]>,
    ) -> Option<&'a Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match (among, schedule, self.spec.balance) {
            ([only], ..) => Some(only),
            (_, Some(schedule), Balance::RoundRobin) => {
                let index = *schedule.get(turn % schedule.len().max(1))?;
                among.get(usize::from(index))
            }
            (_, _, balance) => {
                let facts = |index: usize| Candidate {
                    weight: among[index].server.weight,
                    in_flight: among[index].in_flight(),
                };
                let chance = |below| fastrand::u64(..below);
                balance::choose(balance, among.len(), facts, turn, chance).map(|it| &among[it])
            }
        }
    }

    /// Those of `chosen` that take part in this pick: one that has just become healthy does as often
    /// as its share says. All, if it comes to none.
    fn by_share(&self, chosen: &[Arc<Endpoint>], now: Instant) -> Vec<Arc<Endpoint>> {
        let slow_start = self.spec.health.as_ref().and_then(|health| health.slow_start);
        let takes_part = |endpoint: &&Arc<Endpoint>| {
            let share = endpoint.monitor().share(slow_start, now);
            share >= 1.0 || fastrand::f64() < share
        };
        let present: Vec<_> = chosen.iter().filter(takes_part).cloned().collect();
        if present.is_empty() { chosen.to_vec() } else { present }
    }

    /// Whether any endpoint gets requests.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.selection.load().chosen.is_empty()
    }

    /// Whether there is an available endpoint that is not among `tried`.
    #[must_use]
    pub fn has_untried(&self, tried: &[Arc<Endpoint>]) -> bool {
        !self.untried(tried).is_empty()
    }

    /// The available endpoints that are not among `tried`; backups when there is no other.
    fn untried(&self, tried: &[Arc<Endpoint>]) -> Vec<Arc<Endpoint>> {
        let members = self.members();
        let is_left = |endpoint: &&Arc<Endpoint>| {
            is_available(&self.spec, endpoint) && !tried.iter().any(|one| one.is(endpoint))
        };
        let left: Vec<_> = members.list.iter().filter(is_left).cloned().collect();
        let has_primary = left.iter().any(|endpoint| !endpoint.server.backup);
        left.into_iter().filter(|endpoint| !(has_primary && endpoint.server.backup)).collect()
    }

    /// Replaces the addresses of the server at `index`; what stays keeps its endpoint, and with it
    /// its connections, counters and health. Returns whether anything changed.
    pub fn set_addresses(&self, index: usize, addresses: &[IpAddr]) -> bool {
        let Some(server) = self.spec.servers.get(index) else { return false };
        let mut members = self.members();
        let (old, mut list): (Vec<_>, Vec<_>) =
            members.list.iter().cloned().partition(|endpoint| endpoint.server_index == index);
        let is_same = old.len() == addresses.len()
            && old.iter().all(|endpoint| addresses.contains(&endpoint.address.ip()));
        for address in addresses {
            let at = SocketAddr::new(*address, server.port);
            let kept = old.iter().find(|endpoint| endpoint.address == at).cloned();
            list.push(
                kept.unwrap_or_else(|| Arc::new(Endpoint::new(index, server.clone(), at, None))),
            );
        }
        list.sort_by_key(|endpoint| endpoint.server_index);
        for endpoint in old.iter().filter(|old| !addresses.contains(&old.address.ip())) {
            endpoint.close_idle();
            endpoint.close();
        }
        members.list = list;
        members.unresolved.retain(|one| *one != index);
        self.publish(&members);
        !is_same
    }

    /// Notes that the server at `index` was looked up in vain: requests that wait for it go on.
    pub fn looked_up(&self, index: usize) {
        let mut members = self.members();
        members.unresolved.retain(|one| *one != index);
        self.publish(&members);
    }

    /// Takes note of what the endpoints' checks have found.
    pub fn refresh(&self) {
        self.publish(&self.members());
    }

    fn publish(&self, members: &Members) {
        let selection = Selection::of(&self.spec, &members.list, &members.unresolved);
        self.selection.store(Arc::new(selection));
        self.changes.send_replace(());
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Both lists are replaced whole, so a poisoned one is still one.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// The servers' literal addresses, and what `previous` knows of names and endpoints.
    fn new(spec: &Upstream, previous: Option<&Pool>) -> Self {
        let known = previous.map(Pool::endpoints).unwrap_or_default();
        let mut members = Self::default();
        for (index, server) in spec.servers.iter().enumerate() {
            if let Some((address, alternate)) = resolve::literal(&server.host) {
                let at = |ip: IpAddr| SocketAddr::new(ip, server.port);
                let endpoint = Endpoint::new(index, server.clone(), at(address), alternate.map(at));
                let before = known.iter().find(|known| known.serves(server, endpoint.address));
                let endpoint = match before {
                    Some(previous) => endpoint.succeeding(previous),
                    None => endpoint,
                };
                members.list.push(Arc::new(endpoint));
                continue;
            }
            let before = known.iter().filter(|known| known.serves(server, known.address));
            let mut is_known = false;
            for previous in before {
                let endpoint = Endpoint::new(index, server.clone(), previous.address, None);
                members.list.push(Arc::new(endpoint.succeeding(previous)));
                is_known = true;
            }
            if !is_known {
                members.unresolved.push(index);
            }
        }
        members
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One configuration for the whole pool, so that its servers share sessions, and each server's
/// name.
fn client_tls(spec: &Upstream, roots: &SystemRoots) -> Result<Vec<ServerTls>, ClientConfigError> {
    if !spec.servers.iter().any(|server| server.https) {
        return Ok(vec![None; spec.servers.len()]);
    }
    // Towards h2 only the checks go this way, requests over the engine's own. Where servers may choose,
    // what has to be HTTP/1.1 does as well, and all to those that chose it.
    let alpn = if spec.protocol == UpstreamProtocol::H2 { Alpn::H2 } else { Alpn::Http1 };
    let built = client_config::build(&spec.tls, &[alpn], roots, SystemTime::now())?;
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

/// What lets the pool's servers choose, if they may.
fn choosing_tls(
    spec: &Upstream,
    roots: &SystemRoots,
) -> Result<Option<Arc<ClientConfig>>, ClientConfigError> {
    let may_choose = spec.protocol == UpstreamProtocol::Auto;
    if !may_choose || !spec.servers.iter().any(|server| server.https) {
        return Ok(None);
    }
    let alpn = [Alpn::H2, Alpn::Http1];
    Ok(Some(client_config::build(&spec.tls, &alpn, roots, SystemTime::now())?.config))
}

/// Tells apart what `tls:` means: its text and the files it names.
fn tls_print(spec: &Upstream) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format!("{:?}", spec.tls), spec.protocol as u8).hash(&mut hasher);
    let client = spec.tls.client.iter().flat_map(|client| [&client.chain, &client.key]);
    for file in spec.tls.ca.iter().chain(client) {
        // One that cannot be read is told of where it is used.
        std::fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::health::{Health, Initial};
    use crate::upstream::health::tests::health;
    use crate::upstream::{EndpointStatus, Standing};

    /// A pool with these keys, whose servers at the indices `backups` are just that.
    fn spec(keys: &str, backups: &[usize], health: Option<Health>) -> Upstream {
        let yaml = format!(
            "sites: {{ a.test: {{ upstream: app }} }}\nupstreams: {{ app: {{ {keys} }} }}\n"
        );
        let loaded = crate::config::from_text("test", &yaml, Path::new("")).unwrap();
        let mut spec = loaded.config.upstreams[0].clone();
        for index in backups {
            spec.servers[*index].backup = true;
        }
        Upstream { health, ..spec }
    }

    const THREE: &str =
        "servers: [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\", \"http://127.0.0.1:3\"]";

    fn pool(spec: Upstream, previous: Option<&Pool>) -> Pool {
        crate::tls::install();
        Pool::new(spec, &SystemRoots::load(), previous).unwrap()
    }

    /// Has the checks of the endpoint on port `port` say this, as often as it takes.
    fn say(pool: &Pool, port: u16, is_healthy: bool, now: Instant) {
        let endpoints = pool.endpoints();
        let endpoint = endpoints.iter().find(|it| it.address.port() == port).unwrap();
        for _ in 0..3 {
            let outcome = if is_healthy { Ok(()) } else { Err("no".to_owned()) };
            let health = pool.spec().health.as_ref().unwrap();
            endpoint.monitor().record(outcome, health, now, SystemTime::now());
        }
        pool.refresh();
    }

    /// The ports of 300 picks, with how often each came.
    async fn picks(pool: &Pool, tried: &[Arc<Endpoint>]) -> std::collections::BTreeMap<u16, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..300 {
            let Some(picked) = pool.pick(tried).await else { continue };
            *counts.entry(picked.endpoint().address.port()).or_default() += 1;
        }
        counts
    }

    async fn ports(pool: &Pool) -> Vec<u16> {
        picks(pool, &[]).await.into_keys().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_its_checks_gets_nothing_and_a_backup_only_what_nobody_else_can() {
        for balance in ["round_robin", "least_requests", "random"] {
            let keys = format!("{THREE}, balance: {balance}");
            let pool = pool(spec(&keys, &[2], Some(health(Initial::Healthy))), None);
            let now = Instant::now() - Duration::from_secs(60);
            assert_eq!(ports(&pool).await, [1, 2], "{balance}");
            say(&pool, 1, false, now);
            assert_eq!(ports(&pool).await, [2], "{balance}");
            say(&pool, 2, false, now);
            assert_eq!(ports(&pool).await, [3], "{balance}");
            say(&pool, 3, false, now);
            assert_eq!(ports(&pool).await, [0; 0], "{balance}");
            say(&pool, 3, true, now);
            assert_eq!(ports(&pool).await, [3], "{balance}");
            say(&pool, 1, true, now);
            assert_eq!(ports(&pool).await, [1], "{balance}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_check_and_no_longer_than_it_may_take() {
        let pool = Arc::new(pool(spec(THREE, &[2], Some(health(Initial::Hold))), None));
        let now = Instant::now();
        say(&pool, 3, true, now);
        let started = tokio::time::Instant::now();
        assert_eq!(pool.pick(&[]).await.unwrap().endpoint().address.port(), 3, "the backup, late");
        assert_eq!(started.elapsed(), Duration::from_secs(2));
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.pick(&[]).await.unwrap().endpoint().address.port() }
        });
        tokio::task::yield_now().await;
        say(&pool, 1, false, now);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the other may yet be healthy");
        say(&pool, 2, true, now);
        assert_eq!(waiting.await.unwrap(), 2);
        assert_eq!(started.elapsed(), Duration::from_secs(2), "at once");
        say(&pool, 2, false, now);
        say(&pool, 3, false, now);
        assert!(pool.pick(&[]).await.is_none());
        assert_eq!(started.elapsed(), Duration::from_secs(2), "at once");
    }

    #[tokio::test]
    async fn a_share_grows_in_every_balance() {
        for balance in ["round_robin", "least_requests", "random"] {
            let keys = format!("{THREE}, balance: {balance}");
            let mut checks = health(Initial::Healthy);
            checks.slow_start = Some(Duration::from_secs(1_000_000));
            let pool = pool(spec(&keys, &[], Some(checks)), None);
            let recovered = Instant::now();
            say(&pool, 1, false, recovered);
            say(&pool, 1, true, recovered);
            let count = picks(&pool, &[]).await.get(&1).copied().unwrap_or(0);
            assert!(count < 20, "a hundredth of a third of 300, not {count}: {balance}");
            let chosen = pool.endpoints();
            let halfway = recovered + Duration::from_secs(500_000);
            let parts = (0..1000).filter(|_| pool.by_share(&chosen, halfway).len() == 3).count();
            assert!((400..600).contains(&parts), "half the picks, not {parts} of 1000");
        }
    }

    #[tokio::test]
    async fn another_attempt_goes_elsewhere_as_long_as_there_is_an_elsewhere() {
        let pool = pool(spec(THREE, &[2], Some(health(Initial::Healthy))), None);
        let all = pool.endpoints();
        let elsewhere = async |tried: &[Arc<Endpoint>]| -> Vec<u16> {
            picks(&pool, tried).await.into_keys().collect()
        };
        assert_eq!(elsewhere(&all[..1]).await, [2]);
        assert_eq!(elsewhere(&all[..2]).await, [3], "then the backup");
        assert!(pool.has_untried(&all[..2]) && !pool.has_untried(&all));
        assert_eq!(elsewhere(&all).await, [1, 2], "then again");
    }

    #[tokio::test]
    async fn a_pool_takes_over_what_is_known_of_the_same_endpoints() {
        let keys =
            "servers: [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\", \"http://app.test:3\"]";
        let checks = || Some(health(Initial::Healthy));
        let old = pool(spec(keys, &[], checks()), None);
        assert!(old.set_addresses(2, &["10.0.0.1".parse().unwrap()]));
        say(&old, 1, false, Instant::now());
        let _busy = old.endpoints()[1].occupy();
        let _place = old.place().await.unwrap();

        let keys = "servers: [\"http://127.0.0.1:4\", { url: \"http://127.0.0.1:2\", weight: 3 }, \
                    \"http://127.0.0.1:1\", \"http://app.test:3\"]";
        let new = pool(spec(keys, &[], checks()), Some(&old));
        let status = new.status();
        let shown = |it: &EndpointStatus| (it.standing, it.in_flight, it.weight);
        let shown: Vec<_> = status.iter().map(shown).collect();
        assert_eq!(
            shown[..3],
            [(Standing::Healthy, 0, 1), (Standing::Healthy, 1, 3), (Standing::Unhealthy, 0, 1)]
        );
        assert_eq!(status[2].reason.as_deref(), Some("no"));
        assert_eq!(status[3].address.as_deref(), Some("10.0.0.1:3"), "without a look-up");
        assert_eq!(new.in_flight(), 1);
        assert!(new.endpoints()[2].is(&old.endpoints()[0]));
        let mut busy = new.endpoints();
        busy.retain(|endpoint| endpoint.address.port() == 2);
        assert!(busy[0].is(&old.endpoints()[1]));

        let mut other = spec(keys, &[], checks());
        other.tls.verify = false;
        let other = pool(other, Some(&old));
        assert_eq!(other.status()[2].standing, Standing::Healthy, "with other TLS settings");
        assert_eq!(other.status()[3].address, None);
    }

    #[tokio::test]
    async fn retries_have_a_budget_and_three_of_them_always() {
        let mut spec = spec(THREE, &[], None);
        spec.retry.budget = 10;
        let pool = pool(spec, None);
        let mut places = Vec::new();
        for (in_flight, allowed) in [(0, 3), (20, 3), (50, 5)] {
            while places.len() < in_flight {
                places.push(pool.place().await.unwrap());
            }
            let retries: Vec<_> = (0..10).map_while(|_| pool.retry()).collect();
            assert_eq!(retries.len(), allowed, "of {in_flight}");
        }
        assert!(pool.retry().is_some(), "what has ended counts no more");
    }
}
