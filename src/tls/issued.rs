//! What a certificate authority has issued, looked at before it is kept.
//!
//! Answers "is this what was ordered, and can it be served?". Pure.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::net::HostPattern;
use crate::tls::certificate::{Certificate, Source};
use crate::tls::pem::{self, LoadError};

/// A chain that is what was ordered.
#[derive(Debug)]
pub struct Checked {
    /// Ready to be served. It has no file yet.
    pub certificate: Certificate,
    /// What RFC 9773 §4.1 names it by; `None` when it does not say which key signed it.
    pub renewal_id: Option<String>,
    /// The serial number as hexadecimal digits.
    pub serial: String,
    /// The common name of who signed the chain's last certificate, which is what tells one chain
    /// from another; empty when it has none.
    pub root: String,
}

/// Why a chain is not what was ordered.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// It cannot be read, or is for another key.
    #[error("the issued chain cannot be served")]
    Unusable(#[source] LoadError),
    /// Names that were ordered are not in it.
    #[error("the issued certificate is not for {}", list(.0))]
    Names(Vec<HostPattern>),
    /// Its time is over.
    #[error("the issued certificate is expired already; is the clock right?")]
    Expired,
    /// A certificate of the chain is not signed by the next.
    #[error("certificate {0} of the issued chain is not signed by the next")]
    Link(usize),
}

/// Looks at `chain` and the `key` it was ordered with, both PEM. A certificate whose time has not
/// begun is good: it is our clock that is behind, and it will be served like any other.
///
/// # Errors
/// [`IssuedError`] when it is not what was ordered for `names`.
pub fn check(
    chain: &str,
    key: &str,
    names: &[HostPattern],
    now: SystemTime,
) -> Result<Checked, IssuedError> {
    let source = Source { chain: "the issued chain".into(), key: "its key".into() };
    let mut certificate =
        pem::from_text(chain.as_bytes(), key.as_bytes(), source).map_err(IssuedError::Unusable)?;
    certificate.source = None;
    let missing = certificate.uncovered(names);
    if !missing.is_empty() {
        return Err(IssuedError::Names(missing));
    }
    if certificate.leaf.not_after <= now {
        return Err(IssuedError::Expired);
    }
    // Parsed once already.
    let chain: Vec<X509Certificate<'_>> = certificate
        .key
        .cert
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed))
        .collect();
    check_links(&chain)?;
    let root = chain.last().map(root_name).unwrap_or_default();
    let serial = chain.first().map(serial).unwrap_or_default();
    let renewal_id = chain.first().and_then(renewal_id);
    Ok(Checked { renewal_id, serial, root, certificate })
}

/// What RFC 9773 §4.1 names `certificate` by; `None` when it does not say which key signed it.
#[must_use]
pub fn renewal_id_of(certificate: &Certificate) -> Option<String> {
    let (_, leaf) = X509Certificate::from_der(certificate.key.cert.first()?).ok()?;
    renewal_id(&leaf)
}

fn check_links(chain: &[X509Certificate<'_>]) -> Result<(), IssuedError> {
    for (index, pair) in chain.windows(2).enumerate() {
        let [one, next] = pair else { continue };
        let is_signed = one.issuer().as_raw() == next.subject().as_raw()
            && one.verify_signature(Some(next.public_key())).is_ok();
        if !is_signed {
            return Err(IssuedError::Link(index + 1));
        }
    }
    Ok(())
}

fn root_name(last: &X509Certificate<'_>) -> String {
    let name = last.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn serial(leaf: &X509Certificate<'_>) -> String {
    leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key identifier of the issuer and the serial number, as they stand in the certificate.
fn renewal_id(leaf: &X509Certificate<'_>) -> Option<String> {
    let key_id =
        leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
            _ => None,
        })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!("{}.{}", encode(key_id.0), encode(leaf.raw_serial())))
}

fn list(names: &[HostPattern]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{Ca, DAY, Pem, patterns};

    fn judged(leaf: &Pem, chain: &str, names: &[&str]) -> Result<Checked, IssuedError> {
        check(chain, &leaf.key, &patterns(names), SystemTime::now())
    }

    #[test]
    fn a_chain_that_was_ordered_says_who_it_is() {
        let root = Ca::new("Root X");
        let intermediate = root.intermediate("Below X");
        let leaf = intermediate.leaf(&["a.test", "*.a.test", "192.0.2.1"]);
        let chain = leaf.chain.clone() + &intermediate.pem();
        let checked = judged(&leaf, &chain, &["192.0.2.1", "*.a.test"]).unwrap();
        assert_eq!(checked.root, "Root X");
        assert!(checked.certificate.source.is_none());
        let (key_id, serial) = checked.renewal_id.as_deref().unwrap().split_once('.').unwrap();
        assert!(key_id.len() >= 27 && !serial.is_empty(), "{:?}", checked.renewal_id);
        assert!(!checked.serial.is_empty());
        assert_eq!(judged(&leaf, &leaf.chain, &["a.test"]).unwrap().root, "Below X");
    }

    #[test]
    fn what_was_not_ordered_is_refused() {
        let root = Ca::new("Root X");
        let leaf = root.leaf(&["a.test"]);
        let refused = |leaf: &Pem, chain: &str, names: &[&str]| {
            judged(leaf, chain, names).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&leaf, &leaf.chain, &["a.test", "b.test"]),
            "the issued certificate is not for b.test"
        );
        assert_eq!(
            refused(&root.leaf(&["a.test"]), &leaf.chain, &["a.test"]),
            "the issued chain cannot be served"
        );
        let other = Ca::new("Root X");
        assert_eq!(
            refused(&leaf, &(leaf.chain.clone() + &other.pem()), &["a.test"]),
            "certificate 1 of the issued chain is not signed by the next",
            "the same name is not the same key"
        );
        let old = root.leaf_with(&["a.test"], |params| {
            params.not_after = (SystemTime::now() - DAY / 2).into();
        });
        assert!(matches!(judged(&old, &old.chain, &["a.test"]), Err(IssuedError::Expired)));
        let early = root.leaf_with(&["a.test"], |params| {
            params.not_before = (SystemTime::now() + DAY / 2).into();
        });
        judged(&early, &early.chain, &["a.test"]).unwrap();
    }
}
