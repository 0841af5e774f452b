//! What authorities want of accounts and orders, and what they give.

use std::time::{Duration, SystemTime};

use wardgate::acme::account::{AccountError, ExternalAccount, Registration};
use wardgate::acme::order::Request;
use wardgate::acme::problem::Kind;
use wardgate::acme::session::Session;

use super::scene::{Scene, by_http, issue, names, told};
use crate::support::{EXTERNAL_KEY, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_stored_as_text_and_opened_again() {
    let scene = Scene::new().await;
    let (issuer, credentials) = scene.register(&scene.pebble.authority).await;
    let url = issuer.session().account_url().to_owned();
    assert!(scene.pebble.authority.clock.ahead().abs() <= 2, "the same clock");
    let session = Session::open(&scene.pebble.authority, &credentials).await.unwrap();
    assert_eq!(session.account_url(), url);
    issue(&scene.issuer_of(session), &by_http(&["a.example.test"])).await;
    let nonsense = Session::open(&scene.pebble.authority, "{}").await.unwrap_err();
    assert!(matches!(nonsense, AccountError::Credentials(_)), "{nonsense}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_account_is_bound_and_one_that_is_wrong_needs_a_person() {
    let scene = Scene::with(Settings { needs_external: true, ..Settings::default() }).await;
    let register = async |external| {
        let registration = Registration { contacts: Vec::new(), external };
        Session::register(&scene.pebble.authority, &registration).await
    };
    let right = ExternalAccount::parse("kid-1", EXTERNAL_KEY).unwrap();
    let (session, _) = register(Some(right)).await.unwrap();
    issue(&scene.issuer_of(session), &by_http(&["a.example.test"])).await;
    let wrong = ExternalAccount::parse("kid-1", "AAAA").unwrap();
    for external in [None, Some(wrong), ExternalAccount::parse("kid-2", EXTERNAL_KEY).ok()] {
        let error = register(external.clone()).await.unwrap_err();
        let problem = error.call().unwrap().problem().unwrap();
        assert!(problem.is_permanent(), "{external:?}: {problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_forgot_the_account_gets_it_again_with_the_same_key() {
    let mut scene = Scene::new().await;
    let (issuer, credentials) = scene.register(&scene.pebble.authority).await;
    issue(&issuer, &by_http(&["a.example.test"])).await;
    let journal = scene.journal();
    scene.pebble = scene.pebble.restart().await;
    let error = issuer.issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert_eq!(error.problem().unwrap().kind, Kind::AccountUnknown, "{}", told(&error));
    assert!(!error.is_permanent() && !error.is_lost());

    let registration = Registration { contacts: vec!["op@example.test".into()], external: None };
    let again = Session::recreate(&scene.pebble.authority, &credentials, &registration).await;
    let (session, renewed) = again.unwrap();
    let key =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["key_pkcs8"].clone();
    assert_eq!(key(&renewed), key(&credentials));
    let issuer = scene.issuer_of(session);
    issue(&issuer, &by_http(&["a.example.test"])).await;
    let error = issuer.resume(&journal, &by_http(&["a.example.test"])).await.unwrap_err();
    assert!(error.is_lost(), "an order of the time before: {}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_deactivated_needs_a_person() {
    let scene = Scene::new().await;
    let (issuer, credentials) = scene.register(&scene.pebble.authority).await;
    Session::open(&scene.pebble.authority, &credentials).await.unwrap().deactivate().await.unwrap();
    let error = issuer.issue(&by_http(&["a.example.test"])).await.unwrap_err();
    assert_eq!(error.problem().unwrap().kind, Kind::AccountDeactivated, "{}", told(&error));
    assert!(error.is_permanent());
    let session = Session::open(&scene.pebble.authority, &credentials).await.unwrap();
    let again = session.deactivate().await.unwrap_err();
    assert!(again.is(Kind::AccountDeactivated), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_refused_in_storms_cost_no_order() {
    for bad_nonces in [5, 50] {
        let scene = Scene::with(Settings { bad_nonces, ..Settings::default() }).await;
        let issuer = scene.issuer().await;
        for turn in 0..3 {
            let names = [format!("a{turn}.example.test"), format!("b{turn}.example.test")];
            issue(&issuer, &by_http(&[&names[0], &names[1]])).await;
        }
        assert_eq!(scene.pebble.issued(), 3, "{bad_nonces} per cent");
        scene.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_decides_how_long_a_certificate_lives() {
    let scene = Scene::new().await;
    if !scene.pebble.offers("tiny").await {
        return;
    }
    let issuer = scene.issuer().await;
    for (profile, seconds) in [("tiny", 60), ("shortlived", 576_000)] {
        let request = Request { profile: Some(profile.to_owned()), ..by_http(&["a.example.test"]) };
        let issued = issue(&issuer, &request).await;
        assert_eq!(issued.profile.as_deref(), Some(profile));
        let leaf = &issued.certificate.leaf;
        let life = leaf.not_after.duration_since(leaf.not_before).unwrap();
        assert!(life.as_secs().abs_diff(seconds) <= 1, "{profile}: {life:?}");
        assert_eq!(scene.journal().profile.as_deref(), Some(profile));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_vanished_is_left_out_unless_it_is_required() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    let gone = Request { profile: Some("tlsclient".to_owned()), ..by_http(&["a.example.test"]) };
    let issued = issue(&issuer, &gone).await;
    assert!(issued.dropped_profile);
    assert_eq!(scene.journal().profile, None);
    let error = issuer.issue(&Request { require_profile: true, ..gone }).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    assert!(error.to_string().contains("\"tlsclient\""), "{error}");
}

/// Whether pebble finds the certificate with this identifier: not where its serial number begins with an
/// octet of zeros, which one in 256 does.
fn is_found_again(id: &str) -> bool {
    let (_, serial) = id.split_once('.').unwrap();
    !(serial.starts_with('A') && matches!(serial.as_bytes()[1], b'A'..=b'P'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_once_and_its_window_is_told() {
    let scene = Scene::new().await;
    if !scene.pebble.offers("renewalInfo").await {
        return;
    }
    let issuer = scene.issuer().await;
    let plain = by_http(&["a.example.test"]);
    let mut id = issue(&issuer, &plain).await.renewal_id.unwrap();
    while !is_found_again(&id) {
        id = issue(&issuer, &plain).await.renewal_id.unwrap();
    }
    let replacing = Request { replaces: Some(id.clone()), ..plain };
    let second = issue(&issuer, &replacing).await;
    assert!(!second.dropped_replaces);
    assert_eq!(scene.journal().replaces.as_deref(), Some(id.as_str()));
    let third = issue(&issuer, &replacing).await;
    assert!(third.dropped_replaces, "it has been replaced already");
    assert_eq!(scene.journal().replaces, None);
    let foreign = Request { replaces: Some("AAAA.BBBB".to_owned()), ..replacing };
    assert!(issue(&issuer, &foreign).await.dropped_replaces, "not one of this authority's");
    let unknown = format!("{}.ZXhhbXBsZQ", id.split_once('.').unwrap().0);
    let lost = Request { replaces: Some(unknown), ..foreign };
    assert!(issue(&issuer, &lost).await.dropped_replaces, "one that it does not find");

    let authority = &scene.pebble.authority;
    let resource = authority.fetch_directory().await.unwrap().renewal_info.unwrap();
    let id = third.renewal_id.as_deref().unwrap();
    let told = authority.renewal_info(&resource, id).await.unwrap();
    assert!(told.start < told.end && told.retry_after > Some(SystemTime::now()), "{told:?}");
    let (start, end) = ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00+01:00");
    scene.pebble.set_renewal_info(&third.chain_pem, start, end).await;
    let told = authority.renewal_info(&resource, id).await.unwrap();
    assert_eq!((told.start, told.end), (1_767_312_000, 1_767_222_000), "inverted, as it is");
    authority.renewal_info(&resource, "AAAA.BBBB").await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_bad_name_of_three_is_named() {
    let scene = Scene::new().await;
    scene.pebble.break_dns_of("bad.example.test").await;
    let issuer = scene.issuer().await;
    let request = by_http(&["a.example.test", "bad.example.test", "c.example.test"]);
    let error = issuer.issue(&request).await.unwrap_err();
    assert_eq!(error.bad_names(), ["bad.example.test"], "{}", told(&error));
    assert!(error.is_lost() && !error.is_permanent());
    scene.assert_clean();
    let again = issuer.resume(&scene.journal(), &request).await.unwrap_err();
    assert!(again.is_lost() && again.bad_names() == ["bad.example.test"], "{}", told(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_forbidden_needs_a_person() {
    let scene = Scene::new().await;
    let issuer = scene.issuer().await;
    let error =
        issuer.issue(&by_http(&["a.example.test", "blocked.example.test"])).await.unwrap_err();
    assert!(error.is_permanent(), "{}", told(&error));
    assert!(told(&error).contains("blocked.example.test"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_of_several_chains_is_taken() {
    let scene = Scene::with(Settings { alternate_roots: 2, ..Settings::default() }).await;
    let issuer = scene.issuer().await;
    let log = scene.pebble.log();
    let roots: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("issuance chain"))
        .filter_map(|line| line.split("chain: ").nth(1)?.split(" ->").next())
        .collect();
    assert_eq!(roots.len(), 3, "{log}");
    for root in &roots {
        let preferred_chain = Some((*root).to_owned());
        let issued = issue(&issuer, &Request { preferred_chain, ..by_http(&["a.test"]) }).await;
        assert_eq!(issued.root, *root);
    }
    let preferred_chain = Some("Nobody's Root".to_owned());
    let issued = issue(&issuer, &Request { preferred_chain, ..by_http(&["a.test"]) }).await;
    assert!(roots.contains(&&*issued.root), "any is better than none");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_proven_before_need_no_proof() {
    let scene = Scene::with(Settings { reuse: 100, ..Settings::default() }).await;
    let issuer = scene.issuer().await;
    issue(&issuer, &by_http(&["a.example.test"])).await;
    let probes = scene.inside.access().matches("acme-challenge").count();
    let issued = issue(&issuer, &by_http(&["a.example.test", "b.example.test"])).await;
    assert_eq!(names(&issued).len(), 2);
    let after = async {
        while scene.inside.access().matches("acme-challenge").count() == probes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    crate::support::within("probe of the new name", after).await;
    assert!(!scene.inside.access()[..].is_empty());
}
