//! The running form of one configuration.
//!
//! Everything that depends on configuration alone is computed here, once; a request pins one
//! generation and never sees another.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::filter::Chains;
use crate::net::HostRef;
use crate::route::Router;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::RouteMetrics;
use crate::tls::{Offer, Policies, Policy, Terms};
use crate::upstream::Pool;

use super::connection::ListenerFacts;
use super::forms::Forms;
use super::handles::Handles;

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
    /// Its sites and routes, compact.
    pub forms: Forms,
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
        // Routes count side by side in memory, then sites without a route.
        let forms = Forms::new(&config, &listeners, metrics);
        let handles = Handles::new(&config, metrics);
        let router = Router::new(&config);
        let chains = Chains::new(&config, previous.map(|previous| &previous.chains));
        Self { number, config, router, chains, pools, policies, listeners, handles, forms }
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

    /// What a request of this site and route counts with, as far as they are known.
    #[must_use]
    pub fn counts(&self, site: Option<usize>, route: Option<usize>) -> &RouteMetrics {
        let form = site.zip(route).and_then(|(site, route)| self.forms.route(site, route));
        form.map_or_else(|| self.handles.unrouted(site), |form| &form.counts)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        tracing::debug!(generation = self.number, "freed a configuration");
    }
}
