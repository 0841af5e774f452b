//! The demo backend: a small HTTP/1.1 server to put behind the gateway.
//!
//! Answers "does my gateway reach a backend, and what does the backend see?". Called by
//! `wardgate demo-backend`, by the starter configuration and by tests. Never serves anything of the
//! machine it runs on, and never trusts a client to be quick.
//!
//! | path | answer |
//! |---|---|
//! | `/slow?seconds=5` | the echo, after at most 60 s |
//! | `/status/N` | that status, 200 to 599 |
//! | `/stream?count=10&every=1000` | one line, or one event where `Accept` asks for events, every so many ms |
//! | `/bytes/N` | N bytes, up to 1 GiB; the byte at offset i is digit i mod 16 of `0123456789abcdef` |
//! | `/mirror` | the request's body as it arrives |
//! | `/ws`, and any request that asks for it | a WebSocket that echoes |
//! | `/health` | `ok` |
//! | anything else | the request as JSON |

mod body;
mod patience;
mod reply;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::patience::Patience;

/// Connections at one time; more wait in the system's queue.
const CONNECTIONS: usize = 10_000;
/// From the end of an answer to the end of the next head. Twice the time that the gateway keeps an
/// unused connection by default, so that it is the gateway that closes it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time that a client may take no byte of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest wait for exchanges in flight at the end.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, which is nearly always for want of descriptors: no event tells
/// when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A demo backend that is bound and about to serve.
#[derive(Debug)]
pub struct DemoBackend {
    listener: TcpListener,
    address: SocketAddr,
    label: Label,
}

/// What this backend calls itself.
#[derive(Clone, Debug)]
struct Label {
    name: Arc<str>,
    header: HeaderValue,
}

/// Binds, serves until `stop`, and finishes what is in flight.
///
/// # Errors
/// As [`DemoBackend::bind`].
pub async fn run(bind: SocketAddr, name: &str, stop: CancellationToken) -> io::Result<()> {
    let backend = DemoBackend::bind(bind, name).await?;
    tracing::info!(server.address = %backend.local_addr(), name, "demo backend listening");
    backend.serve(stop).await;
    Ok(())
}

impl DemoBackend {
    /// Binds `address`; port 0 takes a free one. `name` is what answers carry as `server` and in
    /// `X-Demo-Backend`.
    ///
    /// # Errors
    /// What the system says, or `InvalidInput` where `name` cannot stand in a header.
    pub async fn bind(address: SocketAddr, name: &str) -> io::Result<Self> {
        let header = HeaderValue::from_str(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, label: Label { name: name.into(), header } })
    }

    /// The address it is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then takes no connection more, closes idle ones, and waits at most 10 s for
    /// the others.
    pub async fn serve(self, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        while let Some((stream, peer, permit)) = stop.run_until_cancelled(self.accept(&room)).await
        {
            while connections.try_join_next().is_some() {}
            let connection = Connection { peer, label: self.label.clone(), stop: stop.clone() };
            connections.spawn(async move {
                connection.serve(stream).await;
                drop(permit);
            });
        }
        drop(self.listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finished).await.is_err() {
            connections.shutdown().await;
        }
    }

    async fn accept(
        &self,
        room: &Arc<Semaphore>,
    ) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = Arc::clone(room).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, permit),
                Err(error) => {
                    tracing::debug!(error = %error, "demo backend could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One client's connection.
#[derive(Debug)]
struct Connection {
    peer: SocketAddr,
    label: Label,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Only delays small writes where it fails.
        let _ = stream.set_nodelay(true);
        let connection = &self;
        let upgrade: Mutex<Option<OnUpgrade>> = Mutex::new(None);
        let service = service_fn(|request| reply::answer(connection, &upgrade, request));
        // Not `pipeline_flush`: with it hyper buffers a whole body, however large.
        let exchange = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(Patience::new(stream, WRITE_TIMEOUT)), service)
            .with_upgrades();
        let mut exchange = std::pin::pin!(exchange);
        let outcome = tokio::select! {
            outcome = exchange.as_mut() => outcome,
            () = self.stop.cancelled() => {
                exchange.as_mut().graceful_shutdown();
                exchange.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(client.address = %self.peer, error = %error, "demo exchange broke off");
        }
        let upgrade = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upgrade) = upgrade {
            websocket::echo(upgrade, &self.stop).await;
        }
    }
}

#[cfg(test)]
mod tests;
