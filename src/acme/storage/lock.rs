//! Who may write what: one process at a time per certificate and per account.
//!
//! The locks are the kernel's (`flock`, `LockFileEx`), so a process that dies, however, holds none.
//! Whoever gets one reads the disk again before doing anything: somebody else may just have done it.

use super::super::fleet::Lease;
use super::{AuthorityId, CertId, Storage, StoreError};
use crate::tls::private_dir::{Lock, PrivateDir};

/// The right to write one certificate's files, until dropped.
#[derive(Debug)]
pub struct CertLock {
    id: CertId,
    pub(super) lock: Lock,
    /// Among the instances of a fleet; `None` also while its Redis cannot be reached.
    lease: Option<Lease>,
}

/// The right to write one authority's account, until dropped.
#[derive(Debug)]
pub struct AccountLock {
    authority: AuthorityId,
    pub(super) lock: Lock,
    _lease: Option<Lease>,
}

impl CertLock {
    /// The certificate it is for.
    #[must_use]
    pub fn id(&self) -> &CertId {
        &self.id
    }

    /// Whether other instances of the fleet may be at the same certificate, since nobody could ask
    /// them. False where there is no fleet.
    #[must_use]
    pub fn is_alone(&self, storage: &Storage) -> bool {
        storage.fleet.is_some() && self.lease.is_none()
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
    /// The certificate's lock; `None` while another process or task, or another instance of the
    /// fleet, has it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the lock's file cannot be used.
    pub fn lock(&self, id: &CertId) -> Result<Option<CertLock>, StoreError> {
        let Some(lock) = self.lock_here(id)? else { return Ok(None) };
        let Some(lease) = self.lease(id.as_str()) else { return Ok(None) };
        Ok(Some(CertLock { lease, ..lock }))
    }

    /// As [`lock`](Self::lock) among the processes of this machine alone.
    pub(super) fn lock_here(&self, id: &CertId) -> Result<Option<CertLock>, StoreError> {
        let lock = take(&self.locks, &format!("{id}.lock"))?;
        Ok(lock.map(|lock| CertLock { id: id.clone(), lock, lease: None }))
    }

    /// The account's lock; `None` while another process or task, or another instance of the fleet,
    /// has it. What such an instance has kept has been taken over.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the lock's file cannot be used.
    pub fn lock_account(&self, authority: &AuthorityId) -> Result<Option<AccountLock>, StoreError> {
        let Some(lock) = self.lock_account_here(authority)? else { return Ok(None) };
        let Some(lease) = self.lease(&format!("account-{authority}")) else { return Ok(None) };
        let lock = AccountLock { _lease: lease, ..lock };
        self.catch_up_account(&lock)?;
        Ok(Some(lock))
    }

    pub(super) fn lock_account_here(
        &self,
        authority: &AuthorityId,
    ) -> Result<Option<AccountLock>, StoreError> {
        let lock = take(&self.locks, &format!("account-{authority}.lock"))?;
        Ok(lock.map(|lock| AccountLock { authority: authority.clone(), lock, _lease: None }))
    }

    /// The fleet's leave to be at something, `None` while another instance has it. There is nobody to
    /// ask without a fleet, or while its Redis cannot be reached.
    #[expect(clippy::option_option, reason = "held elsewhere, nobody to ask, held")]
    fn lease(&self, what: &str) -> Option<Option<Lease>> {
        match self.fleet.as_ref().map(|fleet| fleet.lease(what)) {
            Some(Ok(Some(lease))) => Some(Some(lease)),
            Some(Ok(None)) => None,
            Some(Err(_)) | None => Some(None),
        }
    }
}

fn take(dir: &PrivateDir, name: &str) -> Result<Option<Lock>, StoreError> {
    dir.try_lock(name).map_err(|source| StoreError::Io { path: dir.path(name), source })
}
