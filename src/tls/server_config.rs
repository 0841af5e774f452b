//! What a listener speaks: versions, protocols, tickets.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;

use crate::config::listener::{Alpn, Listener};
use crate::tls::client_auth::{Policies, Policy};
use crate::tls::provider;
use crate::tls::resolver::ByName;
use crate::tls::store::CertStore;
use crate::tls::ticket::Tickets;

/// The provider lacks what a protocol version needs.
#[derive(Debug, thiserror::Error)]
#[error("the cryptography provider cannot serve TLS")]
pub struct ServerConfigError(#[from] rustls::Error);

/// How one listener shakes hands: with whom nobody asks for a certificate, and under each policy.
#[derive(Debug)]
pub struct Terms {
    unasked: Arc<ServerConfig>,
    /// By index of the configuration's policies.
    asked: Vec<Offer>,
    /// The policy where no site is known.
    default: Option<usize>,
}

/// How one handshake goes.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What is spoken.
    pub(super) config: Arc<ServerConfig>,
    /// What is asked of the client; `None` asks for nothing.
    pub(super) policy: Option<Arc<Policy>>,
}

impl Terms {
    /// The terms of the listener at `index` of the configuration that `policies` are of.
    ///
    /// # Errors
    /// [`ServerConfigError`] only if the process runs with a provider other than ours.
    pub fn new(
        listener: &Listener,
        index: usize,
        store: &Arc<CertStore>,
        tickets: &Tickets,
        policies: &Policies,
    ) -> Result<Self, ServerConfigError> {
        let offer = |policy: &Arc<Policy>| {
            let config = build(listener, Arc::clone(store), policy.tickets(), Some(policy))?;
            Ok(Offer { config, policy: Some(Arc::clone(policy)) })
        };
        Ok(Self {
            unasked: build(listener, Arc::clone(store), tickets, None)?,
            asked: policies.all().iter().map(offer).collect::<Result<_, ServerConfigError>>()?,
            default: policies.index_of(index, None),
        })
    }

    /// A handshake under the policy with this index.
    #[must_use]
    pub fn offer(&self, policy: Option<usize>) -> Offer {
        let asked = policy.and_then(|policy| self.asked.get(policy)).cloned();
        asked.unwrap_or_else(|| Offer { config: Arc::clone(&self.unasked), policy: None })
    }

    /// A handshake where no site is known.
    #[must_use]
    pub fn default_offer(&self) -> Offer {
        self.offer(self.default)
    }
}

/// The configuration of `listener`, serving `store`'s certificates to whom `policy` admits.
///
/// Early data is off: it can be replayed (RFC 8446 §8), and a proxy cannot know what a replay
/// does to a backend. Sessions are kept by nobody; `tickets` carries them.
///
/// # Errors
/// [`ServerConfigError`] only if the process runs with a provider other than ours.
pub(super) fn build(
    listener: &Listener,
    store: Arc<CertStore>,
    tickets: &Tickets,
    policy: Option<&Arc<Policy>>,
) -> Result<Arc<ServerConfig>, ServerConfigError> {
    let builder = ServerConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(provider::versions(listener.min_tls_version))?;
    let builder = match policy {
        Some(policy) => builder.with_client_cert_verifier(policy.verifier()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(store)));
    config.alpn_protocols = wire_names(&listener.alpn);
    config.ticketer = tickets.producer();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // All suites are sound, so a client without AES hardware may put ChaCha20 first.
    config.ignore_client_order = false;
    config.max_early_data_size = 0;
    // One ticket a connection: h2 clients open one at a time. What a client opens beside it does a
    // full handshake, since tickets should be used once (RFC 8446 appendix C.4).
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The protocols as they stand in the ALPN extension (RFC 7301 §6), in the same order.
pub(super) fn wire_names(protocols: &[Alpn]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| wire_name(*protocol).to_vec()).collect()
}

/// The protocol with this name in the ALPN extension.
pub(super) fn from_wire(name: &[u8]) -> Option<Alpn> {
    [Alpn::H2, Alpn::Http1].into_iter().find(|protocol| wire_name(*protocol) == name)
}

fn wire_name(protocol: Alpn) -> &'static [u8] {
    match protocol {
        Alpn::H2 => b"h2",
        Alpn::Http1 => b"http/1.1",
    }
}
