//! What is written down and told when there is no certificate.

use std::error::Error;
use std::sync::Arc;

use super::{Done, Job, JobError, LONGEST_LIMIT, blocking};
use crate::acme::event::Happening;
use crate::acme::problem::{Kind, Problem};
use crate::acme::schedule::Life;
use crate::acme::state::{Attempt, LastProblem, Record};
use crate::acme::storage::{CertLock, Place};
use crate::acme::time::{HOUR, MINUTE};
use crate::config::acme_event::EventKind;
use crate::telemetry::metrics::StoreOp;

impl Job {
    /// What is known when this panics, which the log has told: a failure like others.
    pub(in crate::acme::renewer) fn after_panic(&self) -> impl FnOnce() -> Done + Send + use<> {
        let (mut record, now) = (self.known.clone(), self.present.clock.clone());
        let (id, source) = (self.id.clone(), self.source.settings.directory.clone());
        let directories: Vec<String> =
            self.present.directories().into_iter().map(str::to_owned).collect();
        move || {
            let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
            let (directory, directories) = (source.as_str(), directories.as_slice());
            let attempt =
                Attempt { id: id.as_str(), directory, directories, left: None, retry_after: None };
            let detail = "a fault of the gateway: its log has it".to_owned();
            let at = now.now();
            let problem = LastProblem { at, kind: "panic".into(), detail, names: Vec::new() };
            record.failed(attempt, problem, at);
            Done { record: Some(record), ..Done::default() }
        }
    }

    /// Notes why there is no certificate, and when to try again.
    pub(super) async fn failed(&self, lock: Option<&Arc<CertLock>>, error: &JobError) -> Done {
        let mut record = self.record().await;
        let storage = self.present.storage.clone();
        let id = self.id.clone();
        let life = blocking(move || storage.load(Place::Live, &id)).await.ok().and_then(Result::ok);
        let life = life.and_then(|found| found.generation).map(|it| Life::of(&it.certificate.leaf));
        self.note(&mut record, error, life.map(|life| life.left(self.now())));
        if let Some(lock) = lock {
            self.keep(lock, &record).await;
        }
        Done { record: Some(record), ..Done::default() }
    }

    /// `left` is what is left of the certificate in service, in seconds.
    fn note(&self, record: &mut Record, error: &JobError, left: Option<i64>) {
        let (problem, retry_after) = (error.last_problem(), error.retry_after());
        let told: &dyn Error = error;
        let (certificate, now, why) = (&self.id, self.now(), self.why);
        let directory = self.source.settings.directory.as_str();
        let directories = self.present.directories();
        let attempt = self.attempt(&directories, left, retry_after);
        let (detail, bad_names) = (problem.detail.clone(), problem.names.clone());
        if matches!(error, JobError::Store(_)) {
            self.present.events.metrics().certificates.store_failed(StoreOp::Order);
        }
        let happening = if let JobError::Store(_) = error {
            // No fault of the authority's, which is not asked for it again.
            let retry_at = record.stalled(problem, MINUTE, now);
            let (event, seconds) = (EventKind::Failed.name(), retry_at - now);
            tracing::error!(event, %certificate, error = told, seconds, "could not keep what an order needs");
            let fails = record.fails;
            Happening::Failed { why, attempt: fails, retry_at, problem: detail, bad_names }
        } else if error.is_permanent() {
            let link = error.problem().and_then(Problem::link).map(str::to_owned);
            let event = EventKind::Blocked.name();
            let retry_at = record.blocked(attempt, problem, link.clone(), now);
            if let Some(until) = retry_at {
                let seconds = until - now;
                tracing::error!(event, %certificate, directory, error = told, seconds, "cannot obtain a certificate here until something is changed, asks the next authority");
            } else {
                tracing::error!(event, %certificate, error = told, "cannot obtain a certificate until something is changed");
            }
            Happening::Blocked { why, retry_at, problem: detail, link }
        } else if error.problem().is_some_and(|problem| problem.kind == Kind::RateLimited) {
            let until = now + retry_after.unwrap_or(HOUR).clamp(MINUTE, LONGEST_LIMIT);
            let scope = error.limited_scope(&self.target);
            let word = scope.as_str();
            self.present.events.limited(directory, word, until);
            let elsewhere = record.limited(attempt, scope, until, problem, now);
            let retry_at = elsewhere.unwrap_or(until);
            let (event, seconds) = (EventKind::Limited.name(), retry_at - now);
            tracing::warn!(event, %certificate, directory, error = told, seconds, "met a rate limit of the authority");
            Happening::Limited { why, scope: word, until, retry_at, problem: detail }
        } else {
            let retry_at = record.failed(attempt, problem, now);
            let (event, seconds) = (EventKind::Failed.name(), retry_at - now);
            let hint = error.hint();
            tracing::warn!(event, %certificate, directory, error = told, hint, seconds, "could not obtain a certificate");
            let fails = record.fails;
            Happening::Failed { why, attempt: fails, retry_at, problem: detail, bad_names }
        };
        self.tell(happening);
    }

    pub(super) fn attempt<'a>(
        &'a self,
        directories: &'a [&'a str],
        left: Option<i64>,
        retry_after: Option<i64>,
    ) -> Attempt<'a> {
        let directory = &self.source.settings.directory;
        Attempt { id: self.id.as_str(), directory, directories, left, retry_after }
    }
}
