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
pub(super) const MAX_ALIASES: usize = 8;

/// Where name servers answer (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// One server of a zone, by all its addresses. Without any it stands for whom the system asks.
struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
}

/// What a record's text has to be.
pub(super) type Fit<'f> = dyn Fn(&[u8]) -> bool + Sync + 'f;

/// Waits until every server shows every record: those in `servers`, or those of the records' zones.
pub(super) async fn wait(
    records: &[Record],
    servers: Option<&[SocketAddr]>,
    patience: Duration,
) -> Result<(), DnsError> {
    let end = tokio::time::Instant::now() + patience;
    for record in records {
        let is_it = |text: &[u8]| text == record.value.as_bytes();
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if let Some(server) = blind_at_the_end(&record.name, &is_it, servers, left).await? {
            let name = record.name.clone();
            return Err(DnsError::NotSeen { name, server, patience });
        }
    }
    Ok(())
}

/// A server that shows no fitting text at `name`, not even when `patience` is over; `None` as soon as
/// there is none.
pub(super) async fn blind_at_the_end(
    name: &str,
    is_fit: &Fit<'_>,
    servers: Option<&[SocketAddr]>,
    patience: Duration,
) -> Result<Option<String>, DnsError> {
    let end = tokio::time::Instant::now() + patience;
    let (name, servers) = match servers {
        Some(servers) => (name.to_owned(), servers.iter().map(fixed).collect()),
        None => found(&system()?, DNS_PORT, name).await,
    };
    let mut pause = FIRST_PAUSE;
    while let Some(server) = blind(&servers, &name, is_fit).await {
        if tokio::time::Instant::now() + pause > end {
            return Ok(Some(server.name.clone()));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    Ok(None)
}

fn fixed(address: &SocketAddr) -> Server {
    Server { name: address.to_string(), addresses: vec![*address] }
}

/// A server that does not show the record. One that has several addresses need not be reached at
/// all of them: not every machine has IPv6.
async fn blind<'s>(servers: &'s [Server], name: &str, is_fit: &Fit<'_>) -> Option<&'s Server> {
    for server in servers {
        let mut is_seen = false;
        if server.addresses.is_empty() {
            is_seen = match system() {
                Ok(resolver) => holds(&resolver, name, is_fit).await,
                Err(_) => false,
            };
        }
        for address in &server.addresses {
            if shows(*address, name, is_fit).await {
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

async fn shows(server: SocketAddr, name: &str, is_fit: &Fit<'_>) -> bool {
    match asking(server) {
        Ok(resolver) => holds(&resolver, name, is_fit).await,
        Err(_) => false,
    }
}

async fn holds(resolver: &TokioResolver, name: &str, is_fit: &Fit<'_>) -> bool {
    let Ok(found) = resolver.lookup(absolute(name), RecordType::TXT).await else { return false };
    found.answers().iter().any(|record| match &record.data {
        RData::TXT(text) => is_fit(&text.txt_data.concat()),
        _ => false,
    })
}

/// A resolver that asks whom the system asks, and does not remember.
fn system() -> Result<TokioResolver, DnsError> {
    let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
        builder.options_mut().cache_size = 0;
        builder.build()
    });
    resolver.map_err(|error| DnsError::Settings(error.into()))
}

/// Whom to ask for which name: the servers of its zone, or, where DNS does not tell them, whom the
/// system asks.
async fn found(resolver: &TokioResolver, port: u16, name: &str) -> (String, Vec<Server>) {
    let (name, mut servers) = authoritative(resolver, port, name).await;
    if servers.is_empty() {
        servers.push(Server { name: "the system's DNS".to_owned(), addresses: Vec::new() });
    }
    (name, servers)
}

/// The name that `name` is an alias of in the end, and the servers of its zone, which answer at
/// `port`; none where DNS does not tell.
async fn authoritative(resolver: &TokioResolver, port: u16, name: &str) -> (String, Vec<Server>) {
    let mut name = name.to_owned();
    for _ in 0..MAX_ALIASES {
        let Some(target) = names(resolver, &name, RecordType::CNAME).await.pop() else { break };
        name = target;
    }
    let mut zone = name.as_str();
    let mut servers = Vec::new();
    while servers.is_empty() {
        for server in names(resolver, zone, RecordType::NS).await {
            let Ok(found) = resolver.lookup_ip(absolute(&server)).await else { continue };
            let addresses = found.iter().map(|address: IpAddr| (address, port).into()).collect();
            servers.push(Server { name: server, addresses });
        }
        let Some((_, parent)) = zone.split_once('.') else { break };
        zone = parent;
    }
    (name, servers)
}

/// What `name` is an alias of, by whom the system asks.
pub(super) async fn alias_elsewhere(name: &str) -> Option<String> {
    names(&system().ok()?, name, RecordType::CNAME).await.pop()
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

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, CNAME, NS, TXT};
    use hickory_resolver::proto::rr::{Name, Record as Entry};
    use tokio::net::UdpSocket;
    use tokio::sync::watch;

    use super::*;

    /// A name server for a zone with an alias into another, at 127.0.0.1. Only once it is `fresh`
    /// does it show the record.
    async fn server(fresh: watch::Receiver<bool>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
                let query = message.queries[0].clone();
                let name = |text: &str| Name::from_ascii(text).unwrap();
                let is_fresh = *fresh.borrow();
                let found = match (query.name.to_string().as_str(), query.query_type) {
                    ("_acme-challenge.www.a.test.", RecordType::CNAME) => {
                        Some(RData::CNAME(CNAME(name("www.deep.b.test."))))
                    }
                    ("b.test.", RecordType::NS) => Some(RData::NS(NS(name("ns.c.test.")))),
                    ("ns.c.test.", RecordType::A) => Some(RData::A(A::new(127, 0, 0, 1))),
                    ("www.deep.b.test.", RecordType::TXT) => {
                        let text = if is_fresh { "proof" } else { "of last time" };
                        let (one, two) = text.split_at(2);
                        Some(RData::TXT(TXT::new(vec![one.to_owned(), two.to_owned()])))
                    }
                    _ => None,
                };
                match found {
                    Some(data) => {
                        message.add_answer(Entry::from_rdata(query.name, 1, data));
                    }
                    None => message.metadata.response_code = ResponseCode::NXDomain,
                }
                socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn aliases_lead_to_the_zone_whose_servers_are_asked() {
        let (_fresh, is_fresh) = watch::channel(false);
        let address = server(is_fresh).await;
        let resolver = asking(address).unwrap();
        let name = "_acme-challenge.www.a.test";
        let (name, servers) = authoritative(&resolver, address.port(), name).await;
        assert_eq!(name, "www.deep.b.test");
        assert_eq!(servers.len(), 1);
        assert_eq!(
            (servers[0].name.as_str(), &*servers[0].addresses),
            ("ns.c.test", &[address][..])
        );
        let (name, servers) = authoritative(&resolver, 53, "_acme-challenge.nowhere.test").await;
        assert_eq!((name.as_str(), servers.len()), ("_acme-challenge.nowhere.test", 0));
    }

    #[tokio::test]
    async fn a_record_is_waited_for_until_every_server_shows_it() {
        let (fresh, is_fresh) = watch::channel(false);
        let (_always, always) = watch::channel(true);
        let servers = [server(always).await, server(is_fresh).await];
        let record = Record { name: "www.deep.b.test".to_owned(), value: "proof".to_owned() };
        let records = [record];
        let error = wait(&records, Some(&servers), Duration::from_millis(100)).await.unwrap_err();
        assert!(
            matches!(&error, DnsError::NotSeen { server, .. } if *server == servers[1].to_string()),
            "{error}"
        );
        let waiting = wait(&records, Some(&servers), Duration::from_secs(20));
        let change = async {
            tokio::task::yield_now().await;
            fresh.send_replace(true);
        };
        tokio::join!(waiting, change).0.unwrap();
    }
}
