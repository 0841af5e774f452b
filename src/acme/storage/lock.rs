//! Who may write what: one process at a time per certificate and per account.
//!
//! The locks are the kernel's (`flock`, `LockFileEx`), so a process that dies, however, holds none.
//! Whoever gets one reads the disk again before doing anything: somebody else may just have done it.

use super::{AuthorityId, CertId, Storage, StoreError};
use crate::tls::private_dir::{Lock, PrivateDir};

/// The right to write one certificate's files, until dropped.
#[derive(Debug)]
pub struct CertLock {
    id: CertId,
    pub(super) lock: Lock,
}

/// The right to write one authority's account, until dropped.
#[derive(Debug)]
pub struct AccountLock {
    authority: AuthorityId,
    pub(super) lock: Lock,
}

impl CertLock {
    /// The certificate it is for.
    #[must_use]
    pub fn id(&self) -> &CertId {
        &self.id
    }
}

impl AccountLock {
    /// The authority it is for.
    #[must_use]
    pub fn authority(&self) -> &AuthorityId {
        &self.authority
    }
}

impl Storage {
    /// The certificate's lock; `None` while another process or task has it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the lock's file cannot be used.
    pub fn lock(&self, id: &CertId) -> Result<Option<CertLock>, StoreError> {
        let lock = take(&self.locks, &format!("{id}.lock"))?;
        Ok(lock.map(|lock| CertLock { id: id.clone(), lock }))
    }

    /// The account's lock; `None` while another process or task has it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the lock's file cannot be used.
    pub fn lock_account(&self, authority: &AuthorityId) -> Result<Option<AccountLock>, StoreError> {
        let lock = take(&self.locks, &format!("account-{authority}.lock"))?;
        Ok(lock.map(|lock| AccountLock { authority: authority.clone(), lock }))
    }
}

fn take(dir: &PrivateDir, name: &str) -> Result<Option<Lock>, StoreError> {
    dir.try_lock(name).map_err(|source| StoreError::Io { path: dir.path(name), source })
}
