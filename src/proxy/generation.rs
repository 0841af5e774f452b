//! The running form of one configuration.
//!
//! Everything that depends on configuration alone is computed here, once; a request pins one
//! generation and never sees another.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::config::listener::{BindAddress, Protocol};
use crate::config::route::Action;
use crate::config::site::Site;
use crate::route::Router;
use crate::telemetry::Metrics;
use crate::upstream::Pool;

use super::handles::Handles;
use super::reply::Reply;

/// The running form of one configuration.
#[derive(Debug)]
pub struct Generation {
    /// Counts configurations applied since the start, from 1.
    pub number: u64,
    /// What the operator asked for.
    pub config: Config,
    /// Sites and routes, compiled.
    pub router: Router,
    /// By index of [`Config::upstreams`].
    pub pools: Vec<Arc<Pool>>,
    /// What its requests count with.
    pub handles: Handles,
    /// By index of [`Config::sites`].
    sites: Vec<SiteForm>,
}

/// What a site needs beyond its configuration.
#[derive(Debug)]
struct SiteForm {
    /// Port of the site's first https listener.
    https_port: Option<u16>,
    /// By route: the answer, where it is always the same.
    replies: Vec<Option<Reply>>,
}

impl Generation {
    /// Puts a configuration and its pools together. `ports` are those that listeners with port 0
    /// got from the system, by listener.
    #[must_use]
    pub fn new(
        number: u64,
        config: Config,
        pools: Vec<Arc<Pool>>,
        ports: &HashMap<usize, u16>,
        metrics: &Metrics,
    ) -> Self {
        let handles = Handles::new(&config, metrics);
        let router = Router::new(&config);
        let sites = config.sites.iter().map(|site| SiteForm::new(&config, site, ports)).collect();
        Self { number, config, router, pools, handles, sites }
    }

    /// The port to redirect plain HTTP to; `None` when the site has no https listener.
    #[must_use]
    pub fn https_port(&self, site: usize) -> Option<u16> {
        self.sites.get(site)?.https_port
    }

    /// The answer of a `respond:` route.
    #[must_use]
    pub fn reply(&self, site: usize, route: usize) -> Option<&Reply> {
        self.sites.get(site)?.replies.get(route)?.as_ref()
    }
}

impl SiteForm {
    fn new(config: &Config, site: &Site, ports: &HashMap<usize, u16>) -> Self {
        let https_port = site
            .listeners
            .iter()
            .copied()
            .find(|index| config.listeners[*index].protocol == Protocol::Https)
            .and_then(|index| match config.listeners[index].bind.first()? {
                BindAddress::Any { port: 0 } => ports.get(&index).copied(),
                BindAddress::Any { port } => Some(*port),
                BindAddress::Addr(address) if address.port() == 0 => ports.get(&index).copied(),
                BindAddress::Addr(address) => Some(address.port()),
            });
        let replies = site
            .routes
            .iter()
            .map(|route| match &route.action {
                Action::Respond(respond) => Some(Reply::respond(respond)),
                Action::Upstream(_) | Action::Redirect(_) | Action::Welcome => None,
            })
            .collect();
        Self { https_port, replies }
    }
}
