//! Certificates that are known to be revoked, told by whoever learns of it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::acme::schedule::Life;
use crate::tls::certificate::Leaf;

/// Certificates that are known to be revoked. Those of authorities are replaced at once.
#[derive(Debug, Default)]
pub struct Revocations {
    /// By [`Life::tag`].
    tags: Mutex<HashSet<String>>,
    told: Notify,
}

impl Revocations {
    /// Says that the certificate with this `leaf` is revoked, whoever has issued it.
    pub fn tell(&self, leaf: &Leaf) {
        let tag = Life::of(leaf).tag().to_owned();
        if self.tags.lock().unwrap_or_else(PoisonError::into_inner).insert(tag) {
            self.told.notify_one();
        }
    }

    /// Whether the certificate with this life is revoked.
    pub(super) fn has(&self, life: &Life) -> bool {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).contains(life.tag())
    }

    /// Waits until one is told of. For one task only.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}
