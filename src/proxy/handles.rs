//! What a generation's requests count with: the metrics' handles, by the configuration's indices.
//! Those of routes are with their other [`Forms`](super::forms::Forms).

use std::sync::Arc;

use crate::config::Config;
use crate::telemetry::metrics::{Metrics, PoolMetrics, RouteMetrics, ServerMetrics};

/// The metrics' handles of one generation.
#[derive(Debug)]
pub struct Handles {
    /// For requests whose site is not known.
    nowhere: Arc<RouteMetrics>,
    /// By site, for its requests that no route takes.
    sites: Vec<Arc<RouteMetrics>>,
    pools: Vec<PoolHandles>,
}

/// The handles of one pool.
#[derive(Debug)]
pub struct PoolHandles {
    /// Of the whole.
    pub pool: Arc<PoolMetrics>,
    /// By index of the server.
    pub servers: Vec<Arc<ServerMetrics>>,
}

impl Handles {
    /// The handles of everything in `config`.
    #[must_use]
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let pool = |spec: &crate::config::upstream::Upstream| PoolHandles {
            pool: metrics.pool(&spec.name),
            servers: spec.servers.iter().map(|it| metrics.server(&spec.name, &it.url)).collect(),
        };
        Self {
            nowhere: metrics.route("", ""),
            sites: config.sites.iter().map(|site| metrics.route(&site.name, "")).collect(),
            pools: config.upstreams.iter().map(pool).collect(),
        }
    }

    /// The handle for a request that no route takes, by its site as far as it is known.
    #[must_use]
    pub fn unrouted(&self, site: Option<usize>) -> &RouteMetrics {
        site.and_then(|site| self.sites.get(site)).unwrap_or(&self.nowhere)
    }

    /// The handles of a pool.
    #[must_use]
    pub fn pool(&self, pool: usize) -> Option<&PoolHandles> {
        self.pools.get(pool)
    }
}
