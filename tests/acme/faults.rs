//! Authorities that are down, slow, busy, or say no.

use std::time::{Duration, Instant, SystemTime};

use wardgate::acme::http::Limits;
use wardgate::acme::order::{self, OrderError};
use wardgate::acme::problem::{Kind, Scope};
use wardgate::acme::session::{Authority, CallError, Session};

use super::faulty::Fault;
use super::scene::{LIMITS, Scene, by_http, issue, told};
use crate::support::{Stage, problem, within};

/// The error of an order whose request to `path` is answered so.
async fn refused(path: &'static str, fault: Fault) -> OrderError {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    faulty.expect(path, fault);
    let error = within("refusal", issuer.issue(&by_http(&["a.example.test"]))).await.unwrap_err();
    scene.assert_clean();
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_says_whom_it_stops_and_until_when() {
    let detail = "too many certificates (5) already issued for this exact set of identifiers";
    let body = problem("rateLimited", detail);
    let error = refused("/order-plz", Fault::Answer(429, &[("retry-after", "3600")], body)).await;
    assert_eq!(error.scope(), Scope::ExactSet, "{}", told(&error));
    let wait = error.retry_after().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(wait > Duration::from_secs(3590) && wait <= Duration::from_secs(3600), "{wait:?}");
    assert!(!error.is_permanent() && !error.is_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancers_page_is_told_from_an_answer() {
    let page = "<html><h1>503 Service Unavailable</h1></html>".to_owned();
    let fields = &[("content-type", "text/html"), ("retry-after", "120")];
    for path in ["/order-plz", "/authZ/", "/finalize-order/", "/certZ/"] {
        let error = refused(path, Fault::Answer(503, fields, page.clone())).await;
        let problem = error.problem().unwrap();
        assert_eq!((problem.kind, problem.status), (Kind::Unavailable, 503), "{path}");
        assert_eq!(error.scope(), Scope::Authority);
        assert!(error.retry_after().is_some(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_account_shows_the_link_and_stops() {
    let detail = "Your account is temporarily prevented from requesting certificates for \
                  a.example.test and possibly others. Please visit: https://portal.test/unpause?jwt=x";
    let error =
        refused("/order-plz", Fault::Answer(429, &[], problem("rateLimited", detail))).await;
    assert!(error.is_permanent(), "{}", told(&error));
    assert_eq!(error.problem().unwrap().link(), Some("https://portal.test/unpause?jwt=x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_account_is_no_longer_used() {
    let body = problem("unauthorized", "Account has been deactivated");
    let error = refused("/order-plz", Fault::Answer(403, &[], body)).await;
    assert_eq!(error.problem().unwrap().kind, Kind::AccountDeactivated);
    assert!(error.is_permanent() && error.scope() == Scope::Account);
}

#[tokio::test(flavor = "multi_thread")]
async fn caa_forbids_for_a_day() {
    let body = problem("caa", "CAA record for a.example.test prevents issuance");
    let error = refused("/finalize-order/", Fault::Answer(403, &[], body)).await;
    assert_eq!(error.problem().unwrap().kind, Kind::Caa);
    assert!(error.retry_after() > Some(SystemTime::now() + Duration::from_secs(80_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_not_ordered_is_not_proven() {
    let body = serde_json::json!({
        "status": "pending", "identifier": { "type": "dns", "value": "other.example.test" },
        "challenges": [ { "type": "http-01", "url": "https://ca.test/1", "token": "t", "status": "pending" } ],
    });
    let error = refused("/authZ/", Fault::Answer(200, &[], body.to_string())).await;
    assert_eq!(error.bad_names(), ["other.example.test"], "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_proven_any_more_ends_an_order_that_is_pending() {
    let body = serde_json::json!({
        "status": "expired", "identifier": { "type": "dns", "value": "a.example.test" },
        "challenges": [],
    });
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    for _ in 0..2 {
        faulty.expect("/authZ/", Fault::Answer(200, &[], body.to_string()));
    }
    let error = issuer.issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert!(error.is_lost(), "{}", told(&error));
    assert_eq!(error.bad_names(), ["a.example.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_stays_ready_is_not_asked_for_ever() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let url = &scene.pebble.authority.directory;
    let body = serde_json::json!({ "status": "ready", "authorizations": [], "finalize": url });
    for _ in 0..5 {
        faulty.expect("/finalize-order/", Fault::Answer(200, &[], body.to_string()));
        faulty.expect("/dir", Fault::Answer(200, &[], body.to_string()));
    }
    let error = within("end", issuer.issue(&by_http(&["a.example.test"]))).await.unwrap_err();
    assert!(told(&error).contains("stays ready"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_request_is_not_liked_is_given_up() {
    let body = problem("badCSR", "the key is weak");
    let error = refused("/finalize-order/", Fault::Answer(400, &[], body)).await;
    assert!(error.is_lost(), "the same request would not be liked again: {}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_no_panic_and_no_certificate() {
    for path in ["/order-plz", "/authZ/", "/my-order/", "/certZ/"] {
        let error = refused(path, Fault::Answer(200, &[], "[]".to_owned())).await;
        let is_nonsense = matches!(error, OrderError::Call { source: CallError::Garbled(_), .. })
            || matches!(error, OrderError::Issued(_));
        assert!(is_nonsense, "{path}: {}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_single_refusals_cost_no_order() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let nonce = || Fault::Answer(400, &[], problem("badNonce", "no"));
    for (turn, path) in
        ["/order-plz", "/authZ/", "/chalZ/", "/my-order/", "/finalize-order/", "/certZ/"]
            .into_iter()
            .enumerate()
    {
        for fault in [Fault::LoseAnswer, Fault::Refuse, nonce(), nonce(), nonce()] {
            faulty.expect(path, fault);
        }
        let name = format!("a{turn}.example.test");
        issue(&issuer, &by_http(&[&name, "b.example.test"])).await;
        scene.assert_clean();
    }
    faulty.happened(30).await;
    assert_eq!(scene.pebble.issued(), 6, "finalized twice is issued once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_down_or_hangs_ends_in_time() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (_, credentials) = scene.register(&authority).await;
    for _ in 0..3 {
        faulty.expect("/order-plz", Fault::Refuse);
    }
    let session = Session::open(&authority, &credentials).await.unwrap();
    let error = scene.issuer_of(session).issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert!(matches!(error, OrderError::Call { source: CallError::Unreachable(_), .. }));
    assert_eq!(error.scope(), Scope::Authority);

    let session = Session::open(&authority, &credentials).await.unwrap();
    let limits = order::Limits { order: Duration::from_millis(500), ..LIMITS };
    faulty.expect("/chalZ/", Fault::Hang);
    let issuer = scene.issuer_within(session, limits);
    let error = issuer.issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert!(matches!(error, OrderError::Timeout(_)), "{}", told(&error));
    scene.assert_clean();

    // An authority that takes the connection and says nothing.
    let stage = Stage::open().await;
    let limits = Limits { connect: Duration::from_millis(200), request: Duration::from_secs(5) };
    let silent =
        Authority::new(format!("https://{}/dir", stage.address()), scene.pebble.transport(limits));
    let started = Instant::now();
    let error = Session::open(&silent, &credentials).await.unwrap_err();
    assert!(matches!(error.call(), Some(CallError::Unreachable(_))), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4), "the handshake counts as connecting");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_an_unknown_root_is_not_spoken_to() {
    let (one, other) = tokio::join!(Scene::new(), Scene::new());
    let stranger = Authority::new(
        other.pebble.authority.directory.clone(),
        one.pebble.transport(Limits::default()),
    );
    let error = stranger.fetch_directory().await.unwrap_err();
    let CallError::Unreachable(error) = error else { panic!("{error}") };
    assert!(error.to_string().starts_with("no secure connection"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_sees_fail_before_the_authority_is_told() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let mut dns = scene.dns();
    // A server that does not know of the program's records.
    let other = Scene::new().await;
    dns.servers = Some(vec![scene.pebble.dns, other.pebble.dns]);
    dns.patience = Duration::from_millis(500);
    let methods = vec![order::Method::Dns01(dns)];
    let request = super::scene::request(&["*.example.test"], methods);
    let error = issuer.issue(&request).await.unwrap_err();
    assert!(matches!(error, OrderError::Dns(_)), "{}", told(&error));
    assert!(!faulty.requests().iter().any(|path| path.contains("/chalZ/")), "no failure burnt");
    let log = std::fs::read_to_string(scene.pebble.hook_log()).unwrap();
    assert!(log.contains("cleanup _acme-challenge.example.test"), "{log}");
}
