//! What is kept of an exchange: its counts and its access line.

use std::time::{Duration, SystemTime};

use super::exchange::Exchange;
use super::failure::Failure;
use crate::telemetry::access::AccessRecord;
use crate::telemetry::metrics::{AttemptOutcome, Ended};
use crate::upstream::Attempt;

/// Counts `exchange` and writes its one line.
pub(super) fn write(exchange: &Exchange) {
    let failure = exchange.failure.or_else(|| unanswered(exchange));
    let total = exchange.started.elapsed();
    count(exchange, failure, total);
    line(exchange, failure, total);
}

/// Adds `exchange` to the metrics.
fn count(exchange: &Exchange, failure: Option<Failure>, total: Duration) {
    let shared = &exchange.shared;
    let current = exchange.generation.is_none().then(|| shared.current.load());
    let Some(generation) = exchange.generation.as_ref().or(current.as_deref()) else { return };
    let handles = &generation.handles;
    let counts = generation.counts(exchange.site, exchange.route);
    if exchange.is_entered {
        counts.leave();
    }
    counts.ended(&Ended {
        status: exchange.answer.status,
        duration: total,
        first_byte: exchange.answer.first_byte,
        request_bytes: exchange.answer.request_bytes,
        response_bytes: exchange.answer.response_bytes,
    });
    if let Some(failure) = &failure {
        shared.metrics.failed(failure.place(), exchange.site.is_some());
    }
    let pool = exchange.pool.and_then(|pool| handles.pool(pool));
    let (Some(attempt), Some(pool)) = (&exchange.attempt, pool) else { return };
    let count = |server: usize, outcome| {
        if let Some(server) = pool.servers.get(server) {
            server.attempted(outcome);
        }
    };
    for endpoint in &exchange.tried {
        count(endpoint.server_index, AttemptOutcome::Retried);
    }
    let last = attempt.endpoint().server_index;
    if exchange.is_resent {
        count(last, AttemptOutcome::Retried);
    }
    count(last, outcome(attempt, exchange, failure));
    pool.pool.retried(exchange.retries());
    if !attempt.is_reused() && attempt.connect_time() > Duration::ZERO {
        pool.pool.connect.observe(attempt.connect_time());
    }
    if let Some(first_byte) = exchange.answer.first_byte {
        let at = exchange.started + first_byte;
        pool.pool.first_byte.observe(at.saturating_duration_since(attempt.started));
    }
}

/// How the last attempt ended.
fn outcome(attempt: &Attempt, exchange: &Exchange, failure: Option<Failure>) -> AttemptOutcome {
    match failure {
        None if exchange.answer.status >= 500 => AttemptOutcome::ServerError,
        None => AttemptOutcome::Answered,
        Some(_) if attempt.dial_failure().is_some() => AttemptOutcome::Unreachable,
        Some(
            Failure::UpstreamRefused
            | Failure::UpstreamTls
            | Failure::UpstreamUnresolved
            | Failure::ConnectTimeout
            | Failure::NoUpstream
            | Failure::NoHealthyUpstream,
        ) => AttemptOutcome::Unreachable,
        Some(Failure::ResponseTimeout | Failure::ReadTimeout | Failure::ExchangeTimeout) => {
            AttemptOutcome::Timeout
        }
        Some(Failure::UpstreamReset | Failure::UpstreamBadResponse) => AttemptOutcome::Broken,
        Some(_) => AttemptOutcome::Abandoned,
    }
}

/// Writes the one line of `exchange`.
fn line(exchange: &Exchange, failure: Option<Failure>, total: Duration) {
    let access = exchange.shared.access.load();
    if !access.is_on() {
        return;
    }
    let Some(connection) = &exchange.connection else { return };
    let generation = exchange.generation.as_deref();
    let forms = generation.map(|generation| &generation.forms);
    let site = exchange.site.and_then(|site| forms?.site(site));
    let route = exchange.route.and_then(|route| forms?.route(exchange.site?, route));
    let attempt = exchange.attempt.as_deref();
    let endpoint = attempt.map(|attempt| attempt.endpoint());
    let trace_id = exchange.trace.map(|trace| trace.trace_id_hex());
    access.write(&AccessRecord {
        ended: SystemTime::now(),
        listener: &connection.listener.name,
        site: site.map(|site| &*site.name),
        route: route.map(|route| &*route.label),
        pool: attempt.map(|attempt| attempt.pool.name()),
        endpoint: endpoint.map(|endpoint| endpoint.server.url.as_str()),
        server: endpoint.map(|endpoint| endpoint.label.as_str()),
        client: Some(
            exchange
                .client
                .as_ref()
                .map_or_else(|| connection.peer.ip().to_canonical(), |client| client.address),
        ),
        peer: Some(connection.peer.ip().to_canonical()),
        method: exchange.head.method.as_str().as_bytes(),
        host: exchange.head.host.as_bytes(),
        path: exchange.head.path.as_bytes(),
        scheme: if connection.tls.is_some() { "https" } else { "http" },
        protocol: exchange.head.protocol,
        tls: connection.tls.as_ref().map(|tls| tls.session.version),
        client_subject: connection.tls.as_ref().and_then(|tls| tls.client_subject()),
        user_agent: exchange.head.user_agent.as_ref().map(http::HeaderValue::as_bytes),
        status: match (exchange.answer.status, failure) {
            (0, Some(gone @ Failure::ClientGone)) => Some(gone.status().as_u16()),
            (0, _) => None,
            (status, _) => Some(status),
        },
        error: failure.as_ref().map(Failure::token),
        request_bytes: exchange.answer.request_bytes,
        response_bytes: exchange.answer.response_bytes,
        retries: u32::try_from(exchange.retries()).unwrap_or(u32::MAX),
        connect: attempt.filter(|attempt| !attempt.is_reused()).map(|it| it.connect_time()),
        first_byte: exchange.answer.first_byte,
        total,
        request_id: exchange.id.as_str().as_bytes(),
        trace_id: trace_id.as_ref().map(|id| id.as_str()),
    });
}

/// An exchange that ends without an answer and without a reason, or in the middle of one, was cut
/// off from outside: by the end of the process, or its client reset the stream or the connection.
fn unanswered(exchange: &Exchange) -> Option<Failure> {
    let answer = &exchange.answer;
    if std::thread::panicking() {
        Some(Failure::Panic)
    } else if answer.is_concluded && answer.status != 0 {
        None
    } else if exchange.is_cut() {
        Some(Failure::Stopping)
    } else {
        Some(Failure::ClientGone)
    }
}
