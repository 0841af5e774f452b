//! The engine's hooks. Each only delegates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::admit::{Next, admit};
use super::connection::Connection;
use super::exchange::Exchange;
use super::failure::Failure;
use super::gateway::Shared;
use super::{answer, engine, filtering, onward, outcome, retry};

/// The gateway as the engine sees it.
#[derive(Debug)]
pub struct Hooks {
    /// What all requests share.
    pub shared: Arc<Shared>,
}

/// When the first byte of an HTTP/1.1 request arrived; the engine hands it to the hooks.
#[derive(Clone, Copy, Debug)]
pub struct Arrival(pub Instant);

/// The error that ends a phase; the exchange says why.
fn stop(exchange: &mut Exchange, failure: Failure) -> Box<Error> {
    exchange.failure.get_or_insert(failure);
    Error::new(ErrorType::HTTPStatus(failure.status().as_u16()))
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(Arc::clone(&self.shared))
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        exchange: &mut Exchange,
        arrival: Box<dyn std::any::Any + Send + Sync>,
    ) {
        if let Some(Arrival(moment)) = arrival.downcast_ref() {
            exchange.started = *moment;
        }
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.connection = connection_of(session);
        session.set_read_timeout(None);
        // HTTP/1.0 knows no 1xx (RFC 9110 §15.2).
        let is_old = session.req_header().version == Version::HTTP_10;
        session.as_downstream_mut().set_ignore_info_resp(is_old);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match admit(exchange, session.req_header()).await {
            Ok(Next::Upstream(pool)) => {
                exchange.pool = Some(pool);
                answer::expectation(session).await.map(|()| false)
            }
            Ok(Next::Reply(reply)) => answer::send(session, exchange, reply).await.map(|()| true),
            Err(failure) => {
                answer::fail(session, exchange, failure).await;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        onward::next_peer(session, exchange).await.map_err(|failure| stop(exchange, failure))
    }

    #[cfg(unix)]
    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        onward::connected(exchange, reused, digest);
        answer::await_body(session, exchange);
        Ok(())
    }

    #[cfg(windows)]
    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _socket: std::os::windows::io::RawSocket,
        digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        onward::connected(exchange, reused, digest);
        answer::await_body(session, exchange);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if let Some(error) = retry::lost_h2(exchange, request.version) {
            return Err(error);
        }
        exchange.send(session.is_body_done());
        onward::rewrite(exchange, request).map_err(|failure| stop(exchange, failure))
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let bytes = body.as_ref().map_or(0, Bytes::len);
        exchange.received(bytes, is_end);
        filtering::receive(exchange, bytes, session.was_upgraded())
            .map_err(|failure| stop(exchange, failure).into_down())?;
        answer::carry_up(exchange, body);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if exchange.is_leaving() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            session.set_keepalive(None);
        }
        let is_replayable = !session.as_ref().retry_buffer_truncated();
        if retry::after_status(exchange, response.status, is_replayable) {
            return Err(retry::discarded(response.status));
        }
        onward::receive(exchange, response).map_err(|failure| stop(exchange, failure).into_up())
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<()> {
        onward::receive_trailers(exchange, trailers)
            .map_err(|failure| stop(exchange, failure).into_up())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()>
    where
        Self::CTX: Send + Sync,
    {
        answer::begin(exchange, response);
        filtering::respond(exchange, session.req_header(), response)?;
        answer::fit(session, response);
        answer::detach(session, response);
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        filtering::encode(exchange, body, is_end)?;
        if !session.was_upgraded() {
            answer::carry(exchange, body, is_end);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<Option<Bytes>> {
        answer::end(exchange);
        filtering::end(exchange)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        engine::note_attempt(None, None);
        onward::unconnected(exchange);
        error.set_retry(retry::after_connect(exchange, &error));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        _reused: bool,
    ) -> Box<Error> {
        engine::note_attempt(None, None);
        let is_replayable = !session.as_ref().retry_buffer_truncated();
        error.set_retry(retry::after_break(exchange, &error, is_replayable));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let failure = outcome::failure(exchange, error);
        outcome::log(exchange, failure, error);
        let error_code = answer::fail(session, exchange, failure).await;
        FailToProxy { error_code, can_reuse_downstream: true }
    }

    async fn logging(
        &self,
        session: &mut Session,
        _error: Option<&Error>,
        exchange: &mut Exchange,
    ) {
        exchange.conclude(session);
    }

    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Exchange,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// The facts that `listen` attached to the connection.
fn connection_of(session: &Session) -> Option<Arc<Connection>> {
    let facts = session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?;
    facts.downcast_ref::<Arc<Connection>>().cloned()
}
