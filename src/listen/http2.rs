//! The life of an HTTP/2 connection: its streams are served as tasks of their own.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora_core::protocols::{Digest, Stream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::connection::Surroundings;
use super::h2_transport::{H2Transport, Outlet};
use super::loan::digest;
use crate::config::process::Limits;
use crate::net::{Alarm, Pace};
use crate::proxy::connection::Connection;
use crate::proxy::failure::Failure;
use crate::proxy::pressure::Ear;
use crate::proxy::refuse;
use crate::proxy::watch::{StreamWatch, Streams as OpenStreams};
use crate::tls::transport::Downstream as Transport;

/// Streams at once on one connection. RFC 9113 §6.5.2 recommends at least 100; nginx allows 128.
const MAX_STREAMS: u32 = 128;

/// Bytes a client may send on one stream before we take them: twice the default of RFC 9113
/// §6.9.2, since 64 KiB a round trip is slow over any distance.
const STREAM_WINDOW: u32 = 128 * 1024;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of one response that wait for the client to take them; the h2 layer's own default is six
/// times that, for each of [`MAX_STREAMS`].
const SEND_BUFFER: usize = 64 * 1024;

/// Time for the client to close in turn once a farewell has left.
const FAREWELL: Duration = Duration::from_secs(3);

/// Time for streams to notice that their connection is gone. What was answered whole writes its
/// access line as such; the rest is cancelled.
const SETTLE: Duration = Duration::from_millis(250);

/// Requests on one connection that may be so malformed that the h2 layer refuses them. The engine's
/// own accept loop has the same limit.
const MAX_MALFORMED: usize = 32;

/// Streams of one connection that the h2 layer may reset for errors of the client's. It keeps some KiB of
/// each until the reset has left, and would keep a thousand, so its own limit is not ours.
const MAX_STREAM_ERRORS: usize = 100;

type Streams = h2::server::Connection<Stream, Bytes>;

/// Serves an HTTP/2 connection until either side closes it.
///
/// `read` has been read from it already.
pub async fn serve(
    transport: Transport,
    read: BytesMut,
    connection: Arc<Connection>,
    around: Arc<Surroundings>,
) {
    let limits = around.limits();
    let flood = Arc::new(Notify::new());
    let taking = Pace::new(limits.idle_timeout, limits.min_rate);
    let (stream, outlet) = H2Transport::new(transport, read, Arc::clone(&flood), taking);
    let greeting = greet(Box::new(stream), &limits, &around);
    let Some(mut streams) = outlet.sending(greeting).await else { return };
    let mut serving = Serving {
        digest: Arc::new(Digest { proxy_digest: Some(digest(&connection)), ..Digest::default() }),
        connection,
        limits,
        flood,
        tasks: JoinSet::new(),
        open: OpenStreams::default(),
        idle: Idle { since: Instant::now(), alarm: Alarm::default() },
        is_leaving: false,
        malformed: 0,
        around,
    };
    let shared = Arc::clone(serving.around.engine.shared());
    let end = outlet.sending(serving.run(&mut streams, &outlet, shared.pressure.ear())).await;
    if end == End::Done {
        outlet.part(FAREWELL).await;
    }
    outlet.leave(serving.limits.idle_timeout);
    drop((streams, outlet));
    // Whoever is not done by then is dropped with the set.
    let settled = async { while serving.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SETTLE, settled).await;
}

/// The connection after the settings were exchanged; `None` when the client does not speak HTTP/2,
/// is silent for too long, or we are stopping.
async fn greet(stream: Stream, limits: &Limits, around: &Surroundings) -> Option<Streams> {
    let greeting = handshake(stream, Some(options(limits)));
    tokio::select! {
        biased;
        greeted = tokio::time::timeout(limits.request_header_timeout, greeting) => greeted.ok()?.ok(),
        () = around.drain.cancelled() => None,
    }
}

fn options(limits: &Limits) -> H2Options {
    // Larger ones are refused without a word to us; so those just too large come through, to be
    // refused with an access line.
    let header_bytes = limits.request_header_bytes.saturating_mul(2);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS))
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX));
    options
}

/// A connection while it is served.
struct Serving {
    connection: Arc<Connection>,
    around: Arc<Surroundings>,
    limits: Limits,
    digest: Arc<Digest>,
    /// Rings when the client has spent its frame budget.
    flood: Arc<Notify>,
    tasks: JoinSet<()>,
    /// How many `tasks` there are, for each of them to know.
    open: OpenStreams,
    idle: Idle,
    /// GOAWAY has been said.
    is_leaving: bool,
    malformed: usize,
}

/// How a connection ends.
#[derive(PartialEq)]
enum End {
    /// With everything said.
    Done,
    /// With the client's fault.
    Cut,
}

/// How long a connection has had no stream.
struct Idle {
    since: Instant,
    alarm: Alarm,
}

impl Serving {
    /// Takes streams until there can be no more. Polling for the next one is what drives the
    /// connection; nothing is lost when a branch beside it wins.
    async fn run(&mut self, streams: &mut Streams, outlet: &Outlet, mut ear: Ear<'_>) -> End {
        // For as long as the connection: listening anew each time would take locks, one of which all
        // connections share.
        let (leave, flood) = (self.around.leave.clone(), Arc::clone(&self.flood));
        let (mut leaving, mut flooded) = (pin!(leave.cancelled()), pin!(flood.notified()));
        let mut late = Alarm::default();
        loop {
            let patience = if self.is_leaving { FAREWELL } else { self.limits.idle_timeout };
            let accepted = tokio::select! {
                biased;
                () = leaving.as_mut(), if !self.is_leaving => {
                    self.leave(streams);
                    continue;
                }
                () = flooded.as_mut() => return self.calm(streams).await,
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    while self.tasks.try_join_next().is_some() {}
                    self.open.store(self.tasks.len(), Ordering::Relaxed);
                    self.idle.since = Instant::now();
                    continue;
                }
                accepted = HttpSession::from_h2_conn(streams, Arc::clone(&self.digest)) => accepted,
                // After what reads, so that it sees what has come.
                since = is_late(outlet, &mut late, self.limits.request_header_timeout) => {
                    return self.give_up(streams, since).await;
                }
                () = poll_fn(|cx| ear.poll(cx)), if self.tasks.is_empty() && !self.is_leaving => {
                    self.leave(streams);
                    continue;
                }
                is_slow = self.idle.expired(patience, outlet), if self.tasks.is_empty() => {
                    if is_slow { return End::Cut }
                    // A peer that does not answer the farewell is gone, or has yet to read what comes
                    // before it.
                    if self.is_leaving { return End::Done }
                    self.leave(streams);
                    continue;
                }
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => self.start(session),
                Ok(Some(H2Accept::Rejected)) => {
                    let failure = Failure::BadRequest("the request is malformed");
                    self.note(Instant::now(), failure);
                    self.malformed += 1;
                    if self.malformed >= MAX_MALFORMED {
                        return self.calm(streams).await;
                    }
                }
                Ok(None) => return End::Done,
                Err(_) => return End::Cut,
            }
        }
    }

    fn start(&mut self, session: HttpSession) {
        let engine = Arc::clone(&self.around.engine);
        let mut session = Box::new(ServerSession::new_http2(session));
        session.set_write_timeout(Some(self.limits.idle_timeout));
        let work = Box::pin(async move {
            engine.serve(*session).await;
        });
        self.tasks.spawn(StreamWatch::over(Arc::clone(&self.open), work));
        self.open.store(self.tasks.len(), Ordering::Relaxed);
    }

    /// Says that no more streams are taken (RFC 9113 §6.8); those that are open finish.
    fn leave(&mut self, streams: &mut Streams) {
        streams.graceful_shutdown();
        self.is_leaving = true;
        self.idle.since = Instant::now();
    }

    /// Writes the access line of a stream that became no request.
    fn note(&self, started: Instant, failure: Failure) {
        refuse::note_stream(self.around.engine.shared(), &self.connection, started, failure);
    }

    /// Ends the connection of a client whose head does not arrive: nothing else can come behind it.
    async fn give_up(&self, streams: &mut Streams, since: Instant) -> End {
        self.note(since, Failure::RequestTimeout);
        Self::end(streams, h2::Reason::NO_ERROR).await
    }

    /// Ends the connection of a client that floods it.
    async fn calm(&self, streams: &mut Streams) -> End {
        let client = self.connection.peer.ip();
        let listener = &self.connection.listener.name;
        tracing::info!(%listener, client.address = %client, "closed a flooding connection");
        Self::end(streams, h2::Reason::ENHANCE_YOUR_CALM).await
    }

    async fn end(streams: &mut Streams, reason: h2::Reason) -> End {
        streams.abrupt_shutdown(reason);
        // The farewell is a courtesy.
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| streams.poll_closed(cx))).await;
        End::Cut
    }
}

/// Ready when a head has been arriving for longer than `limit`; with the moment when it began.
async fn is_late(outlet: &Outlet, alarm: &mut Alarm, limit: Duration) -> Instant {
    let late = poll_fn(|cx| match outlet.head_since() {
        Some(since) => alarm.poll(cx, since + limit).map(|()| since),
        None => Poll::Pending,
    });
    late.await
}

impl Idle {
    /// Ready when nothing has been owed to the client for longer than `limit`; `true` if it takes too
    /// long over what is owed.
    async fn expired(&mut self, limit: Duration, outlet: &Outlet) -> bool {
        poll_fn(|cx| {
            let patience = outlet.patience();
            let rested = || outlet.rested().map_or(self.since, |rested| rested.max(self.since));
            let deadline = patience.unwrap_or_else(|| rested() + limit);
            self.alarm.poll(cx, deadline).map(|()| patience.is_some())
        })
        .await
    }
}
