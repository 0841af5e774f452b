//! Handles by identity: the same for all who ask, as long as somebody holds one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Handles by identity. Asked when a generation is built and when the metrics are read, never for a
/// request.
#[derive(Debug)]
pub(super) struct Registry<K, V>(Mutex<BTreeMap<K, Weak<V>>>);

impl<K: Clone + Ord, V: Default> Registry<K, V> {
    /// The handle of `key`, which goes on counting if there is one already.
    pub(super) fn handle(&self, key: K) -> Arc<V> {
        let mut known = self.lock();
        if let Some(handle) = known.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::default();
        known.insert(key, Arc::downgrade(&handle));
        handle
    }

    /// The handles that somebody holds, in the order of their keys. The others are forgotten.
    pub(super) fn living(&self) -> Vec<(K, Arc<V>)> {
        let mut living = Vec::new();
        self.lock().retain(|key, handle| match handle.upgrade() {
            Some(handle) => {
                living.push((key.clone(), handle));
                true
            }
            None => false,
        });
        living
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<V>>> {
        // A map is whole between its operations, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
