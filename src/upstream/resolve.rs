//! Names of servers to addresses: asynchronously, and again when the answer's time to live ends.
//!
//! Answers "where is this server now?". One task per named server calls [`keep_resolved`] for as
//! long as its pool lives. A name that does not resolve never stops the start and never takes away
//! addresses that worked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use crate::net::Host;

/// Shortest time between two look-ups of one name, so that a TTL of 0 is no busy loop.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Longest time between two look-ups of one name. DNS allows 68 years (RFC 2181 §8); a server that
/// moves should not need a restart of the gateway.
const MAX_TTL: Duration = Duration::from_secs(5 * 60);

/// Assumed time to live of what the system's own resolver says, which tells none.
const SYSTEM_TTL: Duration = Duration::from_secs(30);

/// Time for DNS alone. A dead name server must not keep a name of the hosts file waiting, and the
/// system's resolver, asked next, has patience of its own with a slow one.
const DNS_PATIENCE: Duration = Duration::from_secs(2);

/// First pause after a failed look-up; it doubles up to [`SYSTEM_TTL`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Looks names up: DNS first, for its time to live, then the system, which also knows what DNS
/// does not (mDNS, LLMNR, NetBIOS, NSS modules).
#[derive(Clone)]
pub struct Resolver {
    dns: Option<Arc<TokioResolver>>,
}

/// What a look-up found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolved {
    /// Sorted, without duplicates, never empty.
    pub addresses: Vec<IpAddr>,
    /// When to ask again.
    pub ttl: Duration,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
#[error("no address for {name}: {reason}")]
pub struct ResolveError {
    name: String,
    reason: String,
}

impl Resolver {
    /// A resolver with the system's servers and hosts file.
    ///
    /// Where the system's DNS settings cannot be read, every look-up goes to the system.
    #[must_use]
    pub fn from_system() -> Self {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // Our own task asks again at the end of the time to live; a cache would only answer
            // it with what it knows.
            builder.options_mut().cache_size = 0;
            builder.build()
        });
        match dns {
            Ok(dns) => Self { dns: Some(Arc::new(dns)) },
            Err(error) => {
                tracing::warn!(%error, "read no DNS settings, asking the system for every name");
                Self { dns: None }
            }
        }
    }

    /// The addresses of `name` now.
    ///
    /// # Errors
    /// [`ResolveError`] when neither DNS nor the system knows one.
    pub async fn resolve(&self, name: &str) -> Result<Resolved, ResolveError> {
        let mut reason = None;
        if let Some(dns) = &self.dns {
            match tokio::time::timeout(DNS_PATIENCE, dns.lookup_ip(name)).await {
                Ok(Ok(answer)) => {
                    let ttl = answer.valid_until().saturating_duration_since(Instant::now());
                    if let Some(found) = Resolved::new(answer.iter(), ttl) {
                        return Ok(found);
                    }
                }
                Ok(Err(error)) => reason = Some(error.to_string()),
                Err(_) => reason = Some("the name servers do not answer".to_owned()),
            }
        }
        match tokio::net::lookup_host((name, 0)).await {
            Ok(found) => Resolved::new(found.map(|address| address.ip()), SYSTEM_TTL)
                .ok_or_else(|| "the answer is empty".to_owned()),
            Err(error) => Err(reason.unwrap_or_else(|| error.to_string())),
        }
        .map_err(|reason| ResolveError { name: name.to_owned(), reason })
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("dns", &self.dns.is_some()).finish()
    }
}

impl Resolved {
    fn new(addresses: impl Iterator<Item = IpAddr>, ttl: Duration) -> Option<Self> {
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        (!addresses.is_empty()).then(|| Self { addresses, ttl: ttl.clamp(MIN_TTL, MAX_TTL) })
    }
}

/// What a server's host means without a look-up: an address stands for itself, and `localhost` is
/// the loopback interface (RFC 6761 §6.3), IPv4 first because most services listen there.
#[must_use]
pub fn literal(host: &Host) -> Option<(IpAddr, Option<IpAddr>)> {
    match host {
        Host::Address(address) => Some((*address, None)),
        Host::Name(name)
            if name.as_str() == "localhost" || name.as_str().ends_with(".localhost") =>
        {
            Some((Ipv4Addr::LOCALHOST.into(), Some(Ipv6Addr::LOCALHOST.into())))
        }
        Host::Name(_) => None,
    }
}

/// Keeps the addresses of the pool's server at `index` current until `stop`.
pub async fn keep_resolved(
    pool: Arc<Pool>,
    index: usize,
    resolver: Resolver,
    stop: CancellationToken,
) {
    let Some(Host::Name(name)) = pool.spec().servers.get(index).map(|server| server.host.clone())
    else {
        return;
    };
    let mut retry = FIRST_RETRY;
    let mut was_known = true;
    loop {
        let Some(outcome) = stop.run_until_cancelled(resolver.resolve(name.as_str())).await else {
            return;
        };
        let pause = match outcome {
            Ok(found) => {
                (retry, was_known) = (FIRST_RETRY, true);
                if pool.set_addresses(index, &found.addresses) {
                    let count = found.addresses.len();
                    tracing::info!(pool = %pool.name(), server.address = %name, count, "resolved");
                }
                found.ttl
            }
            Err(error) => {
                pool.looked_up(index);
                if std::mem::take(&mut was_known) {
                    tracing::warn!(pool = %pool.name(), server.address = %name, %error, "resolved nothing");
                }
                let pause = retry;
                retry = (retry * 2).min(SYSTEM_TTL);
                pause
            }
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    use super::*;

    #[test]
    fn a_time_to_live_is_kept_within_its_bounds() {
        let one = [IpAddr::from(Ipv4Addr::LOCALHOST)];
        for (ttl, kept) in [(0, 1), (1, 1), (42, 42), (86_400, 300)] {
            let found = Resolved::new(one.into_iter(), Duration::from_secs(ttl)).unwrap();
            assert_eq!(found.ttl, Duration::from_secs(kept));
        }
    }

    #[test]
    fn addresses_are_sorted_and_named_once() {
        let found = ["10.0.0.2", "10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let found = Resolved::new(found.into_iter(), MIN_TTL).unwrap();
        assert_eq!(
            found.addresses,
            ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(Resolved::new(std::iter::empty(), MIN_TTL), None);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_an_error_that_names_it() {
        let error = Resolver { dns: None }.resolve("no-such-name.invalid").await.unwrap_err();
        assert!(error.to_string().starts_with("no address for no-such-name.invalid: "));
    }

    /// What the name server below says now: the last octet of 127.0.0.x.
    type Octet = Arc<AtomicU8>;

    /// A name server that knows one address for every name, for a second.
    async fn name_server(octet: Octet) -> std::net::SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut query).await.unwrap();
                let octet = octet.load(Ordering::SeqCst);
                socket.send_to(&answer(&query[..length], octet), client).await.unwrap();
            }
        });
        address
    }

    /// RFC 1035 §4: the header with one question, the question, and for type A one record.
    fn answer(query: &[u8], octet: u8) -> Vec<u8> {
        let name = query[12..].iter().position(|length| *length == 0).unwrap();
        let question = &query[12..12 + name + 5];
        let is_a = question[name + 1..name + 3] == [0, 1];
        let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, octet];
        let record = if is_a { &record[..] } else { &[] };
        [&header[..], question, record].concat()
    }

    fn asking(server: std::net::SocketAddr) -> Resolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        builder.options_mut().cache_size = 0;
        Resolver { dns: Some(Arc::new(builder.build().unwrap())) }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_again_when_its_time_to_live_ends() {
        crate::tls::install();
        let yaml = "sites: { app.test: { upstream: \"http://moving.example:80\" } }\n";
        let loaded = crate::config::from_text("gateway.yaml", yaml, std::path::Path::new(""));
        let spec = loaded.unwrap().config.upstreams.remove(0);
        let pool = Arc::new(Pool::new(spec, &crate::tls::SystemRoots::load(), None).unwrap());
        let octet = Octet::new(AtomicU8::new(1));
        let resolver = asking(name_server(Arc::clone(&octet)).await);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_resolved(Arc::clone(&pool), 0, resolver, stop.clone()));
        for address in [1, 2, 3] {
            octet.store(address, Ordering::SeqCst);
            let wanted = format!("127.0.0.{address}:80");
            let moved = async {
                while pool.endpoints().iter().map(|endpoint| &*endpoint.label).ne([&*wanted]) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), moved).await.expect(&wanted);
        }
        stop.cancel();
        task.await.unwrap();
    }
}
