//! Taking a certificate out of the storage, for good.

use std::path::{Path, PathBuf};

use super::files::{at, existing};
use super::generation::CURRENT;
use super::{CertId, CertLock, Place, Storage, StoreError};

impl Place {
    /// The directory's name.
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Imported => "imported",
        }
    }

    /// The file under the storage `root` that names the generation in service: it changes whenever
    /// another is.
    #[must_use]
    pub fn marker(self, root: &Path, id: &CertId) -> PathBuf {
        root.join(self.as_str()).join(id.as_str()).join(CURRENT)
    }
}

impl Storage {
    /// Removes all that is kept of a certificate in `place`; whether there was something. It is moved
    /// aside first, for what a crash leaves half removed must not be served.
    ///
    /// # Errors
    /// [`StoreError::Io`] when something cannot be moved or removed.
    pub fn discard(&self, place: Place, lock: &CertLock) -> Result<bool, StoreError> {
        let (tree, id) = (self.place(place), lock.id().as_str());
        if existing(tree, id)?.is_none() {
            return Ok(false);
        }
        let moved = tree.move_to(id, &self.quarantine, &format!("discarded-{id}"));
        let moved = moved.map_err(at(tree, id))?;
        tree.sync().map_err(at(tree, id))?;
        let path = moved.clone();
        std::fs::remove_dir_all(&moved).map_err(|source| StoreError::Io { path, source })?;
        Ok(true)
    }
}
