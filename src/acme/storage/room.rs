//! Whether there is room for a certificate, asked before one is ordered: an authority counts what
//! it issues, whether or not it can be kept.

use super::files::existing;
use super::{CertLock, Storage, StoreError};

/// What a pair takes: key, chain, `meta.json` and `current`, in blocks of 4 KiB.
pub const PAIR_BYTES: usize = 4 * 4096;

impl Storage {
    /// Whether a pair can be saved: writes twice [`PAIR_BYTES`], syncs and removes them.
    ///
    /// # Errors
    /// [`StoreError::is_full`] when there is no room; another [`StoreError::Io`] when nothing can be
    /// written at all.
    pub fn has_room(&self, lock: &CertLock) -> Result<(), StoreError> {
        let name = format!(".{}.room.tmp", lock.id());
        let at = |source| StoreError::Io { path: self.orders.path(&name), source };
        self.orders.remove(&name).map_err(at)?;
        // No zeros: file systems that compress would take any number of them.
        let mut random = fastrand::Rng::new();
        let filling: Vec<u8> =
            std::iter::repeat_with(|| random.u8(..)).take(2 * PAIR_BYTES).collect();
        let written = self.orders.create(&name, &filling, &mut |_| Ok(()));
        let removed = self.orders.remove(&name);
        written.and(removed).map_err(at)?;
        // The certificate's own directory may be closed where that of the orders is open.
        let Some(dir) = existing(&self.live, lock.id().as_str())? else { return Ok(()) };
        let at = |source| StoreError::Io { path: dir.path(&name), source };
        dir.remove(&name).map_err(at)?;
        let written = dir.create(&name, b"room", &mut |_| Ok(()));
        let removed = dir.remove(&name);
        written.and(removed).map_err(at)
    }
}
