//! Asking a responder: one small request over HTTP, with limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;

use crate::acme::http::dial;
use crate::tls::ocsp::get_url;
use crate::tls::transport::Upstream as Transport;
use crate::tls::{
    ClientConfig, ClientConfigError, ConnectError, ServerName, SystemRoots, client_config, connect,
};

/// Asks responders.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// For the few that are reached over https. Made when the first is asked.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// Why a responder has not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is no URL that can be asked")]
    Url(String),
    #[error("{host} has no address")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {authority}")]
    Connect { authority: String, source: io::Error },
    #[error("no secure connection to {authority}")]
    Tls { authority: String, source: ConnectError },
    #[error("nobody is trusted to be {authority}")]
    Trust { authority: String, source: ClientConfigError },
    #[error("{authority} sent no proper answer")]
    Broken { authority: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{authority} answers with status {}", status.as_u16())]
    Status { authority: String, status: StatusCode },
    #[error("{authority} did not answer within {LIMIT:?}")]
    Timeout { authority: String },
    #[error("the gateway is stopping")]
    Stopping,
}

impl FetchError {
    /// Whether the responder may answer if it is asked otherwise.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Broken { .. })
    }
}

/// For the whole exchange. Responders answer from a cache or sign one answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Largest answer. The usual one is 2 KiB with the responder's certificate.
const MAX_ANSWER: usize = 64 * 1024;

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("wardgate/", env!("CARGO_PKG_VERSION")));

/// The ways to put `question` to `responder`, the one that caches can answer first (RFC 5019 §5).
pub(super) fn ways(responder: &str, question: &[u8]) -> Vec<(Method, String, Bytes)> {
    let get = get_url(responder, question).map(|url| (Method::GET, url, Bytes::new()));
    let post = (Method::POST, responder.to_owned(), Bytes::copy_from_slice(question));
    get.into_iter().chain([post]).collect()
}

impl Client {
    /// The body of the answer to a request.
    pub(super) async fn fetch(
        &self,
        (method, url, body): (Method, String, Bytes),
    ) -> Result<Bytes, FetchError> {
        let target = Target::parse(&url).ok_or(FetchError::Url(url))?;
        match tokio::time::timeout(LIMIT, self.exchange(&target, method, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Timeout { authority: target.authority }),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        method: Method,
        body: Bytes,
    ) -> Result<Bytes, FetchError> {
        let authority = || target.authority.clone();
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Broken {
            authority: authority(),
            source,
        };
        let transport = self.connect(target).await?;
        let mut request = Request::builder()
            .method(&method)
            .uri(&target.path)
            .header(header::HOST, &target.host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONNECTION, "close");
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/ocsp-request");
        }
        let request =
            request.body(Full::new(body)).map_err(|_| FetchError::Url(target.host.clone()))?;
        let opened = http1::handshake(TokioIo::new(transport)).await;
        let (mut sender, connection) = opened.map_err(|error| broken(error.into()))?;
        let exchange = async move {
            let answer =
                sender.send_request(request).await.map_err(|error| broken(error.into()))?;
            let status = answer.status();
            if status != StatusCode::OK {
                return Err(FetchError::Status { authority: authority(), status });
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(broken)
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            outcome = &mut exchange => outcome,
            // Its end ends the exchange, too, which knows better why.
            _ = connection => exchange.await,
        }
    }

    async fn connect(&self, target: &Target) -> Result<Transport, FetchError> {
        let authority = || target.authority.clone();
        let addresses = tokio::net::lookup_host(&target.authority)
            .await
            .map_err(|source| FetchError::Resolve { host: target.name.clone(), source })?;
        let stream = dial(addresses)
            .await
            .map_err(|source| FetchError::Connect { authority: authority(), source })?;
        if !target.is_https {
            return Ok(Transport::Plain(stream));
        }
        let config = self.tls.get_or_try_init(|| trust(target)).await?;
        let name = ServerName::try_from(target.name.clone())
            .map_err(|_| FetchError::Url(target.name.clone()))?;
        let stream = connect(config, name, stream.into())
            .await
            .map_err(|source| FetchError::Tls { authority: authority(), source })?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

/// Trusts whom the system does.
async fn trust(target: &Target) -> Result<Arc<ClientConfig>, FetchError> {
    let load = || client_config::authority(None, &SystemRoots::load());
    let config = tokio::task::spawn_blocking(load).await.map_err(|_| FetchError::Stopping)?;
    config.map_err(|source| FetchError::Trust { authority: target.authority.clone(), source })
}

/// Where a request goes.
#[derive(Debug, Eq, PartialEq)]
struct Target {
    is_https: bool,
    /// Host and port, to connect to.
    authority: String,
    /// The host as a certificate has it.
    name: String,
    /// As the field `Host` has it.
    host: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let authority = format!("{host}:{port}");
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self {
            is_https,
            name: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            host: uri.port().map_or_else(|| host.to_owned(), |_| authority.clone()),
            authority,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_responders_url_says_where_to_connect_and_what_to_ask_for() {
        for (url, wanted) in [
            ("http://ocsp.test", Some(("ocsp.test:80", "ocsp.test", "/"))),
            ("http://ocsp.test/a/MEk%3D", Some(("ocsp.test:80", "ocsp.test", "/a/MEk%3D"))),
            ("http://ocsp.test:8080/a?b", Some(("ocsp.test:8080", "ocsp.test:8080", "/a?b"))),
            ("https://ocsp.test", Some(("ocsp.test:443", "ocsp.test", "/"))),
            ("http://[::1]:1/", Some(("[::1]:1", "[::1]:1", "/"))),
            ("HTTP://OCSP.test/", Some(("OCSP.test:80", "OCSP.test", "/"))),
            ("ldap://ocsp.test", None),
            ("ocsp.test", None),
            ("/path", None),
        ] {
            let target = Target::parse(url);
            let told = target.as_ref();
            let told = told.map(|it| (it.authority.as_str(), it.host.as_str(), it.path.as_str()));
            assert_eq!(told, wanted, "{url}");
        }
        assert_eq!(Target::parse("https://[::1]/").unwrap().name, "::1");
    }
}
