//! Records put up by dynamic updates, at a real BIND.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use wardgate::acme::dns::{Dns, DnsError, Record, UpdateError};
use wardgate::acme::order::{Method, OrderError};
use wardgate::config::acme::{Rfc2136, TsigAlgorithm, TsigKey};
use wardgate::net::HostName;

use super::scene::{Scene, issue, names, request, told};
use crate::support::{Bind, Settings, closed, key, within};

const NAME: &str = "_acme-challenge.a.example.test";

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn record(value: &str) -> Record {
    Record { name: NAME.to_owned(), value: value.to_owned() }
}

/// A scene whose authority asks this BIND.
async fn scene(bind: &Bind) -> Scene {
    Scene::with(Settings { dns: Some(bind.address), ..Settings::default() }).await
}

fn dns(bind: &Bind, settings: Rfc2136) -> Dns {
    Dns { servers: Some(vec![bind.address]), ..Dns::update(settings) }
}

async fn refusal(settings: Rfc2136) -> UpdateError {
    match within("refusal", Dns::update(settings).present(record("proof"))).await {
        Err(DnsError::Update(error)) => error,
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_is_proven_by_updates() {
    let bind = Bind::start().await;
    let scene = scene(&bind).await;
    // Two values at the same name.
    let wanted = ["*.a.example.test", "a.example.test", "b.example.test"];
    let request = request(&wanted, vec![Method::Dns01(dns(&bind, bind.settings()))]);
    let issued = issue(&scene.issuer().await, &request).await;
    assert_eq!(names(&issued), wanted);
    for name in [NAME, "_acme-challenge.b.example.test"] {
        assert_eq!(bind.texts(name).await, Vec::<String>::new(), "{name} is clean");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_followed_into_another_zone() {
    let bind = Bind::start().await;
    let dns = dns(&bind, bind.settings());
    let record = Record { name: "_acme-challenge.alias.example.test".into(), value: "up".into() };
    let presented = dns.present(record.clone()).await.unwrap();
    assert_eq!(bind.texts("alias.validation.test").await, ["up"]);
    dns.wait_for(&[record]).await.unwrap();
    presented.clean_up().await;
    assert_eq!(bind.texts("alias.validation.test").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_and_a_longer_key_can_be_set() {
    let bind = Bind::start().await;
    let scene = scene(&bind).await;
    let settings = Rfc2136 {
        zone: Some(name("example.test")),
        key: key("large"),
        ttl: Duration::from_secs(1),
        ..bind.settings()
    };
    let wanted = ["*.example.test"];
    let request = request(&wanted, vec![Method::Dns01(dns(&bind, settings))]);
    assert_eq!(names(&issue(&scene.issuer().await, &request).await), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_added_beside_others_and_taken_away_alone() {
    let bind = Bind::start().await;
    let dns = dns(&bind, bind.settings());
    let one = dns.present(record("one")).await.unwrap();
    let two = dns.present(record("two")).await.unwrap();
    let again = dns.present(record("two")).await.unwrap();
    dns.wait_for(&[record("one"), record("two")]).await.unwrap();
    assert_eq!(bind.texts(NAME).await, ["one", "two"]);
    one.clean_up().await;
    assert_eq!(bind.texts(NAME).await, ["two"]);
    // One that is only dropped asks for it and does not wait.
    drop(two);
    within("removal", async {
        while !bind.texts(NAME).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    again.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_with_what_to_do() {
    let bind = Bind::start().await;
    let with_key = |key| Rfc2136 { key, ..bind.settings() };
    let with_zone = |zone| Rfc2136 { zone: Some(name(zone)), ..bind.settings() };
    let server = bind.address;
    for (settings, wanted) in [
        (
            with_key(TsigKey { name: name("nobody"), ..key("acme") }),
            format!(
                "the name server {server} knows no key nobody with hmac-sha256: `key.name` and \
                 `key.algorithm` have to be as in its configuration"
            ),
        ),
        (
            with_key(TsigKey { algorithm: TsigAlgorithm::HmacSha512, ..key("acme") }),
            format!(
                "the name server {server} knows no key acme with hmac-sha512: `key.name` and \
                 `key.algorithm` have to be as in its configuration"
            ),
        ),
        (
            with_key(TsigKey { secret: b"another".to_vec(), ..key("acme") }),
            format!(
                "the name server {server} has another secret for the key acme: `key.secret` has to \
                 be as in its configuration"
            ),
        ),
        (
            with_key(key("reader")),
            format!(
                "the name server {server} does not let the key reader change TXT records of {NAME} \
                 in example.test: allow it there (BIND: `update-policy` or `allow-update` of the \
                 zone)"
            ),
        ),
        (
            with_zone("validation.test"),
            format!(
                "{NAME} is not in the zone validation.test: set `zone` to the zone it is in, or \
                 leave it out"
            ),
        ),
        (
            with_zone("test"),
            format!(
                "the name server {server} is not the primary server of test: name the one that is, \
                 or correct `zone`"
            ),
        ),
    ] {
        let error = refusal(settings).await;
        assert_eq!(error.to_string(), wanted);
        assert_eq!(bind.texts(NAME).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_none_of_the_servers_zones_is_told() {
    let bind = Bind::start().await;
    let record = Record { name: "_acme-challenge.localhost".into(), value: "proof".into() };
    let error = Dns::update(bind.settings()).present(record).await.unwrap_err();
    let DnsError::Update(error @ UpdateError::NoZone { .. }) = error else { panic!("{error}") };
    assert!(error.to_string().contains("has no zone that _acme-challenge.localhost is in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_of_other_servers_below_one_of_the_servers_is_not_its_own() {
    let bind = Bind::start().await;
    let name = "_acme-challenge.a.child.example.test";
    let record = Record { name: name.into(), value: "proof".into() };
    let error = Dns::update(bind.settings()).present(record).await.unwrap_err();
    assert!(matches!(error, DnsError::Update(UpdateError::NoZone { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told() {
    let bind = Bind::with_clock(3600).await;
    let UpdateError::BadTime { ahead: Some(ahead), .. } = refusal(bind.settings()).await else {
        panic!("the server refuses the time");
    };
    assert!((3590..3610).contains(&ahead), "{ahead}");
    let bind = Bind::with_clock(-4000).await;
    let said = refusal(bind.settings()).await.to_string();
    assert!(said.contains("s behind this machine's, and signatures allow for 300 s"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_fails_the_order_and_burns_nothing() {
    let mut bind = Bind::start().await;
    let scene = scene(&bind).await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    bind.stop().await;
    let methods = vec![Method::Dns01(dns(&bind, bind.settings()))];
    let request = request(&["*.a.example.test"], methods);
    let error = within("failure", issuer.issue(&request)).await.unwrap_err();
    assert!(matches!(error, OrderError::Dns(_)) && !error.is_permanent(), "{}", told(&error));
    let wanted = format!("the name server {} does not answer, over UDP or TCP", bind.address);
    assert!(told(&error).contains(&wanted), "{}", told(&error));
    assert!(!faulty.requests().iter().any(|path| path.contains("/chalZ/")), "no failure burnt");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_or_come_over_udp_is_asked_over_tcp() {
    let bind = Bind::start().await;
    for answers in [true, false] {
        let address = only_over_tcp(bind.address, answers).await;
        let settings = Rfc2136 { port: address.port(), ..bind.settings() };
        let dns = Dns::update(settings);
        let presented = within("record", dns.present(record("proof"))).await.unwrap();
        assert_eq!(bind.texts(NAME).await, ["proof"]);
        within("clean-up", presented.clean_up()).await;
        assert_eq!(bind.texts(NAME).await, Vec::<String>::new());
    }
}

/// Leads TCP to `server`, and refuses UDP, or answers there that the answer is too long.
async fn only_over_tcp(server: SocketAddr, answers: bool) -> SocketAddr {
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    if answers {
        tokio::spawn(async move {
            let mut message = [0; 1500];
            while let Ok((_, client)) = socket.recv_from(&mut message).await {
                // Only the header, as a response that is not whole.
                message[2] |= 0b1000_0010;
                message[4..12].fill(0);
                socket.send_to(&message[..12], client).await.unwrap();
            }
        });
    }
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_the_key_is_not_believed() {
    let settings = |address: SocketAddr| Rfc2136 {
        server: wardgate::net::Host::Address(address.ip()),
        port: address.port(),
        zone: None,
        key: key("acme"),
        ttl: Duration::from_secs(60),
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut message = [0; 1500];
        while let Ok((_, client)) = socket.recv_from(&mut message).await {
            message[2] |= 0b1000_0000;
            message[4..12].fill(0);
            socket.send_to(&message[..12], client).await.unwrap();
        }
    });
    let error = refusal(settings(address)).await;
    assert!(matches!(error, UpdateError::Unsigned { .. }), "{error}");
    let error = refusal(settings(closed())).await;
    assert!(matches!(error, UpdateError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_gateway_updates_the_zone_and_leaves_nothing_when_it_ends() {
    let bind = Bind::start().await;
    let settings = Settings { dns: Some(bind.address), ..Settings::default() };
    let (mut gateway, pebble) = super::gateway::begin(settings).await;
    let secret = base64::prelude::BASE64_STANDARD.encode(key("acme").secret);
    let more = format!(
        ", challenges: [dns-01], dns: {{ rfc2136: {{ server: \"{}\", key: {{ name: acme, secret: \
         \"{secret}\" }} }} }}",
        bind.address
    );
    let at = super::gateway::at(&pebble, &more);
    let text = super::gateway::yaml(&["a.example.test"], "certificate: acme", &at);
    gateway.reload(&text, 2).await;
    // The system's DNS knows nothing of the zone, so that the gateway goes on waiting.
    within("record", async {
        while bind.texts(NAME).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    within("removal", async {
        while !bind.texts(NAME).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!gateway.log().to_string().contains(&secret), "secrets are never logged");
}
