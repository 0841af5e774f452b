//! Connections of the admin listener, and the answers.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::control::{Outcome, Stopping};
use super::guard::{self, Question, Refusal, Rules};
use super::taking::Taking;
use super::{Desk, certs, status, upgrade};
use crate::net::Host;
use crate::proxy::pressure;
use crate::telemetry::metrics::CONTENT_TYPE;

/// Connections at once; supervisors need few.
const MAX_CONNECTIONS: usize = 64;

/// Connections beyond which none is kept for longer than [`PATIENCE`] but for the request it is at.
const CROWD: usize = MAX_CONNECTIONS / 2;

/// Time for a request's head, for its body, for a client to take something of an answer, and for a
/// connection without a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and of its body: a chain and its key have ten thousand.
const MOST: usize = 64 << 10;

type Answer = Response<Full<Bytes>>;

/// Answers on `socket` until `close`, and what was asked by then until `stop`. Drops `accepting` when
/// no more is accepted.
pub async fn serve(
    socket: TcpListener,
    desk: Arc<Desk>,
    (close, accepting): (CancellationToken, DropGuard),
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let work = async {
        accept(socket, desk, &mut connections, &close).await;
        drop(accepting);
        while connections.join_next().await.is_some() {}
    };
    let _ = stop.run_until_cancelled(work).await;
}

async fn accept(
    socket: TcpListener,
    desk: Arc<Desk>,
    connections: &mut JoinSet<()>,
    close: &CancellationToken,
) {
    // Held by each connection, so that each knows how many there are.
    let crowd = Arc::new(());
    // A socket without an address is treated as one that everybody reaches.
    let is_loopback = socket.local_addr().is_ok_and(|address| address.ip().is_loopback());
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => return,
            () = desk.probes.expire() => continue,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (desk, crowd, close) = (Arc::clone(&desk), Arc::clone(&crowd), close.clone());
                connections.spawn(serve_connection(stream, desk, is_loopback, (crowd, close)));
            }
            Err(error) => {
                if pressure::is_shortage(&error) {
                    desk.shared.pressure.lack(&error);
                } else {
                    tracing::warn!(%error, "paused accepting on the admin address");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    desk: Arc<Desk>,
    is_loopback: bool,
    (crowd, close): (Arc<()>, CancellationToken),
) {
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(request, &desk, is_loopback).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MOST)
        .serve_connection(TokioIo::new(Taking::new(stream, PATIENCE)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = async { tokio::select! { () = close.cancelled() => {}, () = outstay(&crowd) => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "lost an admin connection");
    }
}

/// Ready when a connection has been there for long enough, and there are many.
async fn outstay(crowd: &Arc<()>) {
    loop {
        tokio::time::sleep(PATIENCE).await;
        // One is the listener's own.
        if Arc::strong_count(crowd) > CROWD + 1 {
            return;
        }
    }
}

async fn answer<B>(request: Request<B>, desk: &Desk, is_loopback: bool) -> Answer
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let question = {
        let generation = desk.shared.current.load();
        let admin = generation.config.admin.as_ref();
        let configured = admin.and_then(|admin| admin.token.as_deref());
        let made = desk.token.load();
        guard::admit(&head, Rules { is_loopback, configured, made: made.as_deref() })
    };
    let question = match question {
        Ok(question) => question,
        Err(refusal) => return refused(refusal),
    };
    let body = match tokio::time::timeout(PATIENCE, Limited::new(body, MOST).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    };
    match question {
        Question::Live => text(StatusCode::OK, "live\n"),
        Question::Ready => {
            let (is_ready, state) = (desk.state)();
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, format!("{state}\n"))
        }
        Question::Metrics => typed(StatusCode::OK, METRICS, (desk.metrics)()),
        Question::Config => typed(StatusCode::OK, YAML, desk.view.load().effective.clone()),
        Question::Status => json(StatusCode::OK, &status::json(desk, SystemTime::now())),
        Question::Reload => reloaded(desk.control.reload("admin").await),
        Question::Upgrade => match certs::arguments(&body) {
            Ok(arguments) => {
                let reply = upgrade::answer(&desk.control, &arguments, is_loopback).await;
                json(reply.status, &reply.body)
            }
            Err(reply) => json(reply.status, &reply.body),
        },
        Question::Probe => probed(desk, head.uri.query().unwrap_or_default()).await,
        Question::Certs(question) => match certs::arguments(&body) {
            Ok(arguments) => {
                let reply = (desk.certs)(question, arguments).await;
                json(reply.status, &reply.body)
            }
            Err(reply) => json(reply.status, &reply.body),
        },
    }
}

const METRICS: HeaderValue = HeaderValue::from_static(CONTENT_TYPE);
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers what an authority would ask for `name` with what only we know.
async fn probed(desk: &Desk, query: &str) -> Answer {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let name = pairs.find(|(key, _)| key == "name").map(|(_, name)| name);
    let Some(Ok(host)) = name.map(|name| Host::parse(&name)) else {
        return text(StatusCode::BAD_REQUEST, "a host is needed: ?name=app.example.com\n");
    };
    match desk.probes.publish(desk.shared.certificates.challenges(), &host).await {
        Some(shown) => json(StatusCode::OK, &shown),
        None => text(StatusCode::TOO_MANY_REQUESTS, "too many hosts are being probed\n"),
    }
}

fn reloaded(outcome: Result<Outcome, Stopping>) -> Answer {
    match outcome {
        Ok(outcome) => {
            let status = match outcome {
                Outcome::Applied { .. } | Outcome::Unchanged { .. } => StatusCode::OK,
                Outcome::Rejected { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            };
            json(status, &status::outcome(&outcome))
        }
        Err(Stopping) => {
            let error = Stopping.to_string();
            json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": error }))
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    let mut answer = text(refusal.status, refusal.text);
    if let Some(methods) = refusal.allow {
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    // What came in a refused request's body is not read to its end.
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    typed(status, JSON, format!("{value:#}\n"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, PLAIN, body)
}

fn typed(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_how_a_reload_ended() {
        let text = "f".to_owned();
        for (outcome, status) in [
            (Ok(Outcome::Applied { generation: 2, warnings: text.clone() }), 200),
            (Ok(Outcome::Unchanged { generation: 2 }), 200),
            (Ok(Outcome::Rejected { generation: 2, faults: text }), 422),
            (Err(Stopping), 503),
        ] {
            assert_eq!(reloaded(outcome).status(), status);
        }
    }
}
