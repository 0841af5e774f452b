//! A server between the gateway and pebble, which passes on, stalls, loses and makes up answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::client::{Client, Reply};
use super::pebble::Pebble;
use super::within;

/// What becomes of a request.
#[derive(Clone)]
pub(crate) enum Fate {
    /// It is not passed on, and nothing comes.
    Hang,
    /// It is passed on, and its answer never comes.
    Swallow,
    /// It is passed on, and its answer comes after [`Between::release`].
    Hold,
    /// This answer comes instead: status, fields, body.
    Answer(u16, Vec<(&'static str, String)>, String),
}

/// A problem document of this type and with this text.
pub(crate) fn problem(r#type: &str, detail: &str) -> String {
    serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{type}"), "detail": detail })
        .to_string()
}

/// A running server. It has pebble's own certificate.
pub(crate) struct Between {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    behind: Client,
    fates: Mutex<Vec<(&'static str, usize, Fate)>>,
    /// How many requests have met their fate.
    met: watch::Sender<usize>,
    is_released: watch::Sender<bool>,
    requests: Mutex<Vec<String>>,
}

impl Between {
    pub(crate) async fn start(pebble: &Pebble) -> Self {
        let (chain, key) = pebble.pair();
        let acceptor = acceptor(chain, key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            // Pebble takes its own URLs from Host, and what is signed names ours.
            behind: Client::new(pebble.address()).tls(&pebble.ca()).host(&address.to_string()),
            fates: Mutex::default(),
            met: watch::Sender::new(0),
            is_released: watch::Sender::new(false),
            requests: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// The directory, as the gateway is told of it.
    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Has the next `count` requests whose path holds `path` meet `fate`.
    pub(crate) fn expect(&self, path: &'static str, count: usize, fate: Fate) {
        self.state.fates.lock().unwrap().push((path, count, fate));
    }

    /// From now on requests are passed on.
    pub(crate) fn forgive(&self) {
        self.state.fates.lock().unwrap().clear();
    }

    /// Waits until as many requests have met their fate.
    pub(crate) async fn met(&self, count: usize) {
        let mut met = self.state.met.subscribe();
        within("request", met.wait_for(|it| *it >= count)).await.unwrap();
    }

    /// Lets answers come that are held.
    pub(crate) fn release(&self) {
        self.state.is_released.send_replace(true);
    }

    /// Paths of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn fate_of(&self, path: &str) -> Option<Fate> {
        let mut fates = self.fates.lock().unwrap();
        let at = fates.iter().position(|(part, _, _)| path.contains(part))?;
        fates[at].1 -= 1;
        let fate = fates[at].2.clone();
        if fates[at].1 == 0 {
            fates.remove(at);
        }
        Some(fate)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.requests.lock().unwrap().push(path.clone());
        let fate = self.fate_of(&path);
        let met = || self.met.send_modify(|it| *it += 1);
        match &fate {
            Some(Fate::Hang) => {
                met();
                std::future::pending().await
            }
            Some(Fate::Answer(status, fields, body)) => {
                met();
                let mut answer = Response::builder().status(*status);
                for (name, value) in fields {
                    answer = answer.header(*name, value);
                }
                return answer.body(Full::from(body.clone())).unwrap();
            }
            _ => {}
        }
        let reply = self.pass_on(request).await;
        match fate {
            Some(Fate::Swallow) => {
                met();
                std::future::pending().await
            }
            Some(Fate::Hold) => {
                met();
                let mut released = self.is_released.subscribe();
                released.wait_for(|it| *it).await.unwrap();
            }
            _ => {}
        }
        let mut answer = Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            let is_ours = ["content-length", "connection", "transfer-encoding"];
            if !is_ours.contains(&name.to_ascii_lowercase().as_str()) {
                answer = answer.header(name, value);
            }
        }
        answer.body(Full::from(reply.body)).unwrap()
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut fields = "Connection: close\r\n".to_owned();
        for (name, value) in &head.headers {
            if !["host", "content-length", "connection"].contains(&name.as_str()) {
                fields += &format!("{name}: {}\r\n", value.to_str().unwrap());
            }
        }
        let target = head.uri.path_and_query().unwrap().as_str();
        match self.behind.try_send(head.method.as_str(), target, &fields, &body).await {
            Ok(reply) => reply,
            Err(_) => {
                Reply { status: 502, headers: Vec::new(), body: Vec::new(), ..Reply::default() }
            }
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that is killed is what some tests are about.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn acceptor(chain: PathBuf, key: PathBuf) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
