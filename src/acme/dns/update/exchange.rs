//! One signed question to a name server and its answer, over UDP and then TCP.
//!
//! Our own and not the library's, which checks signatures only to the end of dropping what the server
//! says of ours: which key it does not know, and what its clock shows.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::{TSigVerifier, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{UpdateError, fully_qualified};
use crate::config::acme::{self as config, Rfc2136};
use crate::net::Host;

/// How long an answer over UDP is waited for before the question is sent again, and at last over TCP.
const UDP_PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

/// For connection, question and answer over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(10);

/// Seconds that two clocks may be apart (RFC 8945 §10).
const FUDGE: u16 = 300;

/// Largest message (RFC 1035 §4.2.2).
const LARGEST: usize = u16::MAX as usize;

/// A server at one of its addresses, and the key it shares with us.
#[derive(Clone)]
pub(super) struct Peer {
    /// As configured.
    name: String,
    address: SocketAddr,
    key: config::TsigKey,
    signer: TSigner,
}

impl Peer {
    /// The server at each of its addresses.
    pub(super) async fn all(server: &Rfc2136) -> Result<Vec<Self>, UpdateError> {
        let name = match server.port {
            53 => server.server.to_string(),
            port => format!("{}:{port}", server.server),
        };
        let addresses: Vec<SocketAddr> = match &server.server {
            Host::Address(address) => vec![(*address, server.port).into()],
            Host::Name(host) => {
                let found = tokio::net::lookup_host((host.as_str(), server.port)).await;
                let failed = |source| UpdateError::Resolve {
                    server: host.to_string(),
                    source: Some(source),
                };
                found.map_err(failed)?.collect()
            }
        };
        let signer = signer(&name, &server.key)?;
        let peer = |address| Self {
            name: name.clone(),
            address,
            key: server.key.clone(),
            signer: signer.clone(),
        };
        Ok(addresses.into_iter().map(peer).collect())
    }

    /// The key's name.
    pub(super) fn key(&self) -> &str {
        self.key.name.as_str()
    }

    /// Sends `message` and waits for its answer, whose signature is right unless it is a refusal.
    pub(super) async fn ask(&self, message: Message) -> Result<Message, UpdateError> {
        let sent_at = unix_now();
        let id = message.id;
        let (request, mut verifier) = self.sign(message, sent_at)?;
        let answer = self.send(id, &request).await;
        let bytes = answer
            .map_err(|source| UpdateError::Unreachable { server: self.to_string(), source })?;
        let answer = Message::from_vec(&bytes).map_err(|error| self.garbled(error))?;
        if let Some(tsig) = answer.signature()
            && let Some(error) = tsig.data.error
        {
            return Err(self.unconvinced(error, &tsig.data, sent_at));
        }
        let counts = matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if counts && verifier.verify(&bytes).is_err() {
            let (server, key) = (self.to_string(), self.key().to_owned());
            return Err(UpdateError::Unsigned { server, key });
        }
        Ok(answer)
    }

    /// Sends `message` over UDP as it is, and waits for nothing.
    pub(super) fn tell(
        &self,
        message: Message,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (request, _) = self.sign(message, unix_now())?;
        let socket = std::net::UdpSocket::bind(any_port(self.address))?;
        socket.set_nonblocking(true)?;
        socket.send_to(&request, self.address)?;
        Ok(())
    }

    fn sign(&self, mut message: Message, now: u64) -> Result<(Vec<u8>, TSigVerifier), UpdateError> {
        let verifier = message.finalize(&self.signer, now).map_err(|error| self.garbled(error))?;
        let verifier = verifier.ok_or_else(|| self.garbled("no signature"))?;
        Ok((message.to_vec().map_err(|error| self.garbled(error))?, verifier))
    }

    async fn send(&self, id: u16, request: &[u8]) -> io::Result<Vec<u8>> {
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        let by_udp = match over_udp(self.address, id, request).await {
            Ok(Some(answer)) => return Ok(answer),
            by_udp => by_udp,
        };
        match timeout(TCP_PATIENCE, over_tcp(self.address, request)).await {
            // It may have been done, and only its answer lost.
            Ok(Err(error)) if is_refused(&error) && !by_udp.is_err_and(|it| is_refused(&it)) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, error))
            }
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// What is wrong with our signature.
    fn unconvinced(&self, error: TsigError, tsig: &TSIG, sent_at: u64) -> UpdateError {
        let (server, key) = (self.to_string(), self.key().to_owned());
        match error {
            TsigError::BadKey => {
                UpdateError::BadKey { server, key, algorithm: self.key.algorithm.as_str() }
            }
            TsigError::BadTime => {
                let ahead =
                    clock(&tsig.other).map(|theirs| theirs.saturating_sub_unsigned(sent_at));
                UpdateError::BadTime { server, ahead, allowed: FUDGE }
            }
            TsigError::BadSig => UpdateError::BadSignature { server, key },
            TsigError::BadTrunc | TsigError::Unknown(_) => UpdateError::Unsigned { server, key },
        }
    }

    fn garbled(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> UpdateError {
        UpdateError::Garbled { server: self.to_string(), source: source.into() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.address)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

fn signer(server: &str, key: &config::TsigKey) -> Result<TSigner, UpdateError> {
    let algorithm = match key.algorithm {
        config::TsigAlgorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
        config::TsigAlgorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
        config::TsigAlgorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
    };
    let name = fully_qualified(key.name.as_str())?;
    TSigner::new(key.secret.clone(), algorithm, name, FUDGE)
        .map_err(|error| UpdateError::Garbled { server: server.to_owned(), source: error.into() })
}

/// The answer; `None` where it does not fit or does not come.
async fn over_udp(server: SocketAddr, id: u16, request: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let socket = UdpSocket::bind(any_port(server)).await?;
    socket.connect(server).await?;
    let mut buffer = vec![0; LARGEST];
    for patience in UDP_PATIENCE {
        socket.send(request).await?;
        let answer = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer[..length].starts_with(&id.to_be_bytes()) && length > TRUNCATION.0 {
                    return io::Result::Ok(length);
                }
            }
        };
        // The same may be asked twice: what is there is not added again.
        let Ok(length) = timeout(patience, answer).await else { continue };
        buffer.truncate(length?);
        let is_whole = buffer[TRUNCATION.0] & TRUNCATION.1 == 0;
        return Ok(is_whole.then_some(buffer));
    }
    Ok(None)
}

/// Where a message says that it is not whole (RFC 1035 §4.1.1): byte and bit.
const TRUNCATION: (usize, u8) = (2, 0b10);

async fn over_tcp(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Any port of this machine that reaches `server`.
fn any_port(server: SocketAddr) -> SocketAddr {
    let address: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (address, 0).into()
}

/// What a server's clock shows, as it says it beside BADTIME (RFC 8945 §5.2.3): 48 bits.
fn clock(other: &[u8]) -> Option<i64> {
    let bytes: [u8; 6] = other.try_into().ok()?;
    let mut whole = [0; 8];
    whole[2..].copy_from_slice(&bytes);
    Some(i64::from_be_bytes(whole))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
