//! The metrics as text, with what the running configuration tells at that moment.

use std::sync::Arc;
use std::time::SystemTime;

use super::gateway::Shared;
use crate::filter::Instance;
use crate::telemetry::metrics::{
    CertificateReading, EndpointReading, FilterReading, ListReading, OrderReading, PressureReading,
    Readings,
};
use crate::tls::{Entry, Origin, RevocationList};
use crate::upstream::{Pool, Standing};

impl Shared {
    /// The metrics in Prometheus' text format, with `orders`, which others know.
    #[must_use]
    pub fn scrape(&self, orders: Vec<OrderReading>) -> String {
        let (generation, now) = (self.current.load_full(), SystemTime::now());
        let lists = generation.policies.lists();
        self.metrics.render(&Readings {
            generation: generation.number,
            in_flight: self.in_flight(),
            panics: self.panics(),
            lines_dropped: self.lines_dropped(),
            pressure: PressureReading {
                memory_limit: self.pressure.memory().1,
                is_shedding: self.pressure.is_shedding(),
                relieved: self.pressure.relieved(),
            },
            endpoints: generation.pools.iter().flat_map(|pool| endpoints(pool)).collect(),
            certificates: certificates(&self.certificates.entries(), now),
            lists: lists.into_iter().map(|list| reading(list, now)).collect(),
            orders,
            challenge_hits: self.certificates.challenges().hits().collect(),
            filters: generation.chains.instances().flat_map(verdicts).collect(),
        })
    }
}

/// The certificates in service, by their id.
fn certificates(entries: &[Arc<Entry>], now: SystemTime) -> Vec<CertificateReading> {
    let reading = |entry: &Arc<Entry>| CertificateReading {
        name: entry.id().to_string(),
        not_after: entry.certificate().leaf.not_after,
        health: entry.health(now).as_str(),
        is_stand_in: match entry.origin() {
            Origin::Files | Origin::LocalCa => None,
            Origin::Authority => Some(false),
            Origin::StandIn => Some(true),
        },
    };
    let mut all: Vec<_> = entries.iter().map(reading).collect();
    // Of two with one id, which only a site on two listeners has, the first to end counts.
    all.sort_unstable();
    all.dedup_by(|later, first| later.name == first.name);
    all
}

fn reading(list: RevocationList, now: SystemTime) -> ListReading {
    ListReading {
        file: list.path.display().to_string(),
        health: list.health(now).as_str(),
        next_update: list.lifetime.end,
        issuer: list.issuer,
    }
}

fn endpoints(pool: &Pool) -> Vec<EndpointReading> {
    let known = pool.status().into_iter().filter_map(|status| {
        Some(EndpointReading {
            pool: pool.name().to_owned(),
            endpoint: status.url,
            address: status.address?,
            is_healthy: match status.standing {
                Standing::Healthy => Some(true),
                Standing::Unhealthy => Some(false),
                _ => None,
            },
            in_flight: status.in_flight,
        })
    });
    known.collect()
}

/// What a filter has decided; nothing of one that only changes fields or bodies.
fn verdicts(instance: &Instance) -> Vec<FilterReading> {
    if !instance.is_judge() {
        return Vec::new();
    }
    let (place, tally) = (&instance.place, &instance.tally);
    let counts = [
        ("allowed", tally.allowed()),
        ("blocked", tally.blocked()),
        ("would_block", tally.would_block()),
    ];
    let reading = |(verdict, count)| FilterReading {
        chain: place.scope.to_string(),
        position: place.position + 1,
        filter: place.filter,
        verdict,
        count,
    };
    counts.map(reading).into()
}
