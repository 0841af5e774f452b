//! The running form of one configuration.
//!
//! Everything that depends on configuration alone is computed here, once; a request pins one
//! generation and never sees another.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::config::listener::Protocol;
use crate::config::route::Action;
use crate::config::site::Site;
use crate::filter::Chains;
use crate::net::HostRef;
use crate::route::Router;
use crate::telemetry::Metrics;
use crate::tls::{Offer, Policies, Policy, Terms};
use crate::upstream::Pool;

use super::connection::ListenerFacts;
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
    /// What runs before its routes.
    pub chains: Chains,
    /// By index of [`Config::upstreams`].
    pub pools: Vec<Arc<Pool>>,
    /// What its sites ask of clients.
    pub policies: Policies,
    /// By index of [`Config::listeners`].
    listeners: Vec<BoundListener>,
    /// What its requests count with.
    pub handles: Handles,
    /// By index of [`Config::sites`].
    sites: Vec<SiteForm>,
}

/// A listener of a configuration as it is bound.
#[derive(Clone, Debug)]
pub struct BoundListener {
    /// The same value as in the generation before, if the listener is the same.
    pub facts: Arc<ListenerFacts>,
    /// The port of its first socket.
    pub port: u16,
    /// How its handshakes go; `None` on plain HTTP.
    pub terms: Option<Arc<Terms>>,
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
    /// Puts a configuration and what was made of it together; it follows `previous`, whose filters hand
    /// on what they have learnt.
    #[must_use]
    pub fn new(
        previous: Option<&Self>,
        config: Config,
        pools: Vec<Arc<Pool>>,
        policies: Policies,
        listeners: Vec<BoundListener>,
        metrics: &Metrics,
    ) -> Self {
        let number = previous.map_or(1, |previous| previous.number + 1);
        let handles = Handles::new(&config, metrics);
        let router = Router::new(&config);
        let chains = Chains::new(&config, previous.map(|previous| &previous.chains));
        let form = |site| SiteForm::new(&config, site, &listeners);
        let sites = config.sites.iter().map(form).collect();
        Self { number, config, router, chains, pools, policies, listeners, handles, sites }
    }

    /// The index of a listener in this configuration; `None` when it is not in it.
    #[must_use]
    pub fn listener(&self, facts: &Arc<ListenerFacts>) -> Option<usize> {
        self.listeners.iter().position(|listener| Arc::ptr_eq(&listener.facts, facts))
    }

    /// By index of [`Config::listeners`].
    #[must_use]
    pub fn listeners(&self) -> &[BoundListener] {
        &self.listeners
    }

    /// How a handshake goes on a listener for the name that the client asks for, or the address that
    /// it reached where it asks for none: by the policy of the site that a request for that host
    /// would go to. `None` when the listener is not in this configuration.
    #[must_use]
    pub fn offer(
        &self,
        facts: &Arc<ListenerFacts>,
        name: Option<&str>,
        local: IpAddr,
    ) -> Option<Offer> {
        let listener = self.listener(facts)?;
        let terms = self.listeners[listener].terms.as_ref()?;
        let host = match name {
            Some(name) => HostRef::parse_authority(name).ok().map(|(host, _)| host),
            None => Some(HostRef::Address(local.to_canonical())),
        };
        let site = host.and_then(|host| self.router.site(listener, &host));
        Some(terms.offer(self.policies.index_of(listener, site)))
    }

    /// What a site asks of clients on a listener; `None` asks for nothing.
    #[must_use]
    pub fn policy(&self, listener: usize, site: usize) -> Option<&Arc<Policy>> {
        self.policies.of(listener, site)
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

impl Drop for Generation {
    fn drop(&mut self) {
        tracing::debug!(generation = self.number, "freed a configuration");
    }
}

impl SiteForm {
    fn new(config: &Config, site: &Site, bound: &[BoundListener]) -> Self {
        let https_port = site
            .listeners
            .iter()
            .copied()
            .find(|index| config.listeners[*index].protocol == Protocol::Https)
            .and_then(|index| bound.get(index))
            .map(|listener| listener.port);
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
