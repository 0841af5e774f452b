//! What a certificate authority means when it says no (RFC 8555 §6.7).
//!
//! Answers "what is wrong, with which names, whom does it stop, and until when?". Pure.
//!
//! # Why
//! Types alone do not tell: an account that is paused and one that asks too often are both
//! `rateLimited`, one that is deactivated is `unauthorized`, and a load balancer in front of the
//! authority says 503 in HTML. So status and text are read as well.

mod text;

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// A refusal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// What it comes down to.
    pub kind: Kind,
    /// The problem's type as sent, shortened where it is one of RFC 8555's: `rateLimited`.
    pub r#type: String,
    /// The authority's own words.
    pub detail: String,
    /// HTTP status of the answer; 0 for a problem within an order or authorization.
    pub status: u16,
    /// What is wrong with single names.
    pub subproblems: Vec<Subproblem>,
    retry_after: Option<SystemTime>,
}

/// What is wrong with one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subproblem {
    /// The name.
    pub name: String,
    /// As [`Problem::type`].
    pub r#type: String,
    /// The authority's own words.
    pub detail: String,
}

/// What a refusal comes down to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// The nonce is not good, and the same request may be sent again at once.
    BadNonce,
    /// Too much was asked for; there is a time to ask again.
    RateLimited,
    /// Somebody has to visit a page to go on; see [`Problem::link`].
    Paused,
    /// The authority does not know the account.
    AccountUnknown,
    /// The account was deactivated or revoked.
    AccountDeactivated,
    /// The account needs a binding to an external one, or the binding is wrong.
    ExternalAccount,
    /// Terms have changed, or something else needs a person.
    UserActionRequired,
    /// A contact address is not acceptable.
    Contact,
    /// A CAA record forbids this authority to issue.
    Caa,
    /// The authority does not issue for this name.
    RejectedIdentifier,
    /// The profile does not exist, or not for this account.
    InvalidProfile,
    /// The certificate to be replaced has been, or an order that does so is pending.
    AlreadyReplaced,
    /// The order cannot be finalized in its state.
    OrderNotReady,
    /// The authority did not find what it looked for at the name: DNS, connection, TLS or the
    /// content.
    Validation,
    /// The name is not ours, or the account may not do this.
    Unauthorized,
    /// The CSR, the key or the request is not acceptable.
    Malformed,
    /// What was asked for does not exist.
    NotFound,
    /// The authority, or what stands in front of it, has a fault of its own.
    Unavailable,
    /// None of these.
    Other,
}

/// Whom a refusal stops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Orders for exactly the same names.
    ExactSet,
    /// Orders with one of these names, or with one below it.
    Names(Vec<String>),
    /// Every order of the account.
    Account,
    /// Everybody who asks this authority from here.
    Authority,
}

/// A problem document as it is sent.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    subproblems: Vec<SubDocument>,
}

#[derive(Deserialize)]
struct SubDocument {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    detail: String,
    identifier: Option<Identifier>,
}

#[derive(Deserialize)]
struct Identifier {
    value: String,
}

/// How long to stay away when the authority says "too much" and not until when.
const UNTOLD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// How often a CAA record is worth asking about again: it is changed by people.
const CAA_RETRY: Duration = Duration::from_secs(24 * 60 * 60);

impl Problem {
    /// The problem in an answer: its status, `Retry-After` as a moment, and its body, which need not
    /// be a problem document. `received` is when it came.
    #[must_use]
    pub fn read(
        status: u16,
        retry_after: Option<SystemTime>,
        body: &[u8],
        received: SystemTime,
    ) -> Self {
        let document = serde_json::from_slice(body).unwrap_or_else(|_| Document {
            r#type: String::new(),
            detail: text::first_words(body),
            subproblems: Vec::new(),
        });
        let subproblems = document.subproblems.into_iter().filter_map(|sub| {
            let name = sub.identifier?.value;
            Some(Subproblem { name, r#type: short(&sub.r#type), detail: sub.detail })
        });
        let subproblems = subproblems.collect();
        Self::new(status, &document.r#type, document.detail, subproblems, retry_after, received)
    }

    /// A problem that stands in an order, an authorization or a challenge.
    #[must_use]
    pub fn within(problem: &instant_acme::Problem, received: SystemTime) -> Self {
        let subproblems = problem.subproblems.iter().filter_map(|sub| {
            let name = sub.identifier.as_ref()?.authorized(false).to_string();
            let r#type = short(sub.r#type.as_deref().unwrap_or_default());
            Some(Subproblem { name, r#type, detail: sub.detail.clone().unwrap_or_default() })
        });
        let subproblems = subproblems.collect();
        let r#type = problem.r#type.as_deref().unwrap_or_default();
        let detail = problem.detail.clone().unwrap_or_default();
        Self::new(0, r#type, detail, subproblems, None, received)
    }

    fn new(
        status: u16,
        r#type: &str,
        detail: String,
        subproblems: Vec<Subproblem>,
        retry_after: Option<SystemTime>,
        received: SystemTime,
    ) -> Self {
        let (r#type, detail) = (short(r#type), text::cut(detail));
        let kind = match Kind::of(&r#type, status, &detail) {
            // Several names, several problems: theirs is the reason if they agree on one.
            Kind::Other | Kind::Malformed | Kind::Unauthorized if !subproblems.is_empty() => {
                common_kind(&subproblems).unwrap_or_else(|| Kind::of(&r#type, status, &detail))
            }
            kind => kind,
        };
        let retry_after = match kind {
            Kind::RateLimited => retry_after
                .or_else(|| text::retry_after(&detail))
                .or_else(|| received.checked_add(UNTOLD_LIMIT)),
            Kind::Caa => retry_after.or_else(|| received.checked_add(CAA_RETRY)),
            _ => retry_after,
        };
        Self { kind, r#type, detail, status, subproblems, retry_after }
    }

    /// When to ask again, and not before; `None` leaves it to the caller.
    #[must_use]
    pub fn retry_after(&self) -> Option<SystemTime> {
        self.retry_after
    }

    /// Whether the same request will be refused in the same way until somebody changes something,
    /// here or at the authority.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self.kind {
            Kind::Paused
            | Kind::AccountDeactivated
            | Kind::ExternalAccount
            | Kind::UserActionRequired
            | Kind::Contact
            | Kind::RejectedIdentifier
            | Kind::InvalidProfile => true,
            Kind::BadNonce
            | Kind::RateLimited
            | Kind::AccountUnknown
            | Kind::Caa
            | Kind::AlreadyReplaced
            | Kind::OrderNotReady
            | Kind::Validation
            | Kind::Unauthorized
            | Kind::Malformed
            | Kind::NotFound
            | Kind::Unavailable
            | Kind::Other => false,
        }
    }

    /// Whom it stops.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self.kind {
            Kind::RateLimited => text::limited_scope(&self.detail),
            Kind::Paused => match text::paused_name(&self.detail) {
                Some(name) => Scope::Names(vec![name]),
                None => Scope::Account,
            },
            Kind::AccountUnknown
            | Kind::AccountDeactivated
            | Kind::ExternalAccount
            | Kind::UserActionRequired
            | Kind::Contact => Scope::Account,
            Kind::Unavailable => Scope::Authority,
            _ if self.subproblems.is_empty() => Scope::ExactSet,
            _ => Scope::Names(self.subproblems.iter().map(|sub| sub.name.clone()).collect()),
        }
    }

    /// What is mostly the cause, for people; `None` where the authority's words say all.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        let sub = self.subproblems.first();
        // As an answer it is about the account, within an order about a name.
        let is_of_account = self.status != 0 && self.r#type == "unauthorized";
        let own = text::hint(&self.r#type, &self.detail).filter(|_| !is_of_account);
        own.or_else(|| sub.and_then(|sub| text::hint(&sub.r#type, &sub.detail)))
    }

    /// The page that the authority wants somebody to see.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        text::link(&self.detail)
    }
}

impl Kind {
    fn of(r#type: &str, status: u16, detail: &str) -> Self {
        let is_deactivated = || text::says_deactivated(detail);
        match r#type {
            "badNonce" => Self::BadNonce,
            "rateLimited" if text::says_paused(detail) => Self::Paused,
            "rateLimited" => Self::RateLimited,
            "accountDoesNotExist" => Self::AccountUnknown,
            "unauthorized" | "malformed" if is_deactivated() => Self::AccountDeactivated,
            "unauthorized" if text::says_external_account(detail) => Self::ExternalAccount,
            "unauthorized" => Self::Unauthorized,
            "externalAccountRequired" => Self::ExternalAccount,
            "userActionRequired" => Self::UserActionRequired,
            "invalidContact" | "unsupportedContact" => Self::Contact,
            "caa" => Self::Caa,
            "rejectedIdentifier" | "unsupportedIdentifier" => Self::RejectedIdentifier,
            "invalidProfile" => Self::InvalidProfile,
            "alreadyReplaced" => Self::AlreadyReplaced,
            "orderNotReady" => Self::OrderNotReady,
            "dns" | "connection" | "tls" | "incorrectResponse" => Self::Validation,
            "badCSR" | "badPublicKey" | "badSignatureAlgorithm" => Self::Malformed,
            "serverInternal" => Self::Unavailable,
            _ if status == 429 => Self::RateLimited,
            _ if status >= 500 => Self::Unavailable,
            _ if status == 404 => Self::NotFound,
            "malformed" => Self::Malformed,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.r#type.is_empty(), self.status) {
            (false, _) => write!(f, "{}: {}", self.r#type, self.detail)?,
            (true, 0) => f.write_str(&self.detail)?,
            (true, status) => write!(f, "status {status}: {}", self.detail)?,
        }
        for sub in &self.subproblems {
            write!(f, "; {}: {}: {}", sub.name, sub.r#type, sub.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// What stands behind RFC 8555's prefix.
fn short(r#type: &str) -> String {
    r#type.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(r#type).to_owned()
}

/// The kind of all `subproblems`, if they have one in common.
fn common_kind(subproblems: &[Subproblem]) -> Option<Kind> {
    let mut kinds = subproblems.iter().map(|sub| Kind::of(&sub.r#type, 0, &sub.detail));
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}

#[cfg(test)]
mod tests;
