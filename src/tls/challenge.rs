//! What certificate authorities are shown to prove that a name is ours.
//!
//! Answers "is this probe part of an order of ours, and what is it shown?". An order publishes a
//! challenge and holds a [`Published`] for as long as it is to be answered; `proxy` asks for HTTP-01
//! (RFC 8555 §8.3), [`accept`](super::accept::accept) for TLS-ALPN-01 (RFC 8737). What is not
//! outstanding does not exist: it is answered as if nobody had heard of challenges.

mod elsewhere;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::CertifiedKey;

pub use self::elsewhere::{Answer, AnswerKind, Elsewhere};
use crate::config::listener::TlsVersion;
use crate::net::{Host, HostRef};
use crate::tls::certificate::sha256;
use crate::tls::provider;
use crate::tls::resolver::Pinned;

/// The path that HTTP-01 probes ask for begins so (RFC 8555 §8.3).
pub const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";

/// The protocol that TLS-ALPN-01 probes offer, alone (RFC 8737 §3).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The challenges that are outstanding.
///
/// There are as many as names in the orders under way, so they are searched and not indexed.
#[derive(Debug, Default)]
pub struct Challenges {
    outstanding: ArcSwap<Vec<Arc<Outstanding>>>,
    hits: [AtomicU64; HITS.len()],
    elsewhere: ArcSwapOption<Elsewhere>,
}

/// Kinds of probes, and whether they were for something outstanding.
const HITS: [(&str, &str); 4] = [
    ("http-01", "answered"),
    ("http-01", "unknown"),
    ("tls-alpn-01", "answered"),
    ("tls-alpn-01", "unknown"),
];

/// A challenge that is answered until this is dropped.
#[derive(Debug)]
pub struct Published {
    challenges: Arc<Challenges>,
    outstanding: Arc<Outstanding>,
}

/// The certificate of a TLS-ALPN-01 challenge cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// It cannot be signed.
    #[error("the challenge certificate could not be signed")]
    Sign(#[from] rcgen::Error),
    /// It cannot be served.
    #[error("the challenge certificate cannot be served")]
    Serve(#[from] rustls::Error),
}

#[derive(Debug)]
struct Outstanding {
    host: Host,
    proof: Proof,
    /// Whether no authority has set it: whatever one has set goes first.
    is_trial: bool,
}

/// What a handshake of TLS-ALPN-01 proves, and how.
type Shown = (Host, Arc<ServerConfig>);

/// What a probe is shown.
enum Proof {
    Http { token: String, key_authorization: Bytes },
    TlsAlpn { server_name: String, config: Arc<ServerConfig> },
}

impl Challenges {
    /// Answers HTTP-01 probes of `host` for `token` with `key_authorization`.
    #[must_use]
    pub fn publish_http(
        self: &Arc<Self>,
        host: Host,
        token: &str,
        key_authorization: &str,
    ) -> Published {
        let key_authorization = Bytes::copy_from_slice(key_authorization.as_bytes());
        self.publish(host, Proof::Http { token: token.to_owned(), key_authorization }, false)
    }

    /// Answers TLS-ALPN-01 probes of `host` with a certificate that proves `key_authorization`.
    ///
    /// # Errors
    /// [`ChallengeError`] when there is no such certificate for `host`.
    pub fn publish_tls_alpn(
        self: &Arc<Self>,
        host: Host,
        key_authorization: &str,
    ) -> Result<Published, ChallengeError> {
        self.publish_handshake(host, key_authorization, false)
    }

    /// The same for one that no authority has set, to see whether such probes arrive. A challenge of
    /// an order goes before it, whichever instance has made the order.
    ///
    /// # Errors
    /// As there.
    pub fn try_tls_alpn(
        self: &Arc<Self>,
        host: Host,
        key_authorization: &str,
    ) -> Result<Published, ChallengeError> {
        self.publish_handshake(host, key_authorization, true)
    }

    /// Looks for what is not outstanding here among what other instances have published.
    pub fn look_elsewhere(&self, elsewhere: Option<Arc<Elsewhere>>) {
        self.elsewhere.store(elsewhere);
    }

    /// As [`http`](Self::http), for what another instance has published. Only what may be a probe
    /// waits for the answer.
    pub async fn http_elsewhere(&self, host: &HostRef<'_>, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(HTTP_PREFIX)?;
        let answer = match self.elsewhere.load_full() {
            Some(elsewhere) if is_token(token) => {
                elsewhere.find(AnswerKind::Http, &asked_for(host), Some(token)).await
            }
            Some(_) | None => None,
        };
        self.count_hit(0, answer.is_some());
        Some(answer?.key_authorization.into())
    }

    /// The answer to a request on plain HTTP; `None` where it asks for no outstanding challenge.
    /// `path` is as the client sent it: authorities have no reason to spell it in another way.
    #[must_use]
    pub fn http(&self, host: &HostRef<'_>, path: &str) -> Option<Bytes> {
        let asked = path.strip_prefix(HTTP_PREFIX)?;
        let outstanding = self.outstanding.load();
        let answer = outstanding.iter().find_map(|one| match &one.proof {
            Proof::Http { token, key_authorization } if token == asked => {
                (one.host.as_ref() == *host).then(|| key_authorization.clone())
            }
            Proof::Http { .. } | Proof::TlsAlpn { .. } => None,
        });
        // What is not here may be elsewhere, and is counted there.
        answer.inspect(|_| self.count_hit(0, true))
    }

    /// What to show a TLS-ALPN-01 probe that asks for `asked`: what an order of ours has published,
    /// else what another instance has, else what is only a trial. `None` where nothing is outstanding.
    pub(super) async fn tls_alpn(&self, asked: &str) -> Option<Shown> {
        let found = match self.tls_alpn_here(asked, false) {
            Some(ours) => Some(ours),
            None => match self.tls_alpn_elsewhere(asked).await {
                Some(theirs) => Some(theirs),
                None => self.tls_alpn_here(asked, true),
            },
        };
        self.count_hit(2, found.is_some());
        found
    }

    fn tls_alpn_here(&self, asked: &str, is_trial: bool) -> Option<Shown> {
        let outstanding = self.outstanding.load();
        // Two orders may be at the same name; only the later certificate can still be waited for.
        outstanding.iter().rev().find_map(|one| match &one.proof {
            Proof::TlsAlpn { server_name, config }
                if server_name == asked && one.is_trial == is_trial =>
            {
                Some((one.host.clone(), Arc::clone(config)))
            }
            Proof::Http { .. } | Proof::TlsAlpn { .. } => None,
        })
    }

    async fn tls_alpn_elsewhere(&self, asked: &str) -> Option<Shown> {
        let elsewhere = self.elsewhere.load_full()?;
        let answer = elsewhere.find(AnswerKind::TlsAlpn, asked, None).await?;
        let host = Host::parse(&answer.host).ok()?;
        let config = server_config(&host, &answer.key_authorization).ok()?;
        Some((host, config))
    }

    /// Whether a TLS-ALPN-01 challenge of `host` is outstanding. It is shown in the place of a trial.
    #[must_use]
    pub fn has_tls_alpn(&self, host: &Host) -> bool {
        let is_it = |one: &Arc<Outstanding>| {
            one.host == *host && matches!(one.proof, Proof::TlsAlpn { .. })
        };
        self.outstanding.load().iter().any(is_it)
    }

    /// The same for an order of another instance.
    pub async fn has_tls_alpn_elsewhere(&self, host: &Host) -> bool {
        match self.elsewhere.load_full() {
            Some(elsewhere) => {
                elsewhere.find(AnswerKind::TlsAlpn, &server_name(host), None).await.is_some()
            }
            None => false,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.outstanding.load().len()
    }

    /// How many probes came: of which kind, whether they asked for something outstanding, and their
    /// number.
    pub fn hits(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let counts = self.hits.iter().map(|count| count.load(Ordering::Relaxed));
        HITS.iter().zip(counts).map(|((kind, result), count)| (*kind, *result, count))
    }

    fn count_hit(&self, first: usize, is_answered: bool) {
        self.hits[first + usize::from(!is_answered)].fetch_add(1, Ordering::Relaxed);
    }

    fn publish_handshake(
        self: &Arc<Self>,
        host: Host,
        key_authorization: &str,
        is_trial: bool,
    ) -> Result<Published, ChallengeError> {
        let config = server_config(&host, key_authorization)?;
        let server_name = server_name(&host);
        Ok(self.publish(host, Proof::TlsAlpn { server_name, config }, is_trial))
    }

    fn publish(self: &Arc<Self>, host: Host, proof: Proof, is_trial: bool) -> Published {
        let outstanding = Arc::new(Outstanding { host, proof, is_trial });
        self.outstanding.rcu(|present| {
            let mut next = Vec::clone(present);
            next.push(Arc::clone(&outstanding));
            next
        });
        Published { challenges: Arc::clone(self), outstanding }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.challenges.outstanding.rcu(|present| {
            let others = present.iter().filter(|one| !Arc::ptr_eq(one, &self.outstanding));
            others.cloned().collect::<Vec<_>>()
        });
    }
}

impl fmt::Debug for Proof {
    /// Without what proves anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http { .. } => "http-01",
            Self::TlsAlpn { .. } => "tls-alpn-01",
        })
    }
}

/// The name that a TLS-ALPN-01 probe asks for; `None` for every client that is none.
pub(super) fn probed<'h>(hello: &'h ClientHello<'_>) -> Option<&'h str> {
    let mut protocols = hello.alpn()?;
    if protocols.next() != Some(ACME_TLS) || protocols.next().is_some() {
        return None;
    }
    hello.server_name()
}

/// Whether an authority may have made it: base64url, with at least 128 bits (RFC 8555 §8.1).
fn is_token(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (16..=128).contains(&text.len()) && text.bytes().all(is_base64url)
}

/// The name under which a probe of `host` asks.
pub(super) fn server_name(host: &Host) -> String {
    asked_for(&host.as_ref())
}

fn asked_for(host: &HostRef<'_>) -> String {
    match host {
        HostRef::Name(name) => name.as_str().to_owned(),
        HostRef::Address(address) => reverse_name(*address),
    }
}

/// A server that speaks `acme-tls/1` alone and shows the certificate of RFC 8737 §3: for `host`,
/// self-signed, with the digest of the key authorization in a critical extension.
fn server_config(
    host: &Host,
    key_authorization: &str,
) -> Result<Arc<ServerConfig>, ChallengeError> {
    let digest = sha256(key_authorization.as_bytes());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![match host {
        Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
        Host::Address(address) => SanType::IpAddress(*address),
    }];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let provider = provider::provider();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = provider.key_provider.load_private_key(private)?;
    // Not `from_der`, which compares the two: its reader of certificates refuses one with a
    // critical extension that it does not know.
    let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(provider::versions(TlsVersion::V1_2))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Pinned(certified)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The name under which an address stands in SNI, which bars addresses: that of its reverse
/// mapping (RFC 8738 §6).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev();
            let nibbles = nibbles.map(|byte| format!("{:x}.{:x}.", byte & 0xf, byte >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_token_is_answered_for_its_host_and_only_while_it_is_outstanding() {
        let challenges = Arc::new(Challenges::default());
        let published = challenges.publish_http(host("a.test"), "tok_-1", "tok_-1.thumb");
        let other = challenges.publish_http(host("b.test"), "other", "other.thumb");
        let asked = |host: &str, path: &str| {
            challenges.http(&HostRef::parse_authority(host).unwrap().0, path)
        };
        let path = "/.well-known/acme-challenge/tok_-1";
        assert_eq!(asked("a.test", path).unwrap(), "tok_-1.thumb");
        assert_eq!(asked("A.TEST.:5002", path).unwrap(), "tok_-1.thumb");
        for (host, path) in [
            ("b.test", path),
            ("a.test", "/.well-known/acme-challenge/"),
            ("a.test", "/.well-known/acme-challenge/other"),
            ("a.test", "/.well-known/acme-challenge/tok_-1/"),
            ("a.test", "/.well-known/acme-challenge/tok_-1?x"),
            ("a.test", "/.well-known//acme-challenge/tok_-1"),
            ("a.test", "/tok_-1"),
        ] {
            assert_eq!(asked(host, path), None, "{host}{path}");
        }
        drop(published);
        assert_eq!(asked("a.test", path), None);
        assert_eq!(challenges.count(), 1, "the other one stays");
        drop(other);
        assert_eq!(challenges.count(), 0);
    }

    #[test]
    fn addresses_have_the_names_of_their_reverse_mapping() {
        for (address, wanted) in [
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            (
                "2001:db8::567:89ab",
                "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(reverse_name(address.parse().unwrap()), wanted);
        }
    }

    #[test]
    fn what_is_shown_is_not_told_to_logs() {
        let challenges = Arc::new(Challenges::default());
        let _published = challenges.publish_http(host("a.test"), "token", "token.thumb");
        let shown = format!("{challenges:?}");
        assert!(shown.contains("http-01") && !shown.contains("thumb"), "{shown}");
    }

    #[tokio::test]
    async fn a_trial_hides_no_challenge_of_an_order_here_or_elsewhere() {
        crate::tls::install();
        let challenges = Arc::new(Challenges::default());
        let ours = challenges.publish_tls_alpn(host("a.test"), "ours.thumb").unwrap();
        let trial = challenges.try_tls_alpn(host("a.test"), "trial.thumb").unwrap();
        let config = |published: &Published| match &published.outstanding.proof {
            Proof::TlsAlpn { config, .. } => Arc::clone(config),
            Proof::Http { .. } => panic!("published for handshakes"),
        };
        let shown = async || challenges.tls_alpn("a.test").await.unwrap().1;
        assert!(Arc::ptr_eq(&shown().await, &config(&ours)));
        drop(ours);
        assert!(Arc::ptr_eq(&shown().await, &config(&trial)));
        let theirs = Answer {
            kind: AnswerKind::TlsAlpn,
            host: "a.test".into(),
            token: "theirs".into(),
            key_authorization: "theirs.thumb".into(),
        };
        let elsewhere =
            Elsewhere::new([host("a.test")], move || std::future::ready(vec![theirs.clone()]));
        challenges.look_elsewhere(Some(Arc::new(elsewhere)));
        assert!(!Arc::ptr_eq(&shown().await, &config(&trial)), "what another has ordered");
        assert!(challenges.has_tls_alpn_elsewhere(&host("a.test")).await);
        let nothing = Elsewhere::new([host("a.test")], || std::future::ready(Vec::new()));
        challenges.look_elsewhere(Some(Arc::new(nothing)));
        assert!(!challenges.has_tls_alpn_elsewhere(&host("a.test")).await);
        assert!(Arc::ptr_eq(&shown().await, &config(&trial)));
    }
}
