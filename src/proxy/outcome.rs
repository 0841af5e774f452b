//! What an engine's error means.

use std::fmt;

use pingora_error::{Error, ErrorSource, ErrorType};

use super::connection::ClientFault;
use super::exchange::Exchange;
use super::failure::Failure;
use crate::upstream::{DialFailure, Expired};

/// What went wrong, for the client and the access line.
#[must_use]
pub(super) fn failure(exchange: &Exchange, error: &Error) -> Failure {
    if let Some(known) = exchange.failure {
        return known;
    }
    if let Some(fault) = exchange.connection.as_ref().and_then(|it| it.client_fault()) {
        return match fault {
            ClientFault::Framing(413, _) => Failure::BodyTooLarge,
            ClientFault::Framing(_, reason) => Failure::BadRequest(reason),
            ClientFault::SlowBody => Failure::RequestTimeout,
            ClientFault::Deadline => Failure::ExchangeTimeout,
            ClientFault::Gone | ClientFault::SlowReader | ClientFault::Idle => Failure::ClientGone,
        };
    }
    if let Some(expired) = exchange.lapsed() {
        return lapse(expired);
    }
    if *error.esource() == ErrorSource::Downstream {
        return match error.etype() {
            ErrorType::InvalidHTTPHeader => Failure::BadRequest("the request is not valid"),
            _ => Failure::ClientGone,
        };
    }
    match exchange.attempt.as_ref() {
        Some(attempt) => match (attempt.dial_failure(), attempt.expired()) {
            (Some(failure), expired) if expired != Some(Expired::Exchange) => dial(failure),
            (_, Some(expired)) => lapse(expired),
            (_, None) => upstream(exchange, error),
        },
        None => Failure::Internal,
    }
}

/// What the end of the gateway's patience with a server means.
#[must_use]
pub(super) fn lapse(expired: Expired) -> Failure {
    match expired {
        Expired::Response => Failure::ResponseTimeout,
        Expired::Read => Failure::ReadTimeout,
        Expired::Exchange => Failure::ExchangeTimeout,
    }
}

/// Tells the operator about failures that the access line alone does not explain.
pub(super) fn log(exchange: &Exchange, failure: Failure, error: &Error) {
    let is_clients = matches!(
        failure,
        Failure::ClientGone
            | Failure::BadRequest(_)
            | Failure::RequestTimeout
            | Failure::BodyTooLarge
    );
    if is_clients {
        let error = Summary(error);
        tracing::debug!(request_id = %exchange.id, error.type = failure.token(), %error, "gave up");
        return;
    }
    let attempt = exchange.attempt.as_deref();
    let endpoint = attempt.map_or("", |attempt| attempt.endpoint().label.as_str());
    match attempt.and_then(|attempt| attempt.dial_failure()) {
        // Every request meets with it, and all say the same.
        Some(DialFailure::Local(error)) => return exchange.shared.pressure.lack(error),
        // Told when it was met with.
        Some(DialFailure::NoPort(_)) => return,
        _ => {}
    }
    let pool = pool(exchange);
    let cause: &dyn fmt::Display = match attempt.and_then(|attempt| attempt.dial_failure()) {
        Some(dial) => &Chain(dial),
        // Our own, which says no more than the status.
        None if matches!(error.etype(), ErrorType::HTTPStatus(_))
            || exchange.lapsed().is_some() =>
        {
            &failure.reason().unwrap_or_else(|| failure.text())
        }
        None => &Summary(error),
    };
    let (id, token) = (&exchange.id, failure.token());
    match exchange.shared.failures.count(pool, endpoint, failure) {
        Some(count) => {
            tracing::warn!(request_id = %id, pool, endpoint, error.type = token, error = %cause, count, "failed");
        }
        None => {
            tracing::debug!(request_id = %id, pool, endpoint, error.type = token, error = %cause, "failed");
        }
    }
}

/// The same about the end of the gateway's patience with a server, of which the engine says nothing.
pub(super) fn log_lapse(exchange: &Exchange, failure: Failure) {
    log(exchange, failure, &Error::new(ErrorType::HTTPStatus(failure.status().as_u16())));
}

/// The name of the exchange's pool, if it has come so far as to have one.
fn pool(exchange: &Exchange) -> &str {
    let spec = exchange.generation.as_ref().zip(exchange.pool);
    let spec = spec.and_then(|(generation, pool)| generation.config.upstreams.get(pool));
    spec.map_or("", |spec| spec.name.as_str())
}

/// An engine's error in one line, without the bytes that it quotes: a response's head may hold
/// cookies and a megabyte.
struct Summary<'a>(&'a Error);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        f.write_str(error.etype().as_str())?;
        let context = error.context.as_ref().map(|context| context.as_str());
        if let Some(context) = context.filter(|context| !context.starts_with("buf: ")) {
            write!(f, ": {context}")?;
        }
        match &error.cause {
            Some(cause) => match cause.downcast_ref::<Box<Error>>() {
                Some(cause) => write!(f, ": {}", Summary(cause)),
                None => write!(f, ": {cause}"),
            },
            None => Ok(()),
        }
    }
}

/// An error and its causes in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

fn dial(failure: &DialFailure) -> Failure {
    match failure {
        DialFailure::Refused(_) | DialFailure::Unreachable(_) => Failure::UpstreamRefused,
        DialFailure::Timeout => Failure::ConnectTimeout,
        DialFailure::Tls(_) => Failure::UpstreamTls,
        DialFailure::NoPort(_) | DialFailure::Local(_) => Failure::Overloaded,
    }
}

/// Whether the server says that it has not done anything about the request: it is safe to send it
/// again, whatever its method (RFC 9113 §8.7).
#[must_use]
pub(super) fn is_unprocessed(error: &Error) -> bool {
    // The h2 layer gives the GOAWAY to the streams above its last one only.
    h2_cause(error).is_some_and(|cause| {
        let is_refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (is_refused || cause.is_go_away())
    })
}

/// Whether the connection broke, rather than that the server was silent or ended the stream.
#[must_use]
pub(super) fn is_break(error: &Error) -> bool {
    !matches!(error.root_etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout)
        && h2_cause(error).is_none_or(|cause| !cause.is_reset())
}

fn h2_cause(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// An error of the server's side, by what the engine says of it.
fn upstream(exchange: &Exchange, error: &Error) -> Failure {
    let past_deadline = exchange.deadline.is_some_and(|end| std::time::Instant::now() >= end);
    match error.root_etype() {
        ErrorType::ConnectTimedout => Failure::ConnectTimeout,
        ErrorType::ConnectRefused | ErrorType::ConnectNoRoute | ErrorType::ConnectError => {
            Failure::UpstreamRefused
        }
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::HandshakeError
        | ErrorType::InvalidCert => Failure::UpstreamTls,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout if past_deadline => {
            Failure::ExchangeTimeout
        }
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::ResponseTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => {
            Failure::UpstreamReset
        }
        ErrorType::InternalError => Failure::Internal,
        _ if h2_cause(error).is_some_and(h2::Error::is_remote) => Failure::UpstreamReset,
        _ => Failure::UpstreamBadResponse,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_summary_names_the_causes_without_the_bytes_they_quote() {
        let quoting = Error::explain(ErrorType::InvalidHTTPHeader, "buf: Cookie: secret");
        assert_eq!(Summary(&quoting).to_string(), "InvalidHTTPHeader");
        let around = Error::because(ErrorType::ReadError, "the head", quoting);
        assert_eq!(Summary(&around).to_string(), "ReadError: the head: InvalidHTTPHeader");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let reset = Error::because(ErrorType::WriteError, "buf: secret", reset);
        assert_eq!(Summary(&reset).to_string(), "WriteError: connection reset");
    }
}
