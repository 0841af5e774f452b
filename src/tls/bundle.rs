//! A chain and its key as they come from elsewhere, put into the order in which they are served.
//!
//! Answers "which of these certificates is the key's, and which lead from it towards a root?". Files of
//! other programs hold them in any order, with roots and certificates of other keys among them.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::certificate::{Certificate, Source};
use crate::tls::pem::{self, LoadError, signed};
use crate::tls::provider;

/// A chain and its key, as they are served. Its `Debug` form hides the key.
pub struct Bundle {
    /// The chain, PEM, leaf first, without the root.
    pub chain_pem: String,
    /// The leaf's key, PEM. Secret.
    pub key_pem: String,
    /// Certificates that do not belong to the chain and were left out.
    pub left_out: usize,
    /// The certificates were in another order.
    pub was_reordered: bool,
}

/// Why chain and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// One of them cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The key is of a kind or size that is not supported.
    #[error("the key cannot be used")]
    Key(#[source] rustls::Error),
    /// None of the certificates is the key's.
    #[error("the key belongs to {}", match .0 { 1 => "another certificate".to_owned(), count => format!("none of the {count} certificates") })]
    NoLeaf(usize),
}

impl Bundle {
    /// What two PEM texts hold; they may be one and the same.
    ///
    /// # Errors
    /// [`BundleError`] when there is no key, no certificate, or none for the key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BundleError> {
        let mark = |text: &[u8]| text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).to_vec();
        let (chain, key) = (mark(chain), mark(key));
        let found = pem::certificates("the chain".as_ref(), &chain)?;
        let key = pem::private_key("the key".as_ref(), &key)?;
        Self::arrange(found, &key)
    }

    /// The chain of `key`'s certificate, from among `found`.
    pub(super) fn arrange(
        found: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<Self, BundleError> {
        let (count, chain, roots) = chain(&found, key)?;
        Ok(Self {
            chain_pem: chain.iter().map(|der| armoured("CERTIFICATE", der)).collect(),
            key_pem: key_text(key),
            left_out: count - chain.len() - roots,
            was_reordered: !found.starts_with(&chain),
        })
    }

    /// The certificate as it would be served.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be.
    pub fn certificate(&self) -> Result<Certificate, LoadError> {
        let source = Source { chain: "the chain".into(), key: "the key".into() };
        let served = pem::from_text(self.chain_pem.as_bytes(), self.key_pem.as_bytes(), source)?;
        Ok(Certificate { source: None, ..served })
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("chain_pem", &self.chain_pem)
            .field("left_out", &self.left_out)
            .field("was_reordered", &self.was_reordered)
            .finish_non_exhaustive()
    }
}

/// How many certificates there are, which of them are the chain, and how many roots it lacks.
fn chain(
    found: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(usize, Vec<CertificateDer<'static>>, usize), BundleError> {
    let signing = provider::provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(BundleError::Key)?;
    let public = signing.public_key();
    let mut rest: Vec<CertificateDer<'static>> = Vec::new();
    for der in found {
        if !rest.contains(der) {
            rest.push(der.clone());
        }
    }
    let count = rest.len();
    let is_leaf = |der: &CertificateDer<'_>| {
        let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
        public.as_ref().is_some_and(|public| parsed.public_key().raw == &**public)
    };
    // A renewal with the same key leaves the old certificate beside the new one.
    let leaf = rest.iter().enumerate().filter(|(_, der)| is_leaf(der));
    let leaf = leaf.max_by_key(|(_, der)| not_after(der)).map(|(index, _)| index);
    let Some(leaf) = leaf else { return Err(BundleError::NoLeaf(count)) };
    let mut chain = vec![rest.swap_remove(leaf)];
    while let Some(last) = chain.last().filter(|last| !is_root(last)) {
        let Some(issuer) = rest.iter().position(|der| signed(last, der)) else { break };
        let issuer = rest.swap_remove(issuer);
        // A root is left out: clients have it, or do not trust it.
        if is_root(&issuer) {
            return Ok((count, chain, 1));
        }
        chain.push(issuer);
    }
    Ok((count, chain, 0))
}

fn is_root(der: &CertificateDer<'_>) -> bool {
    signed(der, der)
}

fn not_after(der: &CertificateDer<'_>) -> i64 {
    X509Certificate::from_der(der)
        .map_or(i64::MIN, |(_, parsed)| parsed.validity().not_after.timestamp())
}

fn key_text(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    armoured(label, key.secret_der())
}

/// `der` in PEM's armour (RFC 7468).
fn armoured(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::Ca;

    /// Windows has other ends of lines.
    fn plain(text: &str) -> String {
        text.replace('\r', "")
    }

    #[test]
    fn certificates_are_put_in_the_order_of_the_chain() {
        let root = Ca::new("Root");
        let middle = root.intermediate("Middle");
        let low = middle.intermediate("Low");
        let leaf = low.leaf(&["a.test"]);
        let wanted = leaf.chain.clone() + &low.pem() + &middle.pem();
        let other = Ca::new("Other");
        for (text, left_out, was_reordered) in [
            (wanted.clone(), 0, false),
            (wanted.clone() + &root.pem(), 0, false),
            (root.pem() + &middle.pem() + &low.pem() + &leaf.chain, 0, true),
            (other.pem() + &wanted + &leaf.chain + &other.leaf(&["a.test"]).chain, 2, true),
        ] {
            let bundle = Bundle::from_pem(text.as_bytes(), leaf.key.as_bytes()).unwrap();
            assert_eq!(plain(&bundle.chain_pem), plain(&wanted));
            assert_eq!((bundle.left_out, bundle.was_reordered), (left_out, was_reordered));
            bundle.certificate().unwrap();
        }
        let (one, whole) = (leaf.chain.clone() + &leaf.key, leaf.chain.clone());
        let both = Bundle::from_pem(one.as_bytes(), one.as_bytes()).unwrap();
        assert_eq!(plain(&both.chain_pem), plain(&whole), "one file with both, and no issuer");
        assert!(!format!("{both:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_has_no_chain_is_told() {
        let ca = Ca::new("Root");
        let leaf = ca.leaf(&["a.test"]);
        let told = |chain: &str, key: &str| {
            Bundle::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string()
        };
        let other = ca.leaf(&["a.test"]).key;
        assert_eq!(told(&leaf.chain, &other), "the key belongs to another certificate");
        assert_eq!(
            told(&(leaf.chain.clone() + &ca.pem()), &other),
            "the key belongs to none of the 2 certificates"
        );
        assert_eq!(
            told(&leaf.key, &leaf.key),
            "the chain holds no certificate in PEM form: it holds PRIVATE KEY"
        );
        assert_eq!(
            told(&leaf.chain, &leaf.chain),
            "the key holds no private key in PEM form: it holds CERTIFICATE"
        );
    }
}
