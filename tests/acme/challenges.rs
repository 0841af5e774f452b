//! Every way to prove a name, probed by pebble.

use wardgate::acme::key::KeyType;
use wardgate::acme::order::{Method, Request};

use super::scene::{Scene, by_http, issue, names, request};
use crate::support::Client;

#[tokio::test(flavor = "multi_thread")]
async fn http_01_is_answered_before_redirects_and_filters_and_nothing_else_is() {
    let scene = Scene::new().await;
    let issued =
        issue(&scene.issuer().await, &by_http(&["a.example.test", "b.example.test"])).await;
    assert_eq!(names(&issued), ["a.example.test", "b.example.test"]);
    assert!(issued.chain_pem.matches("BEGIN CERTIFICATE").count() >= 2, "with its issuer");
    assert!(issued.root.starts_with("Pebble Root CA"), "{}", issued.root);
    scene.assert_clean();
    assert_eq!(scene.pebble.issued(), 1);

    let host = wardgate::net::Host::parse("c.example.test").unwrap();
    let challenges = scene.inside.store.challenges();
    let _published = challenges.publish_http(host, "token", "token.thumb");
    let path = "/.well-known/acme-challenge/token";
    let web = Client::new(scene.inside.web).host("c.example.test");
    let reply = web.get(path).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "token.thumb"));
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(web.send("HEAD", path, "", b"").await.header("content-length"), Some("11"));
    for (method, host, path) in [
        ("POST", "c.example.test", path),
        ("GET", "d.example.test", path),
        ("GET", "c.example.test", "/.well-known/acme-challenge/other"),
        ("GET", "c.example.test", "/"),
    ] {
        let client = Client::new(scene.inside.web).host(host);
        let reply = client.send(method, path, "", b"").await;
        assert_ne!(reply.status, 200, "{method} {host}{path} goes the ordinary way");
    }
    let lines = async {
        while scene.inside.access().matches(path).count() < 4 {
            tokio::task::yield_now().await;
        }
    };
    crate::support::within("access lines", lines).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01_is_answered_by_the_https_listener_whoever_else_is_asked_for_a_certificate() {
    let scene = Scene::new().await;
    let request = request(&["a.example.test", "b.example.test"], vec![Method::TlsAlpn01]);
    let issued = issue(&scene.issuer().await, &request).await;
    assert_eq!(names(&issued), ["a.example.test", "b.example.test"]);
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_proven_by_http_and_by_their_reverse_name() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    for method in [Method::Http01, Method::TlsAlpn01] {
        let issued = issue(&issuer, &request(&["127.0.0.1"], vec![method])).await;
        assert_eq!(names(&issued), ["127.0.0.1"]);
    }
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_is_proven_by_a_program_that_puts_records_up() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    let wanted = ["*.a.example.test", "a.example.test", "www.other.test"];
    let methods = vec![Method::Dns01(scene.dns())];
    let issued = issue(&issuer, &request(&wanted, methods)).await;
    assert_eq!(names(&issued), wanted);
    let log = std::fs::read_to_string(scene.pebble.hook_log()).unwrap();
    for verb in ["present", "cleanup"] {
        assert_eq!(
            log.matches(&format!("{verb} _acme-challenge.a.example.test\n")).count(),
            2,
            "{log}"
        );
        assert_eq!(log.matches(&format!("{verb} _acme-challenge.www.other.test\n")).count(), 1);
    }

    // The first that fits is taken, name by name.
    let methods = vec![Method::Http01, Method::Dns01(scene.dns())];
    issue(&issuer, &request(&["*.third.test", "third.test"], methods)).await;
    let log = std::fs::read_to_string(scene.pebble.hook_log()).unwrap();
    assert_eq!(log.matches("present _acme-challenge.third.test\n").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_without_dns_is_refused_before_anybody_is_asked() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let before = faulty.requests().len();
    let error = issuer.issue(&by_http(&["*.example.test"])).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    assert_eq!(error.bad_names(), ["*.example.test"]);
    assert_eq!(faulty.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_is_certified() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    for key_type in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
        let request = Request { key_type, ..by_http(&["a.example.test"]) };
        let issued = issue(&issuer, &request).await;
        assert_eq!(names(&issued), ["a.example.test"], "{key_type:?}");
    }
}
