//! Whether the servers of a zone show a record yet.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{DnsError, Record};

/// First pause between two looks; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// As many aliases as are followed; no sane zone has more.
const MAX_ALIASES: usize = 8;

/// One server of a zone, by all its addresses.
struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
}

/// Waits until every server shows every record: those in `servers`, or those of the records' zones.
pub(super) async fn wait(
    records: &[Record],
    servers: Option<&[SocketAddr]>,
    patience: Duration,
) -> Result<(), DnsError> {
    let end = tokio::time::Instant::now() + patience;
    for record in records {
        let (name, servers) = match servers {
            Some(servers) => (record.name.clone(), servers.iter().map(fixed).collect()),
            None => authoritative(&record.name).await?,
        };
        let mut pause = FIRST_PAUSE;
        while let Some(server) = blind(&servers, &name, &record.value).await {
            if tokio::time::Instant::now() + pause > end {
                let (name, server) = (record.name.clone(), server.name.clone());
                return Err(DnsError::NotSeen { name, server, patience });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
    Ok(())
}

fn fixed(address: &SocketAddr) -> Server {
    Server { name: address.to_string(), addresses: vec![*address] }
}

/// A server that does not show the record. One that has several addresses need not be reached at
/// all of them: not every machine has IPv6.
async fn blind<'s>(servers: &'s [Server], name: &str, value: &str) -> Option<&'s Server> {
    for server in servers {
        let mut is_seen = false;
        for address in &server.addresses {
            if shows(*address, name, value).await {
                is_seen = true;
                break;
            }
        }
        if !is_seen {
            return Some(server);
        }
    }
    None
}

async fn shows(server: SocketAddr, name: &str, value: &str) -> bool {
    let Ok(resolver) = asking(server) else { return false };
    let Ok(found) = resolver.lookup(absolute(name), RecordType::TXT).await else { return false };
    found.answers().iter().any(|record| match &record.data {
        RData::TXT(text) => text.txt_data.concat() == value.as_bytes(),
        _ => false,
    })
}

/// The name that `name` is an alias of in the end, and the servers of its zone.
async fn authoritative(name: &str) -> Result<(String, Vec<Server>), DnsError> {
    let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
        builder.options_mut().cache_size = 0;
        builder.build()
    });
    let resolver = resolver.map_err(|error| DnsError::Settings(error.into()))?;
    let mut name = name.to_owned();
    for _ in 0..MAX_ALIASES {
        let Some(target) = names(&resolver, &name, RecordType::CNAME).await.pop() else { break };
        name = target;
    }
    let mut zone = name.as_str();
    let mut servers = Vec::new();
    while servers.is_empty() {
        for server in names(&resolver, zone, RecordType::NS).await {
            let Ok(found) = resolver.lookup_ip(absolute(&server)).await else { continue };
            let addresses = found.iter().map(|address: IpAddr| (address, 53).into()).collect();
            servers.push(Server { name: server, addresses });
        }
        let Some((_, parent)) = zone.split_once('.') else { break };
        zone = parent;
    }
    Ok((name, servers))
}

/// The names in the records of this type; none where there are none or nobody answers.
async fn names(resolver: &TokioResolver, name: &str, kind: RecordType) -> Vec<String> {
    let Ok(found) = resolver.lookup(absolute(name), kind).await else { return Vec::new() };
    let name_in = |data: &RData| match data {
        RData::CNAME(target) if kind == RecordType::CNAME => Some(target.0.to_string()),
        RData::NS(server) if kind == RecordType::NS => Some(server.0.to_string()),
        _ => None,
    };
    let names = found.answers().iter().filter_map(|record| name_in(&record.data));
    names.map(|name| name.trim_end_matches('.').to_owned()).collect()
}

/// A resolver that asks this server only, and does not remember.
fn asking(server: SocketAddr) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].into_iter();
    let connections = connections.map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.collect());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.options_mut().attempts = 1;
    builder.options_mut().timeout = Duration::from_secs(3);
    builder.build()
}

/// The name with the dot that keeps it from being searched for in our own domain.
fn absolute(name: &str) -> String {
    format!("{name}.")
}
