//! The WebSocket echo (RFC 6455).

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::body::Answer;
use super::reply::plain;

/// Largest message that is echoed; the largest that the Autobahn suite sends.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Whether the client asks to turn this connection into a WebSocket.
pub(super) fn is_wanted(request: &Request<Incoming>) -> bool {
    names(request.headers(), "upgrade", "websocket")
        && names(request.headers(), "connection", "upgrade")
}

fn names(headers: &HeaderMap, field: &str, token: &str) -> bool {
    let values = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The answer to a handshake (RFC 6455 §4.2). A good one hands the stream to `keep`; the first
/// subprotocol offered is taken.
pub(super) fn accept(
    mut request: Request<Incoming>,
    keep: impl FnOnce(OnUpgrade),
) -> Response<Answer> {
    let headers = request.headers();
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return required();
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(Ok(key)) = key.map(HeaderValue::try_from) else {
        return plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|offered| offered.to_str().ok());
    let protocol = offered
        .and_then(|offered| offered.split(',').next())
        .and_then(|protocol| HeaderValue::from_str(protocol.trim()).ok());

    keep(hyper::upgrade::on(&mut request));
    let mut response = upgrading(Response::new(Answer::text("")), StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, key);
    if let Some(protocol) = protocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// The answer to who comes without a handshake, or with one of another version.
pub(super) fn required() -> Response<Answer> {
    let text = "this is a WebSocket of version 13\n";
    let mut response = upgrading(plain(StatusCode::OK, text), StatusCode::UPGRADE_REQUIRED);
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

fn upgrading(mut response: Response<Answer>, status: StatusCode) -> Response<Answer> {
    *response.status_mut() = status;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response
}

/// Sends every message back until either side closes, or `stop`, which closes with 1001.
pub(super) async fn echo(upgrade: OnUpgrade, stop: &CancellationToken) {
    let Ok(stream) = upgrade.await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    let stream = TokioIo::new(stream);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    loop {
        let Some(message) = stop.run_until_cancelled(socket.next()).await else {
            let farewell = CloseFrame { code: CloseCode::Away, reason: "stopping".into() };
            // A client that is gone needs no farewell.
            let _ = socket.close(Some(farewell)).await;
            return;
        };
        // Pings and closes are answered by the protocol itself, in the next read.
        let Some(Ok(message)) = message else { return };
        let is_data = message.is_text() || message.is_binary();
        if is_data && socket.send(message).await.is_err() {
            return;
        }
    }
}
