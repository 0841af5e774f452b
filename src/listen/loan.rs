//! A [`Line`] in the engine's hands for one exchange.
//!
//! Whatever the engine does with it (finishes, fails, panics, is dropped half-way), the line comes
//! back to the connection task through its [`Return`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use http::StatusCode;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::Line;
use crate::proxy::connection::Connection;

/// A [`Line`] in the engine's hands.
#[derive(Debug)]
pub struct Loan {
    /// Taken only on drop.
    line: Option<Line>,
    place: Return,
    digest: Arc<ProxyDigest>,
}

/// Where a lent line comes back to.
#[derive(Clone, Debug, Default)]
pub struct Return(Arc<Mutex<Option<Line>>>);

impl Loan {
    /// Lends `line`, and says where it is to come back. `digest` carries the connection's facts to
    /// the hooks.
    #[must_use]
    pub fn new(line: Line, place: Return, digest: Arc<ProxyDigest>) -> Self {
        Self { line: Some(line), place, digest }
    }

    fn line(&mut self) -> io::Result<&mut Line> {
        self.line.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The connection's facts in the form in which the engine carries them to its hooks.
#[must_use]
pub fn digest(connection: &Arc<Connection>) -> Arc<ProxyDigest> {
    let head = ResponseHeader::build_no_case(StatusCode::OK, Some(0)).expect("200 is a status");
    let head = Box::new(head);
    Arc::new(ProxyDigest::new(head, Some(Box::new(Arc::clone(connection)))))
}

impl Return {
    /// The line, once the loan is over.
    #[must_use]
    pub fn take(&self) -> Option<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = self.line.take();
    }
}

impl AsyncRead for Loan {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().line()?.poll_request(cx, buf)
    }
}

impl AsyncWrite for Loan {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().line()?.poll_response(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().line()?.poll_drain(cx)
    }

    /// Sends what is left and keeps the connection: whether and how it closes is the connection
    /// task's business.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().line()?.poll_drain(cx)
    }
}

#[async_trait]
impl Shutdown for Loan {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Loan {
    fn id(&self) -> UniqueIDType {
        UniqueIDType::default()
    }
}

impl Ssl for Loan {}

impl GetTimingDigest for Loan {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Loan {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetSocketDigest for Loan {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Loan {}
