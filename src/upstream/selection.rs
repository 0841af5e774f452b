//! Which endpoints of a pool get requests at the moment.
//!
//! Answers "who is available?" whenever health or addresses change, so that a pick has only to
//! choose. Called by [`super::pool`].

use std::sync::Arc;
use std::time::Instant;

use super::balance;
use super::endpoint::Endpoint;
use super::health::Standing;
use crate::config::upstream::Upstream;

/// The endpoints that get requests, replaced whole when health or addresses change.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The primary servers' available endpoints; the backups' while there is none. In the servers'
    /// order.
    pub(super) chosen: Vec<Arc<Endpoint>>,
    /// By weight, as indices of `chosen`.
    pub(super) schedule: Vec<u16>,
    /// When the last of them comes to its full share.
    pub(super) full_at: Option<Instant>,
    /// What has to be known before anybody may be chosen.
    pub(super) pending: Pending,
}

/// What has to be known of a pool's servers before a request goes to any of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pending {
    /// The address of one.
    pub(super) look_up: bool,
    /// The first check of one.
    pub(super) check: bool,
}

impl Pending {
    pub(super) fn is_any(self) -> bool {
        self.look_up || self.check
    }
}

impl Selection {
    /// Out of `endpoints`, where the servers at the indices `unresolved` have had no look-up yet.
    pub(super) fn of(spec: &Upstream, endpoints: &[Arc<Endpoint>], unresolved: &[usize]) -> Self {
        let mut pending = Pending::default();
        let mut chosen = Vec::new();
        for backup in [false, true] {
            let tier = || endpoints.iter().filter(move |one| one.server.backup == backup);
            chosen = tier().filter(|one| is_available(spec, one)).cloned().collect();
            if !chosen.is_empty() {
                break;
            }
            pending = Pending {
                look_up: unresolved.iter().any(|index| spec.servers[*index].backup == backup),
                check: spec.health.is_some() && tier().any(|one| is_held(spec, one)),
            };
            if pending.is_any() {
                break;
            }
        }
        let weights: Vec<u32> = chosen.iter().map(|endpoint| endpoint.server.weight).collect();
        let full_at = |one: &Arc<Endpoint>| one.monitor().full_at(spec.health.as_ref());
        Self {
            schedule: balance::schedule(&weights),
            full_at: chosen.iter().filter_map(full_at).max(),
            pending: if chosen.is_empty() { pending } else { Pending::default() },
            chosen,
        }
    }
}

/// Whether `endpoint` may have requests: all may in a pool without checks.
pub(super) fn is_available(spec: &Upstream, endpoint: &Endpoint) -> bool {
    match &spec.health {
        None => true,
        health => endpoint.monitor().standing(health.as_ref()) == Standing::Healthy,
    }
}

/// Whether requests wait for the first check of `endpoint`.
fn is_held(spec: &Upstream, endpoint: &Endpoint) -> bool {
    endpoint.monitor().standing(spec.health.as_ref()) == Standing::Unknown
}
