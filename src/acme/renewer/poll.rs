//! One question to the authority: when does it wish the certificate to be renewed (RFC 9773)?

use std::sync::Arc;

use super::{Assignment, Managed, Source};
use crate::acme::event::Happening;
use crate::acme::renewal_info::RenewalInfo;
use crate::acme::schedule::{Ari, Life, Suggestion, Window};
use crate::acme::session::CallError;
use crate::acme::state::Record;
use crate::acme::storage::CertId;
use crate::acme::time::until;
use crate::config::acme_event::EventKind;

/// A question that is to be asked.
pub(super) struct Question {
    present: Arc<Assignment>,
    /// Whom the certificate came from.
    source: Option<Source>,
    id: CertId,
    record: Record,
    life: Option<Life>,
    renewal_id: Option<String>,
}

/// What is known after it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// `None` when there is nothing to ask about.
    pub(super) ari: Option<Ari>,
}

impl Asked {
    /// No answer came, for a fault of ours.
    pub(super) fn failed(ari: Option<Ari>, now: i64) -> Self {
        let ari = ari.map(|mut ari| {
            ari.failed(None, now);
            ari
        });
        Self { ari }
    }
}

impl Question {
    pub(super) fn new(present: &Arc<Assignment>, id: &CertId, managed: &Managed) -> Self {
        Self {
            present: Arc::clone(present),
            source: managed.issuer(present).cloned(),
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
            // It may learn to, or have been replaced for a while by something that cannot.
            Ok(None) => ari.silent(self.present.clock.now()),
            Ok(Some(info)) => self.hear(&mut ari, info, &life),
            Err(error) => {
                let retry_after = error.retry_after().map(until);
                ari.failed(retry_after, self.present.clock.now());
                let error: &dyn std::error::Error = &error;
                tracing::debug!(certificate = %self.id, error, "got no renewal information");
            }
        }
        self.record.ari = Some(ari.clone());
        self.keep().await;
        Asked { ari: Some(ari) }
    }

    async fn answer(&self, renewal_id: &str) -> Result<Option<RenewalInfo>, CallError> {
        let Some(source) = &self.source else { return Ok(None) };
        let authority = &source.authority;
        let Some(resource) = authority.fetch_directory().await?.renewal_info else {
            return Ok(None);
        };
        authority.renewal_info(&resource, renewal_id).await.map(Some)
    }

    fn hear(&self, ari: &mut Ari, info: RenewalInfo, life: &Life) {
        let suggestion = Suggestion {
            window: Window { start: info.start, end: info.end },
            explanation_url: info.explanation_url,
            retry_after: info.retry_after.map(until),
        };
        let before = ari.window;
        match ari.heard(suggestion, life, self.present.clock.now()) {
            Ok(true) => {
                let reason = ari.explanation_url.as_deref();
                // The first wish is none that has changed.
                let event = before.map(|_| EventKind::AriChanged.name());
                tracing::info!(event, certificate = %self.id, reason, "the authority says when to renew");
                if let (Some(_), Some(window)) = (before, ari.window) {
                    let window = (window.start, window.end);
                    let explanation_url = ari.explanation_url.clone();
                    let changed = Happening::AriChanged { window, explanation_url };
                    self.present.tell(&self.id, &self.record.target, changed);
                }
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::{Request, Response};

    use super::*;
    use crate::acme::event::{Events, Told};
    use crate::acme::http::{Sending, Transport};
    use crate::acme::session::Authority;
    use crate::acme::state::Target;
    use crate::acme::storage::Storage;
    use crate::acme::time::{Clock, DAY};
    use crate::config;
    use crate::telemetry::Metrics;

    /// An authority that always answers the same, whatever it is asked.
    struct Stubborn(&'static str);

    impl Transport for Stubborn {
        fn send(&self, _: Request<Bytes>) -> Sending {
            let answer = Bytes::from_static(self.0.as_bytes());
            Box::pin(async { Ok(Response::new(answer)) })
        }
    }

    struct Scene {
        present: Arc<Assignment>,
        told: Told,
        _directory: tempfile::TempDir,
    }

    fn scene(answer: &'static str) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).unwrap();
        let text = "sites: { a.example.com: { upstream: \"http://b\" } }\nacme: {}\n";
        let loaded = config::from_text("gateway.yaml", text, std::path::Path::new("")).unwrap();
        let acme = loaded.config.acme.unwrap();
        let settings = acme.authority.clone();
        let authority = Authority::new(settings.directory.as_str(), Arc::new(Stubborn(answer)));
        let sources = vec![Source { settings, authority, ca_digest: None }];
        let (events, told) = Events::new(Arc::new(Metrics::new([], SystemTime::UNIX_EPOCH)));
        let (clock, wanted) = (Clock::default(), Vec::new());
        let present = Assignment { acme, storage, sources, clock, wanted, events };
        Scene { present: Arc::new(present), told, _directory: directory }
    }

    impl Scene {
        fn question(&self, ari: Ari, life: &Life) -> Question {
            Question {
                present: Arc::clone(&self.present),
                source: self.present.sources.first().cloned(),
                id: CertId::new("a.example.com"),
                record: Record { ari: Some(ari), ..Record::new(Target::default(), 0) },
                life: Some(life.clone()),
                renewal_id: Some("a.b".into()),
            }
        }
    }

    #[tokio::test]
    async fn an_authority_without_renewal_information_is_asked_again_a_day_later() {
        let life = Life::new(0, 90 * DAY, b"1");
        let question = scene("{}").question(Ari::start(&life, 0), &life);
        let ari = question.ask().await.ari.unwrap();
        let now = Clock::default().now();
        assert!((now + DAY - 60..=now + DAY).contains(&ari.next_poll), "{ari:?}");
        assert_eq!((ari.window, ari.errors), (None, 0));
    }

    #[tokio::test]
    async fn a_wish_is_told_when_it_changes() {
        let mut scene = scene(
            r#"{ "renewalInfo": "https://ca.test/ri", "explanationURL": "https://ca.test/why",
                "suggestedWindow": { "start": "1970-01-02T00:00:00Z", "end": "1970-01-03T00:00:00Z" } }"#,
        );
        let life = Life::new(0, 90 * DAY, b"1");
        let first = scene.question(Ari::start(&life, 0), &life).ask().await.ari.unwrap();
        assert_eq!(first.window, Some(Window { start: DAY, end: 2 * DAY }));
        scene.question(first.clone(), &life).ask().await;
        assert!(scene.told.try_recv().is_err(), "the first is no change, nor is the same again");
        let other = Ari { window: Some(Window { start: 5, end: 6 }), ..first };
        scene.question(other, &life).ask().await;
        let event = scene.told.try_recv().unwrap().payload("1", "gw");
        assert_eq!(event["event"], "ari.changed");
        assert_eq!(event["explanation_url"], "https://ca.test/why");
        assert_eq!(event["window_start"], "1970-01-02T00:00:00Z");
    }
}
