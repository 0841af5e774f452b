//! From an admitted request to a server of its pool, and what is sent there.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::connection::ClientFault;
use super::engine;
use super::exchange::Exchange;
use super::failure::Failure;
use super::forward::{self, Onward};
use super::identity;
use super::response_check::{BadResponse, MAX_INTERIM, check_response, plain_length};
use super::trailers;
use crate::config::upstream::{HostHeader, UpstreamProtocol};
use crate::net::Fields;
use crate::upstream::endpoint::Occupied;
use crate::upstream::vigil::SHORT_BODY;
use crate::upstream::{Attempt, Phase, Pool, flight, peer};

/// The server for the next attempt at the session's request, as the engine sees it.
///
/// # Errors
/// [`Failure`] when the pool is full or has no server left, or when the client leaves meanwhile.
pub(super) async fn next_peer(
    session: &mut Session,
    exchange: &mut Exchange,
) -> Result<Box<HttpPeer>, Failure> {
    let traits = Traits::of(session, exchange);
    let keep_body = |exchange: &Exchange, is_kept| {
        if let Some(connection) = exchange.connection.as_ref().filter(|_| !exchange.is_h2()) {
            connection.keep_body(is_kept);
        }
    };
    keep_body(exchange, true);
    let peer = tokio::select! {
        biased; // mostly there is a server at once
        peer = pick_peer(exchange, traits) => Some(peer),
        () = gone(session.as_downstream_mut()) => None,
    };
    keep_body(exchange, false);
    peer.unwrap_or_else(|| match exchange.connection.as_ref().and_then(|it| it.client_fault()) {
        Some(ClientFault::Deadline) => Err(Failure::ExchangeTimeout),
        _ => Err(Failure::ClientGone),
    })
}

/// Ready when the client is gone. The engine notices that only once it relays, by when the request
/// of somebody who has left long ago would be the server's to do.
async fn gone(session: &mut ServerSession) {
    match session {
        ServerSession::H1(session) => drop(session.idle().await),
        ServerSession::H2(stream) => drop(stream.idle().await),
        _ => std::future::pending().await,
    }
}

/// What a request's head says of the connection it needs.
#[derive(Clone, Copy)]
struct Traits {
    /// The server will know somebody by it.
    is_personal: bool,
    /// The body may be under way for long.
    has_long_body: bool,
}

impl Traits {
    fn of(session: &mut Session, exchange: &Exchange) -> Self {
        let is_done = session.is_body_done();
        let headers = &session.req_header().headers;
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let is_short = length.is_some_and(|length: u64| length <= SHORT_BODY);
        Self {
            is_personal: identity::is_in_request(headers),
            // Nearly all gRPC calls are short, and the answer of one that is late has a status.
            has_long_body: !is_done && !is_short && !exchange.negotiated.is_grpc_call(),
        }
    }
}

async fn pick_peer(exchange: &mut Exchange, traits: Traits) -> Result<Box<HttpPeer>, Failure> {
    let pool = pool(exchange).ok_or(Failure::Internal)?;
    let speaks_h2 = matches!(pool.spec().protocol, UpstreamProtocol::H2 | UpstreamProtocol::H2c);
    if speaks_h2 && exchange.upgrade.is_some() {
        return Err(Failure::NotImplemented);
    }
    let deadline = exchange.deadline;
    let choice = choose(exchange, &pool);
    let occupied = match deadline {
        Some(end) => tokio::time::timeout_at(end.into(), choice)
            .await
            .map_err(|_| Failure::ExchangeTimeout)
            .flatten()?,
        None => choice.await?,
    };
    let announcement = match (pool.spec().proxy_protocol, &exchange.connection, &exchange.client) {
        (None, ..) => None,
        (Some(version), Some(connection), Some(client)) => {
            Some(connection.announce(version, client))
        }
        (Some(_), ..) => return Err(Failure::Internal),
    };
    let attempt = Attempt::new(pool, occupied, exchange.deadline).announcing(announcement);
    let backlog = exchange.connection.as_ref().filter(|_| !exchange.is_h2());
    let attempt = attempt.with_backlog(backlog.map(|it| Arc::clone(it.backlog())));
    let window = if exchange.is_h2() { flight::GROWING } else { flight::EVEN };
    let attempt = Arc::new(attempt.with_window(window));
    if exchange.upgrade.is_some() {
        attempt.note_upgrade();
    }
    if traits.is_personal {
        attempt.note_personal();
    }
    if traits.has_long_body {
        attempt.note_long_body();
    }
    exchange.attempt = Some(Arc::clone(&attempt));
    if let Some(passage) = &mut exchange.passage {
        passage.restart();
    }
    let peer = peer::peer(Arc::clone(&attempt)).await;
    if attempt.is_engines_own() {
        let client = exchange.connection.as_ref().filter(|_| !exchange.is_h2());
        engine::note_attempt(Some(&attempt), client);
    }
    Ok(peer)
}

/// A place in the pool, once per exchange, and an endpoint.
async fn choose(exchange: &mut Exchange, pool: &Pool) -> Result<Occupied, Failure> {
    if exchange.place.is_none() {
        exchange.place = Some(pool.place().await.map_err(|_| Failure::PoolFull)?);
    }
    pool.pick(&exchange.tried).await.ok_or_else(|| match pool.endpoints().is_empty() {
        true => Failure::UpstreamUnresolved,
        false if exchange.tried.is_empty() => Failure::NoHealthyUpstream,
        false => Failure::NoUpstream,
    })
}

/// Notes that the engine has a connection. Ours have told the attempt themselves.
pub(super) fn connected(exchange: &Exchange, reused: bool, digest: Option<&Digest>) {
    let Some(attempt) = &exchange.attempt else { return };
    if !attempt.is_engines_own() {
        return;
    }
    attempt.end_turn(false);
    let timing = digest.and_then(|digest| digest.timing_digest.first()?.as_ref());
    let took = timing.and_then(|timing| timing.establishment_duration).unwrap_or_default();
    attempt.connected(reused, took);
}

/// Notes that the engine has got no connection.
pub(super) fn unconnected(exchange: &Exchange) {
    if let Some(attempt) = &exchange.attempt {
        attempt.end_turn(true);
    }
}

/// The pool of the request's route.
#[must_use]
pub(super) fn pool(exchange: &Exchange) -> Option<Arc<Pool>> {
    let generation = exchange.generation.as_ref()?;
    let index = exchange.pool?;
    generation.pools.get(index).cloned()
}

/// Makes the client's head the one that the server gets.
///
/// # Errors
/// [`Failure`] when the result would not be a request.
pub(super) fn rewrite(exchange: &Exchange, request: &mut RequestHeader) -> Result<(), Failure> {
    let (Some(attempt), Some(client), Some(connection), Some(trace)) =
        (&exchange.attempt, &exchange.client, &exchange.connection, &exchange.trace)
    else {
        return Err(Failure::Internal);
    };
    let spec = attempt.pool.spec();
    let server = &attempt.endpoint().server;
    let asked = HeaderValue::from_str(&exchange.head.host).map_err(|_| Failure::Internal)?;
    let is_h2 = attempt.is_engines_own() && request.version == http::Version::HTTP_2;
    let onward = Onward {
        client,
        connection: &connection.forwarded,
        host: &asked,
        id: &exchange.id,
        trace,
        upgrade: exchange.upgrade.as_ref(),
        is_h2,
        certificate: connection.tls.as_ref().and_then(|tls| tls.certificate_fields()),
    };
    if let Some(passage) = &exchange.passage {
        passage.drop_forged(request);
    }
    forward::request(request, &onward);
    let host = match &spec.host {
        HostHeader::Preserve => asked,
        HostHeader::Upstream => {
            HeaderValue::from_str(&server.authority()).map_err(|_| Failure::Internal)?
        }
        HostHeader::Name(name) => HeaderValue::from_str(name).map_err(|_| Failure::Internal)?,
    };
    set_target(exchange, request)?;
    request.insert_header(header::HOST, host).map_err(|_| Failure::Internal)?;
    if let Some(passage) = &exchange.passage {
        passage.edit_request(request);
    }
    Ok(())
}

/// Puts the target in origin form: the rewritten one, or the client's. The engine keeps the
/// client's spelling beside the URI and would send that one, an absolute target as it came.
fn set_target(exchange: &Exchange, request: &mut RequestHeader) -> Result<(), Failure> {
    let of_client = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = exchange.target.as_deref().unwrap_or(of_client);
    if request.uri.authority().is_none() && request.raw_path() == target.as_bytes() {
        return Ok(());
    }
    let uri = Uri::try_from(target).map_err(|_| Failure::Internal)?;
    request.set_uri(uri);
    Ok(())
}

/// Looks at the server's response head, and makes its fields those that the client gets.
///
/// # Errors
/// [`Failure::UpstreamBadResponse`] when it cannot be believed.
pub(super) fn receive(
    exchange: &mut Exchange,
    response: &mut ResponseHeader,
) -> Result<(), Failure> {
    if let Some(attempt) = &exchange.attempt {
        // The engine's own connections do not tell.
        attempt.note_heard();
        if identity::is_in_response(&response.headers) {
            attempt.note_personal();
        }
    }
    let upgrade = exchange.upgrade.as_ref();
    if let Err(bad) = check_response(response.status, response.version, &response.headers, upgrade)
    {
        return Err(refuse(exchange, bad));
    }
    if let Some(length) = plain_length(&response.headers) {
        response.insert(header::CONTENT_LENGTH, length.into());
    }
    let has_upgraded = response.status == http::StatusCode::SWITCHING_PROTOCOLS;
    if !has_upgraded && response.status.is_informational() {
        exchange.answer.interim += 1;
        if exchange.answer.interim > MAX_INTERIM {
            return Err(refuse(exchange, BadResponse::TooManyInterim));
        }
    } else {
        exchange.answer.first_byte = Some(exchange.started.elapsed());
        exchange.answer.has_begun = true;
        exchange.answer.status = response.status.as_u16();
        if let Some(attempt) = &exchange.attempt {
            attempt.note_more();
            attempt.enter(if has_upgraded { Phase::Tunnel } else { Phase::Body });
        }
    }
    forward::response(response, has_upgraded, exchange.is_h2());
    if let (true, Some(connection)) = (has_upgraded, &exchange.connection) {
        connection.become_tunnel();
    }
    Ok(())
}

/// Makes the fields behind the server's body those that the client gets.
///
/// # Errors
/// [`Failure::UpstreamBadResponse`] when there are too many.
pub(super) fn receive_trailers(
    exchange: &Exchange,
    trailers: &mut HeaderMap,
) -> Result<(), Failure> {
    trailers::keep_fit(trailers).map_err(|bad| refuse(exchange, bad))
}

/// Tells why a response is not passed on.
fn refuse(exchange: &Exchange, bad: BadResponse) -> Failure {
    let attempt = exchange.attempt.as_ref();
    let pool = attempt.map_or("", |attempt| attempt.pool.name());
    let endpoint = attempt.map_or("", |attempt| attempt.endpoint().label.as_str());
    let id = &exchange.id;
    match exchange.shared.failures.count_bad(pool, endpoint, bad) {
        Some(count) => {
            tracing::warn!(pool, endpoint, request_id = %id, error = %bad, count, "refused a response");
        }
        None => {
            tracing::debug!(pool, endpoint, request_id = %id, error = %bad, "refused a response");
        }
    }
    Failure::UpstreamBadResponse
}

/// The engine's heads keep the spelling of names beside the map, so every change goes through them.
macro_rules! fields_of {
    ($head:ty) => {
        impl Fields for $head {
            fn map(&self) -> &HeaderMap {
                &self.headers
            }

            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }

            fn insert(&mut self, name: HeaderName, value: HeaderValue) {
                // Valid by their types; the engine has no other reason to refuse.
                let _ = self.insert_header(name, value);
            }

            fn append(&mut self, name: HeaderName, value: HeaderValue) {
                let _ = self.append_header(name, value);
            }
        }
    };
}

fields_of!(RequestHeader);
fields_of!(ResponseHeader);
