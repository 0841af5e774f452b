//! From a host to its site.
//!
//! Answers "whose is this host?" on one listener, at a cost that does not grow with the number of
//! sites: at most two hash look-ups.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::{Host, HostName, HostPattern, HostRef};

/// The sites of one listener by what they cover. A site is its index in the configuration.
#[derive(Clone, Debug, Default)]
pub struct SiteTable {
    names: HashMap<HostName, usize>,
    addresses: HashMap<IpAddr, usize>,
    /// By what follows the `*.`.
    wildcards: HashMap<HostName, usize>,
    any: Option<usize>,
}

impl SiteTable {
    /// The site that covers `host`; an exact name goes before a wildcard, and that before `*`.
    #[must_use]
    pub fn find<'h>(&self, host: impl Into<HostRef<'h>>) -> Option<usize> {
        let found = match host.into() {
            HostRef::Name(name) => self.names.get(name.as_str()).or_else(|| {
                if self.wildcards.is_empty() { None } else { self.wildcards.get(name.parent()?) }
            }),
            HostRef::Address(address) => self.addresses.get(&address),
        };
        found.copied().or(self.any)
    }

    fn insert(&mut self, pattern: &HostPattern, site: usize) {
        let entry = match pattern {
            HostPattern::Exact(Host::Name(name)) => self.names.entry(name.clone()).or_insert(site),
            HostPattern::Exact(Host::Address(address)) => {
                self.addresses.entry(*address).or_insert(site)
            }
            HostPattern::Wildcard(parent) => self.wildcards.entry(parent.clone()).or_insert(site),
            HostPattern::Any => self.any.get_or_insert(site),
        };
        debug_assert_eq!(*entry, site, "the configuration has {pattern} twice on one listener");
    }
}

impl<'c> FromIterator<(usize, &'c [HostPattern])> for SiteTable {
    fn from_iter<I: IntoIterator<Item = (usize, &'c [HostPattern])>>(sites: I) -> Self {
        let mut table = Self::default();
        for (site, patterns) in sites {
            patterns.iter().for_each(|pattern| table.insert(pattern, site));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sites: &[&[&str]]) -> SiteTable {
        let sites: Vec<Vec<HostPattern>> = (sites.iter())
            .map(|site| site.iter().map(|text| HostPattern::parse(text).unwrap()).collect())
            .collect();
        sites.iter().map(Vec::as_slice).enumerate().collect()
    }

    #[test]
    fn the_closest_pattern_decides() {
        let table = table(&[
            &["*"],
            &["*.example.com", "example.com"],
            &["www.example.com", "10.0.0.1"],
            &["*.dev.example.com", "[::1]", "localhost"],
        ]);
        let rows = [
            ("www.example.com", 2),
            ("WWW.example.com", 2),
            ("api.example.com", 1),
            ("example.com", 1),
            ("dev.example.com", 1),
            ("a.dev.example.com", 3),
            ("a.b.dev.example.com", 0),
            ("example.org", 0),
            ("com", 0),
            ("localhost", 3),
            ("10.0.0.1", 2),
            ("10.0.0.2", 0),
            ("::1", 3),
            ("::ffff:10.0.0.1", 2),
        ];
        for (host, site) in rows {
            assert_eq!(table.find(&Host::parse(host).unwrap()), Some(site), "{host}");
        }
    }

    #[test]
    fn without_a_star_other_hosts_have_no_site() {
        let table = table(&[&["*.example.com"], &["example.org"]]);
        for host in ["example.com", "a.b.example.com", "www.example.org", "org", "10.0.0.1"] {
            assert_eq!(table.find(&Host::parse(host).unwrap()), None, "{host}");
        }
    }

    #[test]
    fn a_host_of_150_sites_is_found_however_it_is_spelled() {
        let names: Vec<String> = (0..150).map(|site| format!("bücher-{site}.example")).collect();
        let sites: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
        let table = table(&sites.iter().map(<[&str; 1]>::as_slice).collect::<Vec<_>>());
        for (site, name) in names.iter().enumerate() {
            let ascii = HostName::parse(name).unwrap().to_string();
            for spelling in [
                ascii.clone(),
                ascii.to_uppercase(),
                format!("{ascii}."),
                format!("{ascii}:443"),
                format!("{}.:8443", ascii.to_uppercase()),
            ] {
                let (host, _) = HostRef::parse_authority(&spelling).unwrap();
                assert_eq!(table.find(&host), Some(site), "{spelling}");
            }
        }
    }
}
