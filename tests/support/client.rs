//! A small HTTP/1.1 client that sends exactly what it is given and reads answers strictly.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::{Wire, invalid, text};
use super::within;

/// Where requests go, and under which name. Every request has a connection of its own.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    ca: Option<PathBuf>,
    /// The client's own certificate and key.
    shown: Option<(PathBuf, PathBuf)>,
    /// Bytes that its kernel takes for it, if not as many as it likes.
    room: Option<u32>,
}

impl Client {
    /// Plain HTTP to `address`; the Host is the address until [`Client::host`] says otherwise.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, host: address.to_string(), ca: None, shown: None, room: None }
    }

    /// HTTPS, trusting the CA of this PEM file only. The name in SNI is the host.
    pub(crate) fn tls(self, ca: &Path) -> Self {
        Self { ca: Some(ca.to_owned()), ..self }
    }

    /// The same with a certificate of its own, from PEM files.
    pub(crate) fn showing(self, chain: &Path, key: &Path) -> Self {
        Self { shown: Some((chain.to_owned(), key.to_owned())), ..self }
    }

    /// The same with room for about so many bytes that it has not read.
    pub(crate) fn with_room(self, bytes: u32) -> Self {
        Self { room: Some(bytes), ..self }
    }

    pub(crate) fn host(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// Sends GET and expects an answer.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", b"").await
    }

    /// Sends GET; refused, reset and truncated connections are errors.
    pub(crate) async fn try_get(&self, path: &str) -> io::Result<Reply> {
        self.try_send("GET", path, "", b"").await
    }

    /// Sends a request and expects an answer. `fields` are whole lines, each with its CRLF.
    pub(crate) async fn send(&self, method: &str, path: &str, fields: &str, body: &[u8]) -> Reply {
        let reply = self.try_send(method, path, fields, body).await;
        reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut connection = self.try_connect().await?;
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}{length}\r\n", self.host);
        // A server may answer and close before it has read everything.
        let sent = connection.send(&[head.as_bytes(), body].concat()).await;
        connection.read_reply(method == "HEAD").await.map_err(|error| sent.err().unwrap_or(error))
    }

    pub(crate) async fn connect(&self) -> Connection {
        self.try_connect()
            .await
            .unwrap_or_else(|error| panic!("connecting to {}: {error}", self.address))
    }

    pub(crate) async fn try_connect(&self) -> io::Result<Connection> {
        within("connection", async {
            let tcp = match self.room {
                None => TcpStream::connect(self.address).await?,
                Some(bytes) => {
                    let socket = TcpSocket::new_v4()?;
                    socket.set_recv_buffer_size(bytes)?;
                    socket.connect(self.address).await?
                }
            };
            tcp.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match &self.ca {
                None => Box::new(tcp),
                Some(ca) => Box::new(self.shake_hands(ca, tcp).await?),
            };
            Ok(Connection { wire: Wire::new(stream) })
        })
        .await
    }

    /// The certificate that a handshake is served with; one that is not trusted is an error.
    pub(crate) async fn certificate(&self) -> io::Result<Vec<u8>> {
        within("handshake", async {
            let tcp = TcpStream::connect(self.address).await?;
            let ca = self.ca.as_deref().expect("a CA is trusted");
            let stream = self.shake_hands(ca, tcp).await?;
            let shown = stream.get_ref().1.peer_certificates().expect("a server shows one");
            Ok(shown[0].to_vec())
        })
        .await
    }

    async fn shake_hands(&self, ca: &Path, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.host.rsplit_once(':').map_or(&*self.host, |(name, _)| name);
        let name = ServerName::try_from(name.to_owned()).expect("the host is a name or an address");
        TlsConnector::from(Arc::new(trusting(ca, self.shown.as_ref()))).connect(name, tcp).await
    }
}

/// Bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection, for what a whole request is too much or too little.
pub(crate) struct Connection {
    wire: Wire<Box<dyn Stream>>,
}

impl Connection {
    /// A connection that somebody else opened or accepted.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { wire: Wire::new(Box::new(stream)) }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("room to write", async {
            self.wire.stream.write_all(bytes).await?;
            self.wire.stream.flush().await
        })
        .await
    }

    /// Ends our direction only.
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        self.wire.stream.shutdown().await
    }

    /// Reads one answer; `to_head` if the request was HEAD. Informational answers before it are
    /// counted into it, a 101 is an answer.
    pub(crate) async fn read_reply(&mut self, to_head: bool) -> io::Result<Reply> {
        within("answer", async {
            let mut informational = Vec::new();
            loop {
                let mut reply = self.read_head().await?;
                if (100..200).contains(&reply.status) && reply.status != 101 {
                    informational.push(reply.status);
                    continue;
                }
                reply.informational = informational;
                self.read_body(&mut reply, to_head).await?;
                return Ok(reply);
            }
        })
        .await
    }

    /// Reads until the peer closes.
    pub(crate) async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        within("end of the connection", self.wire.take_to_end()).await
    }

    /// Reads up to and with the first `end`.
    pub(crate) async fn read_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        within("end of the bytes", async {
            loop {
                let found = self.wire.unread.windows(end.len()).position(|window| window == end);
                if let Some(at) = found {
                    return Ok(self.wire.unread.drain(..at + end.len()).collect());
                }
                self.wire.need_more().await?;
            }
        })
        .await
    }

    /// Waits until there is something to read, be it the end.
    pub(crate) async fn wait_readable(&mut self) {
        if self.wire.unread.is_empty() {
            // An end or an error shows again to whoever reads next.
            let _ = self.wire.read_more().await;
        }
    }

    /// Reads exactly `count` bytes.
    pub(crate) async fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        within("bytes", self.wire.take(count)).await
    }

    async fn read_head(&mut self) -> io::Result<Reply> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(&self.wire.unread);
            let parsed = parsed.map_err(|error| invalid(&format!("the answer's head: {error}")))?;
            if let httparse::Status::Complete(length) = parsed {
                let fields = head.headers.iter();
                let headers =
                    fields.map(|field| (field.name.to_owned(), text(field.value))).collect();
                let status = head.code.expect("a complete head has a status");
                self.wire.take(length).await?;
                return Ok(Reply { status, headers, ..Reply::default() });
            }
            self.wire.need_more().await?;
        }
    }

    /// RFC 9112 §6.3.
    async fn read_body(&mut self, reply: &mut Reply, to_head: bool) -> io::Result<()> {
        if to_head || matches!(reply.status, 101 | 204 | 304) {
            return Ok(());
        }
        let coding = reply.header("transfer-encoding");
        if coding.is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            (reply.body, reply.trailers) = self.wire.take_chunks().await?;
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| invalid("the answer's length"))?;
            reply.body = self.wire.take(length).await?;
        } else {
            reply.body = self.wire.take_to_end().await?;
        }
        Ok(())
    }
}

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The 1xx statuses that came before it.
    pub(crate) informational: Vec<u16>,
}

impl Reply {
    /// The first value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> String {
        text(&self.body)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

fn trusting(ca: &Path, shown: Option<&(PathBuf, PathBuf)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca);
    for certificate in certificates.unwrap_or_else(|error| panic!("{}: {error}", ca.display())) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has them").with_root_certificates(roots);
    let Some((chain, key)) = shown else { return builder.with_no_client_auth() };
    let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    builder.with_client_auth_cert(chain, key).unwrap()
}
