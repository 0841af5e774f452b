//! What the gateway tells of its certificates: to hooks, in the log, in the metrics.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::gateway::{at, begin, obtained, yaml};
use crate::metrics::{promtool_accepts, scrape, scrape_until};
use crate::support::{Answer, Client, Gateway, Origin, Received, Settings, field, within};

/// `acme.events` with these entries, for [`at`].
fn events(entries: &str) -> String {
    format!(", events: [ {entries} ]")
}

fn body(request: &Received) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

/// What lies in `events/` that hooks are still to be told.
fn kept(gateway: &Gateway) -> Vec<String> {
    let directory = gateway.directory().join("storage/events");
    let names = std::fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() == "0123456789abcdef0123456789abcdef.json".len()).collect()
}

async fn status(gateway: &Gateway) -> Value {
    Client::new(gateway.admin_address()).host("localhost").get("/status").await.json()
}

/// The certificate called `name` in `/status`, once `is_wanted` accepts it.
async fn certificate(gateway: &Gateway, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    within("the certificate in /status", async {
        loop {
            let status = status(gateway).await;
            let all = status["certificates"].as_array().unwrap().iter();
            if let Some(found) = all.filter(|it| it["name"] == name).find(|it| is_wanted(it)) {
                return found.clone();
            }
        }
    })
    .await
}

async fn is_ready(gateway: &Gateway) -> bool {
    Client::new(gateway.admin_address()).host("localhost").get("/ready").await.status == 200
}

/// Longer than a certificate of a minute lives, which is waited for here.
async fn in_a_minute(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..800 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no {what}");
}

#[tokio::test]
async fn a_webhook_that_fails_is_told_again_and_knows_it_by_the_id() {
    let turn = AtomicUsize::new(0);
    let webhook = Origin::answering(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Bytes(
            b"HTTP/1.1 302 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        1 => Answer::text(500, "not today"),
        _ => Answer::text(204, ""),
    })
    .await;
    let (gateway, pebble) = begin(Settings::default()).await;
    let hook = format!("{{ event: obtained, webhook: \"{}/hook?token=secret\" }}", webhook.url());
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, &events(&hook)));
    gateway.reload(&text, 2).await;
    let line = gateway.wait_log(obtained("app.example.com")).await;
    assert_eq!(field(&line, "event"), "cert.obtained", "{line}");

    let requests = webhook.received(3).await;
    let first = &requests[0];
    assert_eq!((&*first.method, &*first.target), ("POST", "/hook?token=secret"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    let told = body(first);
    let wanted = json!({
        "event": "cert.obtained", "certificate": "acme:app.example.com",
        "names": ["app.example.com"], "authority": pebble.authority.directory, "why": "missing",
    });
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(told[name], *value, "{told}");
    }
    assert!(told["host"].as_str().is_some_and(|host| !host.is_empty()), "{told}");
    assert_eq!(first.header("idempotency-key"), told["id"].as_str(), "{told}");
    for again in &requests[1..] {
        assert_eq!(body(again), told, "redirects are not followed, and the event stays the same");
        assert_eq!(again.target, first.target);
    }
    let refused = gateway.wait_log(|line| field(line, "message") == "could not tell a hook").await;
    assert_eq!(field(&refused, "place"), &Value::from(webhook.url()), "no token: {refused}");
    assert_eq!(field(&refused, "error"), "the webhook answered 302", "{refused}");
    within("the event to be forgotten", async {
        while !kept(&gateway).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let counted = |result: &str, count: u32| {
        format!(
            "wardgate_acme_event_deliveries_total{{hook=\"webhook\",result=\"{result}\"}} {count}"
        )
    };
    let lines = [counted("delivered", 1), counted("failed", 2), counted("dropped", 0)];
    scrape_until(&gateway, &lines).await;
    assert!(!gateway.log().to_string().contains("secret"), "{}", gateway.log());
}

#[tokio::test]
async fn what_a_webhook_was_not_told_is_told_after_a_restart() {
    // Its address is known, and nobody is there yet.
    let address = Origin::start().await.address();
    let (mut gateway, mut pebble) = begin(Settings::default()).await;
    let hook = format!("{{ event: [obtained], webhook: \"http://{address}/\" }}");
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, &events(&hook)));
    gateway.reload(&text, 2).await;
    gateway.wait_log(|line| field(line, "message") == "could not tell a hook").await;
    let names = kept(&gateway);
    assert_eq!(names.len(), 1, "{names:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = gateway.directory().join("storage/events").join(&names[0]);
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    pebble.stop().await;
    gateway.signal("KILL");
    gateway.exit_status().await;

    let socket = TcpListener::bind(address).await.unwrap();
    let webhook = Origin::answering_on(socket, |_| Answer::text(200, "ok"));
    let gateway = gateway.again(&text).await;
    let requests = webhook.received(1).await;
    let told = body(&requests[0]);
    assert_eq!(told["event"], "cert.obtained", "{told}");
    assert_eq!(names, [format!("{}.json", told["id"].as_str().unwrap())]);
    within("the event to be forgotten", async {
        while !kept(&gateway).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_program_is_told_and_one_that_hangs_or_fails_delays_nobody() {
    let (gateway, pebble) = begin(Settings { needs_external: true, ..Settings::default() }).await;
    let told = gateway.directory().join("told");
    // Read whole before it is there.
    let script = "cat >\\\"$0.new\\\" && echo \\\"$WARDGATE_EVENT $1 $WARDGATE_CERTIFICATE\\\" >>\\\"$0.new\\\" && mv \\\"$0.new\\\" \\\"$0\\\"";
    let hooks = format!(
        "{{ run: [/bin/sh, -c, \"sleep 600\"], timeout: 500s }}, \
         {{ run: [/bin/sh, -c, \"echo out of paper; echo >&2 no ink; exit 3\"] }}, \
         {{ event: renewed, run: [/bin/sh, -c, \"exit 4\"] }}, \
         {{ event: [blocked], run: [/bin/sh, -c, \"{script}\", \"{}\", \"{{event}}\"] }}",
        told.display()
    );
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, &events(&hooks)));
    gateway.reload(&text, 2).await;
    let line = gateway.wait_log(|line| field(line, "event") == "acme.blocked").await;
    let blocked = "cannot obtain a certificate until something is changed";
    assert_eq!(field(&line, "message"), blocked, "{line}");
    within("the program", async {
        while !told.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let text = std::fs::read_to_string(told).unwrap();
    let (json, variables) = text.split_at(text.rfind('}').unwrap() + 1);
    let event: Value = serde_json::from_str(json).unwrap();
    assert_eq!((&event["event"], &event["why"]), (&"acme.blocked".into(), &"missing".into()));
    assert!(event["problem"].as_str().unwrap().contains("externalAccount"), "{event}");
    assert_eq!(variables.trim(), "acme.blocked acme.blocked acme:app.example.com");
    let failed = gateway.wait_log(|line| field(line, "message") == "could not tell a hook").await;
    let error = field(&failed, "error").as_str().unwrap();
    assert!(error.starts_with("the program ended with exit status: 3: "), "{failed}");
    assert!(error.contains("out of paper") && error.contains("no ink"), "{failed}");
    let lines = [
        "wardgate_acme_events_pending 1".to_owned(),
        "wardgate_certificate_state{certificate=\"acme:app.example.com\",state=\"blocked\"} 1"
            .into(),
        "wardgate_certificate_stand_in{certificate=\"acme:app.example.com\"} 1".into(),
    ];
    scrape_until(&gateway, &lines).await;
    assert!(is_ready(&gateway).await);
}

#[tokio::test]
async fn the_end_of_a_certificate_is_told_once_for_each_share_also_over_a_restart() {
    let webhook = Origin::start().await;
    let (mut gateway, mut pebble) = begin(Settings::default()).await;
    if !pebble.offers("tiny").await {
        return;
    }
    let hook = format!("{{ event: [failed, expiring, expired], webhook: \"{}\" }}", webhook.url());
    let more = format!(", profile: tiny{}", events(&hook));
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, &more));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let name = "acme:app.example.com";
    certificate(&gateway, name, |it| it["health"] == "good" && it["stand_in"] == false).await;
    pebble.stop().await;

    let left = |kind: &str| -> Vec<String> {
        let told = webhook.requests().iter().map(body).collect::<Vec<_>>();
        let of = |event: &&Value| event["event"] == kind && event["certificate"] == name;
        told.iter().filter(of).map(|it| it["left"].as_str().unwrap_or("-").to_owned()).collect()
    };
    in_a_minute("quarter", || !left("cert.expiring").is_empty()).await;
    assert_eq!(left("cert.expiring"), ["1/4"]);
    assert_eq!(left("cert.failed"), ["-"], "the renewal has failed before that");
    in_a_minute("eighth", || left("cert.expiring").len() > 1).await;
    certificate(&gateway, name, |it| it["health"] == "degraded").await;
    assert_eq!(status(&gateway).await["certificates_health"], "degraded");
    let line = gateway.wait_log(|line| field(line, "state") == "degraded").await;
    assert_eq!(
        (field(&line, "event"), field(&line, "level")),
        (&"cert.expiring".into(), &"warn".into()),
        "{line}"
    );
    gateway.drain();
    assert!(gateway.exit_status().await.success());

    let gateway = gateway.again(&text).await;
    in_a_minute("end", || !left("cert.expired").is_empty()).await;
    assert_eq!(left("cert.expiring"), ["1/4", "1/8", "1/20"]);
    assert_eq!(left("cert.expired"), ["0"]);
    let line = gateway.wait_log(|line| field(line, "event") == "cert.expired").await;
    assert_eq!(
        (field(&line, "state"), field(&line, "level")),
        (&"failing".into(), &"error".into()),
        "{line}"
    );
    let found = certificate(&gateway, name, |it| it["health"] == "failing").await;
    assert_eq!(found["days_left"], -1, "{found}");
    assert!(is_ready(&gateway).await, "nothing goes down for it");
    let lines =
        [format!("wardgate_certificate_health{{certificate=\"{name}\",health=\"failing\"}} 1")];
    promtool_accepts(scrape_until(&gateway, &lines).await);
}

#[tokio::test]
async fn orders_and_requests_to_the_authority_are_counted() {
    let (gateway, pebble) = begin(Settings { bad_nonces: 20, ..Settings::default() }).await;
    pebble.break_dns_of("www.example.net").await;
    let text = yaml(&["app.example.com", "www.example.net"], "https: both", &at(&pebble, ""));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    gateway.wait_log(|line| field(line, "event") == "cert.failed").await;
    let at = format!("authority=\"{}\"", pebble.authority.directory);
    let (good, bad) =
        ("certificate=\"acme:app.example.com\"", "certificate=\"acme:www.example.net\"");
    let lines = [
        format!("wardgate_certificate_state{{{good},state=\"active\"}} 1"),
        format!("wardgate_certificate_state{{{bad},state=\"backoff\"}} 1"),
        format!("wardgate_certificate_consecutive_failures{{{good}}} 0"),
        format!("wardgate_certificate_consecutive_failures{{{bad}}} 1"),
        format!("wardgate_certificate_stand_in{{{good}}} 0"),
        format!("wardgate_certificate_stand_in{{{bad}}} 1"),
        format!("wardgate_certificate_unsaved{{{good}}} 0"),
        format!("wardgate_certificate_health{{{good},health=\"good\"}} 1"),
        format!("wardgate_certificate_health{{{bad},health=\"degraded\"}} 1"),
        format!(
            "wardgate_certificate_renewals_total{{{at},result=\"obtained\",why=\"missing\"}} 1"
        ),
        format!("wardgate_certificate_renewals_total{{{at},result=\"failed\",why=\"missing\"}} 1"),
        format!("wardgate_acme_order_duration_seconds_count{{{at}}} 1"),
        format!("wardgate_acme_replaces_dropped_total{{{at}}} 0"),
        format!("wardgate_acme_requests_total{{{at},endpoint=\"newAccount\",code=\"201\"}} 1"),
        format!("wardgate_acme_requests_total{{{at},endpoint=\"newOrder\",code=\"201\"}} 2"),
        format!("wardgate_acme_requests_total{{{at},endpoint=\"finalize\",code=\"200\"}} 1"),
        format!("wardgate_acme_requests_total{{{at},endpoint=\"cert\",code=\"200\"}} 1"),
        "wardgate_certificate_store_errors_total{op=\"save\"} 0".to_owned(),
        "wardgate_acme_events_pending 0".to_owned(),
    ];
    let text = scrape_until(&gateway, &lines).await;
    for beginning in [
        format!("wardgate_certificate_renewal_timestamp_seconds{{{good},why=\""),
        format!("wardgate_acme_request_duration_seconds_count{{{at},endpoint=\"authz\"}} "),
        format!("wardgate_acme_request_duration_seconds_count{{{at},endpoint=\"challenge\"}} "),
        format!("wardgate_acme_request_duration_seconds_count{{{at},endpoint=\"order\"}} "),
        format!("wardgate_acme_requests_total{{{at},endpoint=\"directory\",code=\"200\"}} "),
        format!("wardgate_acme_clock_skew_seconds{{{at}}} "),
    ] {
        assert!(text.lines().any(|line| line.starts_with(&beginning)), "{beginning}\n{text}");
    }
    assert!(!text.contains("endpoint=\"other\""), "every request is known by its name: {text}");
    let hits = |line: &&str| {
        line.starts_with(
            "wardgate_acme_challenge_hits_total{type=\"tls-alpn-01\",result=\"answered\"}",
        )
    };
    let answered = text.lines().find(hits).unwrap();
    assert!(!answered.ends_with(" 0"), "{answered}");
    promtool_accepts(text);
}

/// A certificate of which `left` in 100 is left, in the files that the configuration names.
fn write_certificate(directory: &Path, left: i64) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["own.test".to_owned()]).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let now = std::time::SystemTime::now();
    params.not_before = (now - day * (100 - left) as u32).into();
    params.not_after = (now + day * left as u32).into();
    let certificate = params.self_signed(&key).unwrap();
    // Both at once, as far as a watcher is concerned.
    std::fs::write(directory.join("own.key"), key.serialize_pem()).unwrap();
    std::fs::write(directory.join("own.pem"), certificate.pem()).unwrap();
}

#[tokio::test]
async fn certificates_of_operators_are_watched_as_well() {
    let directory = TempDir::new().unwrap();
    write_certificate(directory.path(), 10);
    let text = "listeners: { secure: { bind: \"127.0.0.1:0\", protocol: https } }\n\
                sites: { own.test: { certificate: own, routes: [ { respond: 200 } ] } }\n\
                certificates: { own: { chain: own.pem, key: own.key } }\n";
    let gateway = Gateway::start_in(directory, text).await;
    let about = |event: &'static str| {
        move |line: &Value| field(line, "event") == event && field(line, "certificate") == "own"
    };
    let line = gateway.wait_log(about("cert.expiring")).await;
    assert_eq!(field(&line, "state"), "degraded", "{line}");
    certificate(&gateway, "own", |it| it["health"] == "degraded").await;
    assert!(is_ready(&gateway).await);
    let health = |word: &str| {
        [format!("wardgate_certificate_health{{certificate=\"own\",health=\"{word}\"}} 1")]
    };
    scrape_until(&gateway, &health("degraded")).await;

    write_certificate(gateway.directory(), 90);
    gateway.reloaded(2).await;
    gateway.wait_log(about("cert.imported")).await;
    let line = gateway.wait_log(|line| field(line, "state") == "good").await;
    assert_eq!(field(&line, "certificate"), "own", "{line}");
    let text = scrape_until(&gateway, &health("good")).await;
    assert!(!text.contains("health=\"degraded\""), "{text}");
    assert!(
        !scrape(&gateway).await.contains("certificate_stand_in"),
        "no authority is to issue it"
    );
}

#[tokio::test]
async fn a_webhook_over_https_is_told_where_the_system_trusts_it() {
    let webhook = Origin::start().await;
    let directory = TempDir::new().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    // The gateway stands before the webhook too, and its own CA is all that the system trusts.
    program.env("SSL_CERT_FILE", directory.path().join("storage/local-ca/ca.pem"));
    let site = |more: &str| {
        yaml(&["app.example.com"], "certificate: internal", "").replace(
            "sites:\n",
            &format!("sites:\n  localhost: {{ upstream: \"{}\" }}\n", webhook.url()),
        ) + more
    };
    let gateway = Gateway::start_program(program, directory, &site("")).await;
    let port = gateway.address("secure").port();
    let nobody = "directory: \"https://127.0.0.1:1/dir\"";
    let hooks = format!("{{ event: failed, webhook: \"https://localhost:{port}/hook\" }}");
    let text = site(&format!("acme: {{ {nobody}{} }}\n", events(&hooks)));
    let text = text.replace("    certificate: internal\n", "    https: both\n");
    gateway.reload(&text, 2).await;
    let told = body(&webhook.received(1).await[0]);
    assert_eq!((&told["event"], &told["attempt"]), (&"cert.failed".into(), &1.into()), "{told}");
    assert!(told["problem"].as_str().unwrap().contains("does not answer"), "{told}");
}
