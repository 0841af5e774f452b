//! One question to the authority: when does it wish the certificate to be renewed (RFC 9773)?

use std::sync::Arc;

use super::{Assignment, Managed, now};
use crate::acme::renewal_info::RenewalInfo;
use crate::acme::schedule::{Ari, Life, Suggestion, Window};
use crate::acme::session::CallError;
use crate::acme::state::Record;
use crate::acme::storage::CertId;
use crate::acme::time::unix;

/// A question that is to be asked.
pub(super) struct Question {
    present: Arc<Assignment>,
    id: CertId,
    record: Record,
    life: Option<Life>,
    renewal_id: Option<String>,
}

/// What is known after it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// `None` when the authority answers no such questions.
    pub(super) ari: Option<Ari>,
}

impl Asked {
    /// No answer came, for a fault of ours.
    pub(super) fn failed(ari: Option<Ari>) -> Self {
        let ari = ari.map(|mut ari| {
            ari.failed(None, now());
            ari
        });
        Self { ari }
    }
}

impl Question {
    pub(super) fn new(present: &Arc<Assignment>, id: &CertId, managed: &Managed) -> Self {
        Self {
            present: Arc::clone(present),
            id: id.clone(),
            record: managed.record.clone(),
            life: managed.life.clone(),
            renewal_id: managed.renewal_id.clone(),
        }
    }

    pub(super) async fn ask(mut self) -> Asked {
        let (Some(mut ari), Some(life), Some(renewal_id)) =
            (self.record.ari.take(), self.life.take(), self.renewal_id.take())
        else {
            return Asked { ari: None };
        };
        match self.answer(&renewal_id).await {
            Ok(None) => return Asked { ari: None },
            Ok(Some(info)) => self.hear(&mut ari, info, &life),
            Err(error) => {
                let retry_after = error.retry_after().map(|at| unix(at) - now());
                ari.failed(retry_after, now());
                let error: &dyn std::error::Error = &error;
                tracing::debug!(certificate = %self.id, error, "got no renewal information");
            }
        }
        self.record.ari = Some(ari.clone());
        self.keep().await;
        Asked { ari: Some(ari) }
    }

    async fn answer(&self, renewal_id: &str) -> Result<Option<RenewalInfo>, CallError> {
        let authority = &self.present.authority;
        let Some(resource) = authority.fetch_directory().await?.renewal_info else {
            return Ok(None);
        };
        authority.renewal_info(&resource, renewal_id).await.map(Some)
    }

    fn hear(&self, ari: &mut Ari, info: RenewalInfo, life: &Life) {
        let suggestion = Suggestion {
            window: Window { start: info.start, end: info.end },
            explanation_url: info.explanation_url,
            retry_after: info.retry_after.map(|at| unix(at) - now()),
        };
        match ari.heard(suggestion, life, now()) {
            Ok(true) => {
                let reason = ari.explanation_url.as_deref();
                tracing::info!(certificate = %self.id, reason, "the authority says when to renew");
            }
            Ok(false) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(certificate = %self.id, error, "got no use of renewal information");
            }
        }
    }

    /// Writes down what was heard, unless somebody is at the certificate.
    async fn keep(self) {
        let keep = move || {
            let storage = &self.present.storage;
            let Some(lock) = storage.lock(&self.id)? else { return Ok(()) };
            // Whoever has renewed it in the meantime knows better.
            match storage.record(&self.id)? {
                Some(mut kept) if kept.certificate == self.record.certificate => {
                    kept.ari = self.record.ari;
                    storage.keep_record(&lock, &kept)
                }
                Some(_) => Ok(()),
                None => storage.keep_record(&lock, &self.record),
            }
        };
        // It is asked again after the next start.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(keep).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "could not keep renewal information");
        }
    }
}
