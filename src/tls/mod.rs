//! Certificates and handshakes, on both sides of the gateway.
//!
//! Answers "which certificate does this client get, and may this server be trusted?". `app` builds
//! the [`CertStore`] from files ([`pem`]) and the local CA ([`local_ca`]) and replaces its table
//! whole; `listen` calls [`accept`](accept::accept) for each connection; `upstream` calls
//! [`connect`](connect::connect). It never opens a socket, never routes a request and never
//! decides when to renew: it says when something is due, and `app` keeps the clock.

pub mod accept;
mod authority;
pub mod bundle;
pub mod certificate;
pub mod challenge;
pub mod client_auth;
pub mod client_config;
pub mod client_material;
pub mod connect;
mod contents;
#[cfg(test)]
mod fixture;
pub mod health;
pub mod issued;
pub mod local_ca;
pub mod ocsp;
pub mod on_demand;
pub mod pem;
pub mod pfx;
pub(crate) mod private_dir;
pub mod probe;
pub mod provider;
mod resolver;
pub mod server_config;
pub mod store;
pub mod ticket;
pub mod transport;
pub mod trust;
mod unverified;

pub use accept::{AcceptError, Accepted, Handshake, ServerStream, Session};
pub use bundle::{Bundle, BundleError};
pub use certificate::{Certificate, Fingerprint, Leaf};
pub use challenge::Challenges;
pub use client_auth::{ClientProof, Policies, Policy, RevocationList};
pub use client_config::{ClientConfigError, SystemRoots};
pub use client_material::ClientMaterial;
pub use connect::{ClientStream, ConnectError, connect};
pub use contents::Contents;
pub use health::{Ending, Health, Lifetime};
pub use local_ca::{LocalCa, LocalCaError};
pub use on_demand::OnDemand;
pub use provider::install;
pub use server_config::{Offer, Terms};
pub use store::{CertStore, Entry, Origin, Table};
pub use ticket::Tickets;

// What other modules hold and hand back, under names of ours: only this one names rustls.
pub use rustls::pki_types::ServerName;
pub use rustls::{ClientConfig, ServerConfig};
