//! The certificate manager's files, and the only module of it that touches any.
//!
//! Answers "what is kept, and how does it survive a crash, a full disk and a second process?".
//! Called on threads that may block. All lies under `storage:`, directories 0700 and files 0600:
//!
//! ```text
//! accounts/<authority>/account.json, account.json.prev
//! orders/<id>.json                     the order under way
//! live/<id>/current                    which generation is in service: "000007"
//! live/<id>/000007/                    key.pem, chain.pem, meta.json; the last three are kept
//! live/<id>/state.json                 what is known of the certificate beside its files
//! imported/<id>/                       the same, for certificates that an operator brought
//! challenges/<hash>.json               what authorities may ask for, for every instance to answer
//! locks/<id>.lock, account-<authority>.lock
//! quarantine/                          what could not be read, moved aside
//! ```
//!
//! A generation is written whole before `current` names it, so a crash at any moment leaves the old
//! pair or the new one. What a crash left over is found by [`Storage::recover`] at the next start.
//! Whoever writes holds the certificate's or the account's lock, which the kernel frees when a
//! process dies. Above all this there may be a [`Fleet`], whose instances have a tree each: whoever has
//! a lock has it there as well, what others have kept is taken over into the tree, and what is kept
//! here is handed to them. Without it, or while it cannot be reached, the tree is all there is. Links are not followed below `storage:`; it may be one itself.

mod discard;
mod files;
mod generation;
mod id;
mod inspect;
mod lock;
mod room;
mod shared;
#[cfg(test)]
mod trials;

pub use generation::{Fault, Found, Generation, GenerationError, Meta, Pair, Place, Secret};
pub use id::{AuthorityId, CertId};
pub use inspect::Kept;
pub use lock::{AccountLock, CertLock};
pub use room::PAIR_BYTES;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::shared::Known;
use super::fleet::{Fleet, LinkError};
use crate::net::HostPattern;
use crate::tls::pem::LoadError;
use crate::tls::private_dir::PrivateDir;

/// The files under one `storage:`.
#[derive(Clone, Debug)]
pub struct Storage {
    accounts: PrivateDir,
    orders: PrivateDir,
    live: PrivateDir,
    imported: PrivateDir,
    challenges: PrivateDir,
    locks: PrivateDir,
    quarantine: PrivateDir,
    /// What is shared above these files, and with whom.
    fleet: Option<Arc<Fleet>>,
    known: Arc<Known>,
}

/// Why something could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be kept cannot be written as JSON.
    #[error("cannot write {} as JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The pair that is to be saved cannot be served.
    #[error("what is to be saved cannot be served")]
    Pair(#[from] LoadError),
    /// The certificate that is to be saved is not for the names that were ordered.
    #[error("the certificate that is to be saved is not valid for {}", missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Names {
        /// Those that it lacks.
        missing: Vec<HostPattern>,
    },
    /// There is no such generation, or it is damaged.
    #[error("there is no good generation {number} of {id}")]
    NoGeneration {
        /// The certificate.
        id: CertId,
        /// The generation.
        number: u32,
    },
    /// It is kept here, and the other instances of the fleet cannot know.
    #[error("the fleet's Redis could not be told")]
    Fleet(#[source] LinkError),
}

impl StoreError {
    /// Whether there is no room: the pair is to be served from memory, and saving tried again.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}

impl Storage {
    /// Opens the directories under `root`, making what is missing. A `root` that exists keeps its
    /// access rights, for an operator may keep other files there; everything below is private.
    ///
    /// # Errors
    /// [`StoreError::Io`] names what cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        if !root.is_dir() {
            PrivateDir::open(root).map_err(at(root))?;
        }
        let within = |name: &str| -> Result<PrivateDir, StoreError> {
            PrivateDir::open_own(root, name).map_err(at(&root.join(name)))
        };
        Ok(Self {
            accounts: within("accounts")?,
            orders: within("orders")?,
            live: within("live")?,
            imported: within("imported")?,
            challenges: within("challenges")?,
            locks: within("locks")?,
            quarantine: within("quarantine")?,
            fleet: None,
            known: Arc::default(),
        })
    }
}
