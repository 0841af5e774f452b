//! What responders have said, below `storage:`, so that a start without them staples at once.
//!
//! `ocsp/<SHA-256 of the certificate>.der`, the response as it came, and `….issuer` with the issuer's
//! certificate where the chain lacks it. Both are verified again whenever they are read. Several gateways may share the directory; each keeps what it has asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::tls::Fingerprint;
use crate::tls::ocsp::{Staple, Subject, ends_at};
use crate::tls::private_dir::PrivateDir;

/// The directory below `storage:`.
const NAME: &str = "ocsp";

/// The responses below one `storage:`. Blocks on files.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    storage: PathBuf,
    /// Held by whoever writes: the directory's lock is for other processes.
    writing: Arc<Mutex<()>>,
}

impl Shelf {
    pub(super) fn new(storage: &Path) -> Self {
        Self { storage: storage.to_owned(), writing: Arc::default() }
    }

    /// Turns to another directory, if it is another.
    pub(super) fn turn_to(&mut self, storage: &Path) {
        if self.storage != storage {
            *self = Self::new(storage);
        }
    }

    /// What was said about `subject`, if it still counts. What cannot be read is asked for again.
    pub(super) fn find(&self, subject: &Subject, now: SystemTime) -> Option<Staple> {
        let directory = self.existing().ok()??;
        let name = file_name(subject.fingerprint());
        if subject.needs_issuer() {
            subject.take_issuer(&directory.read_own(&issuer_of(&name)).ok()??).ok()?;
        }
        let der = directory.read_own(&name).ok()??;
        subject.verify(&der, now).ok()
    }

    /// Keeps what was said about `subject`.
    pub(super) fn keep(&self, subject: &Subject, staple: &Staple) -> io::Result<()> {
        let directory = PrivateDir::open_own(&self.storage, NAME)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = directory.lock()?;
        let name = file_name(subject.fingerprint());
        if let Some(issuer) = subject.found_issuer() {
            directory.write(&lock, &issuer_of(&name), issuer)?;
        }
        directory.write(&lock, &name, &staple.der)
    }

    /// Removes what is about `gone`, and all that has ended: whoever shares the directory has something
    /// newer about what he serves.
    pub(super) fn sweep(&self, gone: &[Fingerprint], now: SystemTime) -> io::Result<()> {
        let Some(directory) = self.existing()? else { return Ok(()) };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = directory.lock()?;
        directory.sweep(&lock)?;
        let remove =
            |name: &str| directory.remove(name).and_then(|()| directory.remove(&issuer_of(name)));
        for fingerprint in gone {
            remove(&file_name(*fingerprint))?;
        }
        for name in directory.names()?.iter().filter(|name| is_ours(name)) {
            let der = directory.read_own(name)?.unwrap_or_default();
            if ends_at(&der).is_none_or(|end| end <= now) {
                remove(name)?;
            }
        }
        Ok(())
    }

    /// `None` where nothing was ever kept.
    fn existing(&self) -> io::Result<Option<PrivateDir>> {
        match std::fs::symlink_metadata(self.storage.join(NAME)) {
            Ok(_) => PrivateDir::open_own(&self.storage, NAME).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn file_name(fingerprint: Fingerprint) -> String {
    format!("{}.der", fingerprint.to_string().replace(':', "").to_ascii_lowercase())
}

/// The file beside the response `name` that holds the issuer's certificate.
fn issuer_of(name: &str) -> String {
    format!("{}.issuer", name.trim_end_matches(".der"))
}

fn is_ours(name: &str) -> bool {
    name.strip_suffix(".der")
        .is_some_and(|stem| stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
