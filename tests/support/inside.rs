//! The gateway's own listeners, engine and certificate store in the test's process, for what no
//! configuration leads to yet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardgate::config;
use wardgate::listen::connection::{Door, Surroundings, accept};
use wardgate::proxy::connection::ListenerFacts;
use wardgate::proxy::engine::Engine;
use wardgate::proxy::gateway::Shared;
use wardgate::proxy::generation::{BoundListener, Generation};
use wardgate::task::Tasks;
use wardgate::telemetry::Metrics;
use wardgate::telemetry::access::AccessLog;
use wardgate::tls::{CertStore, Policies, Table, Terms, Tickets};

/// A listener `web` for plain HTTP and one `secure` for https, before one site that turns
/// everybody away: a filter denies, plain HTTP is redirected, and https wants a certificate that
/// nobody has.
pub(crate) struct Inside {
    pub(crate) web: SocketAddr,
    pub(crate) secure: SocketAddr,
    pub(crate) store: Arc<CertStore>,
    directory: TempDir,
    close: CancellationToken,
    connections: Tasks,
}

impl Inside {
    pub(crate) async fn start() -> Self {
        wardgate::tls::install();
        let directory = TempDir::new().unwrap();
        let text = format!(
            r#"
listeners:
  web: {{ bind: "127.0.0.1:0", protocol: http }}
  secure: {{ bind: "127.0.0.1:0", protocol: https, tls: {{ client_auth: {{ ca: ca.pem }} }} }}
log: {{ access: {{ file: {log:?} }}, format: json }}
sites:
  "*":
    https: redirect
    filters: [ {{ access: {{ deny: [ "0.0.0.0/0" ] }} }} ]
    certificate: internal
    routes: [ {{ respond: "the site" }} ]
"#,
            log = log_of(directory.path()),
        );
        let loaded = config::from_text("gateway.yaml", &text, directory.path());
        let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
        let metrics = Arc::new(Metrics::new([], SystemTime::now()));
        let store = Arc::new(CertStore::new(Table::default()));
        let tickets = Tickets::new().unwrap();
        let mut nobody = rcgen::CertificateParams::new(Vec::new()).unwrap();
        nobody.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let nobody = nobody.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.path().join("ca.pem"), nobody.pem()).unwrap();
        let policies = Policies::load(&config, None, &tickets, SystemTime::now()).unwrap();
        let mut sockets = Vec::new();
        let mut bound = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let facts = Arc::new(ListenerFacts::new(listener.name.clone()));
            let port = socket.local_addr().unwrap().port();
            let terms = (listener.name == "secure").then(|| {
                Arc::new(Terms::new(listener, index, &store, &tickets, &policies).unwrap())
            });
            bound.push(BoundListener { facts: Arc::clone(&facts), port, terms: terms.clone() });
            sockets.push((listener.clone(), socket, facts, terms));
        }
        let access = Arc::new(AccessLog::open(&config.log).unwrap());
        let generation = Generation::new(None, config, Vec::new(), policies, bound, &metrics);
        let generation = Arc::new(generation);
        let shared =
            Arc::new(Shared::new(generation, Arc::clone(&store), access, Arc::clone(&metrics)));
        let engine = Arc::new(Engine::new(shared));
        let (close, connections) = (CancellationToken::new(), Tasks::new());
        let mut addresses = Vec::new();
        for (listener, socket, facts, terms) in sockets {
            addresses.push((listener.name.clone(), socket.local_addr().unwrap()));
            let drain = close.child_token();
            let around = Arc::new(Surroundings {
                engine: Arc::clone(&engine),
                census: Arc::default(),
                tasks: connections.clone(),
                leave: drain.child_token(),
                drain,
            });
            let tls = terms.map(|terms| (terms, Arc::clone(&store)));
            let metrics = metrics.listener(&listener.name);
            let door = Door { listener, facts, tls, around, metrics };
            let door = Arc::new(ArcSwap::from_pointee(door));
            connections.spawn("accept", accept(socket, door, Arc::default(), close.clone()));
        }
        let address = |name: &str| addresses.iter().find(|(it, _)| it == name).unwrap().1;
        let (web, secure) = (address("web"), address("secure"));
        Self { web, secure, store, directory, close, connections }
    }

    /// Where probes are to come: plain and secure.
    pub(crate) fn ports(&self) -> (SocketAddr, SocketAddr) {
        (self.web, self.secure)
    }

    /// The access lines so far.
    pub(crate) fn access(&self) -> String {
        std::fs::read_to_string(log_of(self.directory.path())).unwrap_or_default()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.close.cancel();
        self.connections.stop();
    }
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join("access.log")
}
