//! Revoking a certificate that is kept.

use std::sync::Arc;

use super::super::Source;
use super::super::job::{Done, JobError, blocking};
use super::deed::{Job, newer};
use crate::acme::revocation::Reason;
use crate::acme::schedule::Life;
use crate::acme::session::{CallError, Session};
use crate::acme::storage::{CertId, CertLock, Kept, Pair, Place, Storage, StoreError};
use crate::tls::Certificate;

/// A certificate that is to be revoked.
struct Wanted {
    certificate: Certificate,
    pair: Pair,
}

impl Job {
    /// Revokes the certificate with `tag`, or the one in service, and writes that down.
    pub(super) async fn revoke(
        &self,
        lock: Arc<CertLock>,
        reason: Reason,
        tag: Option<String>,
    ) -> Result<Done, JobError> {
        let (storage, id) = (self.present.storage.clone(), self.id.clone());
        let wanted = blocking(move || wanted(&storage, &id, tag.as_deref())).await??;
        let Some(wanted) = wanted else { return Err(JobError::NothingToRevoke) };
        let meta = &wanted.pair.meta;
        let directory = meta.issued_by.as_deref().unwrap_or(&meta.target.directory);
        let Some(source) = self.present.source(directory) else {
            return Err(JobError::Elsewhere(directory.to_owned()));
        };
        self.ask(source, &wanted, reason).await?;
        tracing::warn!(certificate = %self.id, reason = reason.as_str(), "revoked a certificate");
        let (storage, known, now) =
            (self.present.storage.clone(), self.known.clone(), self.present.clock.now());
        let tag = Life::of(&wanted.certificate.leaf).tag().to_owned();
        let written = blocking(move || {
            let mut record = newer(&storage, &lock, known, now)?;
            record.revoked(&tag, now);
            storage.keep_record(&lock, &record).map(|()| record)
        });
        Ok(Done { record: Some(written.await??), ..Done::default() })
    }

    /// By the account, and where that is refused by the certificate's own key. The other way round
    /// when somebody else has the key: whoever signs with it proves that, and the authority bars it.
    async fn ask(&self, source: &Source, wanted: &Wanted, reason: Reason) -> Result<(), JobError> {
        let key = &wanted.pair.key_pem.0;
        let by_key = || source.authority.revoke_with_key(&wanted.certificate, key, reason);
        let by_account = async || -> Result<Option<CallError>, JobError> {
            let kept = self.present.kept(source).await?;
            let Some(kept) = kept.filter(|kept| kept.deactivated_at.is_none()) else {
                return Ok(Some(CallError::Garbled("there is no account".into())));
            };
            let session = Session::open(&source.authority, &kept.credentials).await?;
            Ok(session.revoke(&wanted.certificate, reason).await.err())
        };
        let refused = if reason.is_key_compromise() {
            match by_key().await {
                Err(CallError::Refused(_) | CallError::Garbled(_)) => by_account().await?,
                other => other.err(),
            }
        } else {
            match by_account().await? {
                Some(CallError::Refused(_) | CallError::Garbled(_)) => by_key().await.err(),
                other => other,
            }
        };
        refused.map_or(Ok(()), |error| Err(JobError::Revoke(error)))
    }
}

/// The generation whose certificate has `tag`, or the one in service.
fn wanted(storage: &Storage, id: &CertId, tag: Option<&str>) -> Result<Option<Wanted>, StoreError> {
    let kept = storage.kept(Place::Live, id)?;
    let is_wanted = |kept: &&Kept| match (&kept.generation, tag) {
        (Ok(found), Some(tag)) => Life::of(&found.certificate.leaf).tag() == tag,
        (Ok(_), None) => kept.is_current,
        (Err(_), _) => false,
    };
    let Some(found) = kept.iter().find(is_wanted) else { return Ok(None) };
    let Ok(generation) = &found.generation else { return Ok(None) };
    let pair = storage.pair(Place::Live, id, found.number)?;
    Ok(Some(Wanted { certificate: generation.certificate.clone(), pair }))
}
