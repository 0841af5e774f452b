//! What `wardgate certs check` finds, with a real authority, its DNS server, and whoever may be at the
//! ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wardgate::acme::check::{Gateway as Asked, Means, Shown, Subject, check};
use wardgate::acme::finding::{Finding, Verdict, has_fault};
use wardgate::config;

use crate::support::{Client, Gateway, Pebble, Settings, closed, field, run, within};

const NAME: &str = "app.example.com";

struct Scene {
    gateway: Gateway,
    pebble: Pebble,
    means: Means,
}

fn yaml(pebble: Option<&Pebble>, more: &str) -> String {
    let mut text = "listeners:\n  web: { bind: \"127.0.0.1:0\", protocol: http }\n  \
                    secure: { bind: \"127.0.0.1:0\", protocol: https }\nsites:\n  \
                    app.example.com: { upstream: \"http://127.0.0.1:1\""
        .to_owned();
    match pebble {
        None => text += ", certificate: internal }\n",
        Some(pebble) => {
            let (directory, ca) = (&pebble.authority.directory, pebble.ca());
            text += &format!(
                " }}\nacme: {{ email: ops@example.com, directory: \"{directory}\", directory_ca: \"{}\", profile: classic{more} }}\n",
                ca.display()
            );
        }
    }
    text
}

impl Scene {
    /// A gateway that has its certificate, so that no order is under way.
    async fn new() -> Self {
        let gateway = Gateway::start(yaml(None, "")).await;
        let ports = (gateway.address("web"), gateway.address("secure"));
        let pebble = Pebble::start(ports, Settings::default()).await;
        pebble.set_caa("example.com", "iodef", "mailto:ops@example.com").await;
        gateway.reload(&yaml(Some(&pebble), ""), 2).await;
        gateway.wait_log(|line| field(line, "message") == "obtained a certificate").await;
        let means = Means {
            dns: vec![pebble.dns],
            http_port: ports.0.port(),
            https_port: ports.1.port(),
            gateway: Asked::Silent("it was not asked".to_owned()),
            patience: Duration::from_secs(8),
        };
        Self { gateway, pebble, means }
    }

    /// Has the gateway answer for the name, as the command does.
    async fn ask(&mut self) {
        let storage = self.gateway.directory().join("storage/admin/token");
        let token = std::fs::read_to_string(storage).unwrap();
        let admin = Client::new(self.gateway.admin_address()).host("localhost");
        let fields = format!("Authorization: Bearer {}\r\n", token.trim());
        let reply = admin.send("POST", &format!("/probe?name={NAME}"), &fields, b"").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let shown: Shown = serde_json::from_str(&reply.text()).unwrap();
        self.means.gateway = Asked::Shows(BTreeMap::from([(NAME.to_owned(), shown)]));
    }

    async fn findings(&self, name: &str) -> Vec<Finding> {
        let file = self.gateway.directory().join("gateway.yaml");
        let config = config::load(&file).unwrap().config;
        let (mut findings, subject) = Subject::of(&config, name);
        if let Some(subject) = subject {
            findings.extend(within("the check", check(&config, &subject, &self.means)).await);
        }
        findings
    }
}

fn about<'f>(findings: &'f [Finding], what: &str) -> Vec<(Verdict, &'f str)> {
    let about = findings.iter().filter(|finding| finding.what == what);
    about.map(|finding| (finding.verdict, &*finding.text)).collect()
}

#[track_caller]
fn assert_found(findings: &[Finding], what: &str, verdict: Verdict, text: &str) {
    let found = about(findings, what);
    let is_it = |(found, said): &(Verdict, &str)| *found == verdict && said.contains(text);
    assert!(found.iter().any(is_it), "{what} {verdict} {text}:\n{findings:#?}");
}

#[tokio::test]
async fn a_gateway_that_authorities_reach_has_nothing_in_the_way() {
    let mut scene = Scene::new().await;
    scene.ask().await;
    let findings = scene.findings(NAME).await;
    assert!(!has_fault(&findings), "{findings:#?}");
    for (what, text) in [
        ("configuration", "is ordered from"),
        ("dns", "leads to 127.0.0.1"),
        ("caa", "the records of example.com restrict nothing"),
        ("authority", "answers, its terms are at"),
        ("clock", "agree"),
    ] {
        assert_found(&findings, what, Verdict::Ok, text);
    }
    let (web, secure) = (scene.gateway.address("web"), scene.gateway.address("secure"));
    let text = format!("this gateway answers at {web}: http-01 is open");
    assert_found(&findings, "port 80", Verdict::Ok, &text);
    let text = format!("this gateway answers at {secure}: tls-alpn-01 is open");
    assert_found(&findings, "port 443", Verdict::Ok, &text);
}

#[tokio::test]
async fn a_gateway_that_cannot_be_asked_leaves_the_ports_in_doubt() {
    let scene = Scene::new().await;
    let findings = scene.findings(NAME).await;
    assert_found(&findings, "gateway", Verdict::Warning, "it was not asked");
    assert_found(&findings, "port 80", Verdict::Warning, "a server that says 308");
    assert_found(&findings, "port 443", Verdict::Warning, "a server with a certificate of");
    assert!(!has_fault(&findings), "{findings:#?}");
}

/// A web server that is not ours.
async fn foreign() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 404 Not Found\r\nServer: Microsoft-IIS/10.0\r\nContent-Length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn somebody_elses_server_is_told_by_what_it_says() {
    let mut scene = Scene::new().await;
    let other = Gateway::start(yaml(None, "")).await;
    scene.ask().await;
    scene.means.http_port = foreign().await.port();
    scene.means.https_port = other.address("secure").port();
    let findings = scene.findings(NAME).await;
    let said =
        "not this gateway answers, but a server that says 404 and calls itself Microsoft-IIS/10.0";
    assert_found(&findings, "port 80", Verdict::Fault, said);
    let said = "not this gateway answers, but a server with a certificate of";
    assert_found(&findings, "port 443", Verdict::Fault, said);
    #[cfg(target_os = "linux")]
    {
        assert_found(&findings, "port 80", Verdict::Warning, "is held by gateway-");
        let held = about(&findings, "port 443");
        assert!(held.iter().all(|(_, text)| !text.contains("held")), "another gateway: {held:?}");
    }

    // One way that is open is enough.
    scene.means.https_port = scene.gateway.address("secure").port();
    let findings = scene.findings(NAME).await;
    assert_found(&findings, "port 80", Verdict::Warning, "(another challenge is open)");

    // A port that speaks something else, and one where nobody is.
    scene.means.https_port = scene.means.http_port;
    scene.means.http_port = closed().port();
    let findings = scene.findings(NAME).await;
    assert_found(&findings, "port 443", Verdict::Fault, "the server does not speak TLS");
    assert_found(&findings, "port 80", Verdict::Fault, "the connection is refused");
    #[cfg(target_os = "linux")]
    assert_found(&findings, "port 80", Verdict::Warning, "nothing on this machine listens");
}

#[tokio::test]
async fn what_the_dns_says_is_explained() {
    let mut scene = Scene::new().await;
    scene.ask().await;
    // Nobody is at the IPv6 address.
    scene.pebble.set_addresses(NAME, &["127.0.0.1"], &["::1"]).await;
    let findings = scene.findings(NAME).await;
    assert_found(&findings, "port 80", Verdict::Ok, "http-01 is open");
    assert_found(&findings, "port 80", Verdict::Warning, "[::1]:");
    let v6 = findings.iter().find(|finding| finding.text.starts_with("[::1]:")).unwrap();
    assert!(v6.hint.as_deref().unwrap().contains("AAAA"), "{v6:?}");

    scene.pebble.set_addresses(NAME, &["192.0.2.1"], &["2001:db8::1"]).await;
    scene.means.patience = Duration::from_secs(1);
    let findings = scene.findings(NAME).await;
    assert_found(&findings, "dns", Verdict::Warning, "not this machine's: 2001:db8::1, 192.0.2.1");
    scene.pebble.break_dns_of(NAME).await;
    let findings = scene.findings(NAME).await;
    assert_found(
        &findings,
        "dns",
        Verdict::Fault,
        "its servers answer with an error: Server Failure",
    );
    assert_found(
        &findings,
        "caa",
        Verdict::Fault,
        "the question for CAA records of app.example.com",
    );
    assert_eq!(about(&findings, "port 80"), [], "there is nowhere to ask");

    scene.means.dns = vec![closed()];
    let findings = scene.findings(NAME).await;
    assert!(has_fault(&findings), "{findings:#?}");
    assert!(about(&findings, "dns").iter().all(|(verdict, _)| *verdict == Verdict::Fault));
}

#[tokio::test]
async fn caa_is_held_against_what_the_authority_calls_itself() {
    let scene = Scene::new().await;
    let directory = scene.pebble.authority.fetch_directory().await.unwrap();
    scene.pebble.set_caa(NAME, "issue", "other.example").await;
    let findings = scene.findings(NAME).await;
    let caa: Vec<_> = about(&findings, "caa");
    match directory.meta.caa_identities.first() {
        Some(identity) => {
            let text = format!("the records of {NAME} do not let {identity} issue");
            assert_eq!(caa, [(Verdict::Fault, &*text)]);
            scene.pebble.set_caa(NAME, "issue", identity).await;
            let findings = scene.findings(NAME).await;
            assert_found(&findings, "caa", Verdict::Ok, &format!("{NAME} lets {identity} issue"));
        }
        None => assert_found(&findings, "caa", Verdict::Warning, "is not known"),
    }
}

#[tokio::test]
async fn an_authority_that_is_down_or_wants_more_is_told() {
    let mut scene = Scene::new().await;
    scene.pebble.stop().await;
    scene.means.patience = Duration::from_secs(2);
    let findings = scene.findings(NAME).await;
    assert_found(
        &findings,
        "authority",
        Verdict::Fault,
        "the certificate authority does not answer",
    );
}

#[tokio::test]
async fn whoever_puts_records_up_is_looked_at() {
    let mut scene = Scene::new().await;
    scene.means.patience = Duration::from_secs(2);
    let provider =
        |dns: &str| yaml(Some(&scene.pebble), &format!(", challenges: [dns-01], dns: {dns}"));
    let server = |address: SocketAddr| {
        format!(
            "{{ rfc2136: {{ server: \"{address}\", key: {{ name: acme, secret: c2VjcmV0 }} }} }}"
        )
    };
    for (dns, verdict, text) in [
        (
            "{ run: [/no/such/program] }".to_owned(),
            Verdict::Fault,
            "there is no program /no/such/program",
        ),
        ("{ run: [sh] }".to_owned(), Verdict::Ok, "records are put up by /"),
        (
            server(scene.pebble.dns),
            Verdict::Warning,
            "which takes the records, says Not Implemented",
        ),
        (server(closed()), Verdict::Fault, "which takes the records, does not answer"),
    ] {
        scene.gateway.rewrite(&provider(&dns));
        let findings = scene.findings(NAME).await;
        assert_found(&findings, "dns-01", verdict, text);
        assert_eq!(about(&findings, "port 80"), [], "nobody asks there");
    }
}

#[tokio::test]
async fn the_command_prints_the_findings_and_its_exit_status_says_how_they_are() {
    let scene = Scene::new().await;
    let file = scene.gateway.directory().join("gateway.yaml");
    let dns = scene.pebble.dns.to_string();
    let command = async |name: &str, more: &[&str]| {
        let mut arguments = vec!["certs", "check", name, "--config", file.to_str().unwrap()];
        arguments.extend(["--dns-server", &dns]);
        arguments.extend(more);
        run(env!("CARGO_BIN_EXE_wardgate"), arguments).await
    };
    let unknown = command("b.example.net", &[]).await;
    let text = String::from_utf8(unknown.stdout).unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with("fault    configuration  no site is called b.example.net\n"),
        "{text}"
    );
    assert!(text.ends_with("\nin the way: 1\n"), "{text}");

    // Whoever holds ports 80 and 443 of the machine, it is not this gateway.
    let output = command(NAME, &["--json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told:#}");
    assert_eq!(told["name"], NAME);
    let findings = told["findings"].as_array().unwrap();
    let verdict = |what: &str| {
        let of = |finding: &&Value| finding["what"] == what;
        findings.iter().find(of).unwrap_or_else(|| panic!("{what}: {told:#}"))["verdict"].clone()
    };
    assert_eq!((verdict("dns"), verdict("authority")), ("ok".into(), "ok".into()));
    assert_eq!(verdict("port 80"), "fault", "{told:#}");
    assert!(findings.iter().all(|finding| finding["what"] != "gateway"), "it was asked: {told:#}");
    assert!(told["faults"].as_u64().unwrap() >= 1);
    assert!(findings.iter().any(|it| it["name"] == NAME), "{told:#}");
}
