//! What a generation's requests count with: the metrics' handles, by the configuration's indices.

use std::sync::Arc;

use crate::config::Config;
use crate::telemetry::metrics::{Metrics, PoolMetrics, RouteMetrics, ServerMetrics};

/// The metrics' handles of one generation.
#[derive(Debug)]
pub struct Handles {
    /// For requests whose site is not known.
    nowhere: Arc<RouteMetrics>,
    sites: Vec<SiteHandles>,
    pools: Vec<PoolHandles>,
}

#[derive(Debug)]
struct SiteHandles {
    /// For requests that no route takes.
    itself: Arc<RouteMetrics>,
    routes: Vec<Arc<RouteMetrics>>,
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
        let site = |site: &crate::config::site::Site| {
            let name = site.name.as_str();
            let routes = site.routes.iter().map(|route| metrics.route(name, &route.label));
            SiteHandles { itself: metrics.route(name, ""), routes: routes.collect() }
        };
        let pool = |spec: &crate::config::upstream::Upstream| PoolHandles {
            pool: metrics.pool(&spec.name),
            servers: spec.servers.iter().map(|it| metrics.server(&spec.name, &it.url)).collect(),
        };
        Self {
            nowhere: metrics.route("", ""),
            sites: config.sites.iter().map(site).collect(),
            pools: config.upstreams.iter().map(pool).collect(),
        }
    }

    /// The handle for a request of this site and route, as far as they are known.
    #[must_use]
    pub fn route(&self, site: Option<usize>, route: Option<usize>) -> &Arc<RouteMetrics> {
        let Some(site) = site.and_then(|site| self.sites.get(site)) else { return &self.nowhere };
        route.and_then(|route| site.routes.get(route)).unwrap_or(&site.itself)
    }

    /// The handles of a pool.
    #[must_use]
    pub fn pool(&self, pool: usize) -> Option<&PoolHandles> {
        self.pools.get(pool)
    }
}
