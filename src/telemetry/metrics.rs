//! What is counted, for Prometheus.
//!
//! Answers "how much, how fast, how often did it fail?". Handles are found by identity when a
//! generation is built and kept by it, so that a request looks nothing up: it adds to atomics. The
//! series of a site, route or pool live as long as a generation that has it; one that a reload keeps
//! goes on counting. Called by `proxy`, `listen` and `app`; the admin listener asks for the text.
//! Never has a label whose values a client chooses.
//!
//! # Why
//! Plain relaxed atomics, not sharded. What a request adds to its route's handle took 0.10 to 0.20 µs
//! in November 2026, optimised, with two threads on the same handle and with one alone, on two cores
//! that were busy otherwise; a unit test below prints it. Its pool's handle comes on top.

mod allocator;
mod certificates;
mod family;
mod histogram;
mod process;
mod registry;
mod render;
mod stapling;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::allocator::give_memory_back;
pub use self::certificates::{AuthorityMetrics, CertificateMetrics, Delivery, StoreOp};
pub use self::family::{ALL, Family, Kind};
pub use self::histogram::Histogram;
pub use self::process::Resident;
use self::registry::Registry;
pub use self::render::{
    CertificateReading, EndpointReading, FilterReading, ListReading, OrderReading, PressureReading,
    Readings,
};
pub use self::stapling::{Said, StaplingMetrics};
pub use self::text::CONTENT_TYPE;

/// What the process counts.
#[derive(Debug)]
pub struct Metrics {
    routes: Registry<(String, String), RouteMetrics>,
    pools: Registry<String, PoolMetrics>,
    servers: Registry<(String, String), ServerMetrics>,
    listeners: Registry<String, ListenerMetrics>,
    /// Of OCSP stapling.
    pub stapling: StaplingMetrics,
    authorities: Registry<String, AuthorityMetrics>,
    /// Of certificates, whoever issues them.
    pub certificates: CertificateMetrics,
    /// The words for failures, in the order of their numbers.
    errors: Vec<&'static str>,
    refused: Vec<AtomicU64>,
    failed: Vec<AtomicU64>,
    reloads: [AtomicU64; RELOAD_OUTCOMES.len()],
    upgrades: [AtomicU64; UPGRADE_OUTCOMES.len()],
    is_last_reload_good: AtomicBool,
    last_good_reload: AtomicU64,
    started: SystemTime,
}

/// How reading the configuration again can end, as `admin::control::Outcome::as_str` says it.
const RELOAD_OUTCOMES: [&str; 3] = ["applied", "unchanged", "rejected"];

/// How starting another process in the place of this one can end.
const UPGRADE_OUTCOMES: [&str; 2] = ["upgraded", "failed"];

/// What is counted of one route. A site has one more, without a name, for requests that no route
/// takes; and there is one without a site.
///
/// With thousands of routes each line of memory that a request adds to is one the processor has to
/// wait for. The order makes them three: what every request touches, and the beginning of each
/// histogram; the count of references is on a line of its own, which no request touches.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct RouteMetrics {
    in_flight: AtomicU64,
    response_bytes: AtomicU64,
    classes: [AtomicU64; CLASSES.len()],
    duration: Histogram,
    first_byte: Histogram,
    request_bytes: AtomicU64,
}

/// Classes of status codes; the first is for requests without an answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A request that ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// 0 when there was no answer.
    pub status: u16,
    /// All of it.
    pub duration: Duration,
    /// Until the backend's response head.
    pub first_byte: Option<Duration>,
    /// Of the body.
    pub request_bytes: u64,
    /// Of the body.
    pub response_bytes: u64,
}

/// What is counted of one pool.
#[derive(Debug, Default)]
pub struct PoolMetrics {
    /// Time to connect.
    pub connect: Histogram,
    /// Time from the beginning of an attempt to its response head.
    pub first_byte: Histogram,
    retries: AtomicU64,
}

/// What is counted of one server of a pool.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    attempts: [AtomicU64; OUTCOMES.len()],
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttemptOutcome {
    /// A status below 500.
    Answered,
    /// A status from 500 on.
    ServerError,
    /// It failed, and another attempt followed.
    Retried,
    /// There was no connection.
    Unreachable,
    /// The answer did not begin in time.
    Timeout,
    /// The connection broke, or the answer was no HTTP.
    Broken,
    /// The client went away, or something of ours ended it.
    Abandoned,
}

/// The words for [`AttemptOutcome`].
const OUTCOMES: [&str; 7] =
    ["answered", "server_error", "retried", "unreachable", "timeout", "broken", "abandoned"];

/// What is counted of one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    open: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    handshakes: [AtomicU64; VERSIONS.len()],
    handshake_failures: [AtomicU64; HANDSHAKE_FAULTS.len()],
    proxy_headers: [AtomicU64; PROXY_HEADERS.len()],
}

const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeFault {
    /// No certificate is for the name.
    UnrecognizedName,
    /// Not TLS, or nothing acceptable in it.
    Refused,
    /// The client closed the connection.
    Closed,
    /// It took too long.
    Timeout,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// The client has shown no certificate though one is required, or one that does not count.
    ClientCertificate,
}

/// The words for [`HandshakeFault`].
const HANDSHAKE_FAULTS: [&str; 6] =
    ["unrecognized_name", "refused", "closed", "timeout", "plain_http", "client_certificate"];

/// What came of the PROXY header that a connection had to begin with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyHeader {
    /// It said who the client is.
    Client,
    /// It said that the connection is the sender's own, or nobody's.
    Local,
    /// There was none to be read: the sender is not listed.
    Unlisted,
    /// It was none, or broken.
    Malformed,
    /// It took too long.
    Timeout,
    /// The sender closed the connection.
    Closed,
}

/// The words for [`ProxyHeader`].
const PROXY_HEADERS: [&str; 6] = ["client", "local", "unlisted", "malformed", "timeout", "closed"];

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<ListenerMetrics>);

impl Metrics {
    /// Nothing counted yet. `errors` are the words for failures, which are counted by their place
    /// among them. The configuration that the process starts with counts as a good one of `now`.
    #[must_use]
    pub fn new(errors: impl IntoIterator<Item = &'static str>, now: SystemTime) -> Self {
        let errors: Vec<_> = errors.into_iter().collect();
        let zeros = || errors.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            routes: Registry::default(),
            pools: Registry::default(),
            servers: Registry::default(),
            listeners: Registry::default(),
            stapling: StaplingMetrics::default(),
            authorities: Registry::default(),
            certificates: CertificateMetrics::default(),
            refused: zeros(),
            failed: zeros(),
            errors,
            reloads: Default::default(),
            upgrades: Default::default(),
            is_last_reload_good: AtomicBool::new(true),
            last_good_reload: AtomicU64::new(seconds(now)),
            started: now,
        }
    }

    /// The handle of a route; empty names stand for no site and no route.
    #[must_use]
    pub fn route(&self, site: &str, route: &str) -> Arc<RouteMetrics> {
        self.routes.handle((site.to_owned(), route.to_owned()))
    }

    /// The handle of a pool.
    #[must_use]
    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        self.pools.handle(name.to_owned())
    }

    /// The handle of a pool's server, by its URL as configured.
    #[must_use]
    pub fn server(&self, pool: &str, url: &str) -> Arc<ServerMetrics> {
        self.servers.handle((pool.to_owned(), url.to_owned()))
    }

    /// The handle of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.handle(name.to_owned())
    }

    /// The handle of a certificate authority, by the URL of its directory.
    #[must_use]
    pub fn authority(&self, directory: &str) -> Arc<AuthorityMetrics> {
        self.authorities.handle(directory.to_owned())
    }

    /// Counts a request that was not answered as meant, by the place of its error.
    pub fn failed(&self, error: usize, has_site: bool) {
        let counters = if has_site { &self.failed } else { &self.refused };
        if let Some(counter) = counters.get(error) {
            add(counter, 1);
        }
    }

    /// Counts a reading of the configuration, which ended with `outcome`: `applied`, `unchanged` or
    /// `rejected`; another word counts as `rejected`.
    pub fn reloaded(&self, outcome: &str, now: SystemTime) {
        let rejected = RELOAD_OUTCOMES.len() - 1;
        let place = RELOAD_OUTCOMES.iter().position(|word| *word == outcome).unwrap_or(rejected);
        add(&self.reloads[place], 1);
        self.is_last_reload_good.store(place != rejected, Ordering::Relaxed);
        if place != rejected {
            self.last_good_reload.store(seconds(now), Ordering::Relaxed);
        }
    }
}

impl Metrics {
    /// Counts an upgrade. The process that makes way ends with its counts, so one that succeeds is
    /// counted by the other process, which begins with it.
    pub fn upgraded(&self, is_done: bool) {
        add(&self.upgrades[usize::from(!is_done)], 1);
    }
}

impl RouteMetrics {
    /// Counts a request as in flight, until it [leaves](Self::leave). No guard, since that would have
    /// to hold a reference, and the count of those be fetched as well.
    pub fn enter(&self) {
        add(&self.in_flight, 1);
    }

    /// Has the processor fetch the three lines that a request adds to. Reads, of which it has many under
    /// way: each addition waits for its own.
    pub fn expect(&self) {
        std::hint::black_box(self.in_flight.load(Ordering::Relaxed));
        self.duration.expect();
        self.first_byte.expect();
    }

    /// Counts a request that has entered as in flight no more.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request that ended.
    pub fn ended(&self, request: &Ended) {
        let class = usize::from(request.status / 100);
        add(&self.classes[if class < CLASSES.len() { class } else { 0 }], 1);
        self.duration.observe(request.duration);
        if let Some(first_byte) = request.first_byte {
            self.first_byte.observe(first_byte);
        }
        if request.request_bytes > 0 {
            add(&self.request_bytes, request.request_bytes);
        }
        add(&self.response_bytes, request.response_bytes);
    }
}

impl PoolMetrics {
    /// Counts attempts after a request's first.
    pub fn retried(&self, times: usize) {
        if times > 0 {
            add(&self.retries, times as u64);
        }
    }
}

impl ServerMetrics {
    /// Counts an attempt that ended.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        add(&self.attempts[outcome as usize], 1);
    }
}

impl ListenerMetrics {
    /// Counts a connection that is accepted, and open until the guard is dropped.
    #[must_use]
    pub fn accept(self: &Arc<Self>) -> OpenConnection {
        add(&self.accepted, 1);
        add(&self.open, 1);
        OpenConnection(Arc::clone(self))
    }

    /// Counts a connection that is accepted and closed at once, because there are too many.
    pub fn refuse(&self) {
        add(&self.accepted, 1);
        add(&self.refused, 1);
    }

    /// Counts a connection that is closed, because there are too many of the client that its header
    /// names.
    pub fn refuse_client(&self) {
        add(&self.refused, 1);
    }

    /// Counts a connection that is accepted and closed at once for another reason.
    pub fn turn_away(&self) {
        add(&self.accepted, 1);
    }

    /// Counts what came of a PROXY header. Returns how often the same has, this time included.
    pub fn proxy_header(&self, outcome: ProxyHeader) -> u64 {
        self.proxy_headers[outcome as usize].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a handshake that succeeded with TLS `version`, `1.2` or `1.3`.
    pub fn shook_hands(&self, version: &str) {
        if let Some(place) = VERSIONS.iter().position(|one| *one == version) {
            add(&self.handshakes[place], 1);
        }
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self, fault: HandshakeFault) {
        add(&self.handshake_failures[fault as usize], 1);
    }
}

impl ProxyHeader {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        PROXY_HEADERS[self as usize]
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16) -> Ended {
        Ended {
            status,
            duration: Duration::from_millis(3),
            first_byte: Some(Duration::from_millis(2)),
            request_bytes: 5,
            response_bytes: 7,
        }
    }

    fn render(metrics: &Metrics) -> String {
        metrics.render(&Readings::default())
    }

    #[test]
    fn a_route_that_stays_keeps_its_counts_and_one_that_goes_vanishes() {
        let metrics = Metrics::new(["a"], UNIX_EPOCH);
        let (stays, goes) = (metrics.route("a.test", "/"), metrics.route("a.test", "/b"));
        stays.ended(&ended(200));
        goes.ended(&ended(999));
        let line = "wardgate_requests_total{site=\"a.test\",route=\"/\",code=\"2xx\"} ";
        let of_b = "site=\"a.test\",route=\"/b\",code=\"none\"} 1\n";
        assert!(render(&metrics).contains(of_b));
        let next = metrics.route("a.test", "/");
        drop((stays, goes));
        next.ended(&ended(204));
        let text = render(&metrics);
        assert!(text.contains(&format!("{line}2\n")), "{text}");
        assert!(!text.contains("route=\"/b\""), "{text}");
        drop(next);
        assert!(!render(&metrics).contains("a.test"));
        assert!(!render(&metrics).contains("a.test"), "and it stays away");
    }

    #[test]
    fn a_rejected_reload_is_no_success_and_leaves_the_time_of_the_last() {
        let metrics = Metrics::new([], UNIX_EPOCH + Duration::from_secs(10));
        let name = "wardgate_config_last_reload_success";
        let shown = |metrics: &Metrics| {
            let text = render(metrics);
            let value = |name: String| {
                let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
                line.unwrap().to_owned()
            };
            (value(format!("{name} ")), value(format!("{name}_timestamp_seconds ")))
        };
        assert_eq!(shown(&metrics), ("1".to_owned(), "10".to_owned()), "at the start");
        for (outcome, second, success, time) in [
            ("rejected", 20, "0", "10"),
            ("unchanged", 30, "1", "30"),
            ("nonsense", 40, "0", "30"),
            ("applied", 50, "1", "50"),
        ] {
            metrics.reloaded(outcome, UNIX_EPOCH + Duration::from_secs(second));
            assert_eq!(shown(&metrics), (success.to_owned(), time.to_owned()), "{outcome}");
        }
        let text = render(&metrics);
        assert!(text.contains("wardgate_config_reloads_total{outcome=\"rejected\"} 2\n"), "{text}");
    }

    #[test]
    fn every_word_has_its_place() {
        assert_eq!(OUTCOMES[AttemptOutcome::Abandoned as usize], "abandoned");
        assert_eq!(OUTCOMES[AttemptOutcome::Unreachable as usize], "unreachable");
        assert_eq!(HANDSHAKE_FAULTS[HandshakeFault::PlainHttp as usize], "plain_http");
        assert_eq!(HANDSHAKE_FAULTS[HandshakeFault::Closed as usize], "closed");
        assert_eq!(ProxyHeader::Unlisted.as_str(), "unlisted");
        assert_eq!(ProxyHeader::Closed.as_str(), "closed");
        let last = HandshakeFault::ClientCertificate as usize;
        assert_eq!(HANDSHAKE_FAULTS[last], "client_certificate");
        let listener = Arc::new(ListenerMetrics::default());
        drop(listener.accept());
        listener.refuse();
        assert_eq!(listener.open.load(Ordering::Relaxed), 0);
        assert_eq!(listener.accepted.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn nothing_is_lost_between_threads_and_a_request_costs_little() {
        const TIMES: u32 = 100_000;
        let metrics = Metrics::new(["a"], UNIX_EPOCH);
        let (route, start) = (metrics.route("a", "/"), std::time::Instant::now());
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| (0..TIMES).for_each(|_| route.ended(&ended(200))));
            }
        });
        println!("{:?} a request", start.elapsed() / TIMES);
        let text = render(&metrics);
        assert!(text.contains("code=\"2xx\"} 200000\n"), "{text}");
        assert!(
            text.contains(
                "wardgate_request_duration_seconds_count{site=\"a\",route=\"/\"} 200000\n"
            )
        );
    }

    #[test]
    fn the_handbook_lists_every_metric_with_its_kind_and_labels() {
        let handbook = include_str!("../../docs/metrics.md");
        let rows: Vec<&str> = handbook.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = ALL
            .iter()
            .map(|family| {
                let labels: Vec<_> =
                    family.labels.iter().map(|label| format!("`{label}`")).collect();
                let (name, kind, help) = (family.name, family.kind.as_str(), family.help);
                format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
