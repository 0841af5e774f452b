//! The text of a scrape.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::family::{self, Family};
use super::text::Text;
use super::{
    CLASSES, HANDSHAKE_FAULTS, Metrics, OUTCOMES, PROXY_HEADERS, RELOAD_OUTCOMES, RouteMetrics,
    UPGRADE_OUTCOMES, VERSIONS, allocator, process, seconds,
};

/// What others know at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Number of the configuration in force.
    pub generation: u64,
    /// Requests being served.
    pub in_flight: usize,
    /// Panics contained.
    pub panics: u64,
    /// Access lines not written.
    pub lines_dropped: u64,
    /// What the process is short of.
    pub pressure: PressureReading,
    /// Every address of every server of every pool.
    pub endpoints: Vec<EndpointReading>,
    /// Certificates in service.
    pub certificates: Vec<CertificateReading>,
    /// Lists of revoked client certificates in force.
    pub lists: Vec<ListReading>,
    /// How those stand that an authority issues.
    pub orders: Vec<OrderReading>,
    /// Probes for challenges: their type, how they ended, and how many.
    pub challenge_hits: Vec<(&'static str, &'static str, u64)>,
    /// What filters decided.
    pub filters: Vec<FilterReading>,
}

/// What the process is short of.
#[derive(Clone, Copy, Debug, Default)]
pub struct PressureReading {
    /// `limits.memory` in bytes, 0 without one.
    pub memory_limit: u64,
    /// Whether requests are refused for memory.
    pub is_shedding: bool,
    /// Idle connections closed to make room.
    pub relieved: u64,
}

/// A certificate in service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct CertificateReading {
    /// What names it.
    pub name: String,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// What its age means, of a fixed list of words.
    pub health: &'static str,
    /// Whether the local CA stands in for an authority; `None` where none is to issue it.
    pub is_stand_in: Option<bool>,
}

/// A list of revoked client certificates.
#[derive(Clone, Debug)]
pub struct ListReading {
    /// The file that it stands in, as configured.
    pub file: String,
    /// Its CA.
    pub issuer: String,
    /// When it is over.
    pub next_update: SystemTime,
    /// What its age means, of a fixed list of words.
    pub health: &'static str,
}

/// How a certificate stands that an authority issues.
#[derive(Clone, Debug)]
pub struct OrderReading {
    /// What names it, as a certificate in service.
    pub certificate: String,
    /// Where it stands, of a fixed list of words.
    pub state: &'static str,
    /// When it is ordered next, in seconds since 1970; `None` while that waits for somebody.
    pub next_at: Option<i64>,
    /// Why it is ordered then, of a fixed list of words.
    pub why: &'static str,
    /// Failures in a row.
    pub fails: u32,
    /// It is served, and could not be saved.
    pub is_unsaved: bool,
}

/// How one address of a server stands.
#[derive(Clone, Debug)]
pub struct EndpointReading {
    /// Its pool.
    pub pool: String,
    /// The server's URL as configured.
    pub endpoint: String,
    /// `10.0.0.5:8080`.
    pub address: String,
    /// What its checks say; `None` without a verdict.
    pub is_healthy: Option<bool>,
    /// Requests it is answering.
    pub in_flight: usize,
}

/// How often a filter decided what.
#[derive(Clone, Debug)]
pub struct FilterReading {
    /// Where the filter stands: a site, or a site's route. From the configuration.
    pub chain: String,
    /// Its place in the chain, from 1.
    pub position: usize,
    /// The filter's name.
    pub filter: &'static str,
    /// What it decided, of a fixed list of words.
    pub verdict: &'static str,
    /// How often.
    pub count: u64,
}

impl Metrics {
    /// Everything in Prometheus' text format, with what `readings` tells. A route or pool without a
    /// request yet has no series.
    #[must_use]
    pub fn render(&self, readings: &Readings) -> String {
        let mut text = Text::default();
        self.write_routes(&mut text, readings.in_flight);
        for (family, counters) in
            [(&family::REFUSED, &self.refused), (&family::FAILED, &self.failed)]
        {
            write_words(&mut text, family, &[], &self.errors, counters);
        }
        self.write_upstream(&mut text);
        write_endpoints(&mut text, &readings.endpoints);
        self.write_listeners(&mut text);
        self.write_certificates(&mut text, readings);
        self.write_stapling(&mut text);
        self.write_process(&mut text, readings);
        text.finish()
    }

    fn write_routes(&self, text: &mut Text, in_flight: usize) {
        let mut routes = self.routes.living();
        let has_begun =
            |route: &RouteMetrics| route.duration.count() > 0 || read(&route.in_flight) > 0;
        routes.retain(|(_, route)| has_begun(route));
        for ((site, name), route) in &routes {
            write_words(text, &family::REQUESTS, &[site, name], &CLASSES, &route.classes);
        }
        for ((site, name), route) in &routes {
            text.histogram(&family::DURATION, &[site, name], &route.duration);
        }
        for ((site, name), route) in &routes {
            if route.first_byte.count() > 0 {
                text.histogram(&family::FIRST_BYTE, &[site, name], &route.first_byte);
            }
        }
        for ((site, name), route) in &routes {
            text.sample(&family::REQUEST_BYTES, &[site, name], read(&route.request_bytes));
        }
        for ((site, name), route) in &routes {
            text.sample(&family::RESPONSE_BYTES, &[site, name], read(&route.response_bytes));
        }
        let mut others = in_flight as u64;
        for ((site, name), route) in routes.iter().filter(|((site, _), _)| !site.is_empty()) {
            let routed = read(&route.in_flight);
            others = others.saturating_sub(routed);
            text.sample(&family::IN_FLIGHT, &[site, name], routed);
        }
        text.sample(&family::IN_FLIGHT, &["", ""], others);
    }

    fn write_upstream(&self, text: &mut Text) {
        for ((pool, url), server) in self.servers.living() {
            write_words(text, &family::ATTEMPTS, &[&pool, &url], &OUTCOMES, &server.attempts);
        }
        let pools = self.pools.living();
        for (name, pool) in &pools {
            text.sample(&family::RETRIES, &[name], read(&pool.retries));
        }
        for (name, pool) in &pools {
            text.histogram(&family::CONNECT, &[name], &pool.connect);
        }
        for (name, pool) in &pools {
            text.histogram(&family::UPSTREAM_FIRST_BYTE, &[name], &pool.first_byte);
        }
    }

    fn write_listeners(&self, text: &mut Text) {
        let listeners = self.listeners.living();
        for (name, listener) in &listeners {
            text.sample(&family::CONNECTIONS, &[name], read(&listener.open));
        }
        for (name, listener) in &listeners {
            text.sample(&family::ACCEPTED, &[name], read(&listener.accepted));
        }
        for (name, listener) in &listeners {
            text.sample(&family::TURNED_AWAY, &[name], read(&listener.refused));
        }
        for (name, listener) in &listeners {
            write_words(text, &family::HANDSHAKES, &[name], &VERSIONS, &listener.handshakes);
        }
        for (name, listener) in &listeners {
            let counters = &listener.handshake_failures;
            write_words(text, &family::HANDSHAKE_FAILURES, &[name], &HANDSHAKE_FAULTS, counters);
        }
        for (name, listener) in &listeners {
            let counters = &listener.proxy_headers;
            write_words(text, &family::PROXY_HEADERS, &[name], &PROXY_HEADERS, counters);
        }
    }

    fn write_process(&self, text: &mut Text, readings: &Readings) {
        text.sample(&family::GENERATION, &[], readings.generation);
        let is_good = self.is_last_reload_good.load(Ordering::Relaxed);
        text.sample(&family::RELOAD_SUCCESS, &[], u8::from(is_good));
        text.sample(&family::RELOAD_SUCCESS_TIME, &[], read(&self.last_good_reload));
        write_words(text, &family::RELOADS, &[], &RELOAD_OUTCOMES, &self.reloads);
        write_words(text, &family::UPGRADES, &[], &UPGRADE_OUTCOMES, &self.upgrades);
        for reading in &readings.filters {
            let position = reading.position.to_string();
            let values = [reading.chain.as_str(), &position, reading.filter, reading.verdict];
            text.sample(&family::VERDICTS, &values, reading.count);
        }
        text.sample(&family::LINES_DROPPED, &[], readings.lines_dropped);
        text.sample(&family::PANICS, &[], readings.panics);
        let pressure = readings.pressure;
        text.sample(&family::SHEDDING, &[], u8::from(pressure.is_shedding));
        if pressure.memory_limit > 0 {
            text.sample(&family::MEMORY_LIMIT, &[], pressure.memory_limit);
        }
        text.sample(&family::RELIEVED, &[], pressure.relieved);
        text.sample(&family::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        let (usage, allocator) = (process::usage(), allocator::usage());
        if let Some(cpu) = usage.cpu_seconds {
            text.sample(&family::CPU, &[], cpu);
        }
        for (family, value) in [
            (&family::RESIDENT, usage.resident_bytes),
            (&family::VIRTUAL, usage.virtual_bytes),
            (&family::OPEN_FDS, usage.open),
            (&family::MAX_FDS, usage.most_open),
            (&family::THREADS, usage.threads),
            (&family::START_TIME, Some(seconds(self.started))),
            (&family::ALLOCATED, Some(allocator.committed)),
            (&family::MOST_ALLOCATED, Some(allocator.most_committed)),
        ] {
            if let Some(value) = value {
                text.sample(family, &[], value);
            }
        }
    }
}

fn write_endpoints(text: &mut Text, endpoints: &[EndpointReading]) {
    for it in endpoints {
        if let Some(is_healthy) = it.is_healthy {
            let values = [it.pool.as_str(), &it.endpoint, &it.address];
            text.sample(&family::HEALTHY, &values, u8::from(is_healthy));
        }
    }
    for it in endpoints {
        let values = [it.pool.as_str(), &it.endpoint, &it.address];
        text.sample(&family::ENDPOINT_IN_FLIGHT, &values, it.in_flight);
    }
}

/// A sample for each word, which is the value of the last label.
pub(super) fn write_words(
    text: &mut Text,
    family: &'static Family,
    values: &[&str],
    words: &[&str],
    counters: &[AtomicU64],
) {
    for (word, counter) in words.iter().zip(counters) {
        text.sample(family, &[values, &[word]].concat(), read(counter));
    }
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
