//! Orders whose process dies, and which another one goes on with.

use std::time::Duration;

use wardgate::acme::order::Method;
use wardgate::acme::session::Session;

use super::faulty::Fault;
use super::scene::{Scene, by_http, names, told};
use crate::support::within;

/// Dies when the request to `path` meets with `fault`, and goes on with what was written down.
async fn die_and_go_on(path: &'static str, fault: Fault) {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, credentials) = scene.register(&authority).await;
    let request = by_http(&["a.example.test", "b.example.test"]);
    faulty.expect(path, fault);
    tokio::select! {
        outcome = issuer.issue(&request) => panic!("it did not die at {path}: {outcome:?}"),
        () = faulty.happened(1) => {}
    }
    scene.assert_clean();
    drop(issuer);

    let journal = scene.journal();
    let session = Session::open(&scene.pebble.authority, &credentials).await.unwrap();
    let issuer = scene.issuer_of(session);
    let issued = within("certificate", issuer.resume(&journal, &request)).await;
    let issued = issued.unwrap_or_else(|error| panic!("{path}: {}", told(&error)));
    assert_eq!(names(&issued), request.names, "{path}");
    assert_eq!(issued.key_pem, journal.key_pem, "{path}");
    assert_eq!(scene.pebble.issued(), 1, "{path}: one order, one certificate");
    assert_eq!(scene.journals.lock().unwrap().len(), 1, "{path}: the same order");
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_was_proven() {
    die_and_go_on("/chalZ/", Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_authority_looks() {
    let scene = Scene::new().await;
    let (faulty, authority) = scene.faulty();
    let (issuer, credentials) = scene.register(&authority).await;
    let request = by_http(&["a.example.test", "b.example.test"]);
    faulty.expect("/chalZ/", Fault::Swallow);
    tokio::select! {
        outcome = issuer.issue(&request) => panic!("it did not die: {outcome:?}"),
        () = faulty.happened(1) => {}
    }
    let session = Session::open(&scene.pebble.authority, &credentials).await.unwrap();
    let issuer = scene.issuer_of(session);
    // The proof may have been gone when the authority looked; then it gives the order up.
    match within("certificate", issuer.resume(&scene.journal(), &request)).await {
        Ok(issued) => assert_eq!(names(&issued), request.names),
        Err(error) => {
            assert!(error.is_lost() && !error.is_permanent(), "{}", told(&error));
            assert_eq!(error.bad_names().len(), 1, "that which it looked for: {}", told(&error));
            super::scene::issue(&issuer, &request).await;
        }
    }
    scene.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_finalize() {
    die_and_go_on("/finalize-order/", Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_finalize() {
    die_and_go_on("/finalize-order/", Fault::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_certificate_on_its_way() {
    die_and_go_on("/certZ/", Fault::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_records_spread() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    let mut dns = scene.dns();
    let elsewhere = Scene::new().await;
    dns.servers = Some(vec![elsewhere.pebble.dns]);
    let request = super::scene::request(&["a.example.test"], vec![Method::Dns01(dns)]);
    let told = |verb: &str| {
        let log = std::fs::read_to_string(scene.pebble.hook_log()).unwrap_or_default();
        log.contains(&format!("{verb} _acme-challenge.a.example.test\n"))
    };
    let seen = async |verb: &str| {
        while !told(verb) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        outcome = issuer.issue(&request) => panic!("nobody sees the record: {outcome:?}"),
        () = within("record", seen("present")) => {}
    }
    within("clean-up", seen("cleanup")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_to_write_nothing_is_proven() {
    let scene = Scene::new().await;
    let (session, _) =
        Session::register(&scene.pebble.authority, &Default::default()).await.unwrap();
    let challenges = std::sync::Arc::clone(scene.inside.store.challenges());
    let full = |_: &wardgate::acme::journal::Journal| {
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    };
    let issuer = wardgate::acme::order::Issuer::new(
        session,
        challenges,
        std::sync::Arc::new(full),
        super::scene::LIMITS,
    );
    let error = issuer.issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot write down the order");
    assert_eq!(scene.pebble.issued(), 0);
}
