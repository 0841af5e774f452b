//! The local CA: certificates for names that no public CA certifies.
//!
//! Called at start and at each renewal, on a thread that may block: it reads and writes files and
//! waits for other processes that do. It lives under `storage:` as
//!
//! ```text
//! local-ca/           0700
//!   ca.key            the CA's key, 0600; who has it can speak for every host to whoever trusts it
//!   ca.pem            the CA's certificate, the one to install (`wardgate trust`)
//!   leaf/<id>.pem     key and certificate of one set of names, 0600, in one file so that they
//!                     cannot come apart
//! ```
//!
//! Both renew themselves: a leaf when a third of its 60 days is left, the CA's certificate when a
//! third of its ten years is, with the same key, so leaves and trust stores need no change. A file
//! that is damaged or does not fit is moved aside and made again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::net::{Host, HostName, HostPattern};
use crate::tls::authority::Authority;
use crate::tls::certificate::{Certificate, Fingerprint, Leaf, Source, sha256};
use crate::tls::pem;
use crate::tls::private_dir::{Lock, PrivateDir};
use crate::tls::provider;

/// The CA of this gateway's `storage:`.
#[derive(Debug)]
pub struct LocalCa {
    dir: PrivateDir,
    leaves: PrivateDir,
    authority: ArcSwap<Authority>,
}

/// Why the local CA has no certificate to give.
#[derive(Debug, thiserror::Error)]
pub enum LocalCaError {
    /// A file or directory of it cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("the certificate could not be signed")]
    Sign(#[from] rcgen::Error),
    /// What was made cannot be served.
    #[error("the certificate that was made cannot be served")]
    Serve(#[source] rustls::Error),
}

impl LocalCa {
    /// The CA in `storage`, made if there is none, renewed if it is due.
    ///
    /// # Errors
    /// [`LocalCaError`] when `storage` cannot be written.
    pub fn open_or_create(storage: &Path, now: SystemTime) -> Result<Self, LocalCaError> {
        let path = storage.join("local-ca");
        let at = |source| LocalCaError::Io { path: path.clone(), source };
        let dir = PrivateDir::open(&path).map_err(at)?;
        let leaves = dir.inside("leaf").map_err(at)?;
        let lock = dir.lock().map_err(at)?;
        let authority = ArcSwap::from_pointee(load_or_make(&dir, &lock, now)?);
        Ok(Self { dir, leaves, authority })
    }

    /// A certificate for `names`: the one on disk while it is good, else a new one, saved first.
    ///
    /// `*` cannot stand in a certificate; where nothing else is asked for, `localhost` is.
    ///
    /// # Errors
    /// [`LocalCaError`] when it cannot be signed or saved.
    pub fn issue(
        &self,
        names: &[HostPattern],
        now: SystemTime,
    ) -> Result<Certificate, LocalCaError> {
        let names = certifiable(names);
        let file = format!("{}.pem", leaf_id(&names));
        let at = |source| LocalCaError::Io { path: self.leaves.path(&file), source };
        let lock = self.dir.lock().map_err(at)?;
        if let Some(found) = self.saved(&lock, &file, &names, now).map_err(at)? {
            return Ok(found);
        }
        let key = KeyPair::generate()?;
        let signed = self.authority.load().sign(&names, &key, now)?;
        let text = key.serialize_pem() + &signed.pem();
        self.leaves.write(&lock, &file, text.as_bytes()).map_err(at)?;
        let path = self.leaves.path(&file);
        serve(signed.der(), &key, Some(Source { chain: path.clone(), key: path }))
    }

    /// When [`renew`](Self::renew) has something to do.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.authority.load().about.renew_at()
    }

    /// Renews the CA's certificate if it is due at `now`; whether it was.
    ///
    /// # Errors
    /// [`LocalCaError`] when it cannot be signed or saved; the old one stays.
    pub fn renew(&self, now: SystemTime) -> Result<bool, LocalCaError> {
        if now < self.renew_at() {
            return Ok(false);
        }
        let at = |source| LocalCaError::Io { path: self.certificate_path(), source };
        let lock = self.dir.lock().map_err(at)?;
        self.authority.store(Arc::new(load_or_make(&self.dir, &lock, now)?));
        Ok(true)
    }

    /// The certificate to install where browsers shall trust this gateway.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.path(CERTIFICATE)
    }

    /// The CA certificate's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.authority.load().about.fingerprint
    }

    /// The CA certificate, as text to install.
    #[must_use]
    pub fn pem(&self) -> String {
        self.authority.load().pem.clone()
    }

    /// The name the CA has in trust stores: `Wardgate local CA 1a2b3c4d`.
    #[must_use]
    pub fn common_name(&self) -> String {
        let subject = &self.authority.load().about.subject;
        subject.strip_prefix("CN=").unwrap_or(subject).to_owned()
    }

    /// When the CA's certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.authority.load().about.not_after
    }

    /// A certificate in memory for one host, over a key the caller keeps.
    pub(super) fn sign_for(
        &self,
        host: &Host,
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<Certificate, LocalCaError> {
        let names = [HostPattern::Exact(host.clone())];
        let signed = self.authority.load().sign(&names, key, now)?;
        serve(signed.der(), key, None)
    }

    /// The leaf on disk, if it is ours, for these names, and not due.
    fn saved(
        &self,
        lock: &Lock,
        file: &str,
        names: &[HostPattern],
        now: SystemTime,
    ) -> io::Result<Option<Certificate>> {
        let Some(text) = self.leaves.read(file)? else { return Ok(None) };
        let path = self.leaves.path(file);
        let source = Source { chain: path.clone(), key: path };
        let certificate = match pem::from_text(&text, &text, source) {
            Ok(certificate) => certificate,
            Err(error) => {
                let moved = self.leaves.quarantine(lock, file)?;
                tracing::warn!(%error, moved_to = %moved.display(), "damaged local certificate replaced");
                return Ok(None);
            }
        };
        let leaf = &certificate.leaf;
        let same_names = leaf.names.len() == names.len() && certificate.uncovered(names).is_empty();
        let good = same_names
            && (leaf.not_before..leaf.renew_at()).contains(&now)
            && certificate.key.cert.first().is_some_and(|der| self.authority.load().signed(der));
        Ok(good.then_some(certificate))
    }
}

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.pem";

/// The CA on disk, made where there is none, mended where it is damaged, renewed where it is due.
///
/// The key is written before its certificate: a crash in between leaves a key that gets its
/// certificate next time.
fn load_or_make(dir: &PrivateDir, lock: &Lock, now: SystemTime) -> Result<Authority, LocalCaError> {
    let at = |file: &str| {
        let path = dir.path(file);
        move |source| LocalCaError::Io { path, source }
    };
    let key = match load_key(dir, lock).map_err(at(KEY))? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate()?;
            dir.write(lock, KEY, key.serialize_pem().as_bytes()).map_err(at(KEY))?;
            key
        }
    };
    let saved = dir.read(CERTIFICATE).map_err(at(CERTIFICATE))?;
    let key_pem = key.serialize_pem();
    match saved.map(|text| Authority::parse(key, &String::from_utf8_lossy(&text))) {
        Some(Ok(authority)) if now < authority.about.renew_at() => return Ok(authority),
        Some(Err(error)) => {
            let moved = dir.quarantine(lock, CERTIFICATE).map_err(at(CERTIFICATE))?;
            tracing::warn!(%error, moved_to = %moved.display(), "damaged local CA certificate replaced");
        }
        Some(Ok(_)) | None => {}
    }
    let authority = Authority::create(KeyPair::from_pem(&key_pem)?, now)?;
    dir.write(lock, CERTIFICATE, authority.pem.as_bytes()).map_err(at(CERTIFICATE))?;
    tracing::info!(fingerprint = %authority.about.fingerprint, "local CA certificate made");
    Ok(authority)
}

/// The key on disk, closed to others; one that is damaged is moved aside.
fn load_key(dir: &PrivateDir, lock: &Lock) -> io::Result<Option<KeyPair>> {
    let Some(text) = dir.read(KEY)? else { return Ok(None) };
    if dir.tighten(KEY)? {
        tracing::warn!(path = %dir.path(KEY).display(), "local CA key was readable by other users");
    }
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| KeyPair::from_pem(text).ok());
    if parsed.is_none() {
        let moved = dir.quarantine(lock, KEY)?;
        tracing::warn!(moved_to = %moved.display(), "damaged local CA key replaced: trust the new CA");
    }
    Ok(parsed)
}

/// `names` without `*` and doubles, sorted; `localhost` when nothing is left.
fn certifiable(names: &[HostPattern]) -> Vec<HostPattern> {
    let mut names: Vec<_> =
        names.iter().filter(|name| **name != HostPattern::Any).cloned().collect();
    names.sort_by_cached_key(ToString::to_string);
    names.dedup();
    if names.is_empty() {
        names.extend(
            HostName::parse("localhost").ok().map(|name| HostPattern::Exact(Host::Name(name))),
        );
    }
    names
}

/// A file name for a set of names: the first one, for people, and a hash of all. The hash also
/// keeps it apart from Windows' device names.
fn leaf_id(names: &[HostPattern]) -> String {
    let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
    let readable = texts.first().map_or("", String::as_str).chars().take(60);
    let safe = |letter: char| match letter {
        'a'..='z' | '0'..='9' | '-' | '.' => letter,
        _ => '_',
    };
    let hash = sha256(texts.join("\n").as_bytes());
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", readable.map(safe).collect::<String>().trim_start_matches('.'))
}

/// A certificate that rustls can serve.
fn serve(
    der: &CertificateDer<'static>,
    key: &KeyPair,
    source: Option<Source>,
) -> Result<Certificate, LocalCaError> {
    let leaf = Leaf::parse(der).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = CertifiedKey::from_der(vec![der.clone()], private, &provider::provider())
        .map_err(LocalCaError::Serve)?;
    Ok(Certificate { key: Arc::new(key), leaf, source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::tls::authority::LEAF_LIFE;
    use crate::tls::fixture::{DAY, Server, patterns, store, visit};
    use crate::tls::store::Entry;

    fn open(dir: &tempfile::TempDir) -> LocalCa {
        LocalCa::open_or_create(dir.path(), SystemTime::now()).unwrap()
    }

    #[tokio::test]
    async fn its_leaf_convinces_a_client_that_trusts_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let names = patterns(&["localhost", "*.internal.test", "127.0.0.1", "::1", "*"]);
        let leaf = ca.issue(&names, SystemTime::now()).unwrap();
        assert_eq!(leaf.uncovered(&names), []);
        let server = Server::start(store([Arc::new(Entry::new("x", names, leaf))])).await;
        let tls = crate::config::upstream::UpstreamTls {
            ca: Some(ca.certificate_path()),
            verify: true,
            server_name: None,
            client: None,
        };
        let roots = crate::tls::SystemRoots::load();
        let client =
            crate::tls::client_config::build(&tls, &[], &roots, SystemTime::now()).unwrap();
        for name in ["localhost", "a.internal.test", "127.0.0.1"] {
            visit(&client.config, server.address, name).await.unwrap();
        }
        assert!(visit(&client.config, server.address, "b.test").await.is_err());
    }

    #[cfg(unix)]
    #[test]
    fn openssl_accepts_the_chain_and_its_purposes() {
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let leaf = ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
        let output = std::process::Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "a.test",
                "-CAfile",
            ])
            .args([ca.certificate_path(), leaf.source.unwrap().chain])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn ca_and_leaf_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (open(&dir), open(&dir));
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert!(first.common_name().starts_with("Wardgate local CA "));
        let now = SystemTime::now();
        let issue = |ca: &LocalCa, names: &[&str]| {
            ca.issue(&patterns(names), now).unwrap().leaf.fingerprint
        };
        let leaf = issue(&first, &["a.test", "b.test"]);
        assert_eq!(issue(&second, &["b.test", "a.test", "a.test", "*"]), leaf, "same names");
        assert_ne!(issue(&second, &["a.test"]), leaf, "fewer names");
        assert_eq!(issue(&second, &["*"]), issue(&second, &["localhost"]), "a star alone");
    }

    #[test]
    fn a_leaf_is_made_anew_when_a_third_of_its_life_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let start = SystemTime::now();
        let issue = |at: SystemTime| ca.issue(&patterns(&["a.test"]), at).unwrap();
        let first = issue(start);
        let due = first.renew_at().duration_since(start).unwrap();
        assert!(due.abs_diff(LEAF_LIFE * 2 / 3) < Duration::from_secs(3600), "{due:?}");
        let early = issue(first.renew_at() - DAY);
        assert_eq!(early.leaf.fingerprint, first.leaf.fingerprint);
        let late = issue(first.renew_at() + DAY);
        assert!(late.leaf.not_after > first.leaf.not_after);
        assert_eq!(issue(late.leaf.not_before).leaf.fingerprint, late.leaf.fingerprint);
    }

    #[test]
    fn a_renewed_ca_keeps_its_key_so_old_trust_holds() {
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let leaf = ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
        let (old, name) = (ca.fingerprint(), ca.common_name());
        assert!(!ca.renew(ca.renew_at() - DAY).unwrap(), "not due");
        let later = ca.renew_at() + DAY;
        assert!(ca.renew(later).unwrap());
        assert_ne!(ca.fingerprint(), old);
        assert_eq!(ca.common_name(), name);
        assert!(ca.renew_at() > later && ca.not_after() > later);
        assert!(ca.authority.load().signed(&leaf.key.cert[0]), "leaves of before still fit");
        assert_eq!(open(&dir).fingerprint(), ca.fingerprint(), "saved");
    }

    #[test]
    fn damaged_files_are_moved_aside_and_made_again() {
        let stranger = tempfile::tempdir().unwrap();
        open(&stranger);
        let other = |file: &str| fs::read(stranger.path().join("local-ca").join(file)).unwrap();
        let leaf = |ca: &LocalCa| ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
        for (file, text, key_survives) in [
            ("ca.pem", b"garbage".to_vec(), true),
            ("ca.pem", vec![], true),
            ("ca.pem", other("ca.pem"), true),
            ("ca.key", b"\xff\xfe".to_vec(), false),
            ("ca.key", other("ca.key"), false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let ca = open(&dir);
            let (name, old) = (ca.common_name(), leaf(&ca));
            let path = dir.path().join("local-ca").join(file);
            fs::write(&path, &text).unwrap();
            let mended = open(&dir);
            assert_eq!(mended.common_name() == name, key_survives, "{file} {text:?}");
            let new = leaf(&mended);
            assert!(mended.authority.load().signed(&new.key.cert[0]));
            assert_eq!(new.leaf.fingerprint == old.leaf.fingerprint, key_survives);
            let aside = dir.path().join("local-ca").join("ca.pem.bad");
            assert!(aside.exists(), "{file} {text:?}");
            assert_eq!(open(&dir).fingerprint(), mended.fingerprint());
        }
    }

    #[test]
    fn a_damaged_leaf_is_moved_aside_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let issue = || ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
        let path = issue().source.unwrap().chain;
        let whole = fs::read(&path).unwrap();
        for length in [0, 10, whole.len() / 3, whole.len() * 2 / 3] {
            fs::write(&path, &whole[..length]).unwrap();
            let leaf = issue();
            assert_eq!(issue().leaf.fingerprint, leaf.leaf.fingerprint, "saved again");
        }
        assert!(path.with_extension("pem.bad3").exists());
    }

    #[test]
    fn many_at_once_agree_on_one_ca_and_one_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::thread::scope(|scope| {
            let race = || {
                let ca = open(&dir);
                let leaf = ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
                (ca.fingerprint().to_string(), leaf.leaf.fingerprint.to_string())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|pair| *pair == made[0]), "{made:?}");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_the_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let ca = open(&dir);
        let leaf = ca.issue(&patterns(&["a.test"]), SystemTime::now()).unwrap();
        let root = dir.path().join("local-ca");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let key = root.join("ca.key");
        for (path, wanted) in [
            (root.clone(), 0o700),
            (root.join("leaf"), 0o700),
            (key.clone(), 0o600),
            (leaf.source.unwrap().key, 0o600),
        ] {
            assert_eq!(mode(&path), wanted, "{path:?}");
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        open(&dir);
        assert_eq!(mode(&key), 0o600, "closed again");
    }

    #[test]
    fn file_names_are_safe_on_every_system() {
        for (names, wanted) in [
            (&["a.test"][..], "a.test-"),
            (&["*.a.test"], "_.a.test-"),
            (&["::1"], "___1_-"),
            (&["con"], "con-"),
        ] {
            let id = leaf_id(&patterns(names));
            assert!(id.starts_with(wanted) && id.len() == wanted.len() + 16, "{id}");
        }
    }
}
