//! Sending an answer of our own through the engine.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_core::protocols::http::v2::server::HttpSession as HttpSessionV2;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::failure::Failure;
use super::filtering;
use super::reply::Reply;
use crate::net::Pace;

/// Sends `reply` as the whole answer.
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(
    session: &mut Session,
    exchange: &mut Exchange,
    mut reply: Reply,
) -> Result<()> {
    filtering::reply(exchange, Some(&session.req_header().headers), &mut reply);
    if reply.close || !session.is_body_done() || exchange.is_leaving() {
        session.set_keepalive(None);
    }
    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len() + 2))?;
    for (name, value) in reply.headers {
        head.append_header(name, value)?;
    }
    let is_head = exchange.head.method == Method::HEAD;
    let ends_at_once = is_head || reply.body.is_empty();
    exchange.answer.has_begun = true;
    match session.as_downstream_mut() {
        // The engine's own way leaves the stream open, which then ends in a reset.
        ServerSession::H2(stream) if ends_at_once => {
            stream.write_response_header(Box::new(head), true)?;
        }
        _ => session.write_response_header(Box::new(head), ends_at_once).await?,
    }
    if !ends_at_once {
        session.write_response_body(Some(reply.body), true).await?;
    }
    if let Some(connection) = &exchange.connection {
        connection.note_answered(keeps(session));
    }
    if let ServerSession::H2(stream) = session.as_downstream_mut() {
        // Whatever becomes of the body, the answer is out.
        let _ = tokio::time::timeout(LINGER, take_rest(stream)).await;
    }
    Ok(())
}

/// How long the rest of a request's body is taken after an early answer, on h2.
const LINGER: Duration = Duration::from_millis(500);

/// How many bytes of it: as many as a client may send without asking, by default (RFC 9113 §6.9.2).
const LINGER_BYTES: usize = 65_535;

/// Takes the rest of a small body that the client is about to send. Else the stream ends in a reset,
/// and though that says NO_ERROR (RFC 9113 §8.1), clients that are still sending lose the answer over
/// it, such as curl 7.88.
async fn take_rest(stream: &mut HttpSessionV2) {
    let mut taken = 0;
    while taken < LINGER_BYTES && !stream.is_body_done() {
        match stream.read_body_bytes().await {
            Ok(Some(bytes)) => taken += bytes.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Whether the HTTP/1.1 connection is to be kept after this answer.
fn keeps(session: &Session) -> bool {
    session.as_downstream().as_http1().is_some_and(HttpSession::will_keepalive)
}

/// Makes a backend's response one that the client can read: HTTP/1.0 knows no chunks (RFC 9112
/// §6.1), so the body ends with the connection.
pub(super) fn fit(session: &mut Session, response: &mut ResponseHeader) {
    let is_old = session.req_header().version == Version::HTTP_10;
    if is_old && response.headers.contains_key(header::TRANSFER_ENCODING) {
        response.remove_header(&header::TRANSFER_ENCODING);
        session.set_keepalive(None);
    }
}

/// Gives the fields' values on h2 a memory of their own. The h2 layer keeps some of them for as long
/// as the connection lasts (RFC 7541 §2.3.2), each with all that was read from the server in one piece.
pub(super) fn detach(session: &Session, response: &mut ResponseHeader) {
    if session.as_downstream().as_http2().is_none() {
        return;
    }
    let (nothing, ()) = http::Response::new(()).into_parts();
    let mut parts = Parts::from(std::mem::replace(response, nothing.into()));
    let mut values = BytesMut::with_capacity(parts.headers.values().map(HeaderValue::len).sum());
    parts.headers.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut values = values.freeze();
    for value in parts.headers.values_mut() {
        if let Ok(mut own) = HeaderValue::from_maybe_shared(values.split_to(value.len())) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
    *response = parts.into();
}

/// From here on the gaps in the request's body are timed, on h2. Before there is a connection to the
/// server nobody takes the body, and the client cannot help that.
pub(super) fn await_body(session: &mut Session, exchange: &Exchange) {
    if let (Some(watch), Some(generation), false) =
        (&exchange.watch, &exchange.generation, session.is_body_done())
    {
        let limits = &generation.config.limits;
        let is_conversation = is_conversation(exchange);
        let pace = if is_conversation {
            Pace::new(limits.upgrade_idle_timeout, None)
        } else {
            Pace::new(limits.request_body_timeout, limits.min_rate)
        };
        watch.await_body(pace, is_conversation, exchange.attempt.clone());
    }
}

/// Whether client and server may both be silent for as long as they have nothing to say: a gRPC call
/// to a server that speaks HTTP/2, without which there is none.
fn is_conversation(exchange: &Exchange) -> bool {
    let speaks_h2 = exchange.attempt.as_ref().is_some_and(|attempt| attempt.is_engines_own());
    speaks_h2 && exchange.negotiated.is_grpc_call()
}

/// Notes whether a backend's answer ends with its head (RFC 9112 §6.3).
pub(super) fn begin(exchange: &Exchange, response: &ResponseHeader) {
    let is_empty = response.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0");
    let is_whole = match response.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => true,
        status if status.is_informational() => false,
        _ => is_empty || exchange.head.method == Method::HEAD,
    };
    if let (true, Some(attempt)) = (is_whole, &exchange.attempt) {
        attempt.note_answered();
    }
}

/// Notes that a piece of a backend's body goes on to the client, and has it counted until that has
/// taken it. On HTTP/1.1 the connection itself knows how it is taken, so small pieces are not worth
/// their count.
pub(super) fn carry(exchange: &Exchange, body: &mut Option<Bytes>, is_end: bool) {
    const SMALL: usize = 4 << 10;
    let Some(attempt) = &exchange.attempt else { return };
    attempt.note_passed();
    attempt.note_more();
    if is_end {
        attempt.note_answered();
    }
    let Some(bytes) = body.take_if(|bytes| exchange.watch.is_some() || bytes.len() > SMALL) else {
        return;
    };
    let flight = attempt.flight();
    if attempt.is_engines_own() {
        flight.time();
    }
    if let (Some(watch), Some(generation)) = (&exchange.watch, &exchange.generation) {
        let limits = &generation.config.limits;
        watch.owe(flight, || Pace::new(limits.idle_timeout, limits.min_rate));
    }
    *body = Some(flight.carry(bytes));
}

/// Notes that a backend's answer ends with fields behind its body.
pub(super) fn end(exchange: &Exchange) {
    if let Some(attempt) = &exchange.attempt {
        attempt.note_answered();
    }
}

/// Has a piece of a body on its way to the server counted as waiting for that, where the patience with
/// the client, or with the server, depends on it.
pub(super) fn carry_up(exchange: &Exchange, body: &mut Option<Bytes>) {
    if let Some(attempt) = &exchange.attempt {
        *body = body.take().map(|bytes| attempt.carry_up(bytes));
    }
}

/// Tells a client that waits to be told so to go on with its body (RFC 9110 §10.1.1).
///
/// # Errors
/// When the client is gone.
pub(super) async fn expectation(session: &mut Session) -> Result<()> {
    // The engine cannot send 100 on h2; clients there go on by themselves after a moment. HTTP/1.0
    // knows no 1xx, and nobody waits for leave to send nothing.
    let head = session.req_header();
    let is_asked = head.version == Version::HTTP_11 && head.headers.contains_key(header::EXPECT);
    if !is_asked || session.is_body_empty() {
        return Ok(());
    }
    let keeps = keeps(session);
    session.as_downstream_mut().write_continue_response().await?;
    if keeps {
        // The engine takes any head that leaves before the body is there for an early answer, after
        // which it would close.
        session.set_keepalive(Some(0));
    }
    Ok(())
}

/// Whether no other head follows one with this status. Behind a 101 comes another protocol.
pub(super) fn is_final(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational()
}

/// Answers with `failure`, unless an answer has begun or the client is gone; then nothing can be
/// said. Returns the status sent, 0 if none.
pub(super) async fn fail(session: &mut Session, exchange: &mut Exchange, failure: Failure) -> u16 {
    exchange.failure.get_or_insert(failure);
    let failure = exchange.failure.unwrap_or(failure);
    let has_begun = session.response_written().is_some_and(|response| is_final(response.status));
    if has_begun || failure == Failure::ClientGone {
        return 0;
    }
    let method = &exchange.head.method;
    let reply = Reply::failure(&failure, exchange.negotiated, &exchange.id, method);
    let status = reply.status.as_u16();
    match send(session, exchange, reply).await {
        Ok(()) => status,
        Err(_) => 0,
    }
}
