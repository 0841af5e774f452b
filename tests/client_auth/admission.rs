//! Who is let in, and where.

use super::Scene;
use crate::support::{Client, field};

/// TLS 1.2 with HTTP/1.1, TLS 1.3 with HTTP/2.
const VERSIONS: [[&str; 3]; 2] =
    [["--tlsv1.2", "--tls-max=1.2", "--http1.1"], ["--tlsv1.3", "--tls-max=1.3", "--http2"]];

/// curl takes `--tls-max` and its value apart.
fn arguments(version: [&'static str; 3]) -> Vec<&'static str> {
    version.iter().flat_map(|it| it.split('=')).collect()
}

#[tokio::test]
async fn whoever_has_no_certificate_that_counts_is_not_served() {
    let scene = Scene::start().await;
    let mut refused = 0;
    for (listener, host, name, is_served) in [
        ("secure", "open.test", "", true),
        ("secure", "open.test", "stranger", true),
        ("secure", "members.test", "", false),
        ("secure", "members.test", "good", true),
        ("secure", "members.test", "stranger", false),
        ("secure", "maybe.test", "", true),
        ("secure", "maybe.test", "good", true),
        ("secure", "maybe.test", "stranger", false),
        ("secure", "others.test", "good", false),
        ("secure", "others.test", "stranger", true),
        ("strict", "open.test", "", false),
        ("strict", "open.test", "good", true),
        ("strict", "127.0.0.1", "", false),
        ("strict", "127.0.0.1", "good", true),
        ("strict", "others.test", "good", false),
        ("strict", "maybe.test", "", true),
        ("strict", "free.test", "", true),
    ] {
        for version in VERSIONS {
            let status = scene.show(listener, host, name, &arguments(version)).await;
            let wanted = is_served.then_some(200);
            assert_eq!(status, wanted, "{listener} {host} {name:?} {version:?}");
            refused += u64::from(!is_served);
        }
    }
    assert_eq!(scene.refusals().await, refused, "each is counted");
    let reasons: Vec<String> = scene
        .gateway
        .log()
        .all()
        .iter()
        .filter(|line| field(line, "message") == "failed a handshake")
        .map(|line| field(line, "error").as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons.len() as u64, refused, "{reasons:?}");
    for wanted in ["sent no certificates", "no CA of the rule has signed it"] {
        let text = reasons.join("\n");
        assert!(
            text.contains("the client's certificate was refused: ") && text.contains(wanted),
            "{text}"
        );
    }
}

/// The client takes itself for admitted until it reads the alert (RFC 8446 §4.4.2), which must therefore
/// survive what it has sent on.
#[tokio::test]
async fn whoever_is_refused_is_told_why() {
    let scene = Scene::start().await;
    let (cert, key) = (scene.path("stranger.pem"), scene.path("stranger.key"));
    for (arguments, wanted) in [
        (vec!["-tls1_3"], "alert certificate required"),
        (vec!["-tls1_3", "-cert", &cert, "-key", &key], "alert unknown ca"),
        (vec!["-tls1_2", "-cert", &cert, "-key", &key], "alert unknown ca"),
    ] {
        for _ in 0..5 {
            let arguments = [&["-servername", "members.test"][..], &arguments].concat();
            let told = scene.s_client("secure", &arguments, "members.test").await;
            assert!(told.contains(wanted), "{arguments:?}: {told}");
            assert!(!told.contains("HTTP/1.1"), "{told}");
        }
    }
    let told = scene.s_client("secure", &["-servername", "members.test"], "members.test").await;
    assert!(told.contains("CN = Clients"), "the CAs that count are named: {told}");
    let told = scene.s_client("secure", &["-servername", "open.test"], "open.test").await;
    assert!(told.contains("No client certificate CA names sent"), "{told}");
}

/// Through another site's name, and without any, the site of the members is not reached: neither by
/// those who have shown nothing, nor by those who have shown what counts elsewhere.
#[tokio::test]
async fn a_request_for_a_site_under_another_rule_is_misdirected() {
    let scene = Scene::start().await;
    for (named, name, asked, status) in [
        ("open.test", "", "members.test", 421),
        ("open.test", "good", "members.test", 421),
        ("open.test", "", "maybe.test", 421),
        ("open.test", "", "MEMBERS.test.", 421),
        ("open.test", "", "open.test", 200),
        ("open.test", "", "free.test", 200),
        ("maybe.test", "", "members.test", 421),
        ("maybe.test", "good", "members.test", 421),
        ("maybe.test", "good", "open.test", 421),
        ("others.test", "stranger", "members.test", 421),
        ("members.test", "good", "others.test", 421),
        ("members.test", "good", "open.test", 421),
        ("members.test", "good", "members.test", 200),
        ("127.0.0.1", "", "members.test", 421),
        ("127.0.0.1", "good", "members.test", 421),
        ("127.0.0.1", "", "open.test", 200),
    ] {
        let host = format!("Host: {asked}");
        for version in VERSIONS {
            let arguments = [arguments(version), vec!["-H", &host]].concat();
            let got = scene.show("secure", named, name, &arguments).await;
            assert_eq!(got, Some(status), "{named} {name:?} {asked} {version:?}");
        }
        let upgrade = ["--http1.1", "-H", &host, "-H", "Connection: Upgrade", "-H", "Upgrade: raw"];
        let got = scene.show("secure", named, name, &upgrade).await;
        assert_eq!(got, Some(status), "{named} {name:?} {asked}, an upgrade");
    }
    // At the listener that asks everybody, the site that asks nobody is apart as well.
    for (named, name, asked, status) in [
        ("free.test", "", "open.test", 421),
        ("open.test", "good", "free.test", 421),
        ("open.test", "good", "members.test", 200),
    ] {
        let host = format!("Host: {asked}");
        let got = scene.show("strict", named, name, &["-H", &host]).await;
        assert_eq!(got, Some(status), "strict {named} {asked}");
    }
}

#[tokio::test]
async fn a_site_that_requires_one_is_not_served_over_plain_http_whatever_a_proxy_says() {
    let scene = Scene::start().await;
    let port = scene.gateway.address("web").port();
    // From an address that is trusted to say that its client came over https.
    let output = crate::support::run(
        "curl",
        [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--interface",
            "127.0.0.2",
            "-H",
            "Host: members.test",
            "-H",
            "X-Forwarded-Proto: https",
            &format!("http://127.0.0.1:{port}/"),
        ],
    )
    .await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "421", "{output:?}");
    let client = |host: &str| Client::new(scene.gateway.address("web")).host(host);
    assert_eq!(client("members.test").get("/").await.status, 308, "the way to https is shown");
    let forwarded = "X-Forwarded-Proto: https\r\n";
    let reply = client("members.test").send("GET", "/", forwarded, b"").await;
    assert_eq!(reply.status, 308, "a stranger is not believed");
}
