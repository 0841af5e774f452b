//! What became of what was asked, in JSON.

use http::StatusCode;
use serde_json::{Value, json};

use super::describe::{guard, moment};
use crate::acme::renewer::{Known, Verdict};
use crate::admin::certs::Reply;

/// What is said about one certificate.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Told {
    /// It goes on by itself, and nobody waits.
    pub(super) fn begun(name: &str) -> Self {
        let body = json!({ "name": name, "outcome": "begun" });
        Self { status: StatusCode::ACCEPTED, body }
    }

    /// `done` is the word for success, `known` what is known of the certificate after it.
    pub(super) fn of(name: &str, done: &str, verdict: Verdict, known: Option<&Known>) -> Self {
        let (status, mut body) = match verdict {
            Verdict::Done => (StatusCode::OK, json!({ "outcome": done })),
            Verdict::Unsaved { problem } => (
                StatusCode::INSUFFICIENT_STORAGE,
                json!({ "outcome": "unsaved", "error": problem }),
            ),
            Verdict::Early { guard: by, until } => {
                let by = guard(by);
                (StatusCode::OK, json!({ "outcome": "early", "guard": by, "until": moment(until) }))
            }
            Verdict::Limited { until } => {
                let error = "a rate limit of the authority has not ended";
                let body = json!({ "outcome": "limited", "until": moment(until), "error": error });
                (StatusCode::TOO_MANY_REQUESTS, body)
            }
            Verdict::Blocked { reason, link } => {
                let body = json!({ "outcome": "blocked", "error": reason, "link": link });
                (StatusCode::CONFLICT, body)
            }
            Verdict::Busy => {
                let error = "another process or order is at this certificate; ask again later";
                (StatusCode::CONFLICT, json!({ "outcome": "busy", "error": error }))
            }
            Verdict::Unwanted => {
                let error = "the configuration in force does not want it of an authority";
                (StatusCode::CONFLICT, json!({ "outcome": "failed", "error": error }))
            }
            Verdict::Failed { problem, next_at } => {
                let body = json!({ "outcome": "failed", "error": problem, "next_at": next_at.map(moment) });
                (StatusCode::BAD_GATEWAY, body)
            }
        };
        body["name"] = name.into();
        if let (StatusCode::OK, Some(known)) = (status, known) {
            body["next_at"] = known.standing.next_at.map(moment).into();
            body["held_back"] = known.plan.guard.map(guard).into();
            body["why"] = known.standing.why.into();
            body["not_after"] = known.life.as_ref().map(|life| moment(life.not_after)).into();
        }
        Self { status, body }
    }

    pub(super) fn reply(self) -> Reply {
        Reply { status: self.status, body: self.body }
    }
}
