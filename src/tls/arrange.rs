//! A key and a heap of certificates, in the order in which they are served.
//!
//! Answers "which of these is the key's, and which lead from it towards a root?". Files from other
//! programs hold them in any order, with roots and certificates of other keys among them.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::pem::signed;
use crate::tls::provider;

/// Certificates in the order of the chain.
#[derive(Debug)]
pub(crate) struct Arranged {
    /// The leaf first. A root is left out, which clients have or do not trust, unless it is the leaf.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Those that do not lead from the leaf to a root.
    pub(crate) left_out: usize,
    /// They were in another order.
    pub(crate) was_reordered: bool,
}

/// Why there is no chain for the key.
#[derive(Debug, thiserror::Error)]
pub enum ArrangeError {
    /// The key is of a kind or size that is not supported.
    #[error("the key cannot be used")]
    Key(#[source] rustls::Error),
    /// None of the certificates is the key's.
    #[error("none of the {0} certificates belongs to the key")]
    NoLeaf(usize),
}

/// The chain of `key`'s certificate, from among `found`.
pub(crate) fn arrange(
    found: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<Arranged, ArrangeError> {
    let signing = provider::provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(ArrangeError::Key)?;
    let public = signing.public_key();
    let count = found.len();
    let mut rest = found.clone();
    rest.dedup();
    let is_leaf = |der: &CertificateDer<'_>| {
        let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
        public.as_ref().is_some_and(|public| parsed.public_key().raw == &**public)
    };
    // A renewal with the same key leaves the old certificate beside the new one.
    let leaf = rest.iter().enumerate().filter(|(_, der)| is_leaf(der));
    let leaf = leaf.max_by_key(|(_, der)| not_after(der)).map(|(index, _)| index);
    let Some(leaf) = leaf else { return Err(ArrangeError::NoLeaf(count)) };
    let mut chain = vec![rest.swap_remove(leaf)];
    let mut roots = 0;
    while let Some(last) = chain.last().filter(|last| !is_root(last)) {
        let Some(issuer) = rest.iter().position(|der| signed(last, der)) else { break };
        let issuer = rest.swap_remove(issuer);
        if is_root(&issuer) {
            roots = 1;
            break;
        }
        chain.push(issuer);
    }
    let was_reordered = !found.starts_with(&chain);
    Ok(Arranged { left_out: count - chain.len() - roots, chain, was_reordered })
}

fn is_root(der: &CertificateDer<'_>) -> bool {
    signed(der, der)
}

fn not_after(der: &CertificateDer<'_>) -> i64 {
    X509Certificate::from_der(der)
        .map_or(i64::MIN, |(_, parsed)| parsed.validity().not_after.timestamp())
}
