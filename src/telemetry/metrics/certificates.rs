//! What is counted of certificates, of the authorities that issue them, and of who is told.
//!
//! Orders are rare, so that maps behind a lock do: a request of a client touches none of this.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::family;
use super::histogram::Histogram;
use super::render::{CertificateReading, Readings};
use super::text::Text;
use super::{Metrics, add, seconds};

/// What is counted of one authority. Its series live as long as a configuration that has it.
#[derive(Debug, Default)]
pub struct AuthorityMetrics {
    counts: Mutex<Counts>,
    orders: Histogram,
    replaces_dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By endpoint and status; without a status where there was no answer.
    requests: BTreeMap<(&'static str, Option<u16>), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    /// By result and reason.
    renewals: BTreeMap<(&'static str, &'static str), u64>,
    /// By scope, in seconds since 1970.
    limits: BTreeMap<&'static str, i64>,
    clock_skew: Option<i64>,
}

impl AuthorityMetrics {
    /// Counts a request to `endpoint`, which ended with `status` if there was an answer.
    pub fn asked(&self, endpoint: &'static str, status: Option<u16>, took: Duration) {
        let mut counts = self.lock();
        *counts.requests.entry((endpoint, status)).or_default() += 1;
        counts.durations.entry(endpoint).or_default().observe(took);
    }

    /// Counts an order that yielded a certificate.
    pub fn ordered(&self, took: Duration) {
        self.orders.observe(took);
    }

    /// Counts a try to obtain a certificate; both words are of fixed lists.
    pub fn renewed(&self, result: &'static str, why: &'static str) {
        *self.lock().renewals.entry((result, why)).or_default() += 1;
    }

    /// Counts an order without `replaces`.
    pub fn dropped_replaces(&self) {
        add(&self.replaces_dropped, 1);
    }

    /// Notes the end of a rate limit, in seconds since 1970. `scope` is of a fixed list.
    pub fn limited(&self, scope: &'static str, until: i64) {
        let mut counts = self.lock();
        let end = counts.limits.entry(scope).or_insert(until);
        *end = until.max(*end);
    }

    /// Notes how far the authority's clock is ahead of ours, in seconds.
    pub fn clock_ahead(&self, seconds: i64) {
        self.lock().clock_skew = Some(seconds);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Whole between its operations, whoever panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted of certificates, whoever issues them.
#[derive(Debug, Default)]
pub struct CertificateMetrics {
    store_errors: [AtomicU64; STORE_OPS.len()],
    deliveries: [AtomicU64; DELIVERIES.len()],
    pending: AtomicU64,
    /// 0: there is no fleet; 1: its Redis cannot be reached; 2: it can.
    fleet: AtomicU8,
}

/// What can fail where certificates are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreOp {
    /// Reading what is kept.
    Read,
    /// Saving a certificate.
    Save,
    /// Writing down how an order went.
    Record,
    /// Keeping an order, or making room for one.
    Order,
    /// Keeping an event for the hooks.
    Event,
}

/// The words for [`StoreOp`].
const STORE_OPS: [&str; 5] = ["read", "save", "record", "order", "event"];

/// How a try to tell a hook ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// It took the event.
    Delivered,
    /// It did not, and is told again.
    Failed,
    /// It did not, and is not told again: the event is too old, or there are too many.
    Dropped,
}

/// Kinds of hooks, and the words for [`Delivery`].
const DELIVERIES: [(&str, &str); 6] = [
    ("webhook", "delivered"),
    ("webhook", "failed"),
    ("webhook", "dropped"),
    ("run", "delivered"),
    ("run", "failed"),
    ("run", "dropped"),
];

impl StoreOp {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        STORE_OPS[self as usize]
    }
}

impl CertificateMetrics {
    /// Counts something that could not be kept or read.
    pub fn store_failed(&self, op: StoreOp) {
        add(&self.store_errors[op as usize], 1);
    }

    /// Counts a try to tell a hook: a program, or else a webhook.
    pub fn told(&self, is_program: bool, ended: Delivery) {
        add(&self.deliveries[3 * usize::from(is_program) + ended as usize], 1);
    }

    /// Notes whether the Redis of the fleet can be reached; `None` where there is no fleet.
    pub fn fleet(&self, is_reachable: Option<bool>) {
        self.fleet.store(is_reachable.map_or(0, |it| 1 + u8::from(it)), Ordering::Relaxed);
    }

    /// Notes how many events wait for a hook.
    pub fn pending(&self, count: usize) {
        self.pending.store(count as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(super) fn write_certificates(&self, text: &mut Text, readings: &Readings) {
        for it in &readings.certificates {
            text.sample(&family::NOT_AFTER, &[&it.name], seconds(it.not_after));
        }
        for it in &readings.certificates {
            text.sample(&family::CERTIFICATE_HEALTH, &[&it.name, it.health], 1);
        }
        for it in &readings.lists {
            let at = seconds(it.next_update);
            text.sample(&family::CRL_NEXT_UPDATE, &[&it.file, &it.issuer], at);
        }
        for it in &readings.lists {
            text.sample(&family::CRL_HEALTH, &[&it.file, &it.issuer, it.health], 1);
        }
        let of_authorities = |it: &&CertificateReading| it.is_stand_in.is_some();
        for it in readings.certificates.iter().filter(of_authorities) {
            let is_stand_in = it.is_stand_in == Some(true);
            text.sample(&family::STAND_IN, &[&it.name], u8::from(is_stand_in));
        }
        let orders = &readings.orders;
        for it in orders {
            text.sample(&family::ORDER_STATE, &[&it.certificate, it.state], 1);
        }
        for it in orders {
            if let Some(at) = it.next_at {
                text.sample(&family::RENEWAL_TIME, &[&it.certificate, it.why], at);
            }
        }
        for it in orders {
            text.sample(&family::CONSECUTIVE_FAILURES, &[&it.certificate], it.fails);
        }
        for it in orders {
            text.sample(&family::UNSAVED, &[&it.certificate], u8::from(it.is_unsaved));
        }
        self.write_authorities(text);
        for (kind, result, count) in &readings.challenge_hits {
            text.sample(&family::CHALLENGE_HITS, &[kind, result], count);
        }
        let CertificateMetrics { store_errors, deliveries, pending, fleet } = &self.certificates;
        for (op, count) in STORE_OPS.iter().zip(store_errors) {
            text.sample(&family::STORE_ERRORS, &[op], count.load(Ordering::Relaxed));
        }
        for ((hook, result), count) in DELIVERIES.iter().zip(deliveries) {
            text.sample(&family::DELIVERIES, &[hook, result], count.load(Ordering::Relaxed));
        }
        text.sample(&family::EVENTS_PENDING, &[], pending.load(Ordering::Relaxed));
        if let Some(is_reachable) = fleet.load(Ordering::Relaxed).checked_sub(1) {
            text.sample(&family::FLEET_REACHABLE, &[], is_reachable);
        }
    }

    fn write_authorities(&self, text: &mut Text) {
        let authorities = self.authorities.living();
        for (name, authority) in &authorities {
            for ((result, why), count) in &authority.lock().renewals {
                text.sample(&family::RENEWALS, &[name, result, why], count);
            }
        }
        for (name, authority) in &authorities {
            for ((endpoint, status), count) in &authority.lock().requests {
                let code = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
                text.sample(&family::ACME_REQUESTS, &[name, endpoint, &code], count);
            }
        }
        for (name, authority) in &authorities {
            for (endpoint, durations) in &authority.lock().durations {
                text.histogram(&family::ACME_DURATION, &[name, endpoint], durations);
            }
        }
        for (name, authority) in &authorities {
            text.histogram(&family::ORDER_DURATION, &[name], &authority.orders);
        }
        for (name, authority) in &authorities {
            for (scope, until) in &authority.lock().limits {
                text.sample(&family::LIMITED_UNTIL, &[name, scope], until);
            }
        }
        for (name, authority) in &authorities {
            let dropped = authority.replaces_dropped.load(Ordering::Relaxed);
            text.sample(&family::REPLACES_DROPPED, &[name], dropped);
        }
        for (name, authority) in &authorities {
            if let Some(skew) = authority.lock().clock_skew {
                text.sample(&family::CLOCK_SKEW, &[name], skew);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn what_an_authority_did_is_told_while_somebody_asks_it() {
        let metrics = Metrics::new([], UNIX_EPOCH);
        let authority = metrics.authority("https://ca.test/dir");
        authority.asked("newOrder", Some(201), Duration::from_millis(3));
        authority.asked("newOrder", None, Duration::from_millis(3));
        authority.renewed("failed", "missing");
        authority.limited("domain", 70);
        authority.limited("domain", 60);
        authority.clock_ahead(-5);
        authority.dropped_replaces();
        metrics.certificates.store_failed(StoreOp::Save);
        metrics.certificates.told(true, Delivery::Dropped);
        metrics.certificates.told(false, Delivery::Delivered);
        let text = metrics.render(&Readings::default());
        for line in [
            "wardgate_acme_requests_total{authority=\"https://ca.test/dir\",endpoint=\"newOrder\",code=\"none\"} 1",
            "wardgate_acme_requests_total{authority=\"https://ca.test/dir\",endpoint=\"newOrder\",code=\"201\"} 1",
            "wardgate_certificate_renewals_total{authority=\"https://ca.test/dir\",result=\"failed\",why=\"missing\"} 1",
            "wardgate_acme_limited_until_timestamp_seconds{authority=\"https://ca.test/dir\",scope=\"domain\"} 70",
            "wardgate_acme_clock_skew_seconds{authority=\"https://ca.test/dir\"} -5",
            "wardgate_acme_replaces_dropped_total{authority=\"https://ca.test/dir\"} 1",
            "wardgate_certificate_store_errors_total{op=\"save\"} 1",
            "wardgate_acme_event_deliveries_total{hook=\"run\",result=\"dropped\"} 1",
            "wardgate_acme_event_deliveries_total{hook=\"webhook\",result=\"delivered\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        drop(authority);
        assert!(!metrics.render(&Readings::default()).contains("ca.test"));
    }
}
