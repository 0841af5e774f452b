//! Another authority than pebble: acme2certifier, a program of other people in another language.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use super::gateway::obtained;
use crate::support::{Gateway, Peer, field, steady, write_certificates};

const NAME: &str = "app.example.com";

struct Second {
    directory: TempDir,
    addresses: (SocketAddr, SocketAddr),
    peer: Peer,
}

impl Second {
    async fn start() -> Self {
        let (directory, addresses) = (TempDir::new().unwrap(), steady());
        write_certificates(directory.path());
        let (web, secure) = (addresses.0.port().to_string(), addresses.1.port().to_string());
        let arguments = [directory.path().to_str().unwrap(), &web, &secure];
        let peer = Peer::start("second_ca.py", &arguments).await;
        Self { directory, addresses, peer }
    }

    /// A site with `more` names, proven by `challenge`.
    fn yaml(&self, aliases: &str, challenge: &str) -> String {
        let (web, secure) = self.addresses;
        format!(
            "listeners:\n  web: {{ bind: \"{web}\", protocol: http }}\n  \
             secure: {{ bind: \"{secure}\", protocol: https }}\n\
             sites: {{ {NAME}: {{ aliases: [{aliases}], https: both, routes: [ {{ respond: ok }} ] }} }}\n\
             acme: {{ email: ops@example.com, directory: \"https://{}/directory\", directory_ca: \"{}\", challenges: [{challenge}] }}\n",
            self.peer.address(),
            self.directory.path().join("ca.pem").display()
        )
    }

    async fn assert_served(&self, gateway: &Gateway, host: &str) {
        let root = self.directory.path().join("root.pem");
        let client = gateway.client_of("secure").tls(&root).host(host);
        assert_eq!(client.get("/").await.text(), "ok");
    }

    fn issued(&self) -> usize {
        fs::read_dir(self.directory.path().join("issued")).unwrap().count()
    }
}

/// Issues by `challenge`, then renews what was issued.
async fn issue_and_renew(challenge: &str) {
    let second = Second::start().await;
    let text = second.yaml("app.example.net", challenge);
    let mut gateway = Gateway::start(&text).await;
    gateway.wait_log(obtained(NAME)).await;
    second.assert_served(&gateway, NAME).await;
    let issued = second.issued();

    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let state = gateway.directory().join("storage/live").join(NAME).join("state.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    record["is_revoked"] = true.into();
    fs::write(&state, record.to_string()).unwrap();
    let gateway = gateway.again(&text).await;
    let line = gateway.wait_log(obtained(NAME)).await;
    assert_eq!(field(&line, "reason"), "revoked", "{line}");
    second.assert_served(&gateway, NAME).await;
    assert!(second.issued() > issued);

    gateway.reload(&second.yaml("app.example.net, www.example.com", challenge), 2).await;
    let named = |line: &Value| obtained(NAME)(line) && field(line, "reason") == "names_changed";
    gateway.wait_log(named).await;
    second.assert_served(&gateway, "www.example.com").await;
}

#[tokio::test]
async fn a_second_authority_issues_and_renews_by_tls_alpn_01() {
    issue_and_renew("tls-alpn-01").await;
}

#[tokio::test]
async fn a_second_authority_issues_and_renews_by_http_01() {
    issue_and_renew("http-01").await;
}
