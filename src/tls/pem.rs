//! Certificates from an operator's files, checked before anybody is served with them.
//!
//! What no client could use is an error; what a client might still accept, or what an operator
//! should know, is a [`Warning`] beside the loaded certificate.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::net::HostPattern;
use crate::tls::certificate::{Certificate, Leaf, NotACertificate, Source};
use crate::tls::contents::Contents;
use crate::tls::provider;

/// A certificate and what an operator should know about it.
#[derive(Debug)]
pub struct Loaded {
    /// Ready to be served.
    pub certificate: Certificate,
    /// In the order found; empty when all is well.
    pub warnings: Vec<Warning>,
}

/// Why files yield no certificate.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no PEM certificate.
    #[error("{} holds no certificate in PEM form: it holds {found}", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: Contents,
    },
    /// The file holds no PEM private key that we can use.
    #[error("{} holds no private key in PEM form: it holds {found}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: Contents,
    },
    /// A PEM section is damaged.
    #[error("{} is damaged", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate in the chain does not parse.
    #[error("certificate {position} in {} is damaged", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// From 1, the leaf.
        position: usize,
        /// Where it breaks.
        source: NotACertificate,
    },
    /// The key is of a kind or size that is not supported.
    #[error("the key in {} cannot be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What the cryptography library said.
        source: rustls::Error,
    },
    /// The first certificate is a CA's and the leaf comes later.
    #[error(
        "the key in {} belongs to certificate {position} in {}: the leaf must come first",
        key.display(), chain.display()
    )]
    LeafNotFirst {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Where the leaf stands, from 1.
        position: usize,
    },
    /// The key is not the leaf's.
    #[error(
        "the key in {} does not belong to the certificate for {subject} in {}",
        key.display(), chain.display()
    )]
    Mismatch {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the leaf is for.
        subject: String,
    },
    /// The certificate is not good for the names it is configured for.
    #[error("{} is not valid for {}: its names are {}", chain.display(), List(missing), List(names))]
    Names {
        /// The chain's file.
        chain: PathBuf,
        /// The configured names it does not cover.
        missing: Vec<HostPattern>,
        /// The names it has.
        names: Vec<HostPattern>,
    },
}

/// What an operator should know about a certificate that is served all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// It ended at this moment; browsers show an error page.
    Expired(SystemTime),
    /// It begins at this moment; the clock may be wrong.
    NotYetValid(SystemTime),
    /// It has no subject alternative name, so no current client accepts it for any host.
    NoNames,
    /// The certificate at this position, from 1, did not sign the one before it; clients that
    /// do not know the missing issuer refuse the chain.
    BrokenChain(usize),
    /// Users beside the owner can read the key's file (its mode bits).
    KeyReadable(u32),
}

/// Reads the chain and the key and checks that they can be served for `names`.
///
/// `names` empty takes those in the certificate. A file may hold both chain and key; sections
/// that are neither are skipped.
///
/// # Errors
/// [`LoadError`] names the file, what was found in it and what was wanted.
pub fn load(
    chain: &Path,
    key: &Path,
    names: &[HostPattern],
    now: SystemTime,
) -> Result<Loaded, LoadError> {
    let chain_text = read(chain)?;
    let key_text = read(key)?;
    let source = Source { chain: chain.to_owned(), key: key.to_owned() };
    let certificate = from_text(&chain_text, &key_text, source)?;
    let missing = certificate.uncovered(names);
    if !missing.is_empty() {
        let names = certificate.leaf.names;
        return Err(LoadError::Names { chain: chain.to_owned(), missing, names });
    }
    let warnings = warnings(&certificate, key, now);
    Ok(Loaded { certificate, warnings })
}

/// The certificate in the texts of its two files; `source` is for messages and the result.
///
/// # Errors
/// As [`load`], but for reading and names.
pub(crate) fn from_text(
    chain: &[u8],
    key: &[u8],
    source: Source,
) -> Result<Certificate, LoadError> {
    let certificates = certificates(&source.chain, chain)?;
    let private = private_key(&source.key, key)?;
    assemble(certificates, private, source)
}

/// Every certificate in a PEM text.
///
/// # Errors
/// [`LoadError::NoCertificate`] or [`LoadError::Pem`], naming `path`.
pub(super) fn certificates(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(LoadError::NoCertificate { path: path.to_owned(), found: Contents::of(text) })
        }
        Ok(found) => Ok(found),
        Err(source) => Err(LoadError::Pem { path: path.to_owned(), source }),
    }
}

/// The file's bytes, without the byte order mark that Windows' editors put first, which would hide
/// the first section.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let at = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(at)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(at(io::Error::new(io::ErrorKind::FileTooLarge, "more than 16 MiB")));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// Far above any bundle of CAs (the largest in use hold a few hundred KiB), far below what would
/// hurt, for a path that names a log or a device by mistake.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The first private key in a PEM text.
pub(super) fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, LoadError> {
    let found = Contents::of(text);
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) if found != Contents::EncryptedKey => Ok(key),
        Err(source)
            if !matches!(source, rustls::pki_types::pem::Error::NoItemsFound)
                && found != Contents::EncryptedKey =>
        {
            Err(LoadError::Pem { path: path.to_owned(), source })
        }
        _ => Err(LoadError::NoKey { path: path.to_owned(), found }),
    }
}

/// Puts chain and key together after checking that they belong together.
fn assemble(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    source: Source,
) -> Result<Certificate, LoadError> {
    let mut leaf = None;
    for (index, der) in chain.iter().enumerate() {
        let parsed = Leaf::parse(der).map_err(|error| LoadError::Certificate {
            path: source.chain.clone(),
            position: index + 1,
            source: error,
        })?;
        leaf.get_or_insert(parsed);
    }
    let Some(leaf) = leaf else {
        let found = Contents::Nothing;
        return Err(LoadError::NoCertificate { path: source.chain, found });
    };
    let signing = provider::provider()
        .key_provider
        .load_private_key(private)
        .map_err(|error| LoadError::Key { path: source.key.clone(), source: error })?;
    let owner = signing.public_key().and_then(|public| owner_of(&public, &chain));
    match owner {
        Some(0) => {
            let key = Arc::new(CertifiedKey::new(chain, signing));
            Ok(Certificate { key, leaf, source: Some(source) })
        }
        Some(index) => Err(LoadError::LeafNotFirst {
            chain: source.chain,
            key: source.key,
            position: index + 1,
        }),
        None => Err(LoadError::Mismatch {
            chain: source.chain,
            key: source.key,
            subject: describe(&leaf),
        }),
    }
}

/// Which certificate of the chain holds the public key.
fn owner_of(public: &[u8], chain: &[CertificateDer<'_>]) -> Option<usize> {
    chain.iter().position(|der| {
        X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.public_key().raw == public)
    })
}

/// The leaf in few words: its first name, else its subject.
fn describe(leaf: &Leaf) -> String {
    leaf.names.first().map_or_else(|| leaf.subject.clone(), ToString::to_string)
}

fn warnings(certificate: &Certificate, key: &Path, now: SystemTime) -> Vec<Warning> {
    let leaf = &certificate.leaf;
    let mut warnings = Vec::new();
    if now > leaf.not_after {
        warnings.push(Warning::Expired(leaf.not_after));
    }
    if now < leaf.not_before {
        warnings.push(Warning::NotYetValid(leaf.not_before));
    }
    if leaf.names.is_empty() {
        warnings.push(Warning::NoNames);
    }
    warnings.extend(broken_link(&certificate.key.cert).map(Warning::BrokenChain));
    warnings.extend(readable_by_others(key).map(Warning::KeyReadable));
    warnings
}

/// The position, from 1, of the first certificate that did not sign the one before it.
fn broken_link(chain: &[CertificateDer<'_>]) -> Option<usize> {
    chain.windows(2).position(|pair| !signed(&pair[0], &pair[1])).map(|index| index + 2)
}

/// Whether `issuer` has signed `child`.
pub(super) fn signed(child: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let Ok((_, child)) = X509Certificate::from_der(child) else { return false };
    let Ok((_, issuer)) = X509Certificate::from_der(issuer) else { return false };
    child.issuer().as_raw() == issuer.subject().as_raw()
        && child.verify_signature(Some(issuer.public_key())).is_ok()
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Windows answers this question with access lists, which std does not read.
#[cfg(not(unix))]
fn readable_by_others(_path: &Path) -> Option<u32> {
    None
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(at) => write!(f, "it expired on {}", httpdate::fmt_http_date(*at)),
            Self::NotYetValid(at) => {
                write!(f, "it is not valid before {}", httpdate::fmt_http_date(*at))
            }
            Self::NoNames => {
                f.write_str("it has no subject alternative names, so clients refuse it")
            }
            Self::BrokenChain(position) => {
                write!(f, "certificate {position} of the chain did not issue the one before it")
            }
            Self::KeyReadable(mode) => {
                write!(f, "its key can be read by other users (mode {mode:03o}, wanted 600)")
            }
        }
    }
}

/// Comma-separated, "none" when empty.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return f.write_str("none") };
        first.fmt(f)?;
        rest.iter().try_for_each(|item| write!(f, ", {item}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{Ca, DAY, Pem, patterns};

    /// Chain, key, configured names, message.
    type Case<'a> = (&'a [u8], &'a [u8], &'a [&'a str], String);

    /// Writes both files, private, and loads them for `names`; paths in the message are shortened.
    fn load_texts(chain: &[u8], key: &[u8], names: &[&str]) -> Result<Loaded, String> {
        let dir = tempfile::tempdir().unwrap();
        let (chain_path, key_path) = (dir.path().join("a.pem"), dir.path().join("a.key"));
        std::fs::write(&chain_path, chain).unwrap();
        std::fs::write(&key_path, key).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        load(&chain_path, &key_path, &patterns(names), SystemTime::now()).map_err(|error| {
            error
                .to_string()
                .replace(&format!("{}{}", dir.path().display(), std::path::MAIN_SEPARATOR), "")
        })
    }

    fn load_pem(pem: &Pem, names: &[&str]) -> Result<Loaded, String> {
        load_texts(pem.chain.as_bytes(), pem.key.as_bytes(), names)
    }

    #[test]
    fn a_good_pair_loads_with_its_names_and_without_warnings() {
        let leaf = Ca::new("test").leaf(&["a.test", "*.b.test", "10.0.0.1", "::1"]);
        let loaded = load_pem(&leaf, &["a.test", "x.b.test", "*.b.test", "10.0.0.1", "*"]).unwrap();
        assert_eq!(loaded.warnings, []);
        let about = &loaded.certificate.leaf;
        assert_eq!(about.names, patterns(&["a.test", "*.b.test", "10.0.0.1", "::1"]));
        assert_eq!(about.issuer, "CN=test");
        assert_eq!(about.fingerprint.to_string().len(), 95);
        assert_eq!(loaded.certificate.source.unwrap().key.file_name().unwrap(), "a.key");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_what_was_found() {
        let ca = Ca::new("test");
        let (leaf, other) = (ca.leaf(&["a.test"]), ca.leaf(&["b.test"]));
        let intermediate = ca.intermediate("middle");
        let reversed = ca.pem() + &leaf.chain;
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMII=\n-----END RSA PRIVATE KEY-----\n";
        let passphrase =
            "a key under a passphrase (take it off with `openssl pkey -in FILE -out FILE`)";
        let der = leaf.certificate().key.cert[0].to_vec();
        let damaged = leaf.chain.replacen("MII", "MIA", 1);
        let cut = &leaf.chain[..leaf.chain.len() / 2];
        let both = intermediate.pem();
        let cases: Vec<Case<'_>> = vec![
            (b"", leaf.key.as_bytes(), &[], "a.pem holds no certificate in PEM form: it holds nothing".into()),
            (leaf.key.as_bytes(), leaf.key.as_bytes(), &[], "a.pem holds no certificate in PEM form: it holds PRIVATE KEY".into()),
            (&der, leaf.key.as_bytes(), &[], "a.pem holds no certificate in PEM form: it holds binary data, DER or PKCS#12 (convert it with `openssl x509 -inform der` or `openssl pkcs12 -nodes`)".into()),
            (b"hello", leaf.key.as_bytes(), &[], "a.pem holds no certificate in PEM form: it holds something else".into()),
            (leaf.chain.as_bytes(), leaf.chain.as_bytes(), &[], "a.key holds no private key in PEM form: it holds CERTIFICATE".into()),
            (leaf.chain.as_bytes(), encrypted.as_bytes(), &[], format!("a.key holds no private key in PEM form: it holds {passphrase}")),
            (leaf.chain.as_bytes(), legacy.as_bytes(), &[], format!("a.key holds no private key in PEM form: it holds {passphrase}")),
            (leaf.chain.as_bytes(), other.key.as_bytes(), &[], "the key in a.key does not belong to the certificate for a.test in a.pem".into()),
            (reversed.as_bytes(), leaf.key.as_bytes(), &[], "the key in a.key belongs to certificate 2 in a.pem: the leaf must come first".into()),
            (leaf.chain.as_bytes(), leaf.key.as_bytes(), &["b.test", "*.a.test"], "a.pem is not valid for b.test, *.a.test: its names are a.test".into()),
            (damaged.as_bytes(), leaf.key.as_bytes(), &[], "certificate 1 in a.pem is damaged".into()),
            (cut.as_bytes(), leaf.key.as_bytes(), &[], "a.pem is damaged".into()),
            (both.as_bytes(), leaf.key.as_bytes(), &[], "the key in a.key does not belong to the certificate for CN=middle in a.pem".into()),
        ];
        for (chain, key, names, wanted) in cases {
            assert_eq!(load_texts(chain, key, names).unwrap_err(), wanted);
        }
        let absent = load(Path::new("absent.pem"), Path::new("absent.key"), &[], SystemTime::now());
        assert_eq!(absent.unwrap_err().to_string(), "cannot read absent.pem");
    }

    #[test]
    fn text_from_windows_editors_is_read_or_explained() {
        let leaf = Ca::new("test").leaf(&["a.test"]);
        let marked = ["\u{feff}", &leaf.chain.replace('\n', "\r\n")].concat();
        load_texts(marked.as_bytes(), leaf.key.as_bytes(), &[]).unwrap();
        let wide: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let said = load_texts(&wide, leaf.key.as_bytes(), &[]).unwrap_err();
        assert_eq!(
            said,
            "a.pem holds no certificate in PEM form: it holds text in UTF-16 (save it as UTF-8)"
        );
    }

    #[cfg(unix)]
    #[test]
    fn an_endless_file_is_refused() {
        let zero = Path::new("/dev/zero");
        let error = load(zero, zero, &[], SystemTime::now()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /dev/zero");
    }

    #[test]
    fn what_is_served_all_the_same_is_warned_about() {
        let ca = Ca::new("test");
        let (past, future) = (SystemTime::now() - DAY / 2, SystemTime::now() + DAY / 2);
        let expired = ca.leaf_with(&["a.test"], |leaf| leaf.not_after = past.into());
        let early = ca.leaf_with(&["a.test"], |leaf| leaf.not_before = future.into());
        let mut unrelated = ca.leaf(&["a.test"]);
        unrelated.chain += &Ca::new("unrelated").pem();
        let middle = ca.intermediate("middle");
        let mut whole = middle.leaf(&["a.test"]);
        whole.chain += &(middle.pem() + &ca.pem());
        let mut swapped = middle.leaf(&["a.test"]);
        swapped.chain += &(ca.pem() + &middle.pem());
        for (leaf, wanted) in [
            (&whole, ""),
            (&expired, "it expired on"),
            (&early, "it is not valid before"),
            (&ca.leaf(&[]), "it has no subject alternative names"),
            (&unrelated, "certificate 2 of the chain did not issue the one before it"),
            (&swapped, "certificate 2 of the chain did not issue the one before it"),
        ] {
            let warnings = load_pem(leaf, &[]).unwrap().warnings;
            let said: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            assert!(
                said.join("").starts_with(wanted) && said.len() == usize::from(!wanted.is_empty()),
                "{said:?}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let leaf = Ca::new("test").leaf(&["a.test"]);
        let path = dir.path().join("both.pem");
        std::fs::write(&path, leaf.key + &leaf.chain).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let warnings = load(&path, &path, &[], SystemTime::now()).unwrap().warnings;
        assert_eq!(warnings, [Warning::KeyReadable(0o644)]);
    }

    #[test]
    fn no_truncation_and_no_flipped_bit_panics() {
        let leaf = Ca::new("test").leaf(&["a.test", "*.b.test", "::1"]);
        let source = || Source { chain: "a.pem".into(), key: "a.key".into() };
        for (text, is_chain) in [(&leaf.chain, true), (&leaf.key, false)] {
            for length in 0..text.len() {
                let cut = &text.as_bytes()[..length];
                let (chain, key) = if is_chain {
                    (cut, leaf.key.as_bytes())
                } else {
                    (leaf.chain.as_bytes(), cut)
                };
                // A cut in the last line's dashes may leave it whole enough.
                let _ = from_text(chain, key, source());
            }
        }
        let der = leaf.certificate().key.cert[0].to_vec();
        for position in 0..der.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut flipped = der.clone();
                flipped[position] ^= bit;
                let _ = Leaf::parse(&flipped.into());
            }
            let _ = Leaf::parse(&der[..position].into());
        }
    }
}
