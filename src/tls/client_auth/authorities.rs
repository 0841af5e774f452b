//! Whose client certificates count, and which are revoked: the files of one rule.
//!
//! Every certificate and every list in them must be usable. A silent gap would show as refused
//! clients, or as ones that are let in although they were revoked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use x509_parser::error::X509Error;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate, X509Version};

use super::lists::{self, Found, RevocationList};
use super::subject;
use crate::config::client_auth::ClientAuth;
use crate::tls::certificate::{NotACertificate, sha256, system_time};
use crate::tls::contents::Contents;
use crate::tls::pem::{self, LoadError};
use crate::tls::provider;

/// What the files of a rule say.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Never empty.
    pub(super) cas: Vec<Ca>,
    /// The newest first, for of several lists of one CA the first counts.
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// Those that count, and until when.
    pub(super) counting: Vec<RevocationList>,
    /// Stands for all of that.
    pub(super) contents: [u8; 32],
    /// What an operator should know.
    pub(super) warnings: Vec<Warning>,
}

/// A CA whose certificates count while it is valid.
#[derive(Debug)]
pub(super) struct Ca {
    pub(super) der: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why the files of a rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// A file cannot be read, or is no PEM.
    #[error(transparent)]
    File(#[from] LoadError),
    /// A certificate in the `ca:` file is not one that can be trusted.
    #[error("certificate {position} in {} cannot be trusted", path.display())]
    Untrustable {
        /// The file.
        path: PathBuf,
        /// From 1.
        position: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A certificate in the `ca:` file is no CA's. The library would take whatever is signed with its
    /// key all the same.
    #[error(
        "certificate {position} in {} is not a CA's: {name} may not sign certificates \
         (basicConstraints CA:TRUE, keyUsage keyCertSign); \
         name the CA that has signed it, for a client's own certificate cannot stand here",
        path.display()
    )]
    NotACa {
        /// The file.
        path: PathBuf,
        /// From 1.
        position: usize,
        /// Whom the certificate is for.
        name: String,
    },
    /// A `crl:` file holds no list.
    #[error("{} holds no revocation list: it holds {found}", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: Contents,
    },
    /// A list is damaged, or of a kind that cannot be checked.
    #[error("revocation list {position} in {} cannot be used", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// From 1.
        position: usize,
        /// What is wrong with it.
        source: VerifierBuilderError,
    },
    /// Two CAs have one name, and there are lists by that name. The library goes by the name alone and
    /// takes a list for the other's, which does not fit.
    #[error(
        "{} has two CAs called {name} with different keys, and there is a revocation list by that name: \
         the clients of one of them would all be refused; leave one of the two out, \
         or the lists of both, until the old one is gone",
        path.display()
    )]
    Namesakes {
        /// The file with the CAs.
        path: PathBuf,
        /// What both are called.
        name: String,
    },
    /// A list bears the name of a CA that has not signed it.
    #[error("revocation list {position} in {} is not signed by {issuer}", path.display())]
    Forged {
        /// The file.
        path: PathBuf,
        /// From 1.
        position: usize,
        /// The CA.
        issuer: String,
    },
}

/// What an operator should know about files that are used all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// This CA is not valid now, so its certificates do not count.
    CaNotValid(String),
    /// This certificate is a root of X.509 version 1, which cannot say that it is a CA's.
    VersionOne(String),
    /// There are lists, but none of this CA, so its certificates do not count.
    NoList(String),
}

impl Authorities {
    /// Reads the files that `rule` names. Blocks.
    pub(super) fn read(rule: &ClientAuth, now: SystemTime) -> Result<Self, AuthoritiesError> {
        let mut warnings = Vec::new();
        let cas = read_cas(&rule.ca, now, &mut warnings)?;
        let mut lists = Vec::new();
        for path in &rule.crl {
            read_lists(path, &cas, &mut lists)?;
        }
        let counting = lists::counting(&mut lists);
        let lists: Vec<_> = lists.into_iter().map(|list| list.der).collect();
        if !lists.is_empty() {
            if let Some(name) = namesakes(&cas, &lists) {
                return Err(AuthoritiesError::Namesakes { path: rule.ca.clone(), name });
            }
            warn_uncovered(&cas, &lists, &mut warnings);
        }
        let all = cas.iter().map(|ca| &*ca.der).chain(lists.iter().map(|list| &**list));
        // With the files, for a list is told by the file that it stands in.
        let files = counting.iter().map(|list| list.path.as_os_str().as_encoded_bytes());
        let contents = sha256(&all.chain(files).flat_map(sha256).collect::<Vec<u8>>());
        Ok(Self { cas, lists, counting, contents, warnings })
    }
}

impl Ca {
    /// Whether its certificates count at `now`.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn read_cas(
    path: &Path,
    now: SystemTime,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Ca>, AuthoritiesError> {
    let text = pem::read(path)?;
    let mut cas = Vec::new();
    for (index, der) in pem::certificates(path, &text)?.into_iter().enumerate() {
        let position = index + 1;
        let at = || path.to_owned();
        let trusted = RootCertStore::empty().add(der.clone());
        trusted.map_err(|source| AuthoritiesError::Untrustable { path: at(), position, source })?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| {
            let source = NotACertificate::from(error);
            LoadError::Certificate { path: at(), position, source }
        })?;
        let (validity, name) = (parsed.validity(), subject::rfc4514(parsed.subject()));
        let (not_before, not_after) =
            (system_time(validity.not_before), system_time(validity.not_after));
        let is_old_root = is_old_root(&parsed);
        if !is_old_root && !may_sign(&parsed) {
            return Err(AuthoritiesError::NotACa { path: at(), position, name });
        }
        let ca = Ca { der, not_before, not_after };
        if !ca.is_valid(now) {
            warnings.push(Warning::CaNotValid(name));
        } else if is_old_root {
            warnings.push(Warning::VersionOne(name));
        }
        cas.push(ca);
    }
    Ok(cas)
}

/// Whether the certificate says of itself that it is a CA's (RFC 5280 §6.1.4 k and n).
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage();
    certificate.is_ca()
        && usage.is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// Whether the certificate is a root from before there were extensions. No client's: those of version 1
/// are refused.
fn is_old_root(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() == X509Version::V1
        && certificate.subject().as_raw() == certificate.issuer().as_raw()
}

fn read_lists(path: &Path, cas: &[Ca], lists: &mut Vec<Found>) -> Result<(), AuthoritiesError> {
    let text = pem::read(path)?;
    let found: Vec<CertificateRevocationListDer<'static>> = match Contents::of(&text) {
        Contents::Der => vec![text.into()],
        found => {
            let read: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&text).collect();
            let read = read.map_err(|source| LoadError::Pem { path: path.to_owned(), source })?;
            if read.is_empty() {
                return Err(AuthoritiesError::NoList { path: path.to_owned(), found });
            }
            read
        }
    };
    for (index, der) in found.into_iter().enumerate() {
        let position = index + 1;
        let at = || path.to_owned();
        let unusable = |source| AuthoritiesError::List { path: at(), position, source };
        check_list(&cas[0], &der).map_err(unusable)?;
        let (_, parsed) = CertificateRevocationList::from_der(&der)
            .map_err(|_| unusable(VerifierBuilderError::InvalidCrl(damaged())))?;
        if is_forged(&parsed, cas) {
            let issuer = subject::rfc4514(parsed.issuer());
            return Err(AuthoritiesError::Forged { path: at(), position, issuer });
        }
        let found = Found::new(path, der.clone(), &parsed);
        let damaged = || unusable(VerifierBuilderError::InvalidCrl(damaged()));
        lists.push(found.ok_or_else(damaged)?);
    }
    Ok(())
}

fn damaged() -> rustls::CertRevocationListError {
    rustls::CertRevocationListError::ParseError
}

/// Whether the library can check by the list: the reader of lists is private to its builder, which
/// wants a CA, any.
fn check_list(
    ca: &Ca,
    der: &CertificateRevocationListDer<'static>,
) -> Result<(), VerifierBuilderError> {
    let mut roots = RootCertStore::empty();
    // It was added once already.
    roots.add_parsable_certificates([ca.der.clone()]);
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider::provider());
    builder.with_crls([der.clone()]).build().map(drop)
}

/// Whether a list bears the name of CAs of ours, and none of them has signed it. Of others, which are
/// below ours, it shows in the handshake.
fn is_forged(list: &CertificateRevocationList<'_>, cas: &[Ca]) -> bool {
    let mut is_named = false;
    for ca in cas {
        let Ok((_, ca)) = X509Certificate::from_der(&ca.der) else { continue };
        if ca.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        match list.verify_signature(ca.public_key()) {
            Err(X509Error::SignatureVerificationError) => is_named = true,
            // Algorithms that only the other library knows are left to it.
            Ok(()) | Err(_) => return false,
        }
    }
    is_named
}

/// The name that CAs with different keys share, if a list bears it. A CA that was renewed keeps its key.
fn namesakes(cas: &[Ca], lists: &[CertificateRevocationListDer<'static>]) -> Option<String> {
    let cas: Vec<_> =
        cas.iter().filter_map(|ca| Some(X509Certificate::from_der(&ca.der).ok()?.1)).collect();
    lists.iter().find_map(|der| {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        let mut named = cas.iter().filter(|ca| ca.subject().as_raw() == list.issuer().as_raw());
        let first = named.next()?;
        named
            .any(|other| other.public_key().raw != first.public_key().raw)
            .then(|| subject::rfc4514(first.subject()))
    })
}

/// Warns about CAs whose certificates are all refused, because no list speaks of them.
fn warn_uncovered(
    cas: &[Ca],
    lists: &[CertificateRevocationListDer<'static>],
    warnings: &mut Vec<Warning>,
) {
    let lists: Vec<_> =
        lists.iter().filter_map(|der| CertificateRevocationList::from_der(der).ok()).collect();
    for ca in cas {
        let Ok((_, ca)) = X509Certificate::from_der(&ca.der) else { continue };
        let is_its =
            |list: &CertificateRevocationList<'_>| list.issuer().as_raw() == ca.subject().as_raw();
        if !lists.iter().any(|(_, list)| is_its(list)) {
            warnings.push(Warning::NoList(subject::rfc4514(ca.subject())));
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaNotValid(ca) => {
                write!(
                    f,
                    "the CA {ca} has expired or is not valid yet: its certificates are refused"
                )
            }
            Self::VersionOne(name) => write!(
                f,
                "{name} is of X.509 version 1 and taken for a CA: its key can sign for anybody"
            ),
            Self::NoList(ca) => {
                write!(f, "no revocation list is of {ca}: its certificates are refused")
            }
        }
    }
}
