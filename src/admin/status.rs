//! `GET /status`: how the gateway stands, as JSON.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::control::Outcome;
use super::{Attempted, Desk, OrderStatus};
use crate::config::listener::Protocol;
use crate::config::site::{Site, SiteCertificate};
use crate::proxy::generation::Generation;
use crate::proxy::pressure::{Level, Pressure};
use crate::tls::{Entry, Health, Origin, RevocationList};
use crate::upstream::{EndpointStatus, Pool};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How the gateway stands at `now`.
pub(super) fn json(desk: &Desk, now: SystemTime) -> Value {
    let (generation, view) = (desk.shared.current.load(), desk.view.load());
    let listeners = view.listeners.iter().map(|listener| {
        let protocol = match listener.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
        };
        json!({ "name": listener.name, "protocol": protocol, "addresses": listener.addresses })
    });
    let sites = generation.config.sites.iter().map(|each| site(each, &generation));
    let certificates = desk.shared.certificates.entries();
    let lists = generation.policies.lists();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "state": (desk.state)().1,
        "certificates_health": certificates_health(&certificates, now).as_str(),
        "uptime_seconds": desk.started.elapsed().as_secs(),
        "generation": generation.number,
        "last_reload": desk.last_reload.get().map(|last| last_reload(&last)),
        "connections": (desk.connections)(),
        "requests_in_flight": desk.shared.in_flight(),
        "memory": memory(&desk.shared.pressure),
        "descriptors_short": desk.shared.pressure.lacks_descriptors(),
        "listeners": listeners.collect::<Vec<_>>(),
        "sites": sites.collect::<Vec<_>>(),
        "pools": generation.pools.iter().map(|each| pool(each)).collect::<Vec<_>>(),
        "orders": (desk.orders)().iter().map(order).collect::<Vec<_>>(),
        "certificates": certificates.iter().map(|it| certificate(it, now)).collect::<Vec<_>>(),
        "revocation_lists": lists.iter().map(|it| list(it, now)).collect::<Vec<_>>(),
    })
}

/// How the certificate is that is worst off. The gateway serves whatever this is, and `/ready` does not
/// ask.
fn certificates_health(certificates: &[Arc<Entry>], now: SystemTime) -> Health {
    let all = certificates.iter().map(|entry| entry.health(now));
    all.max().unwrap_or(Health::Good)
}

/// Memory in use, its limit and what follows from both.
fn memory(pressure: &Pressure) -> Value {
    let (bytes, limit) = pressure.memory();
    let level = match pressure.level() {
        Level::Ease => "ease",
        Level::Shed => "shedding",
        Level::Refuse => "refusing",
    };
    json!({ "bytes": bytes, "limit": (limit > 0).then_some(limit), "level": level })
}

/// How a reload ended.
pub(super) fn outcome(outcome: &Outcome) -> Value {
    let word = outcome.as_str();
    match outcome {
        Outcome::Applied { generation, warnings } => {
            json!({ "outcome": word, "generation": generation, "warnings": warnings })
        }
        Outcome::Unchanged { generation } => {
            json!({ "outcome": word, "generation": generation })
        }
        Outcome::Rejected { generation, faults } => {
            json!({ "outcome": word, "generation": generation, "faults": faults })
        }
    }
}

fn last_reload(last: &Attempted) -> Value {
    let mut value = outcome(&last.outcome);
    value["at"] = timestamp(last.at);
    value["reason"] = last.reason.into();
    value
}

fn site(site: &Site, generation: &Generation) -> Value {
    let certificate = match site.certificate {
        SiteCertificate::None => None,
        SiteCertificate::Acme { .. } => Some(format!("acme:{}", site.name)),
        SiteCertificate::Internal => Some(format!("internal:{}", site.name)),
        SiteCertificate::Named(index) => {
            generation.config.certificates.get(index).map(|found| found.name.clone())
        }
    };
    let hosts: Vec<String> = site.patterns.iter().map(ToString::to_string).collect();
    json!({ "name": site.name, "hosts": hosts, "certificate": certificate })
}

fn pool(pool: &Pool) -> Value {
    let servers: Vec<Value> = pool.status().iter().map(server).collect();
    json!({
        "name": pool.name(),
        "checked": pool.spec().health.is_some(),
        "in_flight": pool.in_flight(),
        "servers": servers,
    })
}

fn server(server: &EndpointStatus) -> Value {
    json!({
        "url": server.url,
        "address": server.address,
        "health": server.standing.as_str(),
        "why": server.reason.as_deref(),
        "since": server.since.map(timestamp),
        "in_flight": server.in_flight,
        "weight": server.weight,
        "backup": server.backup,
    })
}

fn order(order: &OrderStatus) -> Value {
    json!({
        "name": order.name,
        "state": order.state,
        "fails": order.fails,
        "problem": order.problem,
        "next_at": order.next_at.map(timestamp),
        "why": order.why,
        "unsaved": order.is_unsaved,
    })
}

fn certificate(entry: &Entry, now: SystemTime) -> Value {
    let leaf = &entry.certificate().leaf;
    let names: Vec<String> = leaf.names.iter().map(ToString::to_string).collect();
    let ocsp = entry.staple().filter(|it| now < it.until).map(|it| it.status.as_str());
    json!({
        "name": &**entry.id(),
        "hosts": names,
        "not_before": timestamp(leaf.not_before),
        "not_after": timestamp(leaf.not_after),
        "days_left": days_left(leaf.not_after, now),
        "health": entry.health(now).as_str(),
        "stand_in": entry.origin() == Origin::StandIn,
        "issuer": leaf.issuer,
        "ocsp": ocsp,
    })
}

fn list(list: &RevocationList, now: SystemTime) -> Value {
    json!({
        "file": list.path.display().to_string(),
        "issuer": list.issuer,
        "this_update": timestamp(list.lifetime.begin),
        "next_update": timestamp(list.lifetime.end),
        "days_left": days_left(list.lifetime.end, now),
        "health": list.health(now).as_str(),
    })
}

/// Whole days until `end`; below zero once it has passed.
fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    let days = |span: Duration| (span.as_secs() / DAY.as_secs()).cast_signed();
    match end.duration_since(now) {
        Ok(left) => days(left),
        Err(passed) => -1 - days(passed.duration()),
    }
}

/// RFC 3339 in UTC, to the second.
#[must_use]
pub fn timestamp(at: SystemTime) -> Value {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    let spelled =
        OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|at| at.format(&Rfc3339).ok());
    spelled.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_negative_once_it_is_over() {
        let now = UNIX_EPOCH + 100 * DAY;
        let hour = Duration::from_secs(3600);
        for (end, wanted) in [
            (now + 90 * DAY, 90),
            (now + DAY - hour, 0),
            (now, 0),
            (now - hour, -1),
            (now - 3 * DAY, -4),
        ] {
            assert_eq!(days_left(end, now), wanted);
        }
        assert_eq!(timestamp(UNIX_EPOCH + 19_000 * DAY), "2022-01-08T00:00:00Z");
    }

    #[test]
    fn the_last_reload_is_told_with_its_faults() {
        let faults = "a.yaml:1:1: wrong\n".to_owned();
        let last = Attempted {
            at: UNIX_EPOCH + 19_000 * DAY,
            reason: "file",
            outcome: Outcome::Rejected { generation: 3, faults },
        };
        let wanted = json!({
            "outcome": "rejected", "generation": 3, "faults": "a.yaml:1:1: wrong\n",
            "at": "2022-01-08T00:00:00Z", "reason": "file",
        });
        assert_eq!(last_reload(&last), wanted);
    }
}
