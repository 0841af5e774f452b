//! Pebble, Let's Encrypt's test authority, and the DNS server that comes with it.
//!
//! `./dev test` unpacks both: the newest that Debian has, else the stable release's, which lacks
//! profiles and renewal information.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use wardgate::acme::http::{Client as AcmeClient, Limits, Transport};
use wardgate::acme::session::Authority;
use wardgate::tls::{SystemRoots, client_config};

use super::client::Client;
use super::program::Program;
use super::{in_repository, within};

/// The key of the external account `kid-1`.
pub(crate) const EXTERNAL_KEY: &str =
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// How pebble is set up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Per cent of requests whose nonce is refused.
    pub(crate) bad_nonces: u8,
    /// Per cent of authorizations that are used again.
    pub(crate) reuse: u8,
    /// Roots beside the first.
    pub(crate) alternate_roots: u8,
    /// Whether accounts have to be bound to [`EXTERNAL_KEY`].
    pub(crate) needs_external: bool,
    /// The DNS server that it asks, where that is not its own.
    pub(crate) dns: Option<SocketAddr>,
    /// The URL of the responder that certificates name; empty for none.
    pub(crate) responder: String,
}

/// A running pebble. Each has a DNS server of its own, in which every name is 127.0.0.1.
pub(crate) struct Pebble {
    pub(crate) authority: Authority,
    pub(crate) dns: SocketAddr,
    /// Where the DNS server is told what to answer.
    records: SocketAddr,
    management: SocketAddr,
    /// Whether it is one that has profiles and renewal information.
    pub(crate) is_new: bool,
    directory: TempDir,
    settings: Settings,
    challenges: (SocketAddr, SocketAddr),
    program: Program,
    _dns: Program,
}

impl Pebble {
    /// Starts one that probes for HTTP-01 and TLS-ALPN-01 at these ports, the first plain.
    pub(crate) async fn start(challenges: (SocketAddr, SocketAddr), settings: Settings) -> Self {
        let directory = TempDir::new().unwrap();
        write_certificates(directory.path());
        let is_new = is_new().await;
        let (dns_program, dns, records) = start_dns(is_new).await;
        for _ in 0..5 {
            let (address, management) = (unused(), unused());
            let at = (address, management, settings.dns.unwrap_or(dns));
            let command = pebble(directory.path(), at, challenges, &settings, is_new);
            let authority = authority(directory.path(), address);
            if let Some(program) = started(command, &authority).await {
                return Self {
                    authority,
                    dns,
                    records,
                    management,
                    is_new,
                    directory,
                    settings,
                    challenges,
                    program,
                    _dns: dns_program,
                };
            }
        }
        panic!("pebble found no port in five turns");
    }

    /// Ends it and starts another at the same address, which knows nothing of the first.
    pub(crate) async fn restart(mut self) -> Self {
        let address = self.address();
        self.stop().await;
        let at = (address, self.management, self.settings.dns.unwrap_or(self.dns));
        let command =
            pebble(self.directory.path(), at, self.challenges, &self.settings, self.is_new);
        self.program = started(command, &self.authority).await.expect("the port is still free");
        self
    }

    /// Ends it; its files stay.
    pub(crate) async fn stop(&mut self) {
        self.program.signal("KILL");
        self.program.exit_status().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let url = self.authority.directory.strip_prefix("https://").unwrap();
        url.split('/').next().unwrap().parse().unwrap()
    }

    /// A client of its own that trusts its certificate.
    pub(crate) fn transport(&self, limits: Limits) -> Arc<dyn Transport> {
        transport(self.directory.path(), limits)
    }

    /// Whether its directory has what only newer ones have. One that should and has not is a fault.
    pub(crate) async fn offers(&self, what: &str) -> bool {
        let directory = self.authority.fetch_directory().await.unwrap();
        let offers = match what {
            "renewalInfo" => directory.renewal_info.is_some(),
            // Only its challenges tell.
            "dns-persist-01" => self.is_new,
            profile => directory.meta.profiles.contains_key(profile),
        };
        assert!(offers || !self.is_new, "the newer pebble has no {what}: {directory:?}");
        if !offers {
            eprintln!("not tested: this pebble has no {what}");
        }
        offers
    }

    /// How many certificates it has issued.
    pub(crate) fn issued(&self) -> usize {
        self.log().matches("Issued certificate").count()
    }

    pub(crate) fn log(&self) -> String {
        format!("{}{}", self.program.stdout, self.program.stderr)
    }

    /// Has the DNS server answer with SERVFAIL for `name`.
    pub(crate) async fn break_dns_of(&self, name: &str) {
        self.tell_dns("/set-servfail", json!({ "host": format!("{name}.") })).await;
    }

    /// Has the DNS server show these texts, and no others.
    pub(crate) async fn show_texts(&self, name: &str, texts: &[&str]) {
        let host = format!("{name}.");
        self.tell_dns("/clear-txt", json!({ "host": host })).await;
        for text in texts {
            self.tell_dns("/set-txt", json!({ "host": host, "value": text })).await;
        }
    }

    /// Has the DNS server show a CAA record for `name`.
    pub(crate) async fn set_caa(&self, name: &str, tag: &str, value: &str) {
        let policies = json!([{ "tag": tag, "value": value }]);
        let what = json!({ "host": format!("{name}."), "policies": policies });
        self.tell_dns("/add-caa", what).await;
    }

    /// Has the DNS server show these addresses for `name`.
    pub(crate) async fn set_addresses(&self, name: &str, v4: &[&str], v6: &[&str]) {
        for (path, addresses) in [("/add-a", v4), ("/add-aaaa", v6)] {
            let host = format!("{name}.");
            self.tell_dns(path, json!({ "host": host, "addresses": addresses })).await;
        }
    }

    async fn tell_dns(&self, path: &str, what: Value) {
        let body = what.to_string();
        let reply = Client::new(self.records).send("POST", path, "", body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{path}");
    }

    /// A program that puts records up in the DNS server, and writes down what it was told.
    pub(crate) fn hook(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let program = self.directory.path().join("hook");
        let script = format!(
            "#!/bin/sh -e\necho \"$1 $2\" >>'{log}'\ncase $1 in present) to=set-txt ;; *) to=clear-txt ;; esac\n\
             curl -sSf -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{records}/$to\n",
            log = self.hook_log().display(),
            records = self.records,
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        program
    }

    pub(crate) fn hook_log(&self) -> PathBuf {
        self.directory.path().join("hook.log")
    }

    /// Its certificate and its key.
    pub(crate) fn pair(&self) -> (PathBuf, PathBuf) {
        (self.directory.path().join("server.pem"), self.directory.path().join("server.key"))
    }

    /// The CA of the directory's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The root of what it issues.
    pub(crate) async fn root(&self) -> PathBuf {
        let client =
            Client::new(self.management).tls(&self.ca()).host(&self.management.to_string());
        let root = client.send("GET", "/roots/0", "User-Agent: test\r\n", b"").await;
        assert_eq!(root.status, 200);
        let path = self.directory.path().join("root.pem");
        std::fs::write(&path, root.text()).unwrap();
        path
    }

    /// What it says of the certificate with this serial number: `Valid` or `Revoked`.
    pub(crate) async fn status_of(&self, serial: &str) -> String {
        let client =
            Client::new(self.management).tls(&self.ca()).host(&self.management.to_string());
        let path = format!("/cert-status-by-serial/{serial}");
        let reply = client.send("GET", &path, "User-Agent: test\r\n", b"").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["Status"].as_str().unwrap().to_owned()
    }

    /// The key that it signs certificates with, as PEM.
    pub(crate) async fn issuer_key(&self) -> String {
        let client =
            Client::new(self.management).tls(&self.ca()).host(&self.management.to_string());
        let key = client.send("GET", "/intermediate-keys/0", "User-Agent: test\r\n", b"").await;
        assert_eq!(key.status, 200);
        key.text()
    }

    /// Has it say this about when to renew `certificate`, which is PEM.
    pub(crate) async fn set_renewal_info(&self, certificate: &str, start: &str, end: &str) {
        let window = json!({ "suggestedWindow": { "start": start, "end": end } });
        let said = json!({ "Certificate": certificate, "ARIResponse": window.to_string() });
        let ca = self.directory.path().join("ca.pem");
        let client = Client::new(self.management).tls(&ca).host(&self.management.to_string());
        let reply = client
            .send("POST", "/set-renewal-info/", "User-Agent: test\r\n", said.to_string().as_bytes())
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("pebble's log:\n{}", self.log());
        }
    }
}

/// An address that nothing listens at, for either protocol.
pub(super) fn unused() -> SocketAddr {
    loop {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

async fn is_new() -> bool {
    let help = super::run(tool("pebble-challtestsrv").to_str().unwrap(), ["-h"]).await;
    String::from_utf8_lossy(&help.stderr).contains("-dnsserver")
}

async fn start_dns(is_new: bool) -> (Program, SocketAddr, SocketAddr) {
    for _ in 0..5 {
        let (dns, records) = (unused(), unused());
        let mut command = Command::new(tool("pebble-challtestsrv"));
        command.args(["-management", &records.to_string()]);
        command.args([if is_new { "-dnsserver" } else { "-dns01" }, &dns.to_string()]);
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        if is_new {
            command.args(["-doh", ""]);
        }
        let program = Program::start(&mut command);
        let client = Client::new(records);
        // It says so when a port is taken, and goes on without.
        let is_taken = || format!("{}{}", program.stdout, program.stderr).contains("in use");
        let ready = async {
            // It answers 404, but it answers.
            let answers = || tokio::time::timeout(Duration::from_secs(1), client.try_get("/"));
            while !matches!(answers().await, Ok(Ok(_))) && !is_taken() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the DNS server", ready).await;
        if !is_taken() {
            return (program, dns, records);
        }
    }
    panic!("the DNS server found no port in five turns");
}

fn pebble(
    directory: &Path,
    (address, management, dns): (SocketAddr, SocketAddr, SocketAddr),
    (plain, secure): (SocketAddr, SocketAddr),
    settings: &Settings,
    is_new: bool,
) -> Command {
    let mut config = json!({
        "listenAddress": address.to_string(), "managementListenAddress": management.to_string(),
        "certificate": directory.join("server.pem"), "privateKey": directory.join("server.key"),
        "httpPort": plain.port(), "tlsPort": secure.port(), "ocspResponderURL": settings.responder,
        "domainBlocklist": ["blocked.example.test"],
        "externalAccountBindingRequired": settings.needs_external,
        "externalAccountMACKeys": { "kid-1": EXTERNAL_KEY },
    });
    if is_new {
        // It hands out no other keys than those for RSA.
        let is_asked_for = !settings.responder.is_empty();
        config["keyAlgorithm"] = if is_asked_for { "rsa" } else { "ecdsa" }.into();
        config["caaIdentities"] = json!(["pebble.example"]);
        config["profiles"] = json!({
            "classic": { "description": "90 days", "validityPeriod": 7_776_000 },
            "shortlived": { "description": "160 hours", "validityPeriod": 576_000 },
            "tiny": { "description": "60 seconds", "validityPeriod": 60 },
        });
    } else {
        config["certificateValidityPeriod"] = 518_400.into();
    }
    let file = directory.join("pebble.json");
    std::fs::write(&file, json!({ "pebble": config }).to_string()).unwrap();
    let mut command = Command::new(tool("pebble"));
    command.arg("-config").arg(&file).args(["-strict=false", "-dnsserver", &dns.to_string()]);
    command
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", settings.bad_nonces.to_string())
        .env("PEBBLE_AUTHZREUSE", settings.reuse.to_string())
        .env("PEBBLE_ALTERNATE_ROOTS", settings.alternate_roots.to_string())
        .stdin(Stdio::null());
    command
}

/// The process once its directory can be read; `None` when it found its port taken.
async fn started(mut command: Command, authority: &Authority) -> Option<Program> {
    let mut program = Program::start(&mut command);
    let ready = async {
        while authority.fetch_directory().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = within("pebble", ready) => Some(program),
        _ = program.exit_status() => None,
    }
}

fn authority(directory: &Path, address: SocketAddr) -> Authority {
    Authority::new(format!("https://{address}/dir"), transport(directory, Limits::default()))
}

fn transport(directory: &Path, limits: Limits) -> Arc<dyn Transport> {
    let ca = directory.join("ca.pem");
    let tls = client_config::authority(Some(&ca), &SystemRoots::none()).unwrap();
    Arc::new(AcmeClient::new(tls, limits))
}

/// A CA for this one server, and the server's certificate.
pub(crate) fn write_certificates(directory: &Path) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    std::fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(directory.join("server.pem"), server.pem()).unwrap();
    std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}

/// A tool of Debian's package `pebble`: the one that `./dev test` unpacks, else the system's.
fn tool(name: &str) -> PathBuf {
    let cache =
        std::env::var_os("WARDGATE_CACHE").map_or_else(|| in_repository(".cache"), Into::into);
    let unpacked = cache.join("pebble/usr/bin").join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}
