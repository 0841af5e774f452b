//! Client certificates, as curl and OpenSSL show them.

mod admission;
mod fields;
mod files;
mod odd;
mod pki;
mod resumption;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Gateway, Origin, run, within};
use pki::{Authority, Leaf};

/// The host that each rule is kept at; one certificate of the gateway's stands for all of them, so that
/// nothing but the rules keeps them apart.
const HOSTS: [&str; 6] =
    ["open.test", "members.test", "maybe.test", "others.test", "free.test", "127.0.0.1"];

/// A gateway with a site for each rule, and what its clients have.
struct Scene {
    gateway: Gateway,
    origin: Origin,
    /// Signs what `clients.pem` admits, which is at members, maybe, and the listener `strict`.
    clients: Authority,
    /// Signs what `others.pem` admits.
    others: Authority,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with("", |_, _| ()).await
    }

    /// The same with `crl` in the rule of the members, after `prepare` has written what it wants to.
    async fn start_with(crl: &str, prepare: impl FnOnce(&Path, &Authority)) -> Self {
        let directory = TempDir::new().unwrap();
        let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
        let servers = Authority::new("Servers");
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("clients.pem", &clients.pem());
        write("others.pem", &others.pem());
        write("servers.pem", &servers.pem());
        let shared = servers.leaf_for(&HOSTS, |_| ());
        write("shared.pem", &shared.chain);
        write("shared.key", &shared.key);
        for (name, leaf) in [("good", clients.client("ann")), ("stranger", others.client("eve"))] {
            leaf.write(directory.path(), name);
        }
        prepare(directory.path(), &clients);
        let origin = Origin::start().await;
        let gateway = Gateway::start_in(directory, &yaml(&origin.url(), crl)).await;
        Self { gateway, origin, clients, others }
    }

    fn directory(&self) -> &Path {
        self.gateway.directory()
    }

    fn path(&self, name: &str) -> String {
        self.directory().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a certificate for curl's `--cert`.
    fn write(&self, name: &str, leaf: &Leaf) {
        leaf.write(self.directory(), name);
    }

    /// Asks for `/` at `listener`, naming `host`. `None` when no answer came.
    async fn curl(&self, listener: &str, host: &str, arguments: &[&str]) -> Option<u16> {
        let port = self.gateway.address(listener).port();
        let url = format!("https://{host}:{port}/");
        let resolve = format!("{host}:{port}:127.0.0.1");
        let ca = self.path("servers.pem");
        let fixed = [
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
            &ca,
            "--resolve",
            &resolve,
            &url,
        ];
        let output = run("curl", fixed.iter().chain(arguments)).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let status = told.parse().unwrap_or_else(|_| panic!("{host} {arguments:?}: {output:?}"));
        assert_eq!(output.status.success(), status != 0, "{host} {arguments:?}: {output:?}");
        (status != 0).then_some(status)
    }

    /// The same with the certificate called `name`; `""` shows none.
    async fn show(
        &self,
        listener: &str,
        host: &str,
        name: &str,
        arguments: &[&str],
    ) -> Option<u16> {
        if name.is_empty() {
            return self.curl(listener, host, arguments).await;
        }
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let shown = ["--cert", &cert, "--key", &key];
        self.curl(listener, host, &[&shown[..], arguments].concat()).await
    }

    /// What `openssl s_client` says of a connection on which `request` is sent.
    async fn s_client(&self, listener: &str, arguments: &[&str], host: &str) -> String {
        let address = self.gateway.address(listener).to_string();
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-ign_eof", "-connect", &address])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // One that was refused takes nothing.
            let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
            child.wait_with_output().unwrap()
        });
        let output = within("end of s_client", output).await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Handshakes that failed for the client's certificate.
    async fn refusals(&self) -> u64 {
        let metrics = crate::support::Client::new(self.gateway.admin_address());
        let text = metrics.get("/metrics").await.text();
        let lines = text.lines().filter(|line| {
            line.starts_with("wardgate_tls_handshake_failures_total")
                && line.contains("reason=\"client_certificate\"")
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

fn yaml(origin: &str, crl: &str) -> String {
    yaml_with(origin, &format!("ca: clients.pem, mode: require{crl}"), "")
}

/// The configuration with another rule for the members, and more for `open.test`.
fn yaml_with(origin: &str, members: &str, open: &str) -> String {
    let site = |host: &str, rule: &str| {
        format!("  {host}: {{ certificate: shared, {rule}upstream: \"{origin}\" }}\n")
    };
    let sites: String = [
        site("open.test", open),
        site("members.test", &format!("client_auth: {{ {members} }}, ")),
        site("maybe.test", "client_auth: { ca: clients.pem, mode: request }, "),
        site("others.test", "client_auth: { ca: others.pem, mode: require }, "),
        site("free.test", "client_auth: off, "),
        site("127.0.0.1", ""),
    ]
    .concat();
    format!(
        "listeners:\n\
         \x20 web: {{ bind: \"127.0.0.1:0\", protocol: http }}\n\
         \x20 secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         \x20 strict: {{ bind: \"127.0.0.1:0\", protocol: https, \
         tls: {{ client_auth: {{ ca: clients.pem, mode: require }} }} }}\n\
         sites:\n{sites}\
         certificates: {{ shared: {{ chain: shared.pem, key: shared.key }} }}\n\
         trusted_proxies: [127.0.0.2]\n\
         log: {{ level: \"info,wardgate::listen=debug\" }}\n"
    )
}
