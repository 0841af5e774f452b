//! Several gateways that serve the same names: through a Redis, and in one directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use wardgate::acme::storage::{CertId, CertLock, Storage};

use crate::support::{Client, Gateway, PASSWORD, Pebble, Redis, Settings, field, within};

const NAME: &str = "app.example.com";

/// Before there is an authority: its ports have to be known first.
fn before(storage: &str) -> String {
    yaml(storage, "certificate: internal", "")
}

/// A site in `storage` with these settings.
fn yaml(storage: &str, site: &str, more: &str) -> String {
    format!(
        "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http }}\n  \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         storage: {storage}\nsites:\n  {NAME}:\n    routes: [ {{ respond: {NAME} }} ]\n    {site}\n{more}"
    )
}

/// The same with the certificate of `pebble`, and `more` settings of `acme:`.
fn obtaining(storage: &str, pebble: &Pebble, more: &str) -> String {
    let (directory, ca) = (&pebble.authority.directory, pebble.ca());
    // Without one pebble takes any that it has.
    let profile = if more.contains("profile:") { "" } else { ", profile: classic" };
    let acme = format!(
        "acme: {{ email: ops@example.com, directory: \"{directory}\", directory_ca: \"{}\"{profile}{more} }}\n",
        ca.display()
    );
    yaml(storage, "https: both", &acme)
}

/// Two gateways in this storage, and an authority that gets to the first of them alone.
async fn begin(storage: &str, settings: Settings) -> (Gateway, Gateway, Pebble) {
    let first = Gateway::start(before(storage)).await;
    let second = Gateway::start(before(storage)).await;
    let pebble = Pebble::start((first.address("web"), first.address("secure")), settings).await;
    (first, second, pebble)
}

/// The certificate that is served, where it is the authority's.
async fn served(gateway: &Gateway, root: &Path) -> Option<Vec<u8>> {
    gateway.client_of("secure").tls(root).host(NAME).certificate().await.ok()
}

/// Waits until both serve the same certificate of the authority's, and another than `last`.
async fn agreed(gateways: [&Gateway; 2], root: &Path, last: Option<&[u8]>) -> Vec<u8> {
    let mut looks = 0;
    loop {
        let shown = (served(gateways[0], root).await, served(gateways[1], root).await);
        if let (Some(one), Some(other)) = shown
            && one == other
            && Some(&*one) != last
        {
            return one;
        }
        looks += 1;
        assert!(looks < 900, "no agreement:\n{}\n{}", gateways[0].log(), gateways[1].log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn said(gateway: &Gateway, what: &str) -> usize {
    gateway.log().all().iter().filter(|line| field(line, "message") == what).count()
}

fn says(what: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == what
}

const OBTAINED: &str = "obtained a certificate";
const TOOK_OVER: &str = "took over a certificate that was renewed elsewhere";
const LOST: &str = "lost the fleet's Redis, going on with what is on this machine";
const REACHED: &str = "reached the fleet's Redis again";

/// Keeps a gateway from ordering, as another process on its machine would.
fn hold(directory: &Path) -> CertLock {
    let storage = Storage::open(directory).unwrap();
    storage.lock(&CertId::new(NAME)).unwrap().expect("nobody is at it")
}

/// Waits until the gateway has found somebody at the certificate, and will try again much later.
async fn waits(gateway: &Gateway) {
    let admin = Client::new(gateway.admin_address()).host("localhost");
    let waits = async {
        loop {
            let status: Value = admin.get("/status").await.json();
            let next = status["orders"][0]["next_at"].as_str().and_then(|at| {
                time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()
            });
            let far = time::OffsetDateTime::now_utc() + Duration::from_secs(15);
            if next.is_some_and(|next| next > far) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("gateway that waits for another", waits).await;
}

/// What an order of yesterday's asked for that was never taken away.
fn leave(directory: &Path, held: &CertLock, method: &str) {
    let token = "left-behind-left-behind";
    let answer = serde_json::json!({
        "kind": method, "host": NAME, "token": token, "key_authorization": format!("{token}.thumb"),
    });
    Storage::open(directory).unwrap().keep_challenge(held, token, &answer).unwrap();
    let kept = std::fs::read_dir(directory.join("challenges")).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(kept.path()).unwrap();
    let mut left: Value = serde_json::from_str(&text).unwrap();
    left["at"] = (left["at"].as_i64().unwrap() - 12 * 60 * 60).into();
    std::fs::write(kept.path(), left.to_string()).unwrap();
}

/// The authority gets to the first gateway, while the second has made the order.
async fn the_other_one_is_asked(storage: &str, local: impl Fn(&Gateway) -> PathBuf, method: &str) {
    let (first, second, pebble) = begin(storage, Settings::default()).await;
    let text = obtaining(storage, &pebble, &format!(", challenges: [{method}]"));
    let held = hold(&local(&first));
    leave(&local(&first), &held, method);
    first.reload(&text, 2).await;
    waits(&first).await;
    if local(&first) == local(&second) {
        drop(held);
        second.reload(&text, 2).await;
        second.wait_log(says(OBTAINED)).await;
    } else {
        second.reload(&text, 2).await;
        second.wait_log(says(OBTAINED)).await;
        drop(held);
    }
    first.wait_log(says(TOOK_OVER)).await;
    agreed([&first, &second], &pebble.root().await, None).await;
    assert_eq!((pebble.issued(), said(&first, OBTAINED)), (1, 0));
    let left = Storage::open(&local(&second)).unwrap().challenges::<Value>().unwrap();
    assert!(left.is_empty(), "{left:?}");
}

fn own(gateway: &Gateway) -> PathBuf {
    gateway.directory().join("certs")
}

#[tokio::test]
async fn a_fleet_orders_once_and_newcomers_serve_from_their_first_handshake() {
    let redis = Redis::start().await;
    let (first, second, pebble) = begin(&redis.url(), Settings::default()).await;
    // The authority gets to the first: an order of the second is answered there.
    let text = obtaining(&redis.url(), &pebble, "");
    tokio::join!(first.reload(&text, 2), second.reload(&text, 2));
    let root = pebble.root().await;
    let shown = agreed([&first, &second], &root, None).await;
    assert_eq!(pebble.issued(), 1, "{}", pebble.log());
    // It is said a moment after it is served.
    within("word of it", async {
        while said(&first, OBTAINED) + said(&second, OBTAINED) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(said(&first, OBTAINED) + said(&second, OBTAINED), 1);

    let third = Gateway::start(&text).await;
    assert_eq!(served(&third, &root).await, Some(shown), "{}", third.log());
    let accounts: Vec<Value> = [&first, &second, &third]
        .map(|gateway| account(&own(gateway)))
        .into_iter()
        .flatten()
        .collect();
    assert!(accounts.len() >= 2 && accounts.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(pebble.issued(), 1);

    let admin = Client::new(third.admin_address()).host("localhost");
    let config = admin.get("/config").await.text();
    assert!(config.contains("redis://gateway:***@"), "{config}");
    for gateway in [&first, &second, &third] {
        assert!(!gateway.log().to_string().contains(PASSWORD));
    }
    assert!(!config.contains(PASSWORD));
}

/// The account that is kept there.
fn account(directory: &Path) -> Option<Value> {
    let inside = std::fs::read_dir(directory.join("accounts")).unwrap().next()?.unwrap().path();
    let text = std::fs::read_to_string(inside.join("account.json")).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn any_instance_of_a_fleet_answers_what_another_has_ordered_over_http() {
    let redis = Redis::start().await;
    the_other_one_is_asked(&redis.url(), own, "http-01").await;
}

#[tokio::test]
async fn any_instance_of_a_fleet_answers_what_another_has_ordered_in_a_handshake() {
    let redis = Redis::start().await;
    the_other_one_is_asked(&redis.url(), own, "tls-alpn-01").await;
}

#[tokio::test]
async fn any_process_in_a_directory_answers_what_another_has_ordered() {
    for method in ["http-01", "tls-alpn-01"] {
        let directory = TempDir::new().unwrap();
        let storage = directory.path().join("shared");
        std::fs::create_dir(&storage).unwrap();
        let at = format!("{storage:?}");
        the_other_one_is_asked(&at, |_| storage.clone(), method).await;
    }
}

#[tokio::test]
async fn two_gateways_in_one_directory_order_once_and_both_serve_it() {
    let directory = TempDir::new().unwrap();
    let at = format!("{:?}", directory.path().join("shared"));
    let (first, second, pebble) = begin(&at, Settings::default()).await;
    let text = obtaining(&at, &pebble, "");
    tokio::join!(first.reload(&text, 2), second.reload(&text, 2));
    agreed([&first, &second], &pebble.root().await, None).await;
    assert_eq!(pebble.issued(), 1, "{}", pebble.log());
}

#[tokio::test]
async fn a_renewal_is_made_by_one_and_seen_by_all() {
    let redis = Redis::start().await;
    let (first, second, pebble) = begin(&redis.url(), Settings::default()).await;
    if !pebble.offers("tiny").await {
        return;
    }
    let text = obtaining(&redis.url(), &pebble, ", profile: tiny");
    tokio::join!(first.reload(&text, 2), second.reload(&text, 2));
    let root = pebble.root().await;
    let mut last = None;
    for _ in 0..4 {
        last = Some(agreed([&first, &second], &root, last.as_deref()).await);
    }
    // The authority would refuse to have the same certificate replaced twice.
    // What it says of one that it does not find, for a serial number that it reads in another way.
    let is_lost = |line: &Value| field(line, "error").to_string().contains("serverInternal");
    let is_twice = |line: &Value| says("ordering without `replaces`")(line) && !is_lost(line);
    let both = [&first, &second];
    let renewed = both.map(|gateway| said(gateway, OBTAINED)).iter().sum::<usize>();
    assert!(
        !both.iter().any(|it| it.log().all().iter().any(is_twice)),
        "{}\n{}",
        first.log(),
        second.log()
    );
    assert_eq!(pebble.issued(), renewed);
}

#[tokio::test]
async fn a_redis_that_goes_away_stops_neither_serving_nor_renewing() {
    let mut redis = Redis::start().await;
    // What is proven is proven: no instance can answer for another while there is no Redis.
    let settings = Settings { reuse: 100, ..Settings::default() };
    let (first, second, pebble) = begin(&redis.url(), settings).await;
    if !pebble.offers("tiny").await {
        return;
    }
    let text = obtaining(&redis.url(), &pebble, ", profile: tiny");
    tokio::join!(first.reload(&text, 2), second.reload(&text, 2));
    let root = pebble.root().await;
    let shown = agreed([&first, &second], &root, None).await;
    redis.kill().await;

    // Each renews by itself, as late as it dares to.
    let mut looks = 0;
    loop {
        let both = (served(&first, &root).await, served(&second, &root).await);
        let (Some(one), Some(other)) = both else {
            panic!("nothing valid is served:\n{}\n{}", first.log(), second.log());
        };
        if one != shown && other != shown {
            break;
        }
        looks += 1;
        assert!(looks < 900, "no renewal:\n{}\n{}", first.log(), second.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(pebble.issued(), 3);
    for gateway in [&first, &second] {
        assert_eq!(said(gateway, LOST), 1, "{}", gateway.log());
    }

    // It has forgotten everything, and both prefer the same one of theirs.
    redis.again().await;
    for gateway in [&first, &second] {
        let back = gateway.wait_log(says(REACHED)).await;
        assert_eq!(field(&back, "level"), "info");
    }
    agreed([&first, &second], &root, Some(&shown)).await;
}

#[tokio::test]
async fn a_start_without_redis_serves_what_the_machine_has() {
    let mut redis = Redis::start().await;
    let (mut first, second, pebble) = begin(&redis.url(), Settings::default()).await;
    let text = obtaining(&redis.url(), &pebble, "");
    first.reload(&text, 2).await;
    first.wait_log(says(OBTAINED)).await;
    let root = pebble.root().await;
    let shown = served(&first, &root).await;
    redis.kill().await;
    first.drain();
    assert!(first.exit_status().await.success());
    let first = first.again(&text).await;
    assert!(shown.is_some());
    assert_eq!(served(&first, &root).await, shown);
    assert_eq!(said(&first, LOST), 1, "{}", first.log());
    second.reload(&text, 2).await;
    // It is handed over when Redis is there, before the newcomer orders one, or after.
    redis.again().await;
    first.wait_log(says(REACHED)).await;
    agreed([&first, &second], &root, None).await;
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_and_verified() {
    let redis = Redis::start_tls().await;
    let (first, _second, pebble) = begin(&redis.url(), Settings::default()).await;
    let text = obtaining(&redis.url(), &pebble, "");
    first.reload(&text, 2).await;
    first.wait_log(says(OBTAINED)).await;
    assert_eq!(said(&first, LOST), 0, "{}", first.log());
    let root = pebble.root().await;
    let third = Gateway::start(&text).await;
    assert_eq!(served(&third, &root).await, served(&first, &root).await);

    let strange =
        redis.url().replace(&redis.ca().display().to_string(), &root.display().to_string());
    let fourth = Gateway::start(obtaining(&strange, &pebble, "")).await;
    let lost = fourth.wait_log(says(LOST)).await;
    assert!(field(&lost, "error").as_str().unwrap().contains("TLS"), "{lost}");
}
