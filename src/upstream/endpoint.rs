//! One address of one server: how busy and how well it is, and the connections to it that wait to be
//! used again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::announcement::{Announcement, Owner};
use super::health::Monitor;
use super::turn::Turns;
use super::wire::Transport;
use crate::config::upstream::Server;
use crate::net::Alarm;

/// One address of one server of a pool.
///
/// The value belongs to one generation's pool; what is known of the address is kept in a state that
/// the pool of the next generation takes over, and a change of the addresses around it leaves alone.
#[derive(Debug)]
pub struct Endpoint {
    /// Index of its server in the pool.
    pub server_index: usize,
    /// The server as configured.
    pub server: Server,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Dialled when `address` refuses, and first once it has answered in its place: the other loopback
    /// family of a server called `localhost`.
    pub alternate: Option<SocketAddr>,
    /// `10.0.0.5:8080`, for logs and metrics.
    pub label: String,
    state: Arc<State>,
    /// Its pool has left it to those of other generations.
    is_left: AtomicBool,
}

/// What outlives a generation.
#[derive(Debug, Default)]
struct State {
    in_flight: AtomicUsize,
    /// Requests whose rest it has yet to take though it has answered them.
    owing: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    /// Pools that look after `idle`. Changed and read while that is locked.
    pools: AtomicUsize,
    monitor: Mutex<Monitor>,
    /// What ALPN has picked: 0 is unknown, 1 is h2, else HTTP/1.1 is believed until so many
    /// milliseconds after [`EPOCH`].
    spoken: AtomicU64,
    /// Held by who asks the first time.
    asking: tokio::sync::Mutex<()>,
    turns: Turns,
    /// It was the alternate address that answered last.
    is_at_alternate: AtomicBool,
}

/// Requests whose rest waits for one endpoint at most, each with up to a megabyte.
const MOST_OWING: usize = 32;

/// How long an endpoint that has picked HTTP/1.1 is not asked again: it may learn h2 with an update.
const HTTP1_BELIEVED: Duration = Duration::from_mins(5);

/// How long the others go on with HTTP/1.1 while one request asks again.
const ASKING: Duration = Duration::from_secs(10);

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is known of which protocol an endpoint picks where ALPN leaves it the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Belief {
    /// Nothing yet: nobody can go on before it is asked.
    Nothing,
    /// It has picked h2.
    H2,
    /// It has picked HTTP/1.1.
    Http1,
    /// The same, long ago. Whoever is told so is to ask again, and nobody else is for a while.
    Outdated,
}

/// A connection that waits to be used again.
#[derive(Debug)]
struct Idle {
    transport: Transport,
    alarm: Alarm,
    since: Instant,
    owner: Owner,
}

impl Endpoint {
    /// An endpoint that is not connected yet.
    #[must_use]
    pub fn new(
        server_index: usize,
        server: Server,
        address: SocketAddr,
        alternate: Option<SocketAddr>,
    ) -> Self {
        Self {
            server_index,
            label: address.to_string(),
            server,
            address,
            alternate,
            state: Arc::new(State { pools: AtomicUsize::new(1), ..State::default() }),
            is_left: AtomicBool::new(false),
        }
    }

    /// The same endpoint with the state of `previous`: its requests, connections and health.
    #[must_use]
    pub fn succeeding(mut self, previous: &Self) -> Self {
        self.state = Arc::clone(&previous.state);
        let idle = self.lock_idle();
        self.state.pools.fetch_add(1, Ordering::Relaxed);
        drop(idle);
        self
    }

    /// Where it is dialled first, and where when that refuses.
    #[must_use]
    pub fn addresses(&self) -> (SocketAddr, Option<SocketAddr>) {
        match self.alternate {
            Some(alternate) if self.state.is_at_alternate.load(Ordering::Relaxed) => {
                (alternate, Some(self.address))
            }
            alternate => (self.address, alternate),
        }
    }

    /// Notes that of its addresses this one has answered when the other refused.
    pub fn found_at(&self, address: SocketAddr) {
        let is_alternate = self.alternate == Some(address);
        self.state.is_at_alternate.store(is_alternate, Ordering::Relaxed);
    }

    /// Whether both are the same address of the same server.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Whether `server` at `address` is this one, whatever its weight became.
    #[must_use]
    pub fn serves(&self, server: &Server, address: SocketAddr) -> bool {
        let (mine, its) = (&self.server, server);
        self.address == address
            && (mine.https, &mine.host, mine.port) == (its.https, &its.host, its.port)
    }

    /// What its checks have found.
    pub fn monitor(&self) -> MutexGuard<'_, Monitor> {
        // Whoever panicked there left a verdict that the next check corrects.
        self.state.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of what it speaks.
    #[must_use]
    pub fn belief(&self) -> Belief {
        self.belief_at(EPOCH.elapsed())
    }

    /// The same so long after [`EPOCH`].
    fn belief_at(&self, now: Duration) -> Belief {
        let spoken = &self.state.spoken;
        match spoken.load(Ordering::Relaxed) {
            0 => Belief::Nothing,
            1 => Belief::H2,
            until if millis(now) < until => Belief::Http1,
            until => {
                let later = millis(now + ASKING);
                let order = Ordering::Relaxed;
                match spoken.compare_exchange(until, later, order, order) {
                    Ok(_) => Belief::Outdated,
                    // Somebody else asks, or has asked.
                    Err(0) => Belief::Nothing,
                    Err(1) => Belief::H2,
                    Err(_) => Belief::Http1,
                }
            }
        }
    }

    /// A turn to ask what it speaks; `None` after a wait, when somebody else has asked meanwhile. Nobody
    /// waits for more than one who asks.
    pub async fn turn_to_ask(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if let Ok(turn) = self.state.asking.try_lock() {
            return Some(turn);
        }
        drop(self.state.asking.lock().await);
        None
    }

    /// Records what ALPN has picked.
    pub fn note_spoken(&self, is_h2: bool) {
        let until = millis(EPOCH.elapsed() + HTTP1_BELIEVED);
        self.state.spoken.store(if is_h2 { 1 } else { until }, Ordering::Relaxed);
    }

    /// Forgets what ALPN has picked, so that it is asked again.
    pub fn forget_spoken(&self) {
        self.state.spoken.store(0, Ordering::Relaxed);
    }

    /// The turns at the engine's connections to it.
    pub(super) fn turns(&self) -> &Turns {
        &self.state.turns
    }

    /// Requests it is answering now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request for as long as the guard lives.
    #[must_use]
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }

    /// Leave to send it the rest of a request that it has answered, for as long as the result lives;
    /// `None` where too many are at it.
    #[must_use]
    pub fn owe(self: &Arc<Self>) -> Option<Owing> {
        // Counted first, so that two at once cannot both pass; the drop takes it back.
        let owing = Owing(Arc::clone(self));
        let before = self.state.owing.fetch_add(1, Ordering::Relaxed);
        (before < MOST_OWING).then_some(owing)
    }

    /// The most recently used connection that began with `announcement`, or with none, is still open
    /// and younger than `max_idle`, and the alarm that it was used under.
    #[must_use]
    pub fn take_idle(
        &self,
        now: Instant,
        max_idle: Duration,
        announcement: Option<&Arc<Announcement>>,
    ) -> Option<(Transport, Alarm)> {
        loop {
            let mut candidate = {
                let mut idle = self.lock_idle();
                let at = idle.iter().rposition(|idle| idle.owner.is(announcement))?;
                idle.remove(at)
            };
            let fresh = now.saturating_duration_since(candidate.since) < max_idle;
            if fresh && candidate.transport.is_quiet() {
                return Some((candidate.transport, candidate.alarm));
            }
        }
    }

    /// Keeps a connection that began with `announcement`, or with none, for the next such request.
    /// When `limit` are kept already it is closed; of those that are somebody's the oldest is, whose
    /// owner is the likeliest to be gone. Its `alarm` stays set, so that most requests get on without
    /// touching the runtime's timers.
    ///
    /// None is kept where every pool has [left](Self::close) the endpoint.
    pub fn keep(
        &self,
        transport: Transport,
        alarm: Alarm,
        limit: usize,
        announcement: Option<&Arc<Announcement>>,
    ) {
        let owner = Owner::of(announcement);
        let mut idle = self.lock_idle();
        let is_full = idle.len() >= limit;
        let is_closed = self.state.pools.load(Ordering::Relaxed) == 0;
        if is_closed || (is_full && (announcement.is_none() || idle.is_empty())) {
            return;
        }
        let oldest = is_full.then(|| idle.remove(0));
        idle.push(Idle { transport, alarm, since: Instant::now(), owner });
        drop(idle);
        // Closed while nobody waits for the list.
        drop(oldest);
    }

    /// Closes what has waited longer than `max_idle`, was closed by the server or is of use to nobody.
    /// Returns how many remain.
    pub fn sweep(&self, now: Instant, max_idle: Duration) -> usize {
        let mut kept = std::mem::take(&mut *self.lock_idle());
        kept.retain_mut(|idle| {
            now.saturating_duration_since(idle.since) < max_idle
                && idle.owner.is_there()
                && idle.transport.is_quiet()
        });
        let mut idle = self.lock_idle();
        // What came back meanwhile is the most recently used, and stays at the end.
        kept.append(&mut idle);
        *idle = kept;
        idle.len()
    }

    /// Closes every waiting connection.
    pub fn close_idle(&self) {
        self.lock_idle().clear();
    }

    /// Leaves the endpoint to the pools of other generations. With the last one every waiting connection
    /// closes, and none is kept from there on.
    pub fn close(&self) {
        let mut idle = self.lock_idle();
        let was_left = self.is_left.swap(true, Ordering::Relaxed);
        if was_left || self.state.pools.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let closed = std::mem::take(&mut *idle);
        drop(idle);
        // Closed while nobody waits for the list.
        drop(closed);
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A poisoned list is still a list of connections: nothing is half-written in it.
        self.state.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // That of a pool which was never asked has not been told to.
        self.close();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One request in flight to an endpoint; the count falls when this is dropped.
#[derive(Debug)]
pub struct Occupied(Arc<Endpoint>);

impl Occupied {
    /// The endpoint that is busy.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The rest of one request that an endpoint has answered and has yet to take.
#[derive(Debug)]
pub struct Owing(Arc<Endpoint>);

impl Drop for Owing {
    fn drop(&mut self) {
        self.0.state.owing.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// An endpoint of nobody's.
    pub(in crate::upstream) fn endpoint() -> Endpoint {
        let yaml = "sites: { a.test: { upstream: \"http://127.0.0.1:1\" } }\n";
        let loaded = crate::config::from_text("test", yaml, Path::new("")).unwrap();
        let server = loaded.config.upstreams[0].servers[0].clone();
        Endpoint::new(0, server, "127.0.0.1:1".parse().unwrap(), None)
    }

    #[tokio::test]
    async fn the_last_pool_that_leaves_closes_what_waits_whoever_is_still_served() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keep = async |endpoint: &Endpoint| {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            endpoint.keep(Transport::Plain(stream), Alarm::default(), 9, None);
            endpoint.lock_idle().len()
        };
        let first = Arc::new(endpoint());
        let second = endpoint().succeeding(&first);
        let discarded = endpoint().succeeding(&first);
        let late = first.occupy();
        assert_eq!(keep(&first).await, 1);
        for _ in 0..2 {
            first.close();
            assert_eq!(keep(&first).await, 2, "it is the second's");
            first.lock_idle().pop();
        }
        drop(discarded);
        assert_eq!(keep(&second).await, 2);
        second.close();
        assert_eq!(second.lock_idle().len(), 0);
        assert_eq!(keep(late.endpoint()).await, 0);
    }

    #[test]
    fn one_asks_again_and_the_others_go_on_with_http1() {
        let endpoint = endpoint();
        assert_eq!(endpoint.belief(), Belief::Nothing);
        endpoint.note_spoken(false);
        assert_eq!(endpoint.belief(), Belief::Http1);
        let later = EPOCH.elapsed() + HTTP1_BELIEVED + Duration::from_secs(1);
        let told = [endpoint.belief_at(later), endpoint.belief_at(later)];
        assert_eq!(told, [Belief::Outdated, Belief::Http1]);
        assert_eq!(endpoint.belief_at(later + ASKING), Belief::Outdated, "the first got no answer");
        endpoint.note_spoken(true);
        assert_eq!(endpoint.belief_at(later + ASKING), Belief::H2);
        endpoint.forget_spoken();
        assert_eq!(endpoint.belief(), Belief::Nothing);
    }
}
