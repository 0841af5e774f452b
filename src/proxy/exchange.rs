//! One request and its answer: what each phase found out, once.
//!
//! Each phase fills its fields and later phases only read them. When an exchange is dropped its
//! access line is written, whatever became of it: answered, failed, cancelled or unwound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use pingora_proxy::Session;

use super::accept::Negotiated;
use super::answer;
use super::client::Client;
use super::connection::Connection;
use super::failure::Failure;
use super::gateway::{InFlight, Shared};
use super::generation::Generation;
use super::trace::{RequestId, TraceContext};
use super::watch::StreamWatch;
use crate::filter::{Encoder, Passage};
use crate::upstream::{Attempt, Endpoint, Expired, Place, Retrying};

/// One request and its answer.
pub struct Exchange {
    /// The process around it.
    pub(super) shared: Arc<Shared>,
    /// When its first byte arrived.
    pub started: Instant,
    /// Known from the first hook on.
    pub connection: Option<Arc<Connection>>,
    /// The configuration it is served by.
    pub generation: Option<Arc<Generation>>,
    pub(super) in_flight: Option<InFlight>,
    /// Whether it counts among those in flight of its site and route.
    pub(super) is_entered: bool,
    /// Its deadlines, on h2.
    pub(super) watch: Option<Arc<StreamWatch>>,
    /// Who asks.
    pub client: Option<Client>,
    /// Its id.
    pub id: RequestId,
    /// Its place in a trace.
    pub trace: Option<TraceContext>,
    /// What an error page may look like.
    pub negotiated: Negotiated,
    /// The head, as far as it is needed after the engine has let go of it.
    pub head: HeadFacts,
    /// Index of its site.
    pub site: Option<usize>,
    /// Index of its route in the site.
    pub route: Option<usize>,
    /// Index of its pool, when it goes upstream.
    pub pool: Option<usize>,
    /// The path and query sent upstream, where they are not the client's.
    pub target: Option<String>,
    /// The protocols it asks to switch to.
    pub upgrade: Option<HeaderValue>,
    /// Its way through its route's filters, if those have any say.
    pub passage: Option<Passage>,
    /// What its response's body goes through.
    pub encoder: Option<Encoder>,
    /// End of the whole exchange.
    pub deadline: Option<Instant>,
    pub(super) place: Option<Place>,
    /// Its part of the pool's budget, once it is tried again.
    pub(super) retrying: Option<Retrying>,
    /// Endpoints of the attempts before the present one, which failed.
    pub tried: Vec<Arc<Endpoint>>,
    /// Whether it was sent again because the kept connection it went out on was closed.
    pub is_resent: bool,
    /// Whether the present attempt's answer is not passed on.
    pub(super) is_discarded: bool,
    /// The present or last attempt.
    pub attempt: Option<Arc<Attempt>>,
    /// Why it is not answered as meant.
    pub failure: Option<Failure>,
    /// The answer, as far as it has come.
    pub answer: Answer,
}

/// What is kept of a request's head.
#[derive(Debug, Default)]
pub struct HeadFacts {
    /// The method.
    pub method: Method,
    /// The host as the client wrote it, with its port.
    pub host: String,
    /// The canonical path; before it is known, the client's.
    pub path: String,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    /// The user agent, for the access line.
    pub user_agent: Option<HeaderValue>,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// 0 before there is one.
    pub status: u16,
    /// Whether a final head has been handed to the client's connection, the backend's or our own.
    pub has_begun: bool,
    /// Whether the exchange came to its end; else it was cut off.
    pub is_concluded: bool,
    /// Responses with a status of 1xx before it.
    pub interim: u8,
    /// From the start to the backend's response head.
    pub first_byte: Option<Duration>,
    /// Bytes of the request's body received.
    pub request_bytes: u64,
    /// Bytes of the response's body sent.
    pub response_bytes: u64,
}

impl Exchange {
    /// An exchange of which nothing is known yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            started: Instant::now(),
            connection: None,
            generation: None,
            in_flight: None,
            is_entered: false,
            watch: StreamWatch::current(),
            client: None,
            id: RequestId::random(),
            trace: None,
            negotiated: Negotiated::default(),
            head: HeadFacts::default(),
            site: None,
            route: None,
            pool: None,
            target: None,
            upgrade: None,
            passage: None,
            encoder: None,
            deadline: None,
            place: None,
            retrying: None,
            tried: Vec::new(),
            is_resent: false,
            is_discarded: false,
            attempt: None,
            failure: None,
            answer: Answer::default(),
        }
    }

    /// Notes what the engine knows at the end of an exchange.
    pub fn conclude(&mut self, session: &Session) {
        self.answer.request_bytes = session.body_bytes_read() as u64;
        self.answer.response_bytes = session.body_bytes_sent() as u64;
        // A 100 is no answer, however long the client waited after it.
        let written = session.response_written().map(|response| response.status);
        self.answer.status =
            written.filter(|status| answer::is_final(*status)).map_or(0, |status| status.as_u16());
        self.answer.is_concluded = true;
    }

    /// Bounds the whole exchange.
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| self.started + limit);
        match (&self.watch, &self.connection) {
            (Some(watch), _) => watch.set_end(self.deadline),
            (None, Some(connection)) => connection.set_deadline(self.deadline),
            (None, None) => {}
        }
    }

    /// Notes that the request's head goes to the server, with all that there is if `is_whole`.
    pub fn send(&self, is_whole: bool) {
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.is_engines_own());
        if let (true, Some(attempt)) = (is_whole, attempt) {
            attempt.note_uploaded();
        }
    }

    /// Notes bytes of the request's body.
    pub fn received(&mut self, bytes: usize, is_end: bool) {
        self.answer.request_bytes += bytes as u64;
        if let (true, Some(attempt)) = (is_end, &self.attempt) {
            attempt.note_uploaded();
        }
        if let Some(watch) = &self.watch {
            watch.progress(bytes, is_end);
        }
    }

    /// Whether its connection closes after it, because the process or the listener ends or memory is
    /// short.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let is_retired = |connection: &Arc<Connection>| connection.listener.is_retired();
        self.shared.is_stopping()
            || self.shared.pressure.is_shedding()
            || self.connection.as_ref().is_some_and(is_retired)
    }

    /// Whether it is cut off, because the process or the listener ends.
    pub(super) fn is_cut(&self) -> bool {
        let is_cut = |connection: &Arc<Connection>| connection.listener.is_cut();
        self.shared.is_cut() || self.connection.as_ref().is_some_and(is_cut)
    }

    /// The deadline by which the present attempt was cut, over a connection of the engine's own. It is
    /// where the client is listened to that the engine learns of it.
    pub(super) fn lapsed(&self) -> Option<Expired> {
        self.attempt.as_ref().filter(|attempt| attempt.is_engines_own())?.expired()
    }

    /// Attempts after the first.
    #[must_use]
    pub fn retries(&self) -> usize {
        self.tried.len() + usize::from(self.is_resent)
    }

    /// Whether the client speaks h2.
    #[must_use]
    pub fn is_h2(&self) -> bool {
        self.head.protocol == "2"
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(failure) = self.watch.as_ref().and_then(|watch| watch.expired()) {
            self.failure.get_or_insert(failure);
        }
        if !self.answer.is_concluded
            && let Some(expired) = self.attempt.as_ref().and_then(|attempt| attempt.expired())
        {
            let failure = super::outcome::lapse(expired);
            if self.failure.is_none() {
                super::outcome::log_lapse(self, failure);
            }
            self.failure.get_or_insert(failure);
        }
        // An engine's context that never saw a request is no exchange.
        if self.connection.is_some() {
            super::refuse::last_words(self);
            super::record::write(self);
        }
    }
}
