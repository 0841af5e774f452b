//! The filters of one configuration, put together once.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Instance, Place, Scope, Stack, name};
use crate::config::Config;
use crate::config::filter::{Filter, FilterUse, Mode};
use crate::config::site::Site;

/// The filters of one configuration.
#[derive(Debug, Default)]
pub struct Chains {
    /// Each once, in the order: named chains, then sites with their routes.
    instances: Vec<Arc<Instance>>,
    /// By site; `None` where nothing runs for any of its requests.
    sites: Vec<Option<Box<SiteStacks>>>,
}

#[derive(Debug)]
struct SiteStacks {
    /// For requests that no route matches.
    own: Option<Arc<Stack>>,
    routes: Vec<Option<Arc<Stack>>>,
}

impl Chains {
    /// The filters of `config`. They take over what those of `previous` at the same places have
    /// learnt.
    #[must_use]
    pub fn new(config: &Config, previous: Option<&Self>) -> Self {
        let mut builder = Builder::new(previous);
        let named: Vec<_> = config
            .filters
            .iter()
            .map(|chain| {
                let scope = Scope::Chain(chain.name.clone());
                let filters = chain.filters.iter().enumerate();
                let built = filters.map(|(at, filter)| builder.build(&scope, at, filter));
                built.collect::<Vec<_>>()
            })
            .collect();
        let sites = config.sites.iter().map(|site| builder.site(site, &named)).collect();
        Self { instances: builder.instances, sites }
    }

    /// What runs for a site's route, or for its requests that no route matches. `None` if nothing
    /// does.
    #[must_use]
    pub fn stack(&self, site: usize, route: Option<usize>) -> Option<&Arc<Stack>> {
        let site = self.sites.get(site)?.as_ref()?;
        match route {
            Some(route) => site.routes.get(route)?.as_ref(),
            None => site.own.as_ref(),
        }
    }

    /// Every filter that is not off, once, for metrics and status.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().map(Arc::as_ref)
    }
}

/// A filter that is off is `None`.
type Built = Option<Arc<Instance>>;

struct Builder<'p> {
    previous: HashMap<&'p Place, &'p Instance>,
    instances: Vec<Arc<Instance>>,
}

impl<'p> Builder<'p> {
    fn new(previous: Option<&'p Chains>) -> Self {
        let instances = previous.into_iter().flat_map(Chains::instances);
        let previous = instances.map(|instance| (&instance.place, instance)).collect();
        Self { previous, instances: Vec::new() }
    }

    fn build(&mut self, scope: &Scope, position: usize, filter: &Filter) -> Built {
        if filter.mode == Mode::Off {
            return None;
        }
        let place = Place { scope: scope.clone(), position, filter: name(&filter.kind) };
        let previous = self.previous.get(&place).copied();
        let instance = Arc::new(Instance::new(place, filter, previous));
        self.instances.push(Arc::clone(&instance));
        Some(instance)
    }

    fn uses(
        &mut self,
        scope: &Scope,
        uses: &[FilterUse],
        named: &[Vec<Built>],
    ) -> Vec<Arc<Instance>> {
        let mut instances = Vec::new();
        for (position, filter) in uses.iter().enumerate() {
            match filter {
                FilterUse::Chain(index) => {
                    instances.extend(named.get(*index).into_iter().flatten().flatten().cloned());
                }
                FilterUse::Inline(filter) => {
                    instances.extend(self.build(scope, position, filter));
                }
            }
        }
        instances
    }

    fn site(&mut self, site: &Site, named: &[Vec<Built>]) -> Option<Box<SiteStacks>> {
        let of_site = self.uses(&Scope::Site(site.name.clone()), &site.filters, named);
        let mut labels: HashMap<&str, usize> = HashMap::new();
        let routes: Vec<_> = site
            .routes
            .iter()
            .map(|route| {
                let nth = labels.entry(&route.label).or_default();
                let scope =
                    Scope::Route { site: site.name.clone(), route: route.label.clone(), nth: *nth };
                *nth += 1;
                let mut instances = of_site.clone();
                instances.extend(self.uses(&scope, &route.filters, named));
                Stack::new(instances)
            })
            .collect();
        let own = Stack::new(of_site);
        let is_any = own.is_some() || routes.iter().any(Option::is_some);
        is_any.then(|| Box::new(SiteStacks { own, routes }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::super::tests::request;
    use super::super::{Rejection, Verdict};
    use super::*;
    use crate::config::filter::{Access, Chain, FilterKind, RateKey, RateLimit};
    use crate::net::CidrSet;

    fn limit(rate: u32) -> FilterKind {
        let period = Duration::from_secs(3600);
        FilterKind::RateLimit(RateLimit { key: RateKey::ClientIp, rate, period, burst: rate })
    }

    fn deny(block: &str) -> FilterKind {
        let deny = CidrSet::parse([block]).unwrap();
        FilterKind::Access(Access { allow: CidrSet::default(), deny })
    }

    fn filter(kind: FilterKind, mode: Mode) -> Filter {
        Filter { line: 1, mode, kind }
    }

    fn inline(kind: FilterKind) -> FilterUse {
        FilterUse::Inline(filter(kind, Mode::Enforce))
    }

    /// Two sites of two routes each, without filters.
    fn config() -> Config {
        let text = "sites:\n  a.example: { routes: [ { match: { path: /x }, respond: x }, { respond: y } ] }\n  \
             b.example: { routes: [ { match: { path: /x }, respond: x }, { respond: y } ] }\n\
             listeners: { web: { bind: \":0\", protocol: http } }\n";
        let loaded = crate::config::from_text("test.yaml", text, std::path::Path::new("."));
        loaded.unwrap().config
    }

    fn ask(chains: &Chains, site: usize, route: usize, client: &str) -> Verdict {
        let Some(stack) = chains.stack(site, Some(route)) else { return Verdict::Continue };
        let fields = HeaderMap::new();
        stack.enter(&request(client, &fields), &mut |_| {}).1
    }

    #[test]
    fn without_filters_there_is_nothing_to_run() {
        let chains = Chains::new(&config(), None);
        for site in 0..3 {
            for route in [None, Some(0), Some(1), Some(2)] {
                assert!(chains.stack(site, route).is_none(), "{site} {route:?}");
            }
        }
        let mut config = config();
        config.sites[0].filters.push(FilterUse::Inline(filter(limit(1), Mode::Off)));
        assert!(Chains::new(&config, None).stack(0, Some(0)).is_none(), "off is not there");
    }

    #[test]
    fn a_sites_filters_run_for_all_its_routes_and_before_theirs() {
        let mut config = config();
        config.sites[0].filters.push(inline(deny("192.0.2.1")));
        config.sites[0].routes[1].filters.push(inline(limit(1)));
        let chains = Chains::new(&config, None);
        let denied = Verdict::Reject(Rejection::Denied);
        for route in [0, 1] {
            assert_eq!(ask(&chains, 0, route, "192.0.2.1"), denied);
            assert_eq!(ask(&chains, 1, route, "192.0.2.1"), Verdict::Continue);
        }
        assert_eq!(chains.stack(0, None).map(|it| it.instances().count()), Some(1));
        // The limiter has not seen those that were denied before it.
        let limiter = chains.instances().find(|it| it.place.filter == "rate_limit").unwrap();
        assert_eq!(limiter.tally.allowed() + limiter.tally.blocked(), 0);
    }

    #[test]
    fn a_named_chain_counts_for_all_that_use_it() {
        let mut config = config();
        config
            .filters
            .push(Chain { name: "public".into(), filters: vec![filter(limit(2), Mode::Enforce)] });
        config.sites[0].filters.push(FilterUse::Chain(0));
        config.sites[1].routes[0].filters.push(FilterUse::Chain(0));
        let chains = Chains::new(&config, None);
        assert_eq!(ask(&chains, 0, 0, "192.0.2.1"), Verdict::Continue);
        assert_eq!(ask(&chains, 1, 0, "192.0.2.1"), Verdict::Continue);
        assert_ne!(ask(&chains, 0, 1, "192.0.2.1"), Verdict::Continue);
        assert_eq!(ask(&chains, 1, 1, "192.0.2.1"), Verdict::Continue, "does not use it");
        let tally = &chains.instances().next().unwrap().tally;
        assert_eq!((tally.allowed(), tally.blocked(), tally.would_block()), (2, 1, 0));
    }

    #[test]
    fn what_is_monitored_is_found_and_counted_but_goes_on() {
        let mut config = config();
        config.sites[0].filters.push(FilterUse::Inline(filter(deny("0.0.0.0/0"), Mode::Monitor)));
        let chains = Chains::new(&config, None);
        let mut found = Vec::new();
        let fields = HeaderMap::new();
        let (_, verdict) = chains.stack(0, Some(0)).unwrap().enter(
            &request("192.0.2.1", &fields),
            &mut |finding| {
                let place = &finding.instance.place;
                found.push((place.scope.to_string(), place.filter, finding.is_enforced()));
            },
        );
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(found, [("site a.example".to_owned(), "access", false)]);
        let tally = &chains.instances().next().unwrap().tally;
        assert_eq!((tally.allowed(), tally.blocked(), tally.would_block()), (0, 0, 1));
    }

    #[test]
    fn buckets_and_tallies_outlive_a_reload_while_chain_position_and_key_stay() {
        let with = |change: &dyn Fn(&mut Config)| {
            let mut config = config();
            config.filters.push(Chain {
                name: "public".into(),
                filters: vec![filter(limit(1), Mode::Enforce)],
            });
            config.sites[0].filters.push(FilterUse::Chain(0));
            config.sites[1].routes[1].filters.push(inline(limit(1)));
            change(&mut config);
            config
        };
        let first = Chains::new(&with(&|_| {}), None);
        assert_eq!(ask(&first, 0, 0, "192.0.2.1"), Verdict::Continue);
        assert_eq!(ask(&first, 1, 1, "192.0.2.1"), Verdict::Continue);
        for (what, change, chain_stays, route_stays) in [
            ("nothing", &(|_: &mut Config| {}) as &dyn Fn(&mut Config), true, true),
            ("another site", &|it| it.sites[0].routes.truncate(1), true, true),
            (
                "a route before it",
                &|it| {
                    let route = it.sites[0].routes[0].clone();
                    it.sites[1].routes.insert(0, route);
                    it.sites[1].routes.swap(1, 2);
                },
                true,
                true,
            ),
            ("the chain's name", &|it| it.filters[0].name = "other".into(), false, true),
            (
                "a filter before it",
                &|it| {
                    let added = filter(deny("198.51.100.1"), Mode::Enforce);
                    it.filters[0].filters.insert(0, added);
                    it.sites[1].routes[1].filters.insert(0, inline(deny("198.51.100.1")));
                },
                false,
                false,
            ),
            (
                "a filter before it that is turned off",
                &|it| {
                    let added = filter(deny("198.51.100.1"), Mode::Off);
                    it.filters[0].filters.push(added);
                },
                true,
                true,
            ),
            ("the site's name", &|it| it.sites[1].name = "c.example".into(), true, false),
        ] {
            let next = Chains::new(&with(change), Some(&first));
            let is_blocked =
                |site, route| ask(&next, site, route, "192.0.2.1") != Verdict::Continue;
            assert_eq!(is_blocked(0, 0), chain_stays, "the chain after a change of {what}");
            assert_eq!(is_blocked(1, 1), route_stays, "the route after a change of {what}");
        }
        let last = Chains::new(&with(&|_| {}), Some(&first));
        let tally = &last.instances().next().unwrap().tally;
        assert_eq!(tally.allowed(), 1, "counted before the reload");
        assert!(tally.blocked() > 0);
    }
}
