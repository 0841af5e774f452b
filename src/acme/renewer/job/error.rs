//! Why there is no certificate, and what follows from it.

use std::error::Error;
use std::path::PathBuf;

use crate::acme::account::AccountError;
use crate::acme::backoff;
use crate::acme::order::OrderError;
use crate::acme::problem::{Problem, Scope};
use crate::acme::renewer::RestoreError;
use crate::acme::session::CallError;
use crate::acme::state::{LastProblem, OutOfTurn, Target};
use crate::acme::storage::StoreError;
use crate::acme::time::{unix, until};
use std::time::SystemTime;

/// The kind of a problem that the authority did not tell of.
pub(super) const LOCAL: &str = "local";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(in crate::acme::renewer) enum JobError {
    #[error("cannot keep certificates")]
    Store(#[from] StoreError),
    #[error("there is no account at the certificate authority")]
    Account(#[from] AccountError),
    #[error("the certificate authority has lost the account twice in a day")]
    AccountLost,
    #[error(
        "the account was deactivated; to have another made, remove {} and run `wardgate certs renew --all`",
        .0.display()
    )]
    Deactivated(PathBuf),
    #[error("the certificate was not revoked")]
    Revoke(#[source] CallError),
    #[error("there is no certificate to revoke")]
    NothingToRevoke,
    #[error("the certificate comes from {0}, which the configuration no longer names")]
    Elsewhere(String),
    #[error("{0}")]
    Restore(#[from] RestoreError),
    #[error("the key of `eab` is no base64")]
    Binding,
    #[error(transparent)]
    Order(Box<OrderError>),
    #[error("a step was taken out of turn")]
    Turn(#[from] OutOfTurn),
    #[error("interrupted")]
    Interrupted,
}

impl JobError {
    /// What the authority said, if it said something.
    pub(in crate::acme::renewer) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Order(error) => error.problem(),
            Self::Account(error) => error.call()?.problem(),
            Self::Revoke(error) => error.problem(),
            _ => None,
        }
    }

    /// What is mostly the cause.
    pub(super) fn hint(&self) -> Option<&'static str> {
        self.problem().and_then(Problem::hint)
    }

    pub(in crate::acme::renewer) fn is_permanent(&self) -> bool {
        match self {
            Self::Order(error) => error.is_permanent(),
            Self::Account(error) => error.call().is_some_and(|call| call.is_permanent()),
            Self::Binding | Self::Deactivated(_) => true,
            _ => false,
        }
    }

    /// In seconds from now.
    pub(in crate::acme::renewer) fn retry_after(&self) -> Option<i64> {
        let at = match self {
            Self::Order(error) => error.retry_after(),
            Self::Account(error) => error.call()?.retry_after(),
            _ => None,
        };
        at.map(until)
    }

    pub(super) fn limited_scope(&self, target: &Target) -> backoff::Scope {
        let scope = self.problem().map(Problem::scope);
        match scope {
            Some(Scope::Names(names)) if names.len() == 1 => {
                backoff::Scope::Domain(names.into_iter().next().unwrap_or_default())
            }
            Some(Scope::Account | Scope::Authority) => backoff::Scope::Authority,
            _ => backoff::Scope::Set(crate::acme::schedule::set_id(&target.names)),
        }
    }

    pub(super) fn last_problem(&self) -> LastProblem {
        let kind = self.problem().map_or_else(|| LOCAL.to_owned(), |it| it.r#type.clone());
        let names = match self {
            Self::Order(error) => error.bad_names(),
            _ => Vec::new(),
        };
        let detail = match self.hint() {
            Some(hint) => format!("{}; {hint}", texts(self)),
            None => texts(self),
        };
        LastProblem { at: unix(SystemTime::now()), kind, detail, names }
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn texts(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
