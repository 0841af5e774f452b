//! A certificate authority and what is asked of it: its directory, an account at it, and an error
//! that says why a request did nothing.
//!
//! instant-acme speaks the protocol; here its answers are kept, since it drops what we need of them.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::{Metered, RequestError, Transport};
use super::problem::{Kind, Problem, Scope};
use super::time::Clock;
use crate::telemetry::metrics::AuthorityMetrics;

/// A certificate authority.
#[derive(Clone)]
pub struct Authority {
    /// The URL of its directory (RFC 8555 §7.1.1).
    pub directory: String,
    /// How it is reached.
    pub transport: Arc<dyn Transport>,
    /// Shows how far its clock is from ours.
    pub clock: Clock,
    /// What is counted of it.
    pub metrics: Arc<AuthorityMetrics>,
}

/// What an authority can do (RFC 8555 §7.1.1), as far as it concerns us.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Where it says when to renew (RFC 9773 §4.1); `None` when it does not.
    pub renewal_info: Option<String>,
    /// Terms, profiles, and what accounts need.
    #[serde(default)]
    pub meta: Meta,
}

/// What a directory says about the authority.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// The terms that an account agrees to.
    pub terms_of_service: Option<String>,
    /// Whether accounts have to be bound to external ones.
    #[serde(default)]
    pub external_account_required: bool,
    /// Profiles by name, with a description for people.
    #[serde(default)]
    pub profiles: std::collections::BTreeMap<String, String>,
    /// The names that CAA records know it by.
    #[serde(default)]
    pub caa_identities: Vec<String>,
    /// The names that records of dns-persist-01 know it by (draft-ietf-acme-dns-persist §3.2).
    #[serde(default)]
    pub issuer_domain_names: Vec<String>,
    /// What such records name accounts by, before a digest (§4.1); `None` where that is their URL.
    pub account_hash_prefix: Option<String>,
}

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The authority says no.
    #[error("the certificate authority refuses")]
    Refused(#[source] Box<Problem>),
    /// There is no answer.
    #[error("the certificate authority does not answer")]
    Unreachable(#[source] Box<RequestError>),
    /// The answer cannot be understood.
    #[error("the certificate authority sent nonsense")]
    Garbled(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl CallError {
    /// What the authority said, if it said something.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::Unreachable(_) | Self::Garbled(_) => None,
        }
    }

    /// When to ask again, and not before; `None` leaves it to the caller.
    #[must_use]
    pub fn retry_after(&self) -> Option<SystemTime> {
        self.problem()?.retry_after()
    }

    /// Whether the same request will fail in the same way until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.problem().is_some_and(Problem::is_permanent)
    }

    /// Whom it stops.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.problem().map_or(Scope::Authority, Problem::scope)
    }

    /// Whether it is a problem of this kind.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.problem().is_some_and(|problem| problem.kind == kind)
    }
}

impl Authority {
    /// An authority whose directory is at this URL.
    #[must_use]
    pub fn new(directory: impl Into<String>, transport: Arc<dyn Transport>) -> Self {
        let directory = directory.into();
        Self { directory, transport, clock: Clock::default(), metrics: Arc::default() }
    }

    /// The same, which tells `clock` its time with each answer.
    #[must_use]
    pub fn with_clock(self, clock: &Clock) -> Self {
        Self { clock: clock.clone(), ..self }
    }

    /// The same, with what is asked of it counted by `metrics`.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<AuthorityMetrics>) -> Self {
        self.metrics = Arc::clone(&metrics);
        self.transport = Arc::new(Metered::new(self.transport, &self.directory, metrics));
        self
    }

    /// Asks what it can do.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn fetch_directory(&self) -> Result<Directory, CallError> {
        Ok(self.get(&self.directory).await?.0)
    }

    /// A resource that needs no account, and the answer it came in.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<(T, Answer), CallError> {
        let request = Request::get(url).body(Bytes::new());
        let request = request.map_err(|error| CallError::Garbled(error.into()))?;
        let answer = self.transport.send(request).await;
        let answer = answer.map_err(|error| CallError::Unreachable(Box::new(error)))?;
        let answer = Answer::new(answer);
        answer.tell(&self.clock);
        if let Some(problem) = answer.problem() {
            return Err(CallError::Refused(Box::new(problem)));
        }
        let found = serde_json::from_slice(&answer.body);
        Ok((found.map_err(|error| CallError::Garbled(error.into()))?, answer))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// An account that is in use, and what the authority said last.
///
/// It is for one order at a time: the last answer belongs to whoever asked last. Opening another is
/// one request.
pub struct Session {
    pub(super) authority: Authority,
    pub(super) account: instant_acme::Account,
    pub(super) answers: Answers,
}

impl Session {
    /// The account's URL, which is what the authority knows it by.
    #[must_use]
    pub fn account_url(&self) -> &str {
        self.account.id()
    }

    /// The profiles that the authority offers.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.account.profiles().map(|profile| profile.name)
    }

    /// What an error of instant-acme means, in the light of the answer that it came with.
    pub(super) fn explain(&self, error: instant_acme::Error) -> CallError {
        self.answers.explain(error)
    }

    /// Fetches what instant-acme has no name for: it takes it for an order and fails, but only after
    /// the answer has come.
    pub(super) async fn fetch(&self, url: &str) -> Result<Bytes, CallError> {
        let outcome = self.account.order(url.to_owned()).await;
        match (outcome, self.answers.last()) {
            (Ok(_) | Err(instant_acme::Error::Json(_)), Some(answer))
                if answer.status.is_success() =>
            {
                Ok(answer.body.clone())
            }
            (Err(error), _) => Err(self.explain(error)),
            (Ok(_), _) => Err(CallError::Garbled("no answer".into())),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, account) = (&self.authority, self.account.id());
        f.debug_struct("Session").field("authority", authority).field("account", &account).finish()
    }
}

/// One answer of an authority.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) received: SystemTime,
}

impl Answer {
    pub(super) fn new(answer: http::Response<Bytes>) -> Self {
        let (head, body) = answer.into_parts();
        Self { status: head.status, headers: head.headers, body, received: SystemTime::now() }
    }

    /// What it refuses, if it does.
    pub(super) fn problem(&self) -> Option<Problem> {
        let is_refusal = self.status.is_client_error() || self.status.is_server_error();
        let read =
            || Problem::read(self.status.as_u16(), self.retry_after(), &self.body, self.received);
        is_refusal.then(read)
    }

    /// `Retry-After` as a moment (RFC 9110 §10.2.3).
    pub(super) fn retry_after(&self) -> Option<SystemTime> {
        let value = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        match value.parse() {
            Ok(seconds) => self.received.checked_add(Duration::from_secs(seconds)),
            Err(_) => httpdate::parse_http_date(value).ok(),
        }
    }

    /// The nonce for the next request (RFC 8555 §6.5).
    pub(super) fn nonce(&self) -> Option<String> {
        Some(self.headers.get("replay-nonce")?.to_str().ok()?.to_owned())
    }

    /// The other chains of a certificate (RFC 8555 §7.4.2).
    pub(super) fn alternates(&self) -> Vec<String> {
        alternates(&self.headers)
    }

    /// Tells `clock` what time it is there, if the answer says so.
    fn tell(&self, clock: &Clock) {
        if let Some(ahead) = self.clock_ahead() {
            clock.hear(ahead);
        }
    }

    fn clock_ahead(&self) -> Option<i64> {
        let date = self.headers.get(header::DATE)?.to_str().ok()?;
        let theirs = httpdate::parse_http_date(date).ok()?;
        let seconds = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        Some(match theirs.duration_since(self.received) {
            Ok(ahead) => seconds(ahead),
            Err(behind) => -seconds(behind.duration()),
        })
    }
}

/// The other chains of a certificate, by the header of the answer it came in (RFC 8555 §7.4.2).
pub(super) fn alternates(headers: &HeaderMap) -> Vec<String> {
    let links = headers.get_all(header::LINK).iter();
    links.filter_map(|link| alternate(link.to_str().ok()?)).collect()
}

/// The target of a link with the relation `alternate` (RFC 8288 §3).
fn alternate(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_alternate = parameters.split(';').any(|parameter| {
        parameter.trim().strip_prefix("rel=").is_some_and(|it| it.trim_matches('"') == "alternate")
    });
    is_alternate.then(|| target.to_owned())
}

/// The last answer, shared with the client that takes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Option<Arc<Answer>>>>);

impl Answers {
    pub(super) fn last(&self) -> Option<Arc<Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, answer: Option<Arc<Answer>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    pub(super) fn explain(&self, error: instant_acme::Error) -> CallError {
        let last = self.last();
        if let Some(problem) = last.as_ref().and_then(|answer| answer.problem()) {
            return CallError::Refused(Box::new(problem));
        }
        match error {
            instant_acme::Error::Api(problem) => {
                let received = last.map_or_else(SystemTime::now, |answer| answer.received);
                CallError::Refused(Box::new(Problem::within(&problem, received)))
            }
            instant_acme::Error::Other(error) => match error.downcast::<RequestError>() {
                Ok(error) => CallError::Unreachable(error),
                Err(error) => CallError::Garbled(error),
            },
            error => CallError::Garbled(error.into()),
        }
    }
}

/// instant-acme's way to the transport. Keeps the last answer.
pub(super) struct Recording {
    transport: Arc<dyn Transport>,
    clock: Clock,
    answers: Answers,
}

impl Recording {
    pub(super) fn new(authority: &Authority) -> (Self, Answers) {
        let answers = Answers::default();
        let transport = Arc::clone(&authority.transport);
        let clock = authority.clock.clone();
        (Self { transport, clock, answers: answers.clone() }, answers)
    }
}

impl instant_acme::HttpClient for Recording {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let (transport, answers) = (Arc::clone(&self.transport), self.answers.clone());
        let clock = self.clock.clone();
        // An answer that does not come must not leave the one before in its place.
        answers.set(None);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let answer = transport.send(Request::from_parts(head, body)).await;
            let answer = answer.map_err(|error| instant_acme::Error::Other(error.into()))?;
            let (head, body) = answer.into_parts();
            let kept = http::Response::from_parts(head.clone(), body.clone());
            let answer = Answer::new(kept);
            answer.tell(&clock);
            answers.set(Some(Arc::new(answer)));
            Ok(BytesResponse { parts: head, body: Box::new(body) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)]) -> Answer {
        let mut answer = http::Response::builder().status(503);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        Answer::new(answer.body(Bytes::new()).unwrap())
    }

    #[test]
    fn other_chains_are_found_among_links() {
        let found = answer(&[
            ("link", "<https://ca.test/dir>;rel=\"index\""),
            ("link", "<https://ca.test/1>;rel=\"alternate\""),
            ("link", "<https://ca.test/2>; title=x; rel=alternate"),
            ("link", "https://ca.test/3;rel=alternate"),
        ]);
        assert_eq!(found.alternates(), ["https://ca.test/1", "https://ca.test/2"]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |value: &str| answer(&[("retry-after", value)]).retry_after();
        assert!(after(" 120 ").unwrap() > SystemTime::now() + Duration::from_secs(100));
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        assert_eq!(after(date), httpdate::parse_http_date(date).ok());
        for nonsense in ["", "soon", "-1", "99999999999999999999"] {
            assert_eq!(after(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_authoritys_clock_is_compared_with_ours() {
        let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(7200));
        let behind = answer(&[("date", &date)]).clock_ahead().unwrap();
        assert!((-7205..=-7195).contains(&behind), "{behind}");
    }
}
