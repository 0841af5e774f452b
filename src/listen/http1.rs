//! The life of an HTTP/1.1 connection: head, exchange, head, exchange, end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pingora_core::protocols::http::ServerSession;
use tokio_util::sync::WaitForCancellationFuture;

use super::connection::Surroundings;
use super::head_gate::{Head, HeadGate, HeadLimits, Refusal, Span, TargetForm, Verdict};
use super::line::Line;
use super::loan::{Loan, Return, digest};
use crate::config::process::Limits;
use crate::proxy::connection::ClientFault;
use crate::proxy::engine::Served;
use crate::proxy::failure::Failure;
use crate::proxy::hooks::Arrival;
use crate::proxy::pressure::Ear;
use crate::proxy::refuse::{Fragments, refuse};

/// How long a connection that is being closed is read on, so that the client gets to see the
/// answer (RFC 9112 §9.6). nginx's `lingering_timeout` is 5 s.
const LINGER: Duration = Duration::from_secs(2);

/// What comes next on a connection.
enum Next {
    /// A head that may pass, and when its first byte arrived.
    Head(Head, Instant),
    /// One that may not, or the beginning of one without its end.
    Refused(Refusal, Instant),
    /// Nothing: the client left, kept silent for too long, or we are stopping.
    End,
}

/// What ends a connection while nothing is asked on it: we are stopping, or need the room.
struct Leave<'p, 'a> {
    stopping: Pin<&'p mut WaitForCancellationFuture<'a>>,
    ear: Ear<'a>,
}

impl Leave<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.stopping.as_mut().poll(cx) {
            Poll::Pending => self.ear.poll(cx),
            done => done,
        }
    }
}

/// Serves `line` until either side closes it.
pub async fn serve(mut line: Line, around: Arc<Surroundings>) {
    let digest = digest(line.connection());
    let place = Return::default();
    let stopping = pin!(around.drain.cancelled());
    let mut leave = Leave { stopping, ear: around.engine.shared().pressure.ear() };
    let mut gate = HeadGate::default();
    loop {
        let limits = around.limits();
        let (head, arrived) = match next(&mut line, &mut gate, &limits, &mut leave).await {
            Next::Head(head, arrived) => (head, arrived),
            Next::Refused(refusal, arrived) => {
                return turn_away(line, &around, &refusal, arrived).await;
            }
            Next::End => return line.close(LINGER).await,
        };
        if is_other_scheme(&line, &head) {
            let refusal = head.refused(421, "another scheme than the connection's");
            return turn_away(line, &around, &refusal, arrived).await;
        }
        let is_wanted = head.keep_alive;
        let growth = spell_target(&mut line, head.target);
        line.begin(head.leading, head.len + growth, head.body);
        let mut session =
            ServerSession::new_http1(Box::new(Loan::new(line, place.clone(), Arc::clone(&digest))));
        session.set_connection_user_context(Some(Box::new(Arrival(arrived))));
        let served = around.engine.serve(session).await;
        let Some(returned) = place.take() else { return };
        line = returned;
        line.connection().set_deadline(None);
        if let Some(words) = line.connection().take_last_words() {
            line.outbox().extend_from_slice(&words);
            return line.close(LINGER).await;
        }
        if !line.has_answered() {
            // The engine had not begun with it.
            let failure = match line.connection().client_fault() {
                _ if served == Served::Panicked => Some(Failure::Panic),
                Some(ClientFault::Deadline) => Some(Failure::ExchangeTimeout),
                _ => None,
            };
            if let Some(failure) = failure {
                return say(line, &around, failure, arrived, None).await;
            }
        }
        // Taken in any case: the next exchange must not find this one's promise.
        let has_promised = line.connection().take_answered();
        let is_kept = served == Served::Kept || has_promised;
        let is_over = !is_wanted
            || !is_kept
            || !line.is_between_requests()
            || line.connection().is_tunnel()
            || line.connection().client_fault().is_some()
            || around.drain.is_cancelled();
        if is_over || poll_fn(|cx| line.poll_drain(cx)).await.is_err() {
            return line.close(LINGER).await;
        }
        line.end();
        line.shrink();
    }
}

/// Waits for the next head: `idle_timeout` for its first byte, then `request_header_timeout` in
/// all. A client that ends in the middle of one may have closed its own direction only, and is
/// answered; nothing but empty lines is no head.
async fn next(
    line: &mut Line,
    gate: &mut HeadGate,
    limits: &Limits,
    leave: &mut Leave<'_, '_>,
) -> Next {
    let bounds = HeadLimits {
        bytes: limits.request_header_bytes,
        fields: limits.request_headers,
        uri_bytes: limits.request_uri_bytes,
    };
    let idle_since = Instant::now();
    let mut arrived = (!line.inbox().is_empty()).then_some(idle_since);
    loop {
        if let Some(arrived) = arrived {
            match gate.inspect(line.inbox(), &bounds) {
                Verdict::Pass(head) => return Next::Head(head, arrived),
                Verdict::Refuse(refusal) => return Next::Refused(refusal, arrived),
                Verdict::Incomplete => {}
            }
        }
        let deadline = match arrived {
            Some(arrived) => arrived + limits.request_header_timeout,
            None => idle_since + limits.idle_timeout,
        };
        let mut wait = |cx: &mut Context<'_>| -> Poll<Option<usize>> {
            if let Poll::Ready(read) = line.poll_fill(cx) {
                return Poll::Ready(Some(read.unwrap_or(0)));
            }
            let is_leaving = arrived.is_none() && leave.poll(cx).is_ready();
            if is_leaving || line.poll_deadline(cx, deadline).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        };
        match (poll_fn(&mut wait).await, arrived) {
            (None, Some(arrived)) => return Next::Refused(gate.give_up(408, "late"), arrived),
            (Some(0), Some(arrived)) if !is_blank(line.inbox()) => {
                return Next::Refused(gate.give_up(400, "head_incomplete"), arrived);
            }
            (None, None) | (Some(0), _) => return Next::End,
            (Some(_), _) => arrived = arrived.or_else(|| Some(Instant::now())),
        }
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Answers a client that speaks plain HTTP where TLS is spoken, once its first head is in.
pub async fn turn_away_plain(mut line: Line, around: &Surroundings) {
    const REASON: &str = "plain HTTP was sent to a port that speaks HTTPS; use https://";
    let stopping = pin!(around.drain.cancelled());
    let mut leave = Leave { stopping, ear: around.engine.shared().pressure.ear() };
    let mut gate = HeadGate::default();
    match next(&mut line, &mut gate, &around.limits(), &mut leave).await {
        Next::Head(head, arrived) => {
            turn_away(line, around, &head.refused(400, REASON), arrived).await;
        }
        Next::Refused(refusal, arrived) => {
            let failure = Failure::BadRequest(REASON);
            say(line, around, failure, arrived, Some(&refusal)).await;
        }
        Next::End => line.close(LINGER).await,
    }
}

/// Answers a head that goes nowhere, and closes.
async fn turn_away(line: Line, around: &Surroundings, refusal: &Refusal, arrived: Instant) {
    let failure = Failure::refused(refusal.status, refusal.reason);
    say(line, around, failure, arrived, Some(refusal)).await;
}

/// Answers without the engine, with what is known of the head, and closes.
async fn say(
    mut line: Line,
    around: &Surroundings,
    failure: Failure,
    arrived: Instant,
    refusal: Option<&Refusal>,
) {
    let head = line.inbox();
    let part = |span: Option<Span>| span.map(|span| span.of(head));
    let fragments = Fragments {
        method: part(refusal.and_then(|refusal| refusal.method)),
        target: part(refusal.and_then(|refusal| refusal.target)),
        host: part(refusal.and_then(|refusal| refusal.host)),
        head,
    };
    let answer = refuse(around.engine.shared(), line.connection(), arrived, failure, fragments);
    line.outbox().extend_from_slice(&answer);
    line.close(LINGER).await;
}

/// Whether an absolute target names a scheme that this connection does not speak.
fn is_other_scheme(line: &Line, head: &Head) -> bool {
    match head.form {
        TargetForm::Absolute { is_https, .. } => is_https != line.connection().tls.is_some(),
        TargetForm::Origin | TargetForm::Asterisk => false,
    }
}

/// Percent-encodes what clients send raw in targets and the engine's parser does not take: the
/// path's canonical form has it encoded as well. Returns by how much the head grew.
fn spell_target(line: &mut Line, target: Span) -> usize {
    let is_raw = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | b'`');
    let raw = target.of(line.inbox());
    if !raw.iter().any(is_raw) {
        return 0;
    }
    let mut spelt = BytesMut::with_capacity(raw.len() * 3);
    for byte in raw {
        if is_raw(byte) {
            spelt.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            spelt.extend_from_slice(&[*byte]);
        }
    }
    let growth = spelt.len() - raw.len();
    line.replace(target, &spelt);
    growth
}
