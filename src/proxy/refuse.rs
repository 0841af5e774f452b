//! Requests that end before the engine has seen them: refused by the head gate, late, or lost.
//!
//! They get their answer from the same table, and their access line, as any other.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::Method;

use super::accept::Negotiated;
use super::connection::{ClientFault, Connection};
use super::exchange::Exchange;
use super::failure::Failure;
use super::filtering;
use super::gateway::Shared;
use super::reply::Reply;

/// What is known of a head that was refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fragments<'a> {
    /// The method, if it was read.
    pub method: Option<&'a [u8]>,
    /// The target, if it was read.
    pub target: Option<&'a [u8]>,
    /// The host, if it was read.
    pub host: Option<&'a [u8]>,
    /// The whole of what arrived, to see what form of answer the client can read.
    pub head: &'a [u8],
}

/// The answer to a request that is refused, as HTTP/1.1 bytes that close the connection. Its
/// access line is written.
#[must_use]
pub fn refuse(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    started: Instant,
    failure: Failure,
    fragments: Fragments<'_>,
) -> Vec<u8> {
    let mut exchange = Exchange::new(Arc::clone(shared));
    exchange.started = started;
    exchange.connection = Some(Arc::clone(connection));
    exchange.failure = Some(failure);
    exchange.head.protocol = "1.1";
    exchange.head.method =
        fragments.method.and_then(|method| Method::from_bytes(method).ok()).unwrap_or_default();
    exchange.head.path = lossy(fragments.target);
    exchange.head.host = lossy(fragments.host);
    exchange.negotiated = negotiated(fragments.head);
    answer(&mut exchange, failure)
}

/// The answer of an exchange on HTTP/1.1 that was cut off before it had one: by a panic, or by its
/// deadline while it waited for the client, or for a server over a connection of the engine's own. The
/// connection has to say it.
pub(super) fn last_words(exchange: &mut Exchange) {
    let Some(connection) = exchange.connection.clone() else { return };
    let is_late = connection.client_fault() == Some(ClientFault::Deadline);
    let failure = match exchange.failure {
        _ if std::thread::panicking() => Failure::Panic,
        Some(late @ (Failure::ExchangeTimeout | Failure::ResponseTimeout)) if is_late => late,
        _ => return,
    };
    if exchange.is_h2() || exchange.answer.has_begun {
        return;
    }
    exchange.failure = Some(failure);
    connection.leave_last_words(answer(exchange, failure));
}

/// The whole answer as bytes, noted in the exchange.
fn answer(exchange: &mut Exchange, failure: Failure) -> Vec<u8> {
    let method = &exchange.head.method;
    let mut reply = Reply::failure(&failure, exchange.negotiated, &exchange.id, method);
    filtering::reply(exchange, None, &mut reply);
    exchange.answer.status = reply.status.as_u16();
    exchange.answer.is_concluded = true;
    let mut bytes = Vec::with_capacity(512 + reply.body.len());
    let date = httpdate::fmt_http_date(SystemTime::now());
    let head_only = exchange.head.method == Method::HEAD;
    exchange.answer.response_bytes = if head_only { 0 } else { reply.body.len() as u64 };
    reply.write_h1(&mut bytes, &date, false, head_only);
    bytes
}

/// Writes the access line of an HTTP/2 stream that became no request: the h2 layer refused it, and
/// keeps to itself what it asked for and whether it got 400 or a reset; or its head did not arrive.
pub fn note_stream(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    started: Instant,
    failure: Failure,
) {
    let mut exchange = Exchange::new(Arc::clone(shared));
    exchange.started = started;
    exchange.connection = Some(Arc::clone(connection));
    exchange.failure = Some(failure);
    exchange.head.protocol = "2";
}

fn lossy(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// The form of the answer, from a head that nobody has parsed: the first fields by these names.
fn negotiated(head: &[u8]) -> Negotiated {
    let value = |name: &[u8]| {
        head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let (field, value) = line.split_at_checked(name.len())?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    Negotiated::from_values(value(b"content-type:"), value(b"accept:"))
}
