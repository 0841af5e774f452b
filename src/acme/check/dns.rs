//! Where a name leads, as the DNS has it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::acme::finding::Finding;
use crate::net::{Host, HostPattern};

/// Where a name leads.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) findings: Vec<Finding>,
    /// IPv6 first, which authorities prefer.
    pub(super) found: Vec<IpAddr>,
}

/// Why there are no records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// The name does not exist.
    NoName,
    /// The name exists, without records of this type.
    NoRecords,
    /// The servers answer with an error.
    Failed(String),
    /// Nobody answers.
    Silent,
}

const DNS: &str = "dns";

/// Asks `servers`, or whom the system asks, and does not remember. The hosts file is not looked at:
/// authorities do not know it.
pub(super) fn resolver(
    servers: &[SocketAddr],
    patience: Duration,
) -> Result<TokioResolver, Box<Finding>> {
    let builder = if servers.is_empty() {
        TokioResolver::builder_tokio()
    } else {
        let config =
            ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    };
    let built = builder.and_then(|mut builder| {
        let options = builder.options_mut();
        options.cache_size = 0;
        options.attempts = 2;
        options.timeout = patience / 4;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    });
    built.map_err(|error| {
        let text = format!("the system does not tell whom to ask for names: {error}");
        Box::new(Finding::fault(DNS, text).hint("name a server with --dns-server"))
    })
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].into_iter();
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.collect())
}

/// The records of `kind` at `name`, which is absolute.
pub(super) async fn lookup(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Vec<RData>, Trouble> {
    let found = resolver.lookup(format!("{}.", name.trim_end_matches('.')), kind).await;
    let found = found.map_err(Trouble::of)?;
    let records = found.answers().iter().filter(|record| record.record_type() == kind);
    let records: Vec<RData> = records.map(|record| record.data.clone()).collect();
    if records.is_empty() { Err(Trouble::NoRecords) } else { Ok(records) }
}

impl Trouble {
    fn of(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoName,
                ResponseCode::NoError => Self::NoRecords,
                code => Self::Failed(code.to_string()),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Failed(code.to_string()),
            NetError::Timeout | NetError::NoConnections | NetError::Io(_) => Self::Silent,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Where `name` leads.
pub(super) async fn addresses(resolver: &TokioResolver, name: &HostPattern) -> Addresses {
    let host = match name {
        HostPattern::Exact(Host::Name(name)) => name,
        HostPattern::Exact(Host::Address(address)) => {
            return Addresses { findings: Vec::new(), found: vec![*address] };
        }
        // Authorities do not look: a wildcard is proven by a record of another name.
        HostPattern::Wildcard(_) | HostPattern::Any => return Addresses::default(),
    };
    let (v6, v4) = tokio::join!(
        lookup(resolver, host.as_str(), RecordType::AAAA),
        lookup(resolver, host.as_str(), RecordType::A)
    );
    let of = |found: &Result<Vec<RData>, Trouble>| -> Vec<IpAddr> {
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        found.iter().flatten().filter_map(address).collect()
    };
    let found: Vec<IpAddr> = of(&v6).into_iter().chain(of(&v4)).collect();
    let trouble: Vec<Trouble> = [v6.err(), v4.err()].into_iter().flatten().collect();
    let findings = vec![judge(&found, &trouble, is_ours)];
    Addresses { findings, found }
}

/// What the answers mean; `is_ours` tells whether an address is this machine's.
fn judge(found: &[IpAddr], trouble: &[Trouble], is_ours: impl Fn(&IpAddr) -> bool) -> Finding {
    let failed = trouble.iter().find_map(|one| match one {
        Trouble::Failed(code) => Some(code),
        _ => None,
    });
    if let Some(code) = failed {
        // Half an answer is none: an authority asks for both.
        return Finding::fault(DNS, format!("its servers answer with an error: {code}")).hint(
            "they are broken, do not know the zone, or its DNSSEC is wrong: dnsviz.net shows which",
        );
    }
    if trouble.contains(&Trouble::Silent) {
        return Finding::fault(DNS, "nobody answers")
            .hint("the zone's servers, or the way to them, are down; --dns-server asks another");
    }
    let hint = "add an A record (AAAA for IPv6) with the address that clients reach this machine \
                by; a new one may take a while to be seen";
    if found.is_empty() {
        let text = match trouble.contains(&Trouble::NoName) {
            true => "the name does not exist (NXDOMAIN)",
            false => "the name has no address (neither A nor AAAA)",
        };
        return Finding::fault(DNS, text).hint(hint);
    }
    let list = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (ours, others): (Vec<&IpAddr>, Vec<&IpAddr>) = found.iter().partition(|it| is_ours(it));
    match (ours.is_empty(), others.is_empty()) {
        (_, true) => Finding::ok(DNS, format!("leads to {list}")),
        (true, _) => {
            Finding::warning(DNS, format!("leads to {list}, none of which is this machine's"))
                .hint("right where a router or a load balancer leads on to it, wrong otherwise")
        }
        (false, false) => {
            let others = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Finding::warning(DNS, format!("leads to {list}; not this machine's: {others}"))
                .hint("an authority takes any of them, and all have to answer")
        }
    }
}

/// Whether the address is one of this machine's: only those can be bound.
fn is_ours(address: &IpAddr) -> bool {
    UdpSocket::bind((*address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::finding::Verdict;

    #[test]
    fn what_the_dns_says_is_told_in_words() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (here, there, six) = (ip("192.0.2.1"), ip("198.51.100.1"), ip("2001:db8::1"));
        let is_ours = |address: &IpAddr| *address == here;
        let failed = Trouble::Failed("Server Failure".to_owned());
        for (found, trouble, verdict, text) in [
            (vec![here], vec![Trouble::NoRecords], Verdict::Ok, "leads to 192.0.2.1"),
            (
                vec![there],
                vec![Trouble::NoRecords],
                Verdict::Warning,
                "leads to 198.51.100.1, none",
            ),
            (
                vec![six, here],
                vec![],
                Verdict::Warning,
                "leads to 2001:db8::1, 192.0.2.1; not this machine's: 2001:db8::1",
            ),
            (vec![], vec![Trouble::NoName; 2], Verdict::Fault, "the name does not exist"),
            (vec![], vec![Trouble::NoRecords; 2], Verdict::Fault, "the name has no address"),
            (vec![here], vec![failed], Verdict::Fault, "its servers answer with an error: Server"),
            (vec![], vec![Trouble::Silent; 2], Verdict::Fault, "nobody answers"),
        ] {
            let finding = judge(&found, &trouble, is_ours);
            assert!(finding.verdict == verdict && finding.text.starts_with(text), "{finding:?}");
        }
    }

    #[test]
    fn this_machines_addresses_are_known() {
        assert!(is_ours(&"127.0.0.1".parse().unwrap()));
        // Wine takes any.
        if cfg!(unix) {
            assert!(!is_ours(&"192.0.2.1".parse().unwrap()), "for documentation alone");
        }
    }
}
