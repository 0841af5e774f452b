//! What becomes of certificates, for whoever wants to know: the log, the metrics and the hooks.
//!
//! Answers "who is told?". Whoever makes something happen writes the log line, with the event's name
//! as its field `event`, and [tells](Events::tell) the rest. Never holds a secret.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use super::schedule::Why;
use super::time::unix;
use crate::config::acme_event::EventKind;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::StoreOp;
use crate::tls::certificate::sha256;
use crate::tls::{Ending, Leaf};

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    at: i64,
    certificate: Option<String>,
    names: Vec<String>,
    authority: Option<String>,
    /// Of the certificate that it is about.
    fingerprint: Option<String>,
    happening: Happening,
}

/// What happened. Moments are in seconds since 1970.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A first certificate came.
    Obtained {
        /// Why it was ordered.
        why: Why,
        /// Its end.
        not_after: i64,
    },
    /// Another took the place of one.
    Renewed {
        /// Why it was ordered.
        why: Why,
        /// Its end.
        not_after: i64,
    },
    /// A try yielded none.
    Failed {
        /// Why it was made.
        why: Why,
        /// How many failed in a row.
        attempt: u32,
        /// The next one.
        retry_at: i64,
        /// What went wrong.
        problem: String,
        /// The names that are to blame, as far as is known.
        bad_names: Vec<String>,
    },
    /// A certificate nears its end, or has reached it.
    Ending {
        /// How near.
        ending: Ending,
        /// Its end.
        not_after: i64,
    },
    /// A certificate was revoked.
    Revoked,
    /// Somebody else brought another certificate.
    Imported {
        /// Its end.
        not_after: i64,
    },
    /// The authority wishes a certificate to be renewed at another time than it did before.
    AriChanged {
        /// The window that it names.
        window: (i64, i64),
        /// Where it says why.
        explanation_url: Option<String>,
    },
    /// A rate limit was met.
    Limited {
        /// Why an order was made.
        why: Why,
        /// What the limit concerns, in one word.
        scope: &'static str,
        /// Its end.
        until: i64,
        /// The next try; sooner where there is another authority.
        retry_at: i64,
        /// What the authority says.
        problem: String,
    },
    /// Somebody has to change something.
    Blocked {
        /// Why an order was made.
        why: Why,
        /// When another authority is asked; `None` where there is none.
        retry_at: Option<i64>,
        /// What the authority says.
        problem: String,
        /// Where to go.
        link: Option<String>,
    },
    /// The authority had lost the account, and it was made again.
    AccountRecreated,
    /// Something could not be kept.
    StoreError {
        /// What.
        op: StoreOp,
        /// What the system says.
        problem: String,
    },
    /// What was kept is damaged, and the one before is served, if there is one.
    StoreFellBack {
        /// What is wrong.
        problem: String,
    },
}

/// Tells of events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    metrics: Arc<Metrics>,
    queue: mpsc::UnboundedSender<Event>,
}

/// What was told, for the hooks.
pub type Told = mpsc::UnboundedReceiver<Event>;

/// An event that is told once, however often it is noticed: after a start, by another process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Once {
    /// The certificate's name, and of which of its series it is.
    pub(super) series: String,
    /// Of the certificate.
    pub(super) fingerprint: String,
    /// What has been told before counts for this rank and those below.
    pub(super) rank: u8,
}

impl Happening {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Obtained { .. } => EventKind::Obtained,
            Self::Renewed { .. } => EventKind::Renewed,
            Self::Failed { .. } => EventKind::Failed,
            Self::Ending { ending: Ending::Over, .. } => EventKind::Expired,
            Self::Ending { .. } => EventKind::Expiring,
            Self::Revoked => EventKind::Revoked,
            Self::Imported { .. } => EventKind::Imported,
            Self::AriChanged { .. } => EventKind::AriChanged,
            Self::Limited { .. } => EventKind::Limited,
            Self::Blocked { .. } => EventKind::Blocked,
            Self::AccountRecreated => EventKind::AccountRecreated,
            Self::StoreError { .. } => EventKind::StoreError,
            Self::StoreFellBack { .. } => EventKind::StoreFellBack,
        }
    }

    /// What is told of it beside its name, in JSON.
    fn details(&self) -> Value {
        match self {
            Self::Obtained { why, not_after } | Self::Renewed { why, not_after } => {
                json!({ "why": why.as_str(), "not_after": timestamp(*not_after) })
            }
            Self::Failed { why, attempt, retry_at, problem, bad_names } => json!({
                "why": why.as_str(), "attempt": attempt, "retry_at": timestamp(*retry_at),
                "problem": problem, "bad_names": bad_names,
            }),
            Self::Ending { ending, not_after } => json!({
                "left": ending.share(), "not_after": timestamp(*not_after),
                "health": ending.health().as_str(),
            }),
            Self::Imported { not_after } => json!({ "not_after": timestamp(*not_after) }),
            Self::AriChanged { window: (start, end), explanation_url } => json!({
                "window_start": timestamp(*start), "window_end": timestamp(*end),
                "explanation_url": explanation_url,
            }),
            Self::Limited { why, scope, until, retry_at, problem } => json!({
                "why": why.as_str(), "scope": scope, "until": timestamp(*until),
                "retry_at": timestamp(*retry_at), "problem": problem,
            }),
            Self::Blocked { why, retry_at, problem, link } => json!({
                "why": why.as_str(), "retry_at": retry_at.map(timestamp), "problem": problem,
                "link": link,
            }),
            Self::StoreError { op, problem } => json!({ "op": op.as_str(), "problem": problem }),
            Self::StoreFellBack { problem } => json!({ "problem": problem }),
            Self::Revoked | Self::AccountRecreated => json!({}),
        }
    }

    /// How it counts among the tries to obtain a certificate.
    fn outcome(&self) -> Option<(&'static str, Why)> {
        match self {
            Self::Obtained { why, .. } | Self::Renewed { why, .. } => Some(("obtained", *why)),
            Self::Failed { why, .. } => Some(("failed", *why)),
            Self::Limited { why, .. } => Some(("limited", *why)),
            Self::Blocked { why, .. } => Some(("blocked", *why)),
            _ => None,
        }
    }
}

impl Event {
    /// Something that happens now.
    #[must_use]
    pub fn new(happening: Happening) -> Self {
        Self {
            at: unix(SystemTime::now()),
            certificate: None,
            names: Vec::new(),
            authority: None,
            fingerprint: None,
            happening,
        }
    }

    /// The same about the certificate of this name, which is for `names`.
    #[must_use]
    pub fn about(mut self, certificate: impl Into<String>, names: Vec<String>) -> Self {
        (self.certificate, self.names) = (Some(certificate.into()), names);
        self
    }

    /// The same about the very certificate with this `leaf`, served as `name`.
    #[must_use]
    pub fn about_leaf(self, name: impl Into<String>, leaf: &Leaf) -> Self {
        let mut event = self.about(name, leaf.names.iter().map(ToString::to_string).collect());
        event.fingerprint = Some(leaf.fingerprint.to_string());
        event
    }

    /// The same about the certificate with this tag.
    #[must_use]
    pub fn of(mut self, tag: Option<String>) -> Self {
        self.fingerprint = tag;
        self
    }

    /// The same at the authority with this directory.
    #[must_use]
    pub fn at(mut self, directory: impl Into<String>) -> Self {
        self.authority = Some(directory.into());
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.happening.kind()
    }

    /// When it happened.
    pub(super) fn moment(&self) -> i64 {
        self.at
    }

    /// Whether it is told once only.
    pub(super) fn once(&self) -> Option<Once> {
        let (series, rank) = match &self.happening {
            Happening::Ending { ending: Ending::Quarter, .. } => ("ending", 1),
            Happening::Ending { ending: Ending::Eighth, .. } => ("ending", 2),
            Happening::Ending { ending: Ending::Twentieth, .. } => ("ending", 3),
            Happening::Ending { ending: Ending::Over, .. } => ("ending", 4),
            Happening::Revoked => ("revoked", 1),
            _ => return None,
        };
        let series = format!("{series} {}", self.certificate.as_ref()?);
        Some(Once { series, fingerprint: self.fingerprint.clone()?, rank })
    }

    /// What names it among all events: the same wherever the same thing is noticed, if it is told
    /// once, else drawn.
    pub(super) fn id(&self) -> String {
        match self.once() {
            Some(Once { series, fingerprint, rank }) => {
                let text = format!("{series}\n{fingerprint}\n{rank}");
                let digest = sha256(text.as_bytes());
                digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
            }
            None => format!("{:032x}", fastrand::u128(..)),
        }
    }

    /// What hooks get of it, on the machine called `host`.
    pub(super) fn payload(&self, id: &str, host: &str) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("event".into(), self.kind().name().into());
        map.insert("id".into(), id.into());
        map.insert("at".into(), timestamp(self.at));
        map.insert("host".into(), host.into());
        map.insert("certificate".into(), self.certificate.clone().into());
        map.insert("names".into(), self.names.clone().into());
        map.insert("authority".into(), self.authority.clone().into());
        if let Value::Object(details) = self.happening.details() {
            map.extend(details);
        }
        map
    }
}

impl Events {
    /// Counts with `metrics`; the rest is for the hooks.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> (Self, Told) {
        let (queue, told) = mpsc::unbounded_channel();
        (Self { metrics, queue }, told)
    }

    /// Counts where nobody looks, and tells nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Arc::new(Metrics::new([], UNIX_EPOCH))).0
    }

    /// Where it is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts the event, and has the hooks told of it.
    pub fn tell(&self, event: Event) {
        if let (Some((result, why)), Some(authority)) =
            (event.happening.outcome(), &event.authority)
        {
            self.metrics.authority(authority).renewed(result, why.as_str());
        }
        if let Happening::StoreError { op, .. } = &event.happening {
            self.metrics.certificates.store_failed(*op);
        }
        // Nobody listens any more when the process ends.
        let _ = self.queue.send(event);
    }

    /// Notes until when a rate limit lasts at the authority with this directory.
    pub fn limited(&self, directory: &str, scope: &'static str, until: i64) {
        self.metrics.authority(directory).limited(scope, until);
    }
}

/// RFC 3339 in UTC, to the second.
fn timestamp(seconds: i64) -> Value {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_get_what_happened_in_one_flat_object() {
        let event = Event::new(Happening::Failed {
            why: Why::Missing,
            attempt: 2,
            retry_at: 86_400,
            problem: "no route".into(),
            bad_names: vec!["b.test".into()],
        });
        let event = Event { at: 0, ..event.about("acme:a.test", vec!["a.test".into()]) };
        let event = event.at("https://ca.test/dir");
        let wanted = json!({
            "event": "cert.failed", "id": "7", "at": "1970-01-01T00:00:00Z", "host": "gw1",
            "certificate": "acme:a.test", "names": ["a.test"],
            "authority": "https://ca.test/dir", "why": "missing", "attempt": 2,
            "retry_at": "1970-01-02T00:00:00Z", "problem": "no route", "bad_names": ["b.test"],
        });
        assert_eq!(Value::Object(event.payload("7", "gw1")), wanted);
    }

    #[test]
    fn what_is_told_once_has_one_name_and_the_rest_never() {
        let ending = |fingerprint: &str, ending| {
            let happening = Happening::Ending { ending, not_after: 5 };
            Event::new(happening).about("own", Vec::new()).of(Some(fingerprint.into()))
        };
        let first = ending("AB", Ending::Eighth);
        assert_eq!(first.id(), ending("AB", Ending::Eighth).id());
        assert_ne!(first.id(), ending("AB", Ending::Twentieth).id());
        assert_ne!(first.id(), ending("CD", Ending::Eighth).id());
        let drawn = || Event::new(Happening::AccountRecreated).id();
        assert_ne!(drawn(), drawn());
        assert_eq!(drawn().len(), first.id().len());
    }
}
