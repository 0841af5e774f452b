//! BIND, the name server that most zones with dynamic updates are served by. `./dev test` unpacks it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use serde_json::Value;
use tempfile::TempDir;
use wardgate::config::acme::{Rfc2136, TsigAlgorithm, TsigKey};
use wardgate::net::{Host, HostName};

use super::in_repository;
use super::pebble::unused;
use super::program::{Program, run};

/// A running BIND. It is the primary server of `example.test`, which the keys `acme` and `large` may
/// change, and of `validation.test`, where an alias leads that `acme` alone may change.
pub(crate) struct Bind {
    pub(crate) address: SocketAddr,
    program: Program,
    directory: TempDir,
}

impl Bind {
    pub(crate) async fn start() -> Self {
        Self::with_clock(0).await
    }

    /// One whose clock is so many seconds ahead.
    pub(crate) async fn with_clock(ahead: i64) -> Self {
        let directory = TempDir::new().unwrap();
        let clock = if ahead == 0 { None } else { Some(build_clock(directory.path()).await) };
        for _ in 0..5 {
            let address = unused();
            let config = write_files(directory.path(), address);
            let mut command = Command::new(named());
            command.args(["-g", "-n", "1", "-c"]).arg(config);
            if let Some(clock) = &clock {
                command.env("LD_PRELOAD", clock).env("CLOCK_AHEAD", ahead.to_string());
            }
            let program = Program::start(&mut command);
            let is_running =
                |line: &Value| line.as_str().is_some_and(|line| line.ends_with(" running"));
            program.stderr.wait("a BIND that is running", is_running).await;
            // It says so when a port is taken, and goes on without.
            if !program.stderr.to_string().contains("address in use") {
                return Self { address, program, directory };
            }
        }
        panic!("BIND found no port in five turns");
    }

    pub(crate) async fn stop(&mut self) {
        self.program.signal("KILL");
        self.program.exit_status().await;
    }

    /// How it is configured as the server, with the key `acme`.
    pub(crate) fn settings(&self) -> Rfc2136 {
        Rfc2136 {
            server: Host::Address(self.address.ip()),
            port: self.address.port(),
            zone: None,
            key: key("acme"),
            ttl: Duration::from_secs(60),
        }
    }

    /// The texts at `name`, sorted.
    pub(crate) async fn texts(&self, name: &str) -> Vec<String> {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let found = resolver.build().unwrap().lookup(format!("{name}."), RecordType::TXT).await;
        let Ok(found) = found else { return Vec::new() };
        let text = |data: &RData| match data {
            RData::TXT(text) => Some(String::from_utf8(text.txt_data.concat()).unwrap()),
            _ => None,
        };
        let mut texts: Vec<_> =
            found.answers().iter().filter_map(|entry| text(&entry.data)).collect();
        texts.sort();
        texts
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "BIND's log in {}:\n{}",
                self.directory.path().display(),
                self.program.stderr
            );
        }
    }
}

/// The keys that BIND knows, with a secret of their own each.
const KEYS: [(&str, TsigAlgorithm); 3] = [
    ("acme", TsigAlgorithm::HmacSha256),
    ("large", TsigAlgorithm::HmacSha512),
    // It may look, but not touch.
    ("reader", TsigAlgorithm::HmacSha384),
];

/// One of the keys that BIND knows.
pub(crate) fn key(name: &str) -> TsigKey {
    let (_, algorithm) = KEYS.iter().find(|(known, _)| *known == name).expect("BIND knows it");
    TsigKey {
        name: HostName::parse(name).unwrap(),
        algorithm: *algorithm,
        secret: format!("the secret of {name}, which is long enough").into_bytes(),
    }
}

fn write_files(directory: &Path, address: SocketAddr) -> PathBuf {
    use base64::Engine;
    let keys: String = KEYS
        .iter()
        .map(|(name, algorithm)| {
            let secret = base64::prelude::BASE64_STANDARD.encode(key(name).secret);
            let algorithm = algorithm.as_str();
            format!("key \"{name}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};\n")
        })
        .collect();
    let zones: String = ["example.test", "validation.test"]
        .iter()
        .map(|zone| {
            let records = format!(
                "$TTL 60\n@ SOA ns.{zone}. op.{zone}. 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n{}",
                match *zone {
                    "example.test" => "_acme-challenge.alias CNAME alias.validation.test.\nchild NS ns.elsewhere.test.\n",
                    _ => "",
                }
            );
            std::fs::write(directory.join(zone), records).unwrap();
            let allowed = match *zone {
                "example.test" => "allow-update { key acme; key large; }",
                _ => "update-policy { grant acme name alias.validation.test. TXT; }",
            };
            format!("zone \"{zone}\" {{ type primary; file \"{zone}\"; {allowed}; }};\n")
        })
        .collect();
    let (ip, port) = (address.ip(), address.port());
    let config = format!(
        "options {{ directory \"{}\"; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }};\n\
         pid-file none; session-keyfile none; recursion no; dnssec-validation no;\n\
         managed-keys-directory \"{}\"; }};\ncontrols {{ }};\n{keys}{zones}",
        directory.display(),
        directory.display(),
    );
    let path = directory.join("named.conf");
    std::fs::write(&path, config).unwrap();
    path
}

/// The one that `./dev test` unpacks, else the system's.
fn named() -> PathBuf {
    let cache =
        std::env::var_os("WARDGATE_CACHE").map_or_else(|| in_repository(".cache"), Into::into);
    let unpacked = cache.join("bind/named");
    if unpacked.exists() { unpacked } else { "named".into() }
}

/// The library that changes a program's clock, preloaded.
pub(crate) async fn build_clock(directory: &Path) -> PathBuf {
    let library = directory.join("clock.so");
    let source = in_repository("tests/peers/clock.c");
    let (to, from) = (library.to_str().unwrap(), source.to_str().unwrap());
    let built = run("cc", ["-shared", "-fPIC", "-o", to, from]).await;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}
