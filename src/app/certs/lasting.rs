//! Which records have to stay in the DNS for a certificate to be renewed by dns-persist-01.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::describe::authority;
use super::subject::Subject;
use crate::acme::renewer::texts;
use crate::acme::renewer::{Assignment, Look, Source};
use crate::admin::certs::Reply;
use crate::config::acme::ChallengeKind;

/// The records for `subject`, at every authority that may be asked for it.
pub(super) async fn show(
    assignment: Option<Arc<Assignment>>,
    subject: Subject,
) -> Result<Reply, Reply> {
    let Some(assignment) = assignment else {
        return Err(Reply::error(StatusCode::CONFLICT, "there is no `acme:`"));
    };
    let mut authorities = Vec::new();
    for source in &assignment.sources {
        authorities.push(at(&assignment, source, &subject.names).await);
    }
    Ok(Reply::fine(json!({
        "name": subject.name,
        "is_enabled": assignment.acme.challenges.contains(&ChallengeKind::DnsPersist01),
        "authorities": authorities,
    })))
}

async fn at(assignment: &Assignment, source: &Source, names: &[String]) -> Value {
    let directory = source.settings.directory.as_str();
    let (records, problem) = match assignment.lasting(source, names).await {
        Ok(records) => (records, None),
        Err(error) => (Vec::new(), Some(texts(&error))),
    };
    let records = records.iter().map(|lasting| {
        let (state, server) = match &lasting.look {
            Look::Present => ("present", None),
            Look::Missing(server) => ("missing", Some(server)),
            Look::Unknown => ("unknown", None),
        };
        json!({
            "name": lasting.record.name,
            "value": lasting.record.value,
            "line": lasting.record.to_string(),
            "state": state,
            "missing_at": server,
        })
    });
    json!({
        "authority": authority(directory),
        "directory": directory,
        "records": records.collect::<Vec<_>>(),
        "problem": problem,
    })
}
