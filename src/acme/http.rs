//! How certificate authorities are spoken to: HTTP/1.1 over TLS, with limits, on few connections.
//!
//! Answers "what did the authority say?" and nothing about what it means. A [`Transport`] takes one
//! request and gives one answer, body and all; [`Client`] is the one that goes over the network, and
//! tests put others in front of it to see what becomes of answers that are late, lost or wrong.
//!
//! # Why
//! instant-acme's own client has no limits, asks for the platform's verifier, and drops what we need
//! of an answer: status, `Retry-After` and `Link`. See [`Recording`](super::session).

mod connection;
mod meter;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};

use crate::tls::{ClientConfig, ConnectError};
use connection::Connection;
pub(crate) use connection::dial;
pub use meter::Metered;

/// Sends requests to a certificate authority.
///
/// A trait for the tests' sake: in front of the one that uses the network they put others, which
/// refuse, stall, or answer themselves.
pub trait Transport: Send + Sync + 'static {
    /// The answer to `request`, whose target is an absolute URL.
    fn send(&self, request: Request<Bytes>) -> Sending;
}

/// An answer that is on its way.
pub type Sending = Pin<Box<dyn Future<Output = Result<Response<Bytes>, RequestError>> + Send>>;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It cannot be sent to this URL.
    #[error("{0} is not the URL of a server that speaks https")]
    Url(String),
    /// The server's name has no address.
    #[error("{host} has no address")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection to any of the server's addresses.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// What the last address said.
        source: io::Error,
    },
    /// No connection within the time for it.
    #[error("no connection to {authority} within {limit:?}")]
    ConnectTimeout {
        /// Host and port.
        authority: String,
        /// The time.
        limit: Duration,
    },
    /// The handshake failed.
    #[error("no secure connection to {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// Why.
        source: ConnectError,
    },
    /// The connection broke off, or what came over it is not HTTP.
    #[error("{authority} sent no proper answer")]
    Broken {
        /// Host and port.
        authority: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer within the time for it.
    #[error("{authority} did not answer within {limit:?}")]
    Timeout {
        /// Host and port.
        authority: String,
        /// The time.
        limit: Duration,
    },
}

/// Times and sizes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// For the connection, its handshake included. Default 5 s.
    pub connect: Duration,
    /// For the whole of it, the connection included. Default 30 s.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(30) }
    }
}

/// A client of one certificate authority. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` where there is nothing to be reached over https.
    tls: Option<Arc<ClientConfig>>,
    /// Whether plain http will do.
    takes_plain: bool,
    limits: Limits,
    /// Connections that nobody is using, the one used last at the end.
    idle: Mutex<VecDeque<Connection>>,
}

impl Client {
    /// A client that trusts whom `tls` does; see [`authority`](crate::tls::client_config::authority).
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>, limits: Limits) -> Self {
        Self(Arc::new(Inner { tls: Some(tls), takes_plain: false, limits, idle: Mutex::default() }))
    }

    /// A client that speaks plain http as well, for servers that are no authorities. Without `tls` it
    /// speaks nothing else.
    #[must_use]
    pub fn with_plain(tls: Option<Arc<ClientConfig>>, limits: Limits) -> Self {
        Self(Arc::new(Inner { tls, takes_plain: true, limits, idle: Mutex::default() }))
    }
}

impl Transport for Client {
    fn send(&self, request: Request<Bytes>) -> Sending {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let (request, server) = prepare(request, inner.takes_plain)?;
            let limit = inner.limits.request;
            match tokio::time::timeout(limit, inner.exchange(request, &server)).await {
                Ok(answer) => answer,
                Err(_) => Err(RequestError::Timeout { authority: server.authority, limit }),
            }
        })
    }
}

impl Inner {
    async fn exchange(
        &self,
        mut request: Request<Bytes>,
        server: &Server,
    ) -> Result<Response<Bytes>, RequestError> {
        while let Some(mut connection) = self.kept(server) {
            match connection.send(request).await {
                Ok(answer) => return Ok(self.keep(connection, answer)),
                // The server has closed it in the meantime; nothing was sent.
                Err(connection::Failure { unsent: Some(taken_back), .. }) => request = taken_back,
                Err(failure) => return Err(failure.broken(&server.authority)),
            }
        }
        let tls = match (server.is_secure, &self.tls) {
            (true, Some(tls)) => Some(tls),
            (true, None) => return Err(RequestError::Url(server.authority.clone())),
            (false, _) => None,
        };
        let mut connection = Connection::open(tls, server, self.limits.connect).await?;
        match connection.send(request).await {
            Ok(answer) => Ok(self.keep(connection, answer)),
            Err(failure) => Err(failure.broken(&server.authority)),
        }
    }

    /// A connection to `server` that is still worth trying.
    fn kept(&self, server: &Server) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.used.elapsed() < MAX_IDLE);
        let at = idle.iter().rposition(|connection| connection.server == *server)?;
        idle.remove(at)
    }

    fn keep(&self, mut connection: Connection, answer: Response<Bytes>) -> Response<Bytes> {
        if !connection.is_over() {
            connection.used = Instant::now();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() >= MAX_KEPT {
                idle.pop_front();
            }
            idle.push_back(connection);
        }
        answer
    }
}

/// How long a connection is kept without use: shorter than any middle box forgets it, so that no
/// request is lost on one that only seems to be there.
const MAX_IDLE: Duration = Duration::from_secs(15);

/// As many as orders that run at once.
const MAX_KEPT: usize = 4;

/// The program and its version, as RFC 8555 §6.1 asks for.
const USER_AGENT: &str = concat!("wardgate/", env!("CARGO_PKG_VERSION"));

/// Where a request goes to.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Server {
    /// Host and port.
    authority: String,
    /// Whether it is spoken to over TLS.
    is_secure: bool,
}

/// The request as it goes over the connection, and where it goes to.
fn prepare(
    mut request: Request<Bytes>,
    takes_plain: bool,
) -> Result<(Request<Bytes>, Server), RequestError> {
    let uri = request.uri().clone();
    let refuse = || RequestError::Url(uri.to_string());
    let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
    let is_plain = takes_plain && uri.scheme() == Some(&Scheme::HTTP);
    if !is_secure && !is_plain {
        return Err(refuse());
    }
    let authority = uri.authority().ok_or_else(refuse)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| refuse())?;
    let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| refuse())?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let authority = format!("{}:{port}", authority.host());
    Ok((request, Server { authority, is_secure }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_and_us_and_goes_to_https_only() {
        let request = |url: &str| {
            let request = Request::builder().uri(url).header("user-agent", "instant-acme/0");
            let (sent, server) = prepare(request.body(Bytes::new()).unwrap(), false)?;
            Ok::<_, RequestError>((sent, server.authority))
        };
        let (sent, authority) = request("https://ca.test:14000/dir?x=1").unwrap();
        assert_eq!(authority, "ca.test:14000");
        assert_eq!(sent.uri(), "/dir?x=1");
        assert_eq!(sent.headers()["host"], "ca.test:14000");
        assert_eq!(sent.headers()["user-agent"], USER_AGENT);
        assert_eq!(request("https://ca.test").unwrap().1, "ca.test:443");
        assert_eq!(request("https://[::1]:1/").unwrap().1, "[::1]:1");
        for url in ["http://ca.test/dir", "/dir", "ftp://ca.test/"] {
            assert!(matches!(request(url), Err(RequestError::Url(_))), "{url}");
        }
        let plain = Request::get("http://ops.test/hook?x").body(Bytes::new()).unwrap();
        let (_, server) = prepare(plain, true).unwrap();
        assert_eq!(server, Server { authority: "ops.test:80".to_owned(), is_secure: false });
    }
}
