//! The admin listener: what supervisors ask of a running gateway.
//!
//! Answers `/live` (the process answers), `/ready` (it serves) and `/metrics`. Called by `app`. Reads, and
//! changes nothing. Bound to loopback; a request with a foreign `Host`, as a rebound DNS name in a
//! browser would send, is refused.

pub mod control;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::net::{Host, HostRef};

/// Connections at once; supervisors need one.
const MAX_CONNECTIONS: usize = 64;

/// Time for a request's head, and for a connection without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the gateway serves, and the word for its state.
pub trait Readiness: FnMut() -> (bool, &'static str) + Send + Clone + 'static {}
impl<F: FnMut() -> (bool, &'static str) + Send + Clone + 'static> Readiness for F {}

/// The metrics at the moment, in Prometheus' text format.
pub trait Scrape: Fn() -> String + Send + Clone + 'static {}
impl<F: Fn() -> String + Send + Clone + 'static> Scrape for F {}

/// Answers on `socket` until `stop`.
pub async fn serve(
    socket: TcpListener,
    ready: impl Readiness,
    scrape: impl Scrape,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let stop = Arc::new(stop);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, ready.clone(), scrape.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "paused accepting on the admin address");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, ready: impl Readiness, scrape: impl Scrape) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &mut ready.clone(), &scrape);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "lost an admin connection");
    }
}

fn answer(
    request: &Request<Incoming>,
    ready: &mut impl Readiness,
    scrape: &impl Scrape,
) -> Response<Full<Bytes>> {
    if !is_local(request) {
        return text(StatusCode::FORBIDDEN, "this host name is not the admin listener's\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => match ready() {
            (true, state) => text(StatusCode::OK, &format!("{state}\n")),
            (false, state) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{state}\n")),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, &scrape());
            let kind = header::HeaderValue::from_static(crate::telemetry::metrics::CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /live, /ready and /metrics\n"),
    }
}

/// Whether the request names a loopback host. DNS rebinding gives a foreign name our address.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    match host.map(HostRef::parse_authority) {
        Some(Ok((host, _))) => match host.to_host() {
            Host::Name(name) => name.as_str() == "localhost",
            Host::Address(address) => address.is_loopback(),
        },
        Some(Err(_)) | None => false,
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
