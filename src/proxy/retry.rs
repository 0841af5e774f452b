//! Whether a request is tried again, and that only as often as its pool's `retry:` allows.
//!
//! Called by the engine's hooks when an attempt has failed. Picks no server: that is the pool's,
//! which is told where the request has been.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::{StatusCode, Version};
use pingora_error::{Error, ErrorSource, ErrorType};

use super::exchange::Exchange;
use super::failure::Failure;
use super::outcome;
use crate::config::health::Retry;
use crate::config::upstream::UpstreamProtocol;
use crate::upstream::{Attempt, DialFailure};

/// Whether a request whose connection failed to come about may go to another server. It was not
/// sent, so any method may. Never to the same one, which would say the same; unless it no longer
/// speaks what it did.
#[must_use]
pub(super) fn after_connect(exchange: &mut Exchange, error: &Error) -> bool {
    let Some(attempt) = exchange.attempt.clone() else { return false };
    let mut target = Target::Another;
    if refuses_h2(&attempt, error) {
        attempt.endpoint().forget_spoken();
        if !std::mem::replace(&mut exchange.is_resent, true) {
            return true;
        }
        target = Target::AnotherIfAny;
    }
    if let Some(DialFailure::NoPort(cause)) = attempt.dial_failure() {
        // Whether or not another server can help.
        exchange.shared.pressure.lack_port(&attempt.endpoint().label, cause);
        target = Target::First;
    }
    // The engine's own TLS leaves no mark; whatever it says, nothing was sent.
    let is_retryable = attempt.dial_failure().is_none_or(DialFailure::is_retryable);
    attempt.pool.spec().retry.after_connect
        && is_retryable
        && attempt.expired().is_none()
        && take_attempt(exchange, target)
}

/// Whether a request may be sent again whose connection broke, or whose answer did not come in
/// time, or was [discarded](after_status), before anything of an answer went on.
#[must_use]
pub(super) fn after_break(exchange: &mut Exchange, error: &Error, is_replayable: bool) -> bool {
    if std::mem::take(&mut exchange.is_discarded) {
        return true;
    }
    let is_ours = exchange.lapsed().is_none()
        && (*error.esource() != ErrorSource::Upstream || is_refusal_to_write(error));
    if is_ours || !is_replayable || exchange.answer.first_byte.is_some() {
        return false;
    }
    let is_unprocessed = wants_http1(exchange, error) || outcome::is_unprocessed(error);
    let is_lost = breaks_h2(exchange, error) || is_stale(exchange, error);
    if !exchange.is_resent && (is_unprocessed || is_lost) {
        exchange.is_resent = true;
        return true;
    }
    if is_unprocessed {
        let attempt = exchange.attempt.as_ref();
        let is_on = attempt.is_some_and(|attempt| attempt.pool.spec().retry.after_connect);
        return is_on && take_attempt(exchange, Target::AnotherIfAny);
    }
    let failure = outcome::failure(exchange, error);
    matches!(failure, Failure::UpstreamReset | Failure::ResponseTimeout)
        && may_repeat(exchange, |retry| retry.after_reset)
        && take_attempt(exchange, Target::AnotherIfAny)
}

/// Whether an answer with this status is not passed on, and the request sent again. The last one
/// that is allowed is passed on, whatever it says.
#[must_use]
pub(super) fn after_status(
    exchange: &mut Exchange,
    status: StatusCode,
    is_replayable: bool,
) -> bool {
    let is_discarded = is_replayable
        && may_repeat(exchange, |retry| retry.after_status.contains(&status.as_u16()))
        && take_attempt(exchange, Target::AnotherIfAny);
    exchange.is_discarded = is_discarded;
    is_discarded
}

/// The error that ends an attempt whose answer is discarded.
#[must_use]
pub(super) fn discarded(status: StatusCode) -> Box<Error> {
    Error::new_up(ErrorType::HTTPStatus(status.as_u16()))
}

/// Where another attempt may go.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    /// A server that was not tried, whatever the budget: nobody has been asked yet.
    First,
    /// A server that was not tried.
    Another,
    /// Such a one, or else any.
    AnotherIfAny,
}

/// Counts another attempt, if the number of them, the time, the servers and the pool's budget leave
/// one.
fn take_attempt(exchange: &mut Exchange, target: Target) -> bool {
    let Some(attempt) = exchange.attempt.clone() else { return false };
    let (pool, made) = (&attempt.pool, exchange.tried.len() + 1);
    let is_late = exchange.deadline.is_some_and(|end| Instant::now() >= end);
    if made >= pool.spec().retry.attempts as usize || is_late {
        return false;
    }
    exchange.tried.push(Arc::clone(attempt.endpoint()));
    let has_target = pool.has_untried(&exchange.tried)
        || (target == Target::AnotherIfAny && pool.is_available());
    let is_free = target == Target::First;
    if has_target && !is_free && exchange.retrying.is_none() {
        exchange.retrying = pool.retry();
    }
    let is_allowed = has_target && (is_free || exchange.retrying.is_some());
    if !is_allowed {
        exchange.tried.pop();
    }
    is_allowed
}

/// Whether the pool's `retry:` has the request sent again after this, though it was sent before.
fn may_repeat(exchange: &Exchange, after: impl Fn(&Retry) -> bool) -> bool {
    let Some(attempt) = &exchange.attempt else { return false };
    let retry = &attempt.pool.spec().retry;
    after(retry) && retry.methods.contains(&exchange.head.method)
}

/// Whether the kept connection that the request went out on turned out to be closed: nothing of a
/// response came, and the method may be repeated (RFC 9110 §9.2.2). Once: a server that closes every
/// connection on it is not to be asked for ever. No attempt of `retry:`, since the server did not
/// get one.
fn is_stale(exchange: &Exchange, error: &Error) -> bool {
    let Some(attempt) = &exchange.attempt else { return false };
    attempt.is_reused()
        && !attempt.has_heard()
        && attempt.expired().is_none()
        && outcome::is_break(error)
        && exchange.head.method.is_idempotent()
}

/// Whether the server, which may choose, did not go on with TLS when offered h2 alone. It has picked
/// that before.
fn refuses_h2(attempt: &Attempt, error: &Error) -> bool {
    attempt.pool.spec().protocol == UpstreamProtocol::Auto
        && attempt.is_engines_own()
        && attempt.dial_failure().is_none()
        && attempt.expired().is_none()
        && *error.root_etype() == ErrorType::TLSHandshakeFailure
}

/// The error that ends an attempt before anything is sent, where a server that may choose has picked
/// h2 before and does not now: HTTP/1.1 goes over connections of our own.
#[must_use]
pub(super) fn lost_h2(exchange: &Exchange, version: Version) -> Option<Box<Error>> {
    let attempt = exchange.attempt.as_ref()?;
    let is_lost = attempt.pool.spec().protocol == UpstreamProtocol::Auto
        && attempt.is_engines_own()
        && version != Version::HTTP_2;
    is_lost.then(|| Error::new_up(ErrorType::H2Downgrade))
}

/// Whether the server has refused the request because it wants HTTP/1.1 (RFC 9113 §7), and gets it for
/// a while.
fn wants_http1(exchange: &Exchange, error: &Error) -> bool {
    *error.root_etype() == ErrorType::H2Downgrade && fall_back(exchange)
}

/// Whether what the server said was no h2, it has HTTP/1.1 for a while instead, and the request may
/// go that way: perhaps it was acted on.
fn breaks_h2(exchange: &Exchange, error: &Error) -> bool {
    *error.root_etype() == ErrorType::InvalidH2
        && fall_back(exchange)
        && exchange.head.method.is_idempotent()
}

/// Has the server be spoken to over HTTP/1.1 for a while, where it has the choice. Returns whether.
fn fall_back(exchange: &Exchange) -> bool {
    let Some(attempt) = &exchange.attempt else { return false };
    let may_choose = attempt.pool.spec().protocol == UpstreamProtocol::Auto;
    if may_choose {
        attempt.endpoint().note_spoken(false);
    }
    may_choose
}

/// Whether our own side, rather than the server's, ended the write.
fn is_refusal_to_write(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotConnected)
}
