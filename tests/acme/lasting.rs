//! Records that stay (dns-persist-01): looked for, and never put up.

use wardgate::acme::account::Registration;
use wardgate::acme::dns::{Binding, Persist};
use wardgate::acme::order::{Method, OrderError, Request};
use wardgate::acme::session::Session;

use super::scene::{Scene, issue, names, told};
use crate::support::{Settings, within};

fn request(scene: &Scene, names: &[&str]) -> Request {
    let persist = Persist { servers: Some(vec![scene.pebble.dns]) };
    super::scene::request(names, vec![Method::DnsPersist01(persist)])
}

/// Whom the records of a new account at this scene's authority speak for, and its session.
async fn account(scene: &Scene) -> (Binding, Session) {
    let registration = Registration::default();
    let (session, _) = Session::register(&scene.pebble.authority, &registration).await.unwrap();
    (Binding::of(&session).await.unwrap(), session)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_proves_a_name_and_its_wildcard_again_and_again() {
    let scene = Scene::new().await;
    if !scene.pebble.offers("dns-persist-01").await {
        return;
    }
    let (binding, session) = account(&scene).await;
    let url = session.account_url().to_owned();
    let record = binding.record("*.a.example.test");
    assert_eq!(
        record.to_string(),
        format!(
            "_validation-persist.a.example.test. IN TXT \
             \"pebble.example; accounturi={url}; policy=wildcard\""
        )
    );
    // Beside what another authority and another account were given.
    let texts = [
        "ca.example; accounturi=https://ca.example/1",
        "pebble.example; accounturi=https://ca.example/2; policy=wildcard",
        &record.value,
    ];
    scene.pebble.show_texts(&record.name, &texts).await;
    let issuer = scene.issuer_of(session);
    let wanted = ["*.a.example.test", "a.example.test"];
    for issued in 1..3 {
        assert_eq!(names(&issue(&issuer, &request(&scene, &wanted)).await), wanted);
        assert_eq!(scene.pebble.issued(), issued);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_missing_is_shown_before_the_authority_is_told_and_the_order_goes_on() {
    let scene = Scene::new().await;
    if !scene.pebble.offers("dns-persist-01").await {
        return;
    }
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let request = request(&scene, &["*.a.example.test", "a.example.test", "b.example.test"]);
    let error = within("failure", issuer.issue(&request)).await.unwrap_err();
    let url = issuer.session().account_url();
    let wanted = format!(
        "cannot prove the name by DNS: the DNS does not show what dns-persist-01 takes; put up, to \
         stay: _validation-persist.a.example.test. IN TXT \"pebble.example; accounturi={url}; \
         policy=wildcard\" (missing at {dns}); _validation-persist.b.example.test. IN TXT \
         \"pebble.example; accounturi={url}\" (missing at {dns})",
        dns = scene.pebble.dns,
    );
    assert_eq!(told(&error), wanted);
    assert!(!error.is_lost() && !error.is_permanent());
    assert!(!faulty.requests().iter().any(|path| path.contains("/chalZ/")), "no failure burnt");

    let binding = Binding::of(issuer.session()).await.unwrap();
    for name in ["*.a.example.test", "b.example.test"] {
        let record = binding.record(name);
        scene.pebble.show_texts(&record.name, &[&record.value]).await;
    }
    let journal = scene.journal();
    let resumed = issuer.resume(&journal, &request);
    assert_eq!(names(&within("certificate", resumed).await.unwrap()), request.names);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_authority_would_not_take_is_not_tried() {
    let scene = Scene::new().await;
    if !scene.pebble.offers("dns-persist-01").await {
        return;
    }
    let (faulty, authority) = scene.faulty();
    let (issuer, _) = scene.register(&authority).await;
    let url = issuer.session().account_url();
    let request = request(&scene, &["*.a.example.test"]);
    for text in [
        format!("pebble.example; accounturi={url}"),
        format!("pebble.example; accounturi={url}; policy=wildcard; persistUntil=1"),
        format!("pebble.example; accounturi={url}0; policy=wildcard"),
        format!("other.example; accounturi={url}; policy=wildcard"),
    ] {
        scene.pebble.show_texts("_validation-persist.a.example.test", &[&text]).await;
        let error = within("failure", issuer.issue(&request)).await.unwrap_err();
        assert!(matches!(error, OrderError::Dns(_)), "{text}: {}", told(&error));
    }
    assert!(!faulty.requests().iter().any(|path| path.contains("/chalZ/")), "no failure burnt");
    // With an end that is far away it is fine, and with what nobody knows.
    let text = format!(
        "pebble.example;accounturi={url}; policy=WildCard;persistUntil=99999999999; new=thing"
    );
    scene.pebble.show_texts("_validation-persist.a.example.test", &[&text]).await;
    issue(&issuer, &request).await;
}

#[tokio::test]
async fn the_record_is_printed_before_it_is_there() {
    use super::gateway::{at, begin, obtained, yaml};
    let (gateway, pebble) = begin(Settings::default()).await;
    if !pebble.offers("dns-persist-01").await {
        return;
    }
    let name = "app.example.com";
    let names = ["app.example.com", "\"*.sub.example.com\""];
    let of = |more: &str| yaml(&names, "https: both", &at(&pebble, more));
    // There is an account, and the wildcard's order waits for its record.
    gateway.reload(&of(", challenges: [http-01, dns-persist-01]"), 2).await;
    gateway.wait_log(obtained(name)).await;
    let printed = async |name: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wardgate"));
        command.args(["certs", "dns-persist", name]).args(more);
        command.current_dir(gateway.directory()).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = within("records", output).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (is_fine, said, errors) = printed("*.sub.example.com", &[]).await;
    assert!(is_fine, "{said}{errors}");
    let line = said.lines().find(|line| line.starts_with('_')).unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.starts_with(
            "_validation-persist.sub.example.com. IN TXT \"pebble.example; accounturi=https://"
        ) && line.ends_with("; policy=wildcard\""),
        "{line}"
    );

    let (is_fine, said, _) = printed(name, &["--json"]).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(is_fine && said["is_enabled"] == true, "{said}");
    let record = &said["authorities"][0]["records"][0];
    assert_eq!(record["name"], "_validation-persist.app.example.com");
    assert_ne!(record["state"], "present");
    let (is_fine, _, error) = printed("other.example.com", &[]).await;
    assert!(!is_fine && error.contains("no site or certificate is called"), "{error}");
}
