//! Which answer a request gets.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde::Serialize;

use super::body::{Answer, Ticks};
use super::{Connection, websocket};

/// Bytes of a request's body that the echo repeats; the rest is counted.
const ECHO_BYTES: usize = 64 * 1024;
/// Longest gap in a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest delay of `/slow`.
const SLOW_SECONDS: f64 = 60.0;
/// Most ticks of `/stream`, and most milliseconds between two.
const TICKS: u64 = 100_000;
const TICK_MILLIS: u64 = 60_000;
/// Most bytes of `/bytes/N`.
const MOST_BYTES: u64 = 1 << 30;

/// Answers one request. A WebSocket's stream goes into `upgrade`, for when the answer is sent.
pub(super) async fn answer(
    connection: &Connection,
    upgrade: &Mutex<Option<OnUpgrade>>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, hyper::Error> {
    let mut response = if websocket::is_wanted(&request) {
        websocket::accept(request, |stream| {
            *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        })
    } else if request.uri().path() == "/mirror" {
        mirror(request).await?
    } else {
        let (head, body) = request.into_parts();
        match Upload::read(body).await? {
            Some(upload) => route(connection, &head, &upload).await,
            None => plain(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
        }
    };
    response.headers_mut().insert("x-demo-backend", connection.label.header.clone());
    Ok(response)
}

async fn route(
    connection: &Connection,
    head: &request::Parts,
    upload: &Upload,
) -> Response<Answer> {
    let path = head.uri.path();
    if let Some(status) = path.strip_prefix("/status/") {
        return with_status(status);
    }
    if let Some(count) = path.strip_prefix("/bytes/") {
        return digits(count);
    }
    match path {
        "/health" => plain(StatusCode::OK, "ok\n"),
        "/stream" => stream(head),
        "/ws" => websocket::required(),
        "/slow" => {
            let seconds = query(head, "seconds").unwrap_or(5.0_f64);
            let seconds = if seconds.is_nan() { 0.0 } else { seconds.clamp(0.0, SLOW_SECONDS) };
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            echo(connection, head, upload)
        }
        _ => echo(connection, head, upload),
    }
}

/// A body as it was received: its beginning, and how much there was.
#[derive(Default)]
struct Upload {
    beginning: Vec<u8>,
    bytes: u64,
    trailers: Option<HeaderMap>,
}

impl Upload {
    /// Reads to the end, so that an early answer never cuts off a client that is still sending. `None`
    /// when a gap was too long.
    async fn read(mut body: Incoming) -> Result<Option<Self>, hyper::Error> {
        let mut upload = Self::default();
        loop {
            let Ok(frame) = tokio::time::timeout(BODY_TIMEOUT, body.frame()).await else {
                return Ok(None);
            };
            let Some(frame) = frame.transpose()? else { return Ok(Some(upload)) };
            match frame.into_data() {
                Ok(data) => upload.take(&data),
                Err(frame) => upload.trailers = frame.into_trailers().ok(),
            }
        }
    }

    fn take(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
        let room = ECHO_BYTES - self.beginning.len();
        self.beginning.extend_from_slice(&data[..data.len().min(room)]);
    }
}

/// A request as the backend saw it.
#[derive(Serialize)]
struct Echo<'a> {
    server: &'a str,
    client: String,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    version: String,
    headers: Vec<(&'a str, String)>,
    body: String,
    body_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trailers: Option<Vec<(&'a str, String)>>,
}

fn echo(connection: &Connection, head: &request::Parts, upload: &Upload) -> Response<Answer> {
    let echo = Echo {
        server: &connection.label.name,
        client: connection.peer.to_string(),
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query(),
        version: format!("{:?}", head.version),
        headers: pairs(&head.headers),
        body: String::from_utf8_lossy(&upload.beginning).into_owned(),
        body_bytes: upload.bytes,
        trailers: upload.trailers.as_ref().map(pairs),
    };
    match serde_json::to_string_pretty(&echo) {
        Ok(text) => typed(StatusCode::OK, "application/json", Answer::text(text + "\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the echo has no spelling\n"),
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

fn with_status(text: &str) -> Response<Answer> {
    let status = text.parse().ok().filter(|code| (200..600).contains(code));
    match status.and_then(|code: u16| StatusCode::from_u16(code).ok()) {
        Some(status) => plain(status, format!("{status}\n")),
        None => plain(StatusCode::BAD_REQUEST, "/status/N takes 200 to 599\n"),
    }
}

fn digits(text: &str) -> Response<Answer> {
    match text.parse() {
        Ok(count) if count <= MOST_BYTES => {
            typed(StatusCode::OK, "application/octet-stream", Answer::Digits(count))
        }
        _ => plain(StatusCode::BAD_REQUEST, "/bytes/N takes 0 to 1073741824\n"),
    }
}

fn stream(head: &request::Parts) -> Response<Answer> {
    let count = query(head, "count").unwrap_or(10).min(TICKS);
    let every = Duration::from_millis(query(head, "every").unwrap_or(1000).min(TICK_MILLIS));
    let accept = head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let is_event = accept.into_iter().any(|value| value.contains("text/event-stream"));
    let kind = if is_event { "text/event-stream" } else { "text/plain; charset=utf-8" };
    let body = Answer::Ticks(Ticks::new(count, every, is_event));
    let mut response = typed(StatusCode::OK, kind, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Sends a body back while it arrives. Who expects 100 gets it first (RFC 9110 §10.1.1), which hyper
/// sends only where the body is read before the answer begins.
async fn mirror(request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let first = match head.headers.contains_key(EXPECT) {
        true => body.frame().await.transpose()?,
        false => None,
    };
    let mut response = Response::new(Answer::Mirror(first, body));
    let kind = head.headers.get(CONTENT_TYPE).cloned();
    let kind = kind.unwrap_or(const { HeaderValue::from_static("application/octet-stream") });
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// An answer of text.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Answer> {
    typed(status, "text/plain; charset=utf-8", Answer::text(text))
}

fn typed(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The value of `key` in the query, where it is one.
fn query<T: FromStr>(head: &request::Parts, key: &str) -> Option<T> {
    let mut pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key)?.1.parse().ok()
}
