//! Why an order yields no certificate.

use std::io;
use std::time::{Duration, SystemTime};

use super::super::dns::DnsError;
use super::super::problem::{Kind, Problem, Scope};
use super::super::session::CallError;
use crate::tls::challenge::ChallengeError;
use crate::tls::issued::IssuedError;

/// Why an order yields no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// This cannot stand in a certificate.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
    /// The authority wants a proof of a name that it was not asked for.
    #[error("the certificate authority asks for {0}, which was not ordered")]
    NotOrdered(String),
    /// No way to prove the name is both offered and enabled.
    #[error("none of the ways to prove {name} is enabled: {}", offered.join(", "))]
    NoMethod {
        /// The name.
        name: String,
        /// The ways that there are.
        offered: Vec<String>,
    },
    /// The profile is not offered, and is required.
    #[error("the certificate authority has no profile {wanted:?}, only {}", offered.join(", "))]
    NoProfile {
        /// The profile.
        wanted: String,
        /// Those that there are.
        offered: Vec<String>,
    },
    /// A request failed.
    #[error("cannot {step}")]
    Call {
        /// What was asked for.
        step: &'static str,
        /// Why not.
        source: CallError,
    },
    /// The authority has looked and is not convinced.
    #[error("the certificate authority refuses the order: {}", describe(bad_names, problem.as_deref()))]
    Invalid {
        /// The names that are to blame, as far as it says.
        bad_names: Vec<BadName>,
        /// What it says of the order as a whole.
        problem: Option<Box<Problem>>,
    },
    /// The order that was to go on is not there.
    #[error("the order is gone")]
    Gone(#[source] Box<Problem>),
    /// The key or the request cannot be made.
    #[error("the certificate's key cannot be used")]
    Key(#[from] rcgen::Error),
    /// The order cannot be written down.
    #[error("cannot write down the order")]
    Journal(#[source] io::Error),
    /// A challenge cannot be published.
    #[error("cannot answer the challenge")]
    Challenge(#[from] ChallengeError),
    /// A record cannot be put up, or is not seen.
    #[error("cannot prove the name by DNS")]
    Dns(#[from] DnsError),
    /// What was issued is not what was ordered.
    #[error("the certificate is not what was ordered")]
    Issued(#[from] IssuedError),
    /// It took too long.
    #[error("no certificate within {0:?}")]
    Timeout(Duration),
    /// The process is ending.
    #[error("interrupted")]
    Interrupted,
}

/// A name that the authority could not verify.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadName {
    /// As ordered.
    pub name: String,
    /// What it says of it, if it says something.
    pub problem: Option<Problem>,
}

/// The step in which the certificate is asked for.
pub(super) const FINALIZE: &str = "finalize the order";

impl OrderError {
    pub(super) fn call(step: &'static str, source: CallError) -> Self {
        Self::Call { step, source }
    }

    /// What the authority said, if it said something.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Call { source, .. } => source.problem(),
            Self::Gone(problem) => Some(problem),
            Self::Invalid { bad_names, problem } => {
                bad_names.iter().find_map(|bad| bad.problem.as_ref()).or(problem.as_deref())
            }
            _ => None,
        }
    }

    /// When to try again, and not before; `None` leaves it to the caller.
    #[must_use]
    pub fn retry_after(&self) -> Option<SystemTime> {
        self.problem()?.retry_after()
    }

    /// Whether it will fail in the same way until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Name(_) | Self::NoMethod { .. } | Self::NoProfile { .. } => true,
            Self::Call { source, .. } => source.is_permanent(),
            Self::Invalid { .. } => self.problem().is_some_and(Problem::is_permanent),
            _ => false,
        }
    }

    /// Whom it stops.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Call { source, .. } => source.scope(),
            _ => match self.bad_names() {
                names if names.is_empty() => Scope::ExactSet,
                names => Scope::Names(names),
            },
        }
    }

    /// The names that are to blame, as far as is known.
    #[must_use]
    pub fn bad_names(&self) -> Vec<String> {
        match self {
            Self::Invalid { bad_names, .. } if !bad_names.is_empty() => {
                bad_names.iter().map(|bad| bad.name.clone()).collect()
            }
            Self::NoMethod { name, .. } | Self::Name(name) | Self::NotOrdered(name) => {
                vec![name.clone()]
            }
            _ => self.problem().map_or_else(Vec::new, |problem| {
                problem.subproblems.iter().map(|sub| sub.name.clone()).collect()
            }),
        }
    }

    /// Whether nothing will ever come of the order, so that its journal can go.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Invalid { .. }
            | Self::Gone(_)
            | Self::Issued(_)
            | Self::Key(_)
            | Self::NotOrdered(_) => true,
            // It is not going to like the same request for a certificate better next time.
            Self::Call { step: FINALIZE, source } => source.is(Kind::Malformed),
            _ => false,
        }
    }
}

fn describe(bad_names: &[BadName], problem: Option<&Problem>) -> String {
    let about = |bad: &BadName| match &bad.problem {
        Some(problem) => format!("{}: {problem}", bad.name),
        None => bad.name.clone(),
    };
    let mut said: Vec<String> = bad_names.iter().map(about).collect();
    if said.is_empty() {
        said.extend(problem.map(ToString::to_string));
    }
    said.join("; ")
}
