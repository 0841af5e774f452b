//! What is asked about the accounts that certificates are ordered with.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::describe::{authority, moment};
use super::read;
use crate::acme::renewer::texts;
use crate::acme::renewer::{AccountProblem, AccountStanding, Assignment, Source};
use crate::acme::storage::{Storage, StoreError};
use crate::admin::certs::Reply;
use crate::config::acme::Acme;

/// What `rollover` and `deactivate` may be told.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Which {
    authority: Option<String>,
}

/// The accounts at all authorities of `acme`, by what is kept. Blocks on the disk.
pub(super) fn kept(storage: &Storage, acme: &Acme) -> Result<Vec<Value>, StoreError> {
    let one = |settings: &crate::config::acme::Authority| {
        let kept = AccountStanding::read(storage, &settings.directory)?;
        let kid = settings.eab.as_ref().map(|eab| eab.kid.as_str());
        Ok(describe(&settings.directory, kept.as_ref(), acme.email.as_deref(), kid))
    };
    acme.authorities().map(one).collect()
}

fn describe(
    directory: &str,
    kept: Option<&AccountStanding>,
    email: Option<&str>,
    kid: Option<&str>,
) -> Value {
    let hint = kept.filter(|kept| kept.deactivated_at.is_some()).map(|kept| again(&kept.path));
    json!({
        "authority": authority(directory),
        "directory": directory,
        "url": kept.map(|kept| &kept.url),
        "thumbprint": kept.map(|kept| &kept.thumbprint),
        "made_at": kept.map(|kept| moment(kept.made_at)),
        "deactivated_at": kept.and_then(|kept| kept.deactivated_at).map(moment),
        "email": email,
        "external_account": kid,
        "path": kept.map(|kept| kept.path.display().to_string()),
        "status": Value::Null,
        "hint": hint,
    })
}

/// How to have another account made than the one at `path`.
fn again(path: &std::path::Path) -> String {
    format!(
        "to have another account made, remove {} and run `wardgate certs renew --all`",
        path.display()
    )
}

/// `GET /account`: what is kept, and what the authorities say.
pub(super) async fn show(assignment: Arc<Assignment>) -> Result<Reply, Reply> {
    let of = Arc::clone(&assignment);
    let kept = tokio::task::spawn_blocking(move || kept(&of.storage, &of.acme)).await;
    let mut accounts = match kept {
        Ok(Ok(accounts)) => accounts,
        Ok(Err(error)) => return Err(failed(texts(&error))),
        Err(_) => return Err(failed("interrupted".to_owned())),
    };
    for account in &mut accounts {
        let source = account["directory"].as_str().and_then(|it| assignment.source(it));
        let (Some(source), true) = (source, account["url"].is_string()) else { continue };
        match assignment.account_status(source).await {
            Ok(status) => account["status"] = status.into(),
            Err(error) => account["problem"] = texts(&error).into(),
        }
    }
    Ok(Reply::fine(json!({ "accounts": accounts })))
}

/// `POST /account/rollover`.
pub(super) async fn roll_over(
    assignment: Arc<Assignment>,
    arguments: Value,
) -> Result<Reply, Reply> {
    let source = which(&assignment, arguments)?;
    let name = authority(&source.settings.directory);
    match assignment.roll_over(source).await {
        Ok(thumbprint) => {
            let body =
                json!({ "name": name, "outcome": "has a new key", "thumbprint": thumbprint });
            Ok(Reply::fine(body))
        }
        Err(problem) => Err(refused(name, &problem)),
    }
}

/// `POST /account/deactivate`.
pub(super) async fn deactivate(
    assignment: Arc<Assignment>,
    arguments: Value,
) -> Result<Reply, Reply> {
    let source = which(&assignment, arguments)?;
    let name = authority(&source.settings.directory);
    match assignment.deactivate(source).await {
        Ok(path) => {
            let hint = again(&path);
            Ok(Reply::fine(json!({ "name": name, "outcome": "deactivated", "hint": hint })))
        }
        Err(problem) => Err(refused(name, &problem)),
    }
}

/// The authority that is meant: the one that is named, or the only one.
fn which(assignment: &Assignment, arguments: Value) -> Result<&Source, Reply> {
    let Which { authority: wanted } = read(arguments)?;
    let is_it = |source: &&Source| {
        let directory = source.settings.directory.as_str();
        wanted.as_deref().is_none_or(|it| it == directory || it == authority(directory))
    };
    let mut found = assignment.sources.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => {
            let all: Vec<&str> =
                assignment.sources.iter().map(|it| authority(&it.settings.directory)).collect();
            let text = format!("say which authority is meant: {}", all.join(", "));
            Err(Reply::error(StatusCode::BAD_REQUEST, text))
        }
    }
}

fn refused(name: &str, problem: &AccountProblem) -> Reply {
    let (status, outcome) = match problem {
        AccountProblem::None | AccountProblem::Deactivated => (StatusCode::CONFLICT, "blocked"),
        AccountProblem::Undecided(_) | AccountProblem::Other(_) => {
            (StatusCode::BAD_GATEWAY, "failed")
        }
    };
    Reply { status, body: json!({ "name": name, "outcome": outcome, "error": texts(problem) }) }
}

fn failed(text: String) -> Reply {
    Reply::error(StatusCode::INTERNAL_SERVER_ERROR, text)
}
