//! One connection to a certificate authority. It runs only while somebody waits for an answer, so
//! that no task is needed for it.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{RequestError, Server};
use crate::tls::transport::Upstream;
use crate::tls::{ClientConfig, ServerName, connect};

/// Largest answer that is taken. Chains and orders of a hundred names are a tenth of it.
const MAX_ANSWER: usize = 1024 * 1024;

/// A connection that is open, as far as is known.
pub(super) struct Connection {
    /// Where it leads.
    pub(super) server: Server,
    /// When it was last used.
    pub(super) used: Instant,
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// Why a request had no answer.
pub(super) struct Failure {
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Request<Bytes>>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    pub(super) fn broken(self, authority: &str) -> RequestError {
        RequestError::Broken { authority: authority.to_owned(), source: self.source }
    }
}

impl Connection {
    /// Connects to `server` within `limit`, with `tls` or else plainly.
    pub(super) async fn open(
        tls: Option<&Arc<ClientConfig>>,
        server: &Server,
        limit: Duration,
    ) -> Result<Self, RequestError> {
        let authority = &server.authority;
        match tokio::time::timeout(limit, Self::open_at_leisure(tls, server)).await {
            Ok(opened) => opened,
            Err(_) => Err(RequestError::ConnectTimeout { authority: authority.clone(), limit }),
        }
    }

    async fn open_at_leisure(
        tls: Option<&Arc<ClientConfig>>,
        server: &Server,
    ) -> Result<Self, RequestError> {
        let authority = server.authority.as_str();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = tokio::net::lookup_host(authority)
            .await
            .map_err(|source| RequestError::Resolve { host: host.to_owned(), source })?;
        let at = |source| RequestError::Connect { authority: authority.to_owned(), source };
        let stream = dial(addresses).await.map_err(at)?;
        let stream = match tls {
            None => Upstream::Plain(stream),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| RequestError::Url(authority.to_owned()))?;
                let stream = connect(tls, name, stream.into()).await.map_err(|source| {
                    RequestError::Tls { authority: authority.to_owned(), source }
                })?;
                Upstream::Tls(Box::new(stream))
            }
        };
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| RequestError::Broken {
            authority: authority.to_owned(),
            source: error.into(),
        })?;
        // What ends it shows at the request.
        let connection = Box::pin(async move { drop(connection.await) });
        let driver = Driver { connection, is_over: false };
        Ok(Self { server: server.clone(), used: Instant::now(), sender, driver })
    }

    /// Sends `request` and takes the whole answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Failure> {
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        if let Err(error) = driver.alongside(sender.ready()).await {
            return Err(Failure { unsent: Some(request), source: error.into() });
        }
        let sending = sender.try_send_request(request.map(Full::new));
        let answer = match driver.alongside(sending).await {
            Ok(answer) => answer,
            Err(mut error) => {
                let unsent = match error.take_message() {
                    Some(request) => take_back(request).await,
                    None => None,
                };
                return Err(Failure { unsent, source: error.into_error().into() });
            }
        };
        let (head, body) = answer.into_parts();
        let body = driver.alongside(Limited::new(body, MAX_ANSWER).collect()).await;
        let body = body.map_err(|source| Failure { unsent: None, source })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// Whether it can take no other request.
    pub(super) fn is_over(&self) -> bool {
        self.driver.is_over || self.sender.is_closed()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The work of the connection itself.
struct Driver {
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl Driver {
    /// Works on the connection while `work` waits for it.
    async fn alongside<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            self.poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.is_over {
            self.is_over = self.connection.as_mut().poll(cx) == Poll::Ready(());
        }
    }
}

/// A request that was not sent, as it was given.
async fn take_back(request: Request<Full<Bytes>>) -> Option<Request<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?; // at hand, and without errors
    Some(Request::from_parts(head, body.to_bytes()))
}

/// Connects to the first of `addresses` that lets us, a quarter of a second apart, so that a family
/// that leads nowhere costs no more than that (RFC 8305 §5).
pub(crate) async fn dial(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    const HEAD_START: Duration = Duration::from_millis(250);
    let mut attempts: FuturesUnordered<_> = (0_u32..)
        .zip(addresses)
        .map(|(before, address)| async move {
            tokio::time::sleep(HEAD_START * before).await;
            TcpStream::connect(address).await
        })
        .collect();
    let mut last = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => {
                // A request is one segment after another; waiting for the acknowledgement of the
                // first costs 40 ms each.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address")))
}
