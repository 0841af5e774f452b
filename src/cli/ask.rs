//! Questions to a running gateway, over its admin interface.
//!
//! Answers "where is it, and what does it say?". The file that the gateway runs with tells where its
//! state is, and there are its address and its token; a file with faults tells enough.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{FAILED, FAULTY, print, status};
use crate::acme::check::Shown;
use crate::admin::{Token, token};
use crate::config;

/// Time for a connection to this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for the answer: a reload reads and builds everything.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// Bytes of an answer; ten thousand sites take a tenth of it.
const LONGEST_ANSWER: usize = 64 << 20;

/// Which gateway is asked.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// The file the gateway runs with. Default: gateway.yaml here, else the system's
    file: Option<PathBuf>,
    /// Ask at this address, whatever the file says
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Read the admin token from this file, whatever the configuration says
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A gateway that can be asked.
pub(super) struct Contact {
    address: SocketAddr,
    token: Secret,
    /// The token is one that was given, and not the one that the gateway made.
    is_told: bool,
}

/// Where a token comes from.
enum Secret {
    Configured(String),
    File(PathBuf),
}

/// What a gateway answered.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Where {
    /// The gateway of `file`, or the one at `admin`.
    pub(super) fn new(
        file: &Option<PathBuf>,
        admin: Option<SocketAddr>,
        token_file: &Option<PathBuf>,
    ) -> Self {
        Self { file: file.clone(), admin, token_file: token_file.clone() }
    }
}

/// `wardgate reload`.
pub(super) fn reload(place: &Where) -> anyhow::Result<u8> {
    let contact = Contact::find(place)?;
    let reply = contact.change("/reload", &Value::Null, ANSWER)?;
    let text = |key: &str| reply.body[key].as_str().unwrap_or_default();
    let generation = &reply.body["generation"];
    match (reply.status, text("outcome")) {
        (StatusCode::OK, "applied") => {
            eprint!("{}", text("warnings"));
            print(&format!("applied: generation {generation} is in force\n"))
        }
        (StatusCode::OK, "unchanged") => {
            print(&format!("unchanged: generation {generation} stays in force\n"))
        }
        (StatusCode::UNPROCESSABLE_ENTITY, "rejected") => {
            let faults = text("faults");
            let end = if faults.is_empty() || faults.ends_with('\n') { "" } else { "\n" };
            eprint!("{faults}{end}");
            eprintln!("rejected: generation {generation} stays in force");
            Ok(FAULTY)
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => {
            eprintln!("wardgate: the gateway at {} is stopping", contact.address);
            Ok(FAILED)
        }
        _ => contact.refused(&reply),
    }
}

/// `wardgate status`.
pub(super) fn status(place: &Where, as_json: bool) -> anyhow::Result<u8> {
    let contact = Contact::find(place)?;
    let reply = contact.look("/status")?;
    match reply.status {
        StatusCode::OK if as_json => print(&format!("{:#}\n", reply.body)),
        StatusCode::OK => print(&status::text(&reply.body)),
        _ => contact.refused(&reply),
    }
}

/// Has the running gateway answer for `hosts` what an authority would ask.
pub(super) fn probe(place: &Where, hosts: &[String]) -> anyhow::Result<BTreeMap<String, Shown>> {
    let mut shown = BTreeMap::new();
    if hosts.is_empty() {
        return Ok(shown);
    }
    let contact = Contact::find(place)?;
    for host in hosts {
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("name", host).finish();
        let reply = contact.change(&format!("/probe?{query}"), &Value::Null, ANSWER)?;
        if reply.status != StatusCode::OK {
            contact.refused(&reply)?;
        }
        let answer = serde_json::from_value(reply.body).context("its answer cannot be read")?;
        shown.insert(host.clone(), answer);
    }
    Ok(shown)
}

impl Contact {
    /// Where the gateway is, and the token for it.
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        let file = config::find(place.file.as_deref());
        if place.file.is_some() && !file.exists() && place.admin.is_none() {
            bail!("there is no {}", file.display());
        }
        let outline = config::outline(&file);
        let configured = outline.admin.as_ref();
        let address = place.admin.or_else(|| token::read_address(&outline.storage));
        let Some(address) = address.or_else(|| configured.map(|admin| admin.bind)) else {
            bail!("{} says `admin: off`: this gateway cannot be asked", file.display());
        };
        let word = configured.and_then(|admin| admin.token.clone());
        let token = match (&place.token_file, word) {
            (Some(path), _) => Secret::File(path.clone()),
            (None, Some(word)) => Secret::Configured(word),
            (None, None) => Secret::File(token::path(&outline.storage)),
        };
        let is_told = place.token_file.is_some() || matches!(token, Secret::Configured(_));
        Ok(Self { address: reachable(address), token, is_told })
    }

    /// Whether something listens there.
    pub(super) fn is_there(&self) -> bool {
        std::net::TcpStream::connect_timeout(&self.address, CONNECT).is_ok()
    }

    /// What to say when nothing does.
    pub(super) fn unanswered(&self) -> String {
        unanswered(self.address)
    }

    /// Asks for something that changes nothing.
    pub(super) fn look(&self, path: &str) -> anyhow::Result<Reply> {
        // On loopback everybody may look, so a token that cannot be read is no obstacle yet.
        let token = self.token.read();
        let shown = token.as_deref().ok().filter(|_| self.is_told);
        let reply = self.ask(Method::GET, path, (shown, &Value::Null), ANSWER)?;
        if reply.status == StatusCode::UNAUTHORIZED && shown.is_none() {
            token?;
        }
        Ok(reply)
    }

    /// Has something changed, which takes at most `patience`.
    pub(super) fn change(
        &self,
        path: &str,
        arguments: &Value,
        patience: Duration,
    ) -> anyhow::Result<Reply> {
        let token = self.token.read().or_else(|error| {
            // Without a gateway there need not be a token, and that is the better reason.
            std::net::TcpStream::connect_timeout(&self.address, CONNECT)
                .with_context(|| unanswered(self.address))?;
            Err(error)
        })?;
        self.ask(Method::POST, path, (Some(&token), arguments), patience)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        (token, arguments): (Option<&str>, &Value),
        patience: Duration,
    ) -> anyhow::Result<Reply> {
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if arguments.is_null() {
            Bytes::new()
        } else {
            request = request.header(CONTENT_TYPE, "application/json");
            arguments.to_string().into()
        };
        let request = request.body(Full::new(body)).context("the token is no word")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, body) = runtime.block_on(self.exchange(request, patience))?;
        // Refusals are text.
        let text = || Value::from(String::from_utf8_lossy(&body).trim().to_owned());
        Ok(Reply { status, body: serde_json::from_slice(&body).unwrap_or_else(|_| text()) })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let address = self.address;
        let connect = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        let stream = connect
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .with_context(|| unanswered(address))?;
        let answer = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let exchange = async {
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = Limited::new(body, LONGEST_ANSWER).collect().await;
                let body = body.map_err(|error| anyhow::anyhow!(error))?;
                anyhow::Ok((head.status, body.to_bytes()))
            };
            let mut exchange = std::pin::pin!(exchange);
            tokio::select! {
                answer = &mut exchange => answer,
                ended = connection => {
                    ended?;
                    exchange.await
                }
            }
        };
        let answer = tokio::time::timeout(patience, answer).await;
        answer
            .with_context(|| format!("{address} did not answer within {} s", patience.as_secs()))?
            .with_context(|| format!("what listens at {address} does not answer like a gateway"))
    }

    /// Says why there is no answer.
    pub(super) fn refused(&self, reply: &Reply) -> anyhow::Result<u8> {
        let (address, status) = (self.address, reply.status.as_u16());
        match (reply.status, &self.token) {
            (StatusCode::UNAUTHORIZED, Secret::File(path)) => {
                let path = path.display();
                bail!(
                    "the gateway at {address} does not take the token in {path}: is it another gateway's?"
                )
            }
            (StatusCode::UNAUTHORIZED, Secret::Configured(_)) => {
                bail!(
                    "the gateway at {address} does not take the file's `admin.token`: did it change?"
                )
            }
            _ => {
                let said = reply.body.as_str().unwrap_or_default().chars();
                let said: String = said.filter(|char| !char.is_control()).take(200).collect();
                bail!("what listens at {address} answers {status}: {said}")
            }
        }
    }
}

impl Secret {
    fn read(&self) -> anyhow::Result<String> {
        match self {
            Self::Configured(word) => Ok(word.clone()),
            Self::File(path) => match Token::read(path) {
                Ok(token) => Ok(token.expose().to_owned()),
                Err(error) => Err(error).with_context(|| unreadable(path)),
            },
        }
    }
}

fn unanswered(address: SocketAddr) -> String {
    format!("no gateway answers at {address} (is it running?)")
}

fn unreadable(path: &Path) -> String {
    let path = path.display();
    format!("cannot read the admin token {path} (the gateway's user and root can)")
}

/// An address to connect to, for one that means every address of this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        address => address,
    }
}
