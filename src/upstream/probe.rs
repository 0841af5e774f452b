//! One check of one endpoint: what is sent, and what counts as an answer.
//!
//! A check goes the way that requests go, over a connection of its own, and is counted nowhere.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::dial::{DialFailure, dial};
use super::endpoint::Endpoint;
use super::pool::Pool;
use super::wire::Transport;
use crate::config::health::{Check, Expect, Health};
use crate::config::upstream::{HostHeader, Server, UpstreamProtocol};
use crate::net::proxy_protocol::Version;

/// What checks are known by in servers' logs.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("wardgate/", env!("CARGO_PKG_VERSION"), " health"));

/// How much of a body is looked through for the text expected in it.
const MAX_BODY: usize = 64 << 10;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeFailure {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialFailure),
    /// `health.timeout` passed.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// What came back is no HTTP/1.1, or the connection broke.
    #[error("no valid answer")]
    Http1(#[from] hyper::Error),
    /// What came back is no HTTP/2, or the connection broke.
    #[error("no valid answer")]
    H2(#[from] h2::Error),
    /// A status that was not expected.
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    /// A body without the text expected.
    #[error("the body does not contain the expected text")]
    Body,
    /// The pool's `host` or `path` makes no request.
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

impl ProbeFailure {
    /// Whether it says nothing of the server.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Dial(failure) if failure.is_ours())
    }

    /// Whether there was no port towards the server, or no address to reach it from.
    pub(super) fn lacks_port(&self) -> bool {
        matches!(self, Self::Dial(DialFailure::NoPort(_)))
    }

    /// In one line, with those of its causes that say something new.
    pub(super) fn text(&self) -> String {
        let mut last = self.to_string();
        let mut text = last.clone();
        let mut source = self.source();
        while let Some(cause) = source {
            source = cause.source();
            let cause = cause.to_string();
            let is_repeated =
                cause.get(..last.len()).is_some_and(|start| start.eq_ignore_ascii_case(&last));
            if !is_repeated {
                text = format!("{text}: {cause}");
            }
            last = cause;
        }
        text
    }
}

/// Checks `endpoint` once, within `health.timeout`.
///
/// # Errors
/// [`ProbeFailure`] when it is not as it should be.
pub(super) async fn probe(
    pool: &Pool,
    endpoint: &Endpoint,
    health: &Health,
) -> Result<(), ProbeFailure> {
    let check = async {
        let opening = pool.spec().proxy_protocol.map(Version::local).unwrap_or_default();
        let transport = dial(pool, endpoint, opening).await?;
        match &health.check {
            Check::Tcp => Ok(()),
            Check::Http { path, expect } => ask(pool, endpoint, transport, path, expect).await,
        }
    };
    let outcome = tokio::time::timeout(health.timeout, check).await;
    outcome.unwrap_or(Err(ProbeFailure::Timeout(health.timeout)))
}

async fn ask(
    pool: &Pool,
    endpoint: &Endpoint,
    transport: Transport,
    path: &str,
    expect: &Expect,
) -> Result<(), ProbeFailure> {
    let authority = authority(&pool.spec().host, &endpoint.server);
    match pool.spec().protocol {
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto => {
            http1(transport, &authority, path, expect).await
        }
        UpstreamProtocol::H2 | UpstreamProtocol::H2c => {
            let scheme = if endpoint.server.https { "https" } else { "http" };
            h2(transport, &format!("{scheme}://{authority}{path}"), expect).await
        }
    }
}

async fn http1(
    transport: Transport,
    authority: &str,
    path: &str,
    expect: &Expect,
) -> Result<(), ProbeFailure> {
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(transport)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let Some(mut search) = Search::begin(&response, expect)? else { return Ok(()) };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data()
                && search.is_over(&data)
            {
                break;
            }
        }
        search.end()
    };
    beside(exchange, connection).await
}

async fn h2(transport: Transport, uri: &str, expect: &Expect) -> Result<(), ProbeFailure> {
    let request = Request::get(uri).header(header::USER_AGENT, USER_AGENT).body(())?;
    let (sender, connection) = h2::client::handshake(transport).await?;
    let exchange = async move {
        let mut sender = sender.ready().await?;
        let (response, _) = sender.send_request(request, true)?;
        let response = response.await?;
        let Some(mut search) = Search::begin(&response, expect)? else { return Ok(()) };
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let data = data?;
            // What was asked for is taken; the window is larger than what is looked through.
            if search.is_over(&data) {
                break;
            }
        }
        search.end()
    };
    beside(exchange, connection).await
}

/// Runs `exchange` while `connection` moves its bytes.
async fn beside<E>(
    exchange: impl Future<Output = Result<(), ProbeFailure>>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<(), ProbeFailure> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // Its end ends the exchange, too, which knows better why.
        _ = connection => exchange.await,
    }
}

/// The text expected in a body, and what has been seen of it.
struct Search<'a> {
    wanted: &'a [u8],
    seen: Vec<u8>,
    is_found: bool,
}

impl<'a> Search<'a> {
    /// Judges the head. `None` when no text is expected.
    fn begin<B>(response: &Response<B>, expect: &'a Expect) -> Result<Option<Self>, ProbeFailure> {
        let status = response.status();
        let is_in = |(low, high): &(u16, u16)| (*low..=*high).contains(&status.as_u16());
        if !expect.status.iter().any(is_in) {
            return Err(ProbeFailure::Status(status));
        }
        let search = |text: &'a String| Self {
            wanted: text.as_bytes(),
            seen: Vec::new(),
            is_found: text.is_empty(),
        };
        Ok(expect.body.as_ref().map(search))
    }

    /// Whether no more of the body is needed after `data`.
    fn is_over(&mut self, data: &[u8]) -> bool {
        // The text may lie across the seam.
        let from = self.seen.len().saturating_sub(self.wanted.len());
        let room = MAX_BODY - self.seen.len();
        self.seen.extend_from_slice(&data[..data.len().min(room)]);
        let mut windows = self.seen[from..].windows(self.wanted.len().max(1));
        self.is_found |= windows.any(|window| window == self.wanted);
        self.is_found || self.seen.len() == MAX_BODY
    }

    fn end(self) -> Result<(), ProbeFailure> {
        if self.is_found { Ok(()) } else { Err(ProbeFailure::Body) }
    }
}

/// What the request is for: the pool's fixed host, or the server as its own clients would name it.
fn authority(host: &HostHeader, server: &Server) -> String {
    match host {
        HostHeader::Name(name) => name.clone(),
        HostHeader::Preserve | HostHeader::Upstream => server.authority(),
    }
}
