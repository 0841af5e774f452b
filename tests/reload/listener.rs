//! Listeners that come, go and change.

use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::net::SocketAddr;

use serde_json::Value;

use super::{ask, is_message, refused, says};
use crate::support::{Client, Gateway, Origin, field, run, within};

const WEB: &str = "web: { bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }";
const MORE: &str = "more: { bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }";

fn yaml(listeners: &[&str], more: &str) -> String {
    format!("listeners:\n  {}\n{more}", listeners.join("\n  "))
}

/// Waits until nothing accepts on `address`.
async fn closed(address: SocketAddr) {
    let refusal = async {
        while Client::new(address).try_connect().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("refused connection", refusal).await;
}

#[tokio::test]
async fn a_removed_listener_finishes_what_it_has_and_takes_no_more() {
    let origin = Origin::start().await;
    let sites = format!("sites: {{ \"*\": {{ upstream: \"{}\" }} }}\n", origin.url());
    let gateway = Gateway::start(yaml(&[WEB], &sites)).await;
    gateway.reload(&yaml(&[WEB, MORE], &sites), 2).await;
    let more = gateway.address("more");
    assert_eq!(gateway.client_of("more").get("/").await.text(), "ok");

    let mut stays = gateway.client_of("web").connect().await;
    ask(&mut stays, "a", "/").await.unwrap();
    let mut idle = gateway.client_of("more").connect().await;
    ask(&mut idle, "a", "/").await.unwrap();
    origin.hold();
    let mut busy = gateway.client_of("more").connect().await;
    busy.send(b"GET /busy HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let url = format!("http://{more}/h2");
    let told = tokio::spawn(async move { run("nghttp", ["--verbose", &url]).await });
    origin.received(5).await;
    gateway.reload(&yaml(&[WEB], &sites), 3).await;
    closed(more).await;
    assert_eq!(idle.read_to_end().await.unwrap(), b"", "an idle connection is closed at once");
    origin.release();
    let reply = busy.read_reply(false).await.unwrap();
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("ok", Some("close")));
    assert_eq!(busy.read_to_end().await.unwrap(), b"");
    let told = String::from_utf8(told.await.unwrap().stdout).unwrap();
    assert!(told.contains("recv GOAWAY frame"), "{told}");
    assert!(told.contains(":status: 200") && told.contains("\nok"), "{told}");
    let drained = gateway.wait_log(is_message("drained")).await;
    assert_eq!(field(&drained, "listener"), "more", "{drained}");
    let reply = ask(&mut stays, "a", "/").await.unwrap();
    assert_eq!(reply.text(), "ok");
    assert_ne!(reply.header("connection"), Some("close"));
}

#[tokio::test]
async fn what_outlasts_the_grace_of_a_removed_listener_is_cut() {
    let origin = Origin::start().await;
    let sites = format!(
        "sites: {{ \"*\": {{ upstream: \"{}\" }} }}\nshutdown: {{ grace: 200ms }}\n",
        origin.url()
    );
    let gateway = Gateway::start(yaml(&[WEB, MORE], &sites)).await;
    origin.hold();
    let client = gateway.client_of("more");
    let reply = tokio::spawn(async move { client.try_get("/held").await });
    origin.received(1).await;
    gateway.reload(&yaml(&[WEB], &sites), 2).await;
    assert!(reply.await.unwrap().is_err());
    let left = gateway.wait_log(is_message("drained in part")).await;
    assert_eq!(
        (field(&left, "listener"), field(&left, "connections")),
        (&"more".into(), &1.into())
    );
    let line = gateway.wait_access(|line| field(line, "url.path") == "/held").await;
    assert_eq!(field(&line, "error.type"), "stopping", "{line}");
    origin.release();
    assert_eq!(gateway.client_of("web").get("/").await.status, 200);
}

#[tokio::test]
async fn an_address_keeps_its_socket_whatever_becomes_of_its_listener() {
    let sites = format!("sites:\n{}", says("\"*\"", "one"));
    let gateway = Gateway::start(yaml(&[WEB], &sites)).await;
    let address = gateway.address("web");
    // Whoever finds the port closed for a moment fails here.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let visits = tokio::spawn(async move {
        let mut count = 0_usize;
        while stopped.try_recv().is_err() {
            Client::new(address).try_connect().await.expect("the port is open");
            count += 1;
        }
        count
    });
    let bind = format!("bind: \"{address}\"");
    let other = format!("other: {{ {bind}, protocol: http }}");
    gateway.reload(&yaml(&[&other], &sites), 2).await;
    assert_eq!(Client::new(address).get("/").await.text(), "one");
    let line = gateway.wait_access(|line| field(line, "listener") == "other").await;
    assert_eq!(field(&line, "url.path"), "/", "{line}");
    let back = format!("back: {{ {bind}, protocol: http }}");
    gateway.reload(&yaml(&[&back, MORE], &sites), 3).await;
    assert_eq!(Client::new(address).get("/").await.text(), "one");
    stop.send(()).unwrap();
    assert!(visits.await.unwrap() > 0);
    let log = gateway.log().all();
    let is_at = |line: &&Value| {
        field(line, "message") == "stopped listening"
            && *field(line, "server.address") == address.to_string()
    };
    assert_eq!(log.iter().find(is_at), None);
}

#[tokio::test]
async fn a_port_changes_between_http_and_https() {
    let origin = Origin::start().await;
    let sites = format!(
        "sites: {{ a.test: {{ certificate: internal, https: both, upstream: \"{}\" }} }}\n",
        origin.url()
    );
    let with = |protocol: &str| {
        let web = format!("web: {{ bind: \"127.0.0.1:0\", protocol: {protocol} }}");
        let tls = "tls: { bind: \"127.0.0.1:0\", protocol: https }";
        yaml(&[&web, tls], &sites)
    };
    let gateway = Gateway::start(with("http")).await;
    let plain = gateway.client_of("web").host("a.test");
    let secure = gateway.tls_client_of("web", "a.test");
    let mut old = plain.connect().await;
    ask(&mut old, "a.test", "/").await.unwrap();
    gateway.reload(&with("https"), 2).await;
    assert_eq!(old.read_to_end().await.unwrap(), b"", "it was another listener's");
    assert_eq!(secure.get("/").await.text(), "ok");
    assert_eq!(plain.get("/").await.status, 400, "plain HTTP at a port for TLS");
    gateway.reload(&with("http"), 3).await;
    assert_eq!(plain.get("/").await.text(), "ok");
    assert_eq!(gateway.addresses("web").len(), 1, "one socket all the time");
}

#[tokio::test]
async fn settings_of_a_listener_hold_for_its_next_connections() {
    let sites = format!(
        "sites:\n{}",
        says("a.test", "one").replace("{ routes", "{ certificate: internal, routes")
    );
    let with = |settings: &str| {
        let tls = format!("tls: {{ bind: \"127.0.0.1:0\", protocol: https{settings} }}");
        yaml(&[&tls], &sites)
    };
    let gateway = Gateway::start(with("")).await;
    let address = gateway.address("tls").to_string();
    let shake = async |arguments: &str| {
        let fixed = ["s_client", "-connect", &address, "-servername", "a.test"];
        let output = run("openssl", fixed.into_iter().chain(arguments.split_whitespace())).await;
        let texts = [output.stdout, output.stderr];
        texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect::<String>()
    };
    let told = shake("-tls1_2 -alpn h2").await;
    assert!(told.contains("ALPN protocol: h2") && told.contains("TLSv1.2"), "{told}");
    let mut old = gateway.tls_client_of("tls", "a.test").connect().await;
    let new = ", backlog: 64, alpn: [http/1.1], tls: { min_version: \"1.3\" }";
    gateway.reload(&with(new), 2).await;
    let told = shake("-tls1_2").await;
    assert!(told.contains("Cipher is (NONE)"), "{told}");
    let told = shake("-tls1_3 -alpn h2,http/1.1").await;
    assert!(told.contains("ALPN protocol: http/1.1"), "{told}");
    assert_eq!(ask(&mut old, "a.test", "/").await.unwrap().text(), "one");
    assert_eq!(gateway.addresses("tls").len(), 1, "the same socket");
}

#[tokio::test]
async fn an_address_is_widened_and_narrowed_without_a_moment_of_refusal() {
    let sites = format!("sites:\n{}", says("\"*\"", "one"));
    let gateway = Gateway::start(yaml(&[WEB], &sites)).await;
    let address = gateway.address("web");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let visits = tokio::spawn(async move {
        let (mut count, mut resets) = (0_usize, 0_usize);
        while stopped.try_recv().is_err() {
            match Client::new(address).try_get("/").await {
                Ok(reply) => {
                    assert_eq!(reply.text(), "one");
                    count += 1;
                }
                // Who is half connected when the old socket closes. Nobody else is sent away.
                Err(error) if matches!(error.kind(), ConnectionReset | BrokenPipe) => resets += 1,
                Err(error) => panic!("the port is open: {error}"),
            }
        }
        (count, resets)
    });
    let every = format!(":{}", address.port());
    let one = address.to_string();
    for (generation, bind) in [(2, &every), (3, &one), (4, &every)] {
        let web = format!("web: {{ bind: \"{bind}\", protocol: http }}");
        gateway.reload(&yaml(&[&web], &sites), generation).await;
        let local = gateway.addresses("web").pop().unwrap();
        assert_eq!(local.ip().is_unspecified(), *bind == every, "{bind}: {local}");
        let answer = async {
            loop {
                if let Ok(reply) = Client::new(address).try_get("/").await {
                    break reply.text();
                }
            }
        };
        assert_eq!(within("an answer", answer).await, "one", "{bind}");
        // Nobody else may have a part of it.
        let taken = std::net::TcpListener::bind(address).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "{bind}");
    }
    stop.send(()).unwrap();
    let (count, resets) = visits.await.unwrap();
    // It has one connection at a time, and an address is changed three times.
    assert!(count > 0 && resets <= 3, "{count} came in, {resets} did not");
}

#[tokio::test]
async fn a_rejected_configuration_that_narrows_an_address_takes_nobody_along() {
    let sites = format!("sites:\n{}", says("\"*\"", "one"));
    let gateway = Gateway::start(yaml(&["web: { bind: \":0\", protocol: http }"], &sites)).await;
    let address = SocketAddr::from(([127, 0, 0, 1], gateway.address("web").port()));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let visits = tokio::spawn(async move {
        let mut count = 0_usize;
        while stopped.try_recv().is_err() {
            assert_eq!(Client::new(address).get("/").await.text(), "one");
            count += 1;
        }
        count
    });
    let web = format!("web: {{ bind: \"{address}\", protocol: http }}");
    std::fs::write(gateway.directory().join("half.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    // To read the CAs of the system takes a moment, and what is wrong comes after that.
    let pools = "upstreams:
  some: { servers: \"https://a.test\" }
  app: { servers: \"https://a.test\", tls: { ca: half.pem } }\n";
    for _ in 0..10 {
        let faults = refused(&gateway, &yaml(&[&web], &format!("{sites}{pools}"))).await;
        assert!(faults.contains("half.pem"), "{faults}");
    }
    stop.send(()).unwrap();
    assert!(visits.await.unwrap() > 0);
    assert!(gateway.addresses("web").iter().all(|local| local.ip().is_unspecified()));
}
