//! The filters of a request's route at work: what they are shown, and what becomes of what they say.
//!
//! Answers "how does a verdict become an answer, a field or a line in the log?". Called by `admit`
//! once the route is known, by the hooks for bodies and responses, and for answers of our own.
//! Never decides anything itself.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::client::Scheme;
use super::exchange::Exchange;
use super::failure::Failure;
use super::generation::Generation;
use super::reply::Reply;
use crate::filter::{Encoder, Finding, Rejection, Request, Verdict};
use crate::net::RequestHead;

/// Lets the filters of the exchange's route judge the request.
///
/// # Errors
/// The [`Failure`] that the first enforced rejection stands for.
pub(super) fn enter(
    exchange: &mut Exchange,
    generation: &Generation,
    site: usize,
    head: &RequestHead<'_>,
) -> Result<(), Failure> {
    let Some(stack) = generation.chains.stack(site, exchange.route) else { return Ok(()) };
    let client = exchange.client.as_ref().ok_or(Failure::Internal)?.address;
    let content_length = head.headers.get(header::CONTENT_LENGTH);
    let content_length = content_length.and_then(|value| value.to_str().ok()?.parse().ok());
    let request = Request { head, client, content_length };
    let id = &exchange.id;
    let (passage, verdict) = stack.enter(&request, &mut |finding| log(&finding, id));
    exchange.passage = Some(passage);
    heed(verdict)
}

/// Shows the filters a piece of the request's body. What a tunnel carries is no body.
///
/// # Errors
/// The [`Failure`] that an enforced rejection stands for.
pub(super) fn receive(
    exchange: &mut Exchange,
    bytes: usize,
    is_tunnel: bool,
) -> Result<(), Failure> {
    match &mut exchange.passage {
        Some(passage) if !is_tunnel => {
            let id = &exchange.id;
            heed(passage.receive(bytes as u64, &mut |finding| log(&finding, id)))
        }
        _ => Ok(()),
    }
}

/// Makes a backend's response what the client gets, but for its body, for which an encoder is set
/// up where it needs one.
///
/// # Errors
/// When an encoder is needed and there is no memory for it.
pub(super) fn respond(
    exchange: &mut Exchange,
    asked: &RequestHeader,
    response: &mut ResponseHeader,
) -> Result<()> {
    let has_upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let Some(passage) = &exchange.passage else { return Ok(()) };
    if response.status.is_informational() && !has_upgraded {
        return Ok(());
    }
    passage.edit_response(response, is_https(exchange));
    let status = response.status;
    let had_length = response.headers.contains_key(header::CONTENT_LENGTH);
    let coding = passage.encode(&asked.method, &asked.headers, status, response);
    if let Some(coding) = coding {
        exchange.encoder = Some(Encoder::new(coding).map_err(|error| broken(&error))?);
        if had_length && asked.version != Version::HTTP_2 {
            response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
    }
    Ok(())
}

/// Makes a piece of a backend's body what the client gets.
///
/// # Errors
/// When the coding fails; the response cannot go on then.
pub(super) fn encode(
    exchange: &mut Exchange,
    body: &mut Option<Bytes>,
    is_end: bool,
) -> Result<()> {
    let Some(encoder) = &mut exchange.encoder else { return Ok(()) };
    let data = body.take().unwrap_or_default();
    let encoded = encoder.encode(&data, is_end).map_err(|error| broken(&error))?;
    // An empty chunk would be the last one.
    *body = (!encoded.is_empty()).then_some(encoded);
    Ok(())
}

/// The end of an encoded body, where trailers follow instead of an end of its own.
///
/// # Errors
/// When the coding fails.
pub(super) fn end(exchange: &mut Exchange) -> Result<Option<Bytes>> {
    let mut rest = None;
    encode(exchange, &mut rest, true)?;
    Ok(rest)
}

/// Makes an answer of our own what the client gets. `asked` are the request's fields, where they
/// are still known.
pub(super) fn reply(exchange: &Exchange, asked: Option<&HeaderMap>, reply: &mut Reply) {
    let Some(passage) = &exchange.passage else { return };
    let mut fields: HeaderMap = reply.headers.drain(..).collect();
    passage.edit_response(&mut fields, is_https(exchange));
    if let Some(asked) = asked {
        let method = &exchange.head.method;
        let mut encoded = fields.clone();
        match passage.encode(method, asked, reply.status, &mut encoded) {
            None if *method == Method::HEAD || !reply.body.is_empty() => fields = encoded,
            None => {}
            Some(coding) => {
                let body = Encoder::new(coding).and_then(|mut it| it.encode(&reply.body, true));
                // Without memory for it the answer goes out as it is.
                if let Ok(body) = body {
                    encoded.insert(header::CONTENT_LENGTH, body.len().into());
                    (fields, reply.body) = (encoded, body);
                }
            }
        }
    }
    let mut last = None;
    for (name, value) in fields {
        // A name is told once for all its values.
        last = name.or(last);
        reply.headers.extend(last.clone().map(|name| (name, value)));
    }
}

fn is_https(exchange: &Exchange) -> bool {
    exchange.client.as_ref().is_some_and(|client| client.scheme == Scheme::Https)
}

fn heed(verdict: Verdict) -> Result<(), Failure> {
    match verdict {
        Verdict::Continue => Ok(()),
        Verdict::Reject(rejection) => Err(failure(rejection)),
    }
}

fn failure(rejection: Rejection) -> Failure {
    match rejection {
        Rejection::Denied => Failure::Denied,
        Rejection::RateLimited { retry_after } => Failure::TooManyRequests(retry_after),
        Rejection::BodyTooLarge => Failure::BodyTooLarge,
    }
}

/// A monitored rejection is told to the operator; an enforced one stands in the access line.
fn log(finding: &Finding<'_>, id: &super::trace::RequestId) {
    let place = &finding.instance.place;
    let (filter, chain, position) = (place.filter, &place.scope, place.position);
    let error = failure(finding.rejection).token();
    if finding.is_enforced() {
        tracing::debug!(filter, %chain, position, request_id = %id, error.type = error, "blocked");
    } else {
        tracing::info!(filter, %chain, position, request_id = %id, error.type = error, "would have blocked");
    }
}

fn broken(error: &std::io::Error) -> Box<Error> {
    Error::explain(ErrorType::InternalError, format!("encoding a response: {error}"))
}
