//! The one table of everything that can go wrong with a request.
//!
//! Answers "which status, which token, which words?". Called by whoever gives up on a request, by
//! `reply`, by the access line and by metrics. Never says which server, pool, file or address was
//! involved: that stands in the log, under the request's id.

mod table;

use std::time::Duration;

use http::StatusCode;

use self::table::{Row, TABLE};

/// Why a request was not answered by what it was meant for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Failure {
    /// The head or the framing breaks the rules of HTTP. The text says which, in a few words or in
    /// `snake_case`, and the client is told.
    BadRequest(&'static str),
    /// The client may not come here.
    Denied,
    /// No route, or no site on a plain listener.
    NotFound,
    /// A method that is never served; the text is the `Allow` field.
    MethodNotAllowed(&'static str),
    /// The head or the body did not arrive in time.
    RequestTimeout,
    /// The body is longer than allowed.
    BodyTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The host is not one of the connection's.
    Misdirected,
    /// Too many requests by this client; the next may come after this time.
    TooManyRequests(Duration),
    /// The head is longer or has more fields than allowed.
    HeadersTooLarge,
    /// The client went away before it had its answer. Only ever seen in the access line.
    ClientGone,
    /// A fault of ours.
    Internal,
    /// A fault of ours that unwound.
    Panic,
    /// A transfer coding or a feature that is not implemented.
    NotImplemented,
    /// Not HTTP/1.0, HTTP/1.1 or h2.
    VersionNotSupported,
    /// The backend refused the connection, or there is no way to it.
    UpstreamRefused,
    /// The backend closed or reset the connection.
    UpstreamReset,
    /// No TLS with the backend.
    UpstreamTls,
    /// The backend's response breaks the rules of HTTP.
    UpstreamBadResponse,
    /// The backend's name does not resolve.
    UpstreamUnresolved,
    /// No backend is left to try.
    NoUpstream,
    /// Too many requests by all clients together.
    Overloaded,
    /// Every connection that the backend may have is in use.
    PoolFull,
    /// The gateway is about to stop.
    Stopping,
    /// The backend did not accept the connection in time.
    ConnectTimeout,
    /// The backend did not begin its response in time.
    ResponseTimeout,
    /// The backend's response stopped arriving.
    ReadTimeout,
    /// The whole exchange took longer than its route allows.
    ExchangeTimeout,
    /// Every backend fails its checks.
    NoHealthyUpstream,
}

/// What `Retry-After` says where nothing is known: long enough to spread the retries, short enough
/// to see the recovery.
const SOON: Duration = Duration::from_secs(5);
/// `Retry-After` where only the load of the moment is in the way.
const NEXT_MOMENT: Duration = Duration::from_secs(1);

/// `Allow` where no route has a say.
const SERVED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Status codes of gRPC that a failure can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum GrpcStatus {
    /// The caller went away.
    Cancelled = 1,
    /// The request is wrong.
    InvalidArgument = 3,
    /// Time ran out, and the backend may have acted.
    DeadlineExceeded = 4,
    /// The caller may not.
    PermissionDenied = 7,
    /// Too large, or too often.
    ResourceExhausted = 8,
    /// No such method here.
    Unimplemented = 12,
    /// Something broke.
    Internal = 13,
    /// May work when tried again.
    Unavailable = 14,
}

impl Failure {
    /// One of each, in the order of `docs/errors.md`; for whoever keeps something per failure.
    pub const ALL: [Self; 30] = [
        Self::BadRequest("the request is malformed"),
        Self::Denied,
        Self::NotFound,
        Self::MethodNotAllowed(SERVED_METHODS),
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::ExpectationFailed,
        Self::Misdirected,
        Self::TooManyRequests(NEXT_MOMENT),
        Self::HeadersTooLarge,
        Self::ClientGone,
        Self::Internal,
        Self::Panic,
        Self::NotImplemented,
        Self::VersionNotSupported,
        Self::UpstreamRefused,
        Self::UpstreamReset,
        Self::UpstreamTls,
        Self::UpstreamBadResponse,
        Self::UpstreamUnresolved,
        Self::NoUpstream,
        Self::Overloaded,
        Self::PoolFull,
        Self::Stopping,
        Self::ConnectTimeout,
        Self::ResponseTimeout,
        Self::ReadTimeout,
        Self::ExchangeTimeout,
        Self::NoHealthyUpstream,
    ];

    /// What stands for a head that was refused before it became a request, with the status and the
    /// reason that the refusal gives.
    #[must_use]
    pub fn refused(status: u16, reason: &'static str) -> Self {
        match status {
            405 => Self::MethodNotAllowed(SERVED_METHODS),
            408 => Self::RequestTimeout,
            413 => Self::BodyTooLarge,
            414 => Self::UriTooLong,
            417 => Self::ExpectationFailed,
            421 => Self::Misdirected,
            431 => Self::HeadersTooLarge,
            501 => Self::NotImplemented,
            505 => Self::VersionNotSupported,
            _ => Self::BadRequest(reason),
        }
    }

    /// The status the client gets; 499 stands for nobody being there to get one.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The value of `error.type` in logs, metrics and answers: `snake_case`, never changed once
    /// published, explained in `docs/errors.md`.
    #[must_use]
    pub fn token(&self) -> &'static str {
        self.row().token
    }

    /// A few words for a heading: the status' own.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.status().canonical_reason().unwrap_or("Client Closed Request")
    }

    /// One sentence or two for people, without anything internal. ASCII.
    #[must_use]
    pub fn text(&self) -> &'static str {
        self.row().text
    }

    /// What in particular is wrong with the request, when that is for the client to know.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::BadRequest(reason) => Some(reason),
            _ => None,
        }
    }

    /// The `Allow` field that a 405 must have (RFC 9110 §15.5.6).
    #[must_use]
    pub fn allow(&self) -> Option<&'static str> {
        match self {
            Self::MethodNotAllowed(allow) => Some(allow),
            _ => None,
        }
    }

    /// When the client may try again, if it should at all.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests(wait) => Some(*wait),
            Self::NoUpstream
            | Self::NoHealthyUpstream
            | Self::UpstreamUnresolved
            | Self::Stopping => Some(SOON),
            Self::Overloaded | Self::PoolFull => Some(NEXT_MOMENT),
            _ => None,
        }
    }

    /// Whether the client's HTTP/1.1 connection cannot be used for another request: what follows
    /// on it may be the rest of this one.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.row().closes
    }

    /// What a gRPC client gets. Follows gRPC's `http-grpc-status-mapping.md`, and says
    /// `DEADLINE_EXCEEDED` where the backend may have acted, which must not be retried blindly.
    #[must_use]
    pub fn grpc_status(&self) -> GrpcStatus {
        self.row().grpc
    }

    fn row(&self) -> &'static Row {
        &TABLE[self.place()]
    }

    /// Where the failure stands in [`Failure::ALL`].
    #[must_use]
    pub const fn place(&self) -> usize {
        match self {
            Self::BadRequest(_) => 0,
            Self::Denied => 1,
            Self::NotFound => 2,
            Self::MethodNotAllowed(_) => 3,
            Self::RequestTimeout => 4,
            Self::BodyTooLarge => 5,
            Self::UriTooLong => 6,
            Self::ExpectationFailed => 7,
            Self::Misdirected => 8,
            Self::TooManyRequests(_) => 9,
            Self::HeadersTooLarge => 10,
            Self::ClientGone => 11,
            Self::Internal => 12,
            Self::Panic => 13,
            Self::NotImplemented => 14,
            Self::VersionNotSupported => 15,
            Self::UpstreamRefused => 16,
            Self::UpstreamReset => 17,
            Self::UpstreamTls => 18,
            Self::UpstreamBadResponse => 19,
            Self::UpstreamUnresolved => 20,
            Self::NoUpstream => 21,
            Self::Overloaded => 22,
            Self::PoolFull => 23,
            Self::Stopping => 24,
            Self::ConnectTimeout => 25,
            Self::ResponseTimeout => 26,
            Self::ReadTimeout => 27,
            Self::ExchangeTimeout => 28,
            Self::NoHealthyUpstream => 29,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_row_of_its_own() {
        let mut tokens = std::collections::BTreeSet::new();
        for (place, failure) in Failure::ALL.iter().enumerate() {
            assert_eq!(failure.place(), place, "{failure:?}");
            assert!(tokens.insert(failure.token()), "{} twice", failure.token());
            let is_snake = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(failure.token().bytes().all(is_snake), "{}", failure.token());
            assert!(failure.text().is_ascii() && failure.text().ends_with('.'), "{failure:?}");
            assert_eq!(failure.status().as_u16(), TABLE[place].status);
        }
    }

    #[test]
    fn a_refused_head_keeps_its_status() {
        for status in [400, 405, 408, 413, 414, 417, 421, 431, 501, 505] {
            assert_eq!(Failure::refused(status, "bare_lf").status(), status);
        }
        assert_eq!(Failure::refused(400, "bare_lf").reason(), Some("bare_lf"));
    }

    #[test]
    fn the_table_is_documented_row_by_row() {
        let page = include_str!("../../docs/errors.md");
        for failure in Failure::ALL {
            let (status, grpc) = (failure.status().as_u16(), failure.grpc_status() as u8);
            let row = format!("| `{}` | {status} | {grpc} ", failure.token());
            assert_eq!(page.matches(&row).count(), 1, "docs/errors.md has no row {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Failure::ALL.len(), "docs/errors.md has rows that are no failures");
    }

    #[test]
    fn a_503_says_when_to_come_back_and_a_405_what_would_be_allowed() {
        for failure in Failure::ALL {
            let status = failure.status();
            if status == StatusCode::SERVICE_UNAVAILABLE || status.as_u16() == 429 {
                assert!(failure.retry_after().is_some(), "{failure:?}");
            }
            let is_405 = status == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(failure.allow().is_some(), is_405, "{failure:?}");
        }
    }

    #[test]
    fn after_a_request_that_may_not_have_been_read_to_its_end_the_connection_closes() {
        for status in [400, 408, 413, 414, 431, 501, 505] {
            let mut rows = Failure::ALL.iter().filter(|failure| failure.status() == status);
            assert!(rows.all(Failure::closes), "{status}");
        }
    }
}
