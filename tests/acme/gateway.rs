//! The gateway as its users have it: sites with names, an authority, and nothing else to do.

use serde_json::Value;

use crate::support::{Client, Connection, Gateway, Pebble, Settings, field, within};

/// A gateway whose sites are served, and an authority that probes it. The sockets have to be there
/// before the authority can be told of them.
pub(super) async fn begin(settings: Settings) -> (Gateway, Pebble) {
    let gateway = Gateway::start(yaml(&["app.example.com"], "certificate: internal", "")).await;
    let ports = (gateway.address("web"), gateway.address("secure"));
    let pebble = Pebble::start(ports, settings).await;
    (gateway, pebble)
}

/// Sites with these `names`.
pub(super) fn yaml(names: &[&str], certificate: &str, more: &str) -> String {
    let mut text = "listeners:\n  web: { bind: \"127.0.0.1:0\", protocol: http }\n  \
                    secure: { bind: \"127.0.0.1:0\", protocol: https }\nsites:\n"
        .to_owned();
    for name in names {
        text += &format!("  {name}:\n    routes: [ {{ respond: {name} }} ]\n    {certificate}\n");
    }
    text + more
}

/// `acme:` at `pebble`, with `more` settings. Without a profile pebble takes any that it has.
pub(super) fn at(pebble: &Pebble, more: &str) -> String {
    let profile = if more.contains("profile:") { "" } else { ", profile: classic" };
    format!(
        "acme: {{ email: ops@example.com, directory: \"{}\", directory_ca: \"{}\"{profile}{more} }}\n",
        pebble.authority.directory,
        pebble.ca().display()
    )
}

pub(super) fn obtained(name: &'static str) -> impl Fn(&Value) -> bool {
    move |line| {
        field(line, "message") == "obtained a certificate" && field(line, "certificate") == name
    }
}

/// A client that trusts nobody but the authority.
pub(super) async fn verifying(gateway: &Gateway, pebble: &Pebble, host: &str) -> Client {
    gateway.client_of("secure").tls(&pebble.root().await).host(host)
}

pub(super) async fn ask(connection: &mut Connection, host: &str) -> u16 {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    connection.send(head.as_bytes()).await.unwrap();
    connection.read_reply(false).await.unwrap().status
}

/// How certificates stand, by the admin API.
pub(super) async fn orders(gateway: &Gateway) -> Vec<Value> {
    let reply = Client::new(gateway.admin_address()).host("localhost").get("/status").await;
    let status: Value = serde_json::from_str(&reply.text()).unwrap();
    status["orders"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_public_name_gets_its_certificate_and_nobody_waits_for_it() {
    let (gateway, pebble) = begin(Settings::default()).await;
    let before = gateway.tls_client_of("secure", "app.example.com");
    let mut kept = before.connect().await;
    assert_eq!(ask(&mut kept, "app.example.com").await, 200);

    gateway.reload(&yaml(&["app.example.com"], "https: redirect", &at(&pebble, "")), 2).await;
    let line = gateway.wait_log(obtained("app.example.com")).await;
    assert_eq!(
        (field(&line, "reason"), field(&line, "level")),
        (&"missing".into(), &"info".into())
    );
    let client = verifying(&gateway, &pebble, "app.example.com").await;
    assert_eq!(client.get("/").await.text(), "app.example.com");
    assert!(before.try_connect().await.is_err(), "the local CA stands in no longer");

    // Another name is another order, and the first is left alone.
    let names = ["app.example.com", "www.example.net"];
    gateway.reload(&yaml(&names, "https: redirect", &at(&pebble, "")), 3).await;
    gateway.wait_log(obtained("www.example.net")).await;
    let client = verifying(&gateway, &pebble, "www.example.net").await;
    assert_eq!(client.get("/").await.text(), "www.example.net");
    assert_eq!(pebble.issued(), 2);

    let admin = Client::new(gateway.admin_address()).host("localhost");
    let status: Value = serde_json::from_str(&admin.get("/status").await.text()).unwrap();
    let names: Vec<&Value> =
        status["certificates"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["acme:app.example.com", "acme:www.example.net"]);
}

#[tokio::test]
async fn what_was_obtained_is_served_after_a_restart_without_the_authority() {
    let (mut gateway, mut pebble) = begin(Settings::default()).await;
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, ""));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let root = pebble.root().await;
    pebble.stop().await;
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let gateway = gateway.again(&text).await;
    let client = gateway.client_of("secure").tls(&root).host("app.example.com");
    assert_eq!(client.get("/").await.text(), "app.example.com");
}

const THREE_MINUTES: std::time::Duration = std::time::Duration::from_secs(180);

#[tokio::test]
async fn certificates_of_a_minute_are_renewed_and_every_handshake_verifies() {
    let (gateway, pebble) = begin(Settings { bad_nonces: 5, ..Settings::default() }).await;
    if !pebble.offers("tiny").await {
        return;
    }
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, ", profile: tiny"));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let client = verifying(&gateway, &pebble, "app.example.com").await;
    let issued =
        || gateway.log().all().iter().filter(|line| obtained("app.example.com")(line)).count();
    let (began, mut handshakes) = (std::time::Instant::now(), 0);
    while began.elapsed() < THREE_MINUTES {
        // Whatever is served has been issued by the authority, and has not ended.
        assert_eq!(client.get("/").await.text(), "app.example.com");
        handshakes += 1;
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    println!("{handshakes} handshakes, {} certificates of a minute", issued());
    assert!(issued() >= 4, "{}", issued());
    assert!(handshakes > 300, "{handshakes}");
}

#[tokio::test]
async fn another_authority_issues_where_the_first_will_not() {
    let (mut gateway, first) =
        begin(Settings { needs_external: true, ..Settings::default() }).await;
    let ports = (gateway.address("web"), gateway.address("secure"));
    let second = Pebble::start(ports, Settings::default()).await;
    let fallback = format!(
        ", fallback: [ {{ directory: \"{}\", directory_ca: \"{}\", profile: classic }} ], profile: classic",
        second.authority.directory,
        second.ca().display()
    );
    let text = yaml(&["app.example.com"], "https: both", &at(&first, &fallback));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let refused = |line: &Value| {
        field(line, "message").as_str().unwrap().starts_with("cannot obtain a certificate here")
    };
    assert_eq!(gateway.log().all().iter().filter(|line| refused(line)).count(), 1);
    let client = verifying(&gateway, &second, "app.example.com").await;
    assert_eq!(client.get("/").await.text(), "app.example.com");

    // It is not ordered again for having come from elsewhere; its authority is asked when to renew.
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let gateway = gateway.again(&text).await;
    let client = verifying(&gateway, &second, "app.example.com").await;
    assert_eq!(client.get("/").await.text(), "app.example.com");
    let is_active = |all: &[Value]| all[0]["state"] == "active" && all[0]["fails"] == 0;
    within("the certificate to be active", async {
        while !orders(&gateway).await.first_chunk::<1>().is_some_and(|all| is_active(all)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(second.issued(), 1);
    if second.offers("renewalInfo").await {
        let asked = |pebble: &Pebble| pebble.log().contains("GET /draft-ietf-acme-ari");
        within("the question when to renew", async {
            while !asked(&second) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(!asked(&first));
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_proven_is_tried_again_and_served_all_the_while() {
    let (gateway, pebble) = begin(Settings::default()).await;
    pebble.break_dns_of("app.example.com").await;
    let text = yaml(&["app.example.com", "www.example.net"], "https: both", &at(&pebble, ""));
    gateway.reload(&text, 2).await;
    let line =
        gateway.wait_log(|line| field(line, "message") == "could not obtain a certificate").await;
    assert_eq!(field(&line, "certificate"), "app.example.com", "{line}");
    assert!(field(&line, "error").as_str().unwrap().contains("app.example.com"), "{line}");
    let seconds = field(&line, "seconds").as_i64().unwrap();
    assert!((50..=70).contains(&seconds), "{line}");
    gateway.wait_log(obtained("www.example.net")).await;
    let (bad, good) = within("both to be told", async {
        loop {
            let all = orders(&gateway).await;
            let of = |name: &str| all.iter().find(|it| it["name"] == name).cloned().unwrap();
            let (bad, good) = (of("app.example.com"), of("www.example.net"));
            if bad["state"] == "backoff" && good["state"] == "active" {
                return (bad, good);
            }
        }
    })
    .await;
    assert_eq!((&bad["fails"], &bad["why"]), (&1.into(), &"missing".into()), "{bad}");
    assert!(bad["problem"].as_str().unwrap().contains("app.example.com"), "{bad}");
    assert_eq!((&good["fails"], &good["problem"]), (&0.into(), &Value::Null), "{good}");
    let client = gateway.tls_client_of("secure", "app.example.com");
    assert_eq!(client.get("/").await.text(), "app.example.com", "the local CA stands in");
}

#[tokio::test]
async fn an_authority_that_is_down_stops_nothing_but_what_it_would_issue() {
    let dead = "acme: { email: ops@example.com, directory: \"https://127.0.0.1:1/dir\" }\n";
    let gateway = Gateway::start(yaml(&["app.example.com"], "https: both", dead)).await;
    let client = gateway.tls_client_of("secure", "app.example.com");
    assert_eq!(client.get("/").await.text(), "app.example.com");
    let line =
        gateway.wait_log(|line| field(line, "message") == "could not obtain a certificate").await;
    assert!(field(&line, "error").as_str().unwrap().contains("does not answer"), "{line}");

    let refuse = dead.replace(" }", ", until_issued: refuse }");
    gateway.reload(&yaml(&["app.example.com"], "https: both", &refuse), 2).await;
    assert!(client.try_connect().await.is_err(), "no certificate, no handshake");
}
