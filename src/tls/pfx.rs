//! PKCS#12 files (RFC 7292), which Windows calls PFX: certificate, chain and key in one, under a
//! password.
//!
//! Answers "what is in it that can be served?", and writes one that Windows imports. Called by whoever
//! brings certificates in or hands them out; what is kept and served is PEM.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair,
};
use p12_keystore::error::Error;
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12Archive,
    PrivateKey, PrivateKeyChain,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::tls::bundle::{Bundle, BundleError};
use crate::tls::contents::Contents;

/// How a file is encrypted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Encryption {
    /// AES-256 and HMAC-SHA-256: Windows Server 2019, Windows 10 1709 and later.
    #[default]
    Modern,
    /// Triple DES and HMAC-SHA-1, for what is older.
    Legacy,
}

/// Why a file yields no certificate with its key.
#[derive(Debug, thiserror::Error)]
pub enum PfxError {
    /// It is something else.
    #[error("it is no PKCS#12 file (.pfx, .p12): it holds {0}")]
    NotPfx(Contents),
    /// It is one, but not in the encoding that is read, or it is damaged.
    #[error(
        "it is no PKCS#12 file (.pfx, .p12), it is damaged, or it is encoded in a way that is not \
         read (write it anew with `openssl pkcs12`)"
    )]
    Damaged(#[source] Error),
    /// The password is not the file's.
    #[error("the password is wrong")]
    WrongPassword,
    /// It is encrypted by a method that is not read.
    #[error(
        "it is encrypted or signed by a method that is not read: AES, triple DES and RC2-40 are \
         (write it anew with `openssl pkcs12`)"
    )]
    UnsupportedEncryption,
    /// It holds no key: it was exported without.
    #[error("it holds {certificates} certificates but no private key: export it with its key")]
    NoKey {
        /// How many certificates.
        certificates: usize,
    },
    /// It holds keys of several certificates.
    #[error("it holds {0} private keys: export the one certificate that is meant")]
    SeveralKeys(usize),
    /// It holds a key and no certificate at all.
    #[error("it holds a private key but no certificate")]
    NoCertificate,
    /// Key and certificates do not go together.
    #[error("what it holds cannot be served")]
    Unusable(#[from] BundleError),
    /// The pair that is to be written is no PEM.
    #[error("the {0} is not in PEM form")]
    NotPem(&'static str),
    /// The key is of a kind that cannot be written.
    #[error("the key is of a kind that cannot be put into a PKCS#12 file")]
    Key,
    /// It cannot be written.
    #[error("it cannot be written as PKCS#12")]
    Write(#[source] Error),
}

/// Whether `bytes` begin as PKCS#12 does, and not as PEM.
#[must_use]
pub fn is_pfx(bytes: &[u8]) -> bool {
    Contents::of(bytes) == Contents::Der
}

/// The certificate with its key in a PKCS#12 file.
///
/// # Errors
/// [`PfxError`].
pub fn read(bytes: &[u8], password: &str) -> Result<Bundle, PfxError> {
    let contents = Contents::of(bytes);
    if contents != Contents::Der {
        return Err(PfxError::NotPfx(contents));
    }
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(PfxError::of)?;
    let mut keys: Vec<&[u8]> = archive.keys.iter().map(|bag| bag.key.as_der()).collect();
    keys.sort_unstable();
    keys.dedup();
    let certificates = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec().into());
    let certificates: Vec<CertificateDer<'static>> = certificates.collect();
    let key = match *keys {
        [] => return Err(PfxError::NoKey { certificates: certificates.len() }),
        [_] if certificates.is_empty() => return Err(PfxError::NoCertificate),
        [key] => key,
        _ => return Err(PfxError::SeveralKeys(keys.len())),
    };
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
    Ok(Bundle::arrange(certificates, &private)?)
}

/// A PKCS#12 file with this chain and key, both PEM, under `password`. Windows shows it as `name`.
///
/// # Errors
/// [`PfxError`] when they are no PEM, or the key is of a kind that has no PKCS#8 form.
pub fn write(
    chain_pem: &str,
    key_pem: &str,
    password: &str,
    name: &str,
    encryption: Encryption,
) -> Result<Vec<u8>, PfxError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(PfxError::NotPem("chain"))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    let key = pkcs8(&key.map_err(|_| PfxError::NotPem("key"))?)?;
    let certificates: Result<Vec<_>, _> =
        chain.iter().map(|der| Certificate::from_der(der)).collect();
    let key = PrivateKey::from_der(&key).map_err(PfxError::Write)?;
    // Ties key and certificate together; by its form Windows' own files have a number.
    let id = [1, 0, 0, 0];
    let entry = PrivateKeyChain::new(&id[..], key, certificates.map_err(PfxError::Write)?);
    let mut store = KeyStore::new();
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(entry));
    let (cipher, mac) = match encryption {
        Encryption::Modern => {
            (EncryptionAlgorithm::PbeWithHmacSha256AndAes256, MacAlgorithm::HmacSha256)
        }
        Encryption::Legacy => {
            (EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc, MacAlgorithm::HmacSha1)
        }
    };
    let writer = store.writer(password).encryption_algorithm(cipher).mac_algorithm(mac);
    let writer = writer.encryption_iterations(ITERATIONS).mac_iterations(ITERATIONS);
    writer.write().map_err(PfxError::Write)
}

/// Rounds of key derivation: a hundredth of a second, five times what Windows takes by itself.
const ITERATIONS: u32 = 10_000;

impl PfxError {
    fn of(error: Error) -> Self {
        match error {
            // Files without a MAC show a wrong password by what comes out of the decryption.
            Error::MacError(_) | Error::UnpadError => Self::WrongPassword,
            Error::Pkcs5Error(text) if text.contains("decryption") => Self::WrongPassword,
            Error::UnsupportedEncryptionScheme
            | Error::UnsupportedMacAlgorithm
            | Error::Pkcs5Error(_) => Self::UnsupportedEncryption,
            error => Self::Damaged(error),
        }
    }
}

/// The key in the form that PKCS#12 takes.
fn pkcs8(key: &PrivateKeyDer<'_>) -> Result<Vec<u8>, PfxError> {
    match key {
        PrivateKeyDer::Pkcs8(key) => Ok(key.secret_pkcs8_der().to_vec()),
        PrivateKeyDer::Pkcs1(key) => {
            let pair = rsa::KeyPair::from_der(key.secret_pkcs1_der()).map_err(|_| PfxError::Key)?;
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| PfxError::Key)?;
            Ok(der.as_ref().to_vec())
        }
        PrivateKeyDer::Sec1(key) => {
            let curves = [
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &ECDSA_P384_SHA384_ASN1_SIGNING,
                &ECDSA_P521_SHA512_ASN1_SIGNING,
            ];
            let pair = curves.into_iter().find_map(|curve| {
                EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der()).ok()
            });
            let der = pair.ok_or(PfxError::Key)?.to_pkcs8v1().map_err(|_| PfxError::Key)?;
            Ok(der.as_ref().to_vec())
        }
        _ => Err(PfxError::Key),
    }
}

// Where Windows is played by Wine there is no openssl.
#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::tls::fixture::{Ca, Pem};

    /// Runs openssl in `dir`; the tests need it.
    fn openssl(dir: &Path, arguments: &str) -> String {
        let run = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
        let run = run.expect("openssl is installed");
        assert!(run.status.success(), "{arguments}\n{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }

    /// Root, intermediate and a leaf below it.
    fn family() -> (Ca, Ca, Pem) {
        let root = Ca::new("Root");
        let middle = root.intermediate("Middle");
        let leaf = middle.leaf(&["a.test", "*.a.test"]);
        (root, middle, leaf)
    }

    fn write_files(dir: &Path, leaf: &Pem, more: &str) {
        std::fs::write(dir.join("leaf.pem"), &leaf.chain).unwrap();
        std::fs::write(dir.join("key.pem"), &leaf.key).unwrap();
        std::fs::write(dir.join("more.pem"), more).unwrap();
    }

    const EXPORT: &str = "pkcs12 -export -in leaf.pem -inkey key.pem -out a.pfx -name a.test";

    #[test]
    fn what_openssl_and_windows_write_is_read_and_put_in_order() {
        let (root, middle, leaf) = family();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let stranger = Ca::new("Stranger");
        write_files(dir, &leaf, &(root.pem() + &stranger.pem() + &middle.pem()));
        for options in [
            // What openssl 3 writes by itself, and what Windows has written for twenty years.
            "-certfile more.pem -passout pass:secret",
            "-certfile more.pem -passout pass:secret -legacy -descert",
            "-certfile more.pem -passout pass:secret -legacy -keysig -CSP x",
            "-certfile more.pem -passout pass:secret -keypbe AES-128-CBC -certpbe AES-192-CBC -macalg SHA512",
            "-certfile more.pem -passout pass:secret -keypbe PBE-SHA1-3DES -certpbe NONE -legacy",
        ] {
            openssl(dir, &format!("{EXPORT} {options}"));
            let bytes = std::fs::read(dir.join("a.pfx")).unwrap();
            assert!(is_pfx(&bytes));
            let bundle =
                read(&bytes, "secret").unwrap_or_else(|error| panic!("{options}: {error:?}"));
            let whole = leaf.chain.clone() + &middle.pem();
            let wanted: Vec<CertificateDer<'_>> =
                CertificateDer::pem_slice_iter(whole.as_bytes()).map(Result::unwrap).collect();
            assert_eq!(bundle.certificate().unwrap().key.cert, wanted, "{options}");
            assert_eq!(bundle.left_out, 1, "the stranger: {options}");
            for wrong in ["Secret", ""] {
                let error = read(&bytes, wrong).unwrap_err();
                assert!(matches!(error, PfxError::WrongPassword), "{options}: {error:?}");
            }
        }
        for options in ["-passout pass:", "-passout pass:s\u{f6}\u{20ac}"] {
            openssl(dir, &format!("{EXPORT} {options}"));
            let bytes = std::fs::read(dir.join("a.pfx")).unwrap();
            let password = options.split_once("pass:").unwrap().1;
            let bundle =
                read(&bytes, password).unwrap_or_else(|error| panic!("{options}: {error:?}"));
            assert_eq!(bundle.left_out, 0);
        }
    }

    #[test]
    fn keys_of_every_kind_are_written_for_openssl_and_read_back() {
        let (_, middle, leaf) = family();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("p8.pem"), &leaf.key).unwrap();
        openssl(dir, "ec -in p8.pem -out sec1.pem");
        let sec1 = std::fs::read_to_string(dir.join("sec1.pem")).unwrap();
        assert!(sec1.contains("EC PRIVATE KEY"));
        openssl(
            dir,
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=r -addext subjectAltName=DNS:r.test \
             -days 2 -keyout rsa8.pem -out rsa.pem",
        );
        openssl(dir, "rsa -in rsa8.pem -traditional -out rsa1.pem");
        let file = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert!(file("rsa1.pem").contains("RSA PRIVATE KEY"));
        let chain = leaf.chain.clone() + &middle.pem();
        for (chain, key) in [
            (&chain, &leaf.key),
            (&chain, &sec1),
            (&file("rsa.pem"), &file("rsa8.pem")),
            (&file("rsa.pem"), &file("rsa1.pem")),
        ] {
            for encryption in [Encryption::Modern, Encryption::Legacy] {
                let bytes = write(chain, key, "pass word", "Wardgate a.test", encryption).unwrap();
                let bundle = read(&bytes, "pass word").unwrap();
                assert_eq!(bundle.chain_pem.replace('\r', ""), *chain);
                bundle.certificate().unwrap();
                std::fs::write(dir.join("out.pfx"), &bytes).unwrap();
                std::fs::write(dir.join("password"), "pass word").unwrap();
                let legacy = if encryption == Encryption::Legacy { " -legacy" } else { "" };
                let shown = openssl(
                    dir,
                    &format!("pkcs12 -in out.pfx -passin file:password -nodes{legacy}"),
                );
                assert!(shown.contains("friendlyName: Wardgate a.test"), "{shown}");
                assert!(shown.contains("PRIVATE KEY"), "{shown}");
                let count = |text: &str| text.matches("BEGIN CERTIFICATE").count();
                assert_eq!(count(&shown), count(chain));
            }
        }
    }

    #[test]
    fn what_cannot_be_served_is_told() {
        let (_, middle, leaf) = family();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_files(dir, &leaf, &middle.pem());
        let told = |bytes: &[u8]| read(bytes, "secret").unwrap_err().to_string();
        let export = |arguments: &str| {
            openssl(dir, &format!("{arguments} -passout pass:secret -out a.pfx"));
            std::fs::read(dir.join("a.pfx")).unwrap()
        };
        assert_eq!(
            told(leaf.chain.as_bytes()),
            "it is no PKCS#12 file (.pfx, .p12): it holds CERTIFICATE"
        );
        let no_key = export("pkcs12 -export -nokeys -in leaf.pem -certfile more.pem");
        assert_eq!(
            told(&no_key),
            "it holds 2 certificates but no private key: export it with its key"
        );
        let no_certificate = export("pkcs12 -export -nocerts -inkey key.pem -in key.pem");
        assert_eq!(told(&no_certificate), "it holds a private key but no certificate");
        let good = export("pkcs12 -export -inkey key.pem -in leaf.pem");
        for length in [0, 1, 40, good.len() - 1] {
            let error = read(&good[..length], "secret").unwrap_err();
            assert!(matches!(error, PfxError::NotPfx(_) | PfxError::Damaged(_)), "{error:?}");
        }
        let rc4 = export(
            "pkcs12 -export -inkey key.pem -in leaf.pem -legacy -keypbe PBE-SHA1-RC4-128 -certpbe PBE-SHA1-RC2-128",
        );
        let error = read(&rc4, "secret").unwrap_err();
        assert!(matches!(error, PfxError::UnsupportedEncryption), "{error:?}");
        let mut two = KeyStore::new();
        let other = middle.leaf(&["b.test"]);
        for (name, pem) in [("a", &leaf), ("b", &other)] {
            let bytes = write(&pem.chain, &pem.key, "secret", name, Encryption::Modern).unwrap();
            let policy = p12_keystore::Pkcs12ImportPolicy::Strict;
            let one = KeyStore::from_pkcs12(&bytes, "secret", policy).unwrap();
            two.add_entry(name, one.entry(name).unwrap().clone());
        }
        let two = two.writer("secret").write().unwrap();
        assert_eq!(told(&two), "it holds 2 private keys: export the one certificate that is meant");
        let foreign = write(&other.chain, &leaf.key, "secret", "x", Encryption::Modern).unwrap();
        let error = read(&foreign, "secret").unwrap_err();
        assert!(
            matches!(error, PfxError::Unusable(BundleError::NoLeaf(1))),
            "a key without its certificate: {error:?}"
        );
        let error = write("", &leaf.key, "p", "n", Encryption::Modern).unwrap_err();
        assert_eq!(error.to_string(), "the chain is not in PEM form");
    }
}
