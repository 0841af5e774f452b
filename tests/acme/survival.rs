//! The real program among failures: an authority that dies, refuses, lies and forgets, a process that
//! is killed, a disk that fills, files that rot, a clock that is wrong.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use wardgate::acme::state::{Attempt, LastProblem, Record, Target};
use wardgate::acme::storage::{CertId, Meta, Pair, Place, Secret, Storage};
use wardgate::acme::time::{Clock, MINUTE};

use super::gateway::{obtained, orders, verifying};
use crate::support::{
    Between, Client, Fate, Gateway, Pebble, Settings, closed, field, problem, run, steady, within,
};

const NAME: &str = "app.example.com";

/// An authority, a server before it, and how the gateway is told of both.
struct Scene {
    pebble: Pebble,
    between: Between,
    addresses: (SocketAddr, SocketAddr),
}

impl Scene {
    async fn begin() -> Self {
        Self::with(steady(), Settings::default()).await
    }

    async fn with(addresses: (SocketAddr, SocketAddr), settings: Settings) -> Self {
        let pebble = Pebble::start(addresses, settings).await;
        let between = Between::start(&pebble).await;
        Self { pebble, between, addresses }
    }

    /// Sites with `names`, and more settings of `acme:`.
    fn yaml(&self, names: &[&str], more: &str) -> String {
        let (web, secure) = self.addresses;
        let sites: String = names
            .iter()
            .map(|name| format!("  {name}: {{ https: both, routes: [ {{ respond: {name} }} ] }}\n"))
            .collect();
        format!(
            "listeners:\n  web: {{ bind: \"{web}\", protocol: http }}\n  \
             secure: {{ bind: \"{secure}\", protocol: https }}\nsites:\n{sites}\
             acme: {{ email: ops@example.com, directory: \"{}\", directory_ca: \"{}\", profile: classic{more} }}\n",
            self.between.directory(),
            self.pebble.ca().display()
        )
    }

    fn target(&self, name: &str) -> Target {
        Target::new(vec![name.to_owned()], &self.between.directory(), Some("classic"))
    }

    /// A gateway whose certificate was obtained.
    async fn obtained(&self) -> Gateway {
        let gateway = Gateway::start(self.yaml(&[NAME], "")).await;
        gateway.wait_log(obtained(NAME)).await;
        gateway
    }

    async fn assert_served(&self, gateway: &Gateway, name: &str) {
        let client = verifying(gateway, &self.pebble, name).await;
        assert_eq!(client.get("/").await.text(), name);
    }
}

/// Ends the process as a power cut would.
async fn kill(gateway: &mut Gateway) {
    gateway.signal("KILL");
    gateway.exit_status().await;
}

/// Waits until the certificate of `name` stands so.
async fn stands(gateway: &Gateway, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    within("such standing", async {
        loop {
            let all = orders(gateway).await;
            let found = all.into_iter().find(|it| it["name"] == name);
            if let Some(found) = found.filter(|it| is_wanted(it)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Seconds until the next try.
fn wait_of(order: &Value) -> i64 {
    let at = order["next_at"].as_str().unwrap_or_else(|| panic!("no next try: {order}"));
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(at, format).unwrap().unix_timestamp();
    at - Clock::default().now()
}

fn live(gateway: &Gateway, file: &str) -> PathBuf {
    gateway.directory().join("storage/live").join(NAME).join(file)
}

/// Kills the process when a request to `path` has met `fate`, and starts another.
async fn killed_at(path: &'static str, fate: Fate) {
    let scene = Scene::begin().await;
    scene.between.expect(path, 1, fate);
    let text = scene.yaml(&[NAME], "");
    let mut gateway = Gateway::start(&text).await;
    scene.between.met(1).await;
    kill(&mut gateway).await;
    scene.between.forgive();
    let gateway = gateway.again(&text).await;
    gateway.wait_log(obtained(NAME)).await;
    scene.assert_served(&gateway, NAME).await;
    assert_eq!(scene.pebble.issued(), 1, "killed at {path}: one order, one certificate");
}

#[tokio::test]
async fn killed_while_the_account_is_made() {
    killed_at("/sign-me-up", Fate::Swallow).await;
}

#[tokio::test]
async fn killed_with_the_order_on_its_way() {
    killed_at("/order-plz", Fate::Swallow).await;
}

#[tokio::test]
async fn killed_before_the_names_are_proven() {
    killed_at("/chalZ/", Fate::Hang).await;
}

#[tokio::test]
async fn killed_while_the_authority_looks() {
    killed_at("/chalZ/", Fate::Swallow).await;
}

#[tokio::test]
async fn killed_before_finalize() {
    killed_at("/finalize-order/", Fate::Hang).await;
}

#[tokio::test]
async fn killed_with_the_answer_to_finalize_on_its_way() {
    killed_at("/finalize-order/", Fate::Swallow).await;
}

#[tokio::test]
async fn killed_with_the_certificate_on_its_way() {
    killed_at("/certZ/", Fate::Swallow).await;
}

#[tokio::test]
async fn a_limit_parks_what_it_concerns_and_nothing_else() {
    let scene = Scene::begin().await;
    let detail = "too many certificates (5) already issued for this exact set of identifiers";
    let fields = vec![("retry-after", "7200".to_owned())];
    let answer = Fate::Answer(429, fields, problem("rateLimited", detail));
    scene.between.expect("/order-plz", 1, answer);
    let gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    let order = stands(&gateway, NAME, |it| it["state"] == "limited").await;
    assert!((7100..=7200).contains(&wait_of(&order)), "{order}");
    gateway.reload(&scene.yaml(&[NAME, "b.example.com"], ""), 2).await;
    gateway.wait_log(obtained("b.example.com")).await;
    let order = stands(&gateway, NAME, |_| true).await;
    assert_eq!((&order["state"], &order["fails"]), (&"limited".into(), &0.into()), "{order}");
}

#[tokio::test]
async fn a_page_of_a_load_balancer_is_waited_out() {
    let scene = Scene::begin().await;
    let page = "<html><h1>503 Service Unavailable</h1></html>".to_owned();
    let fields = vec![("content-type", "text/html".to_owned()), ("retry-after", "300".to_owned())];
    scene.between.expect("/order-plz", 9, Fate::Answer(503, fields, page));
    let gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    let order = stands(&gateway, NAME, |it| it["state"] == "backoff").await;
    assert!((290..=300).contains(&wait_of(&order)), "no sooner than it says: {order}");
    assert!(order["problem"].as_str().unwrap().contains("503"), "{order}");
    let client = gateway.tls_client_of("secure", NAME);
    assert_eq!(client.get("/").await.text(), NAME);
}

#[tokio::test]
async fn a_paused_account_waits_for_a_person_and_shows_where_to_go() {
    let scene = Scene::begin().await;
    let detail = "Your account is temporarily prevented from requesting certificates for \
                  app.example.com and possibly others. Please visit: https://portal.test/unpause?jwt=x";
    let answer = Fate::Answer(429, Vec::new(), problem("rateLimited", detail));
    scene.between.expect("/order-plz", 1, answer);
    let gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    let order = stands(&gateway, NAME, |it| it["state"] == "blocked").await;
    assert!(order["problem"].as_str().unwrap().contains("https://portal.test/unpause?jwt=x"));
    assert_eq!(order["next_at"], Value::Null, "{order}");
    // Something that orders depend on is changed.
    gateway.reload(&scene.yaml(&[NAME], ", key_type: p384"), 2).await;
    gateway.wait_log(obtained(NAME)).await;
}

#[tokio::test]
async fn what_authorities_complain_about_is_told_with_its_usual_cause() {
    let scene = Scene::begin().await;
    let detail = "During secondary validation: 192.0.2.1: Fetching http://app.example.com: Timeout";
    let body = serde_json::json!({
        "status": "invalid", "identifier": { "type": "dns", "value": NAME },
        "challenges": [ { "type": "http-01", "url": "https://ca.test/1", "token": "t", "status": "invalid",
            "error": { "type": "urn:ietf:params:acme:error:connection", "detail": detail } } ],
    });
    scene.between.expect("/authZ/", 9, Fate::Answer(200, Vec::new(), body.to_string()));
    let gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    let line =
        gateway.wait_log(|line| field(line, "message") == "could not obtain a certificate").await;
    assert!(field(&line, "hint").as_str().unwrap().contains("several places"), "{line}");
    let order = stands(&gateway, NAME, |it| it["state"] == "backoff").await;
    assert!(order["problem"].as_str().unwrap().contains("secondary validation"), "{order}");
}

#[tokio::test]
async fn a_record_of_the_caa_type_that_forbids_is_looked_at_daily() {
    let scene = Scene::begin().await;
    let detail = "CAA record for app.example.com prevents issuance";
    let answer = Fate::Answer(403, Vec::new(), problem("caa", detail));
    scene.between.expect("/finalize-order/", 1, answer);
    let gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    let order = stands(&gateway, NAME, |it| it["state"] == "backoff").await;
    assert!(wait_of(&order) > 80_000, "{order}");
    let told = order["problem"].as_str().unwrap();
    assert!(
        told.contains("prevents issuance") && told.contains("CAA record of the name"),
        "{told}"
    );
}

#[tokio::test]
async fn a_name_that_the_authority_forbids_waits_for_a_person() {
    let scene = Scene::begin().await;
    let gateway = Gateway::start(scene.yaml(&["blocked.example.test", NAME], "")).await;
    let text = scene
        .yaml(&["blocked.example.test", NAME], "")
        .replace("  blocked.example.test: {", "  blocked.example.test: { certificate: acme,");
    gateway.reload(&text, 2).await;
    stands(&gateway, "blocked.example.test", |it| it["state"] == "blocked").await;
    gateway.wait_log(obtained(NAME)).await;
}

#[tokio::test]
async fn an_authority_that_has_forgotten_everything_gets_the_account_again() {
    let mut scene = Scene::begin().await;
    let mut gateway = scene.obtained().await;
    kill(&mut gateway).await;
    let accounts = gateway.directory().join("storage/accounts");
    let account = fs::read_dir(accounts).unwrap().next().unwrap().unwrap().path();
    let file = account.join("account.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    kept["made_at"] = (Clock::default().now() - 200_000).into();
    fs::write(&file, kept.to_string()).unwrap();
    scene.pebble = scene.pebble.restart().await;
    let gateway = gateway.again(&scene.yaml(&[NAME, "b.example.com"], "")).await;
    gateway.wait_log(obtained("b.example.com")).await;
    let again = |line: &Value| {
        field(line, "message") == "the authority had lost the ACME account, made it again"
    };
    gateway.wait_log(again).await;
    scene.assert_served(&gateway, "b.example.com").await;
    assert_eq!(scene.pebble.issued(), 1, "what is good is not ordered again");
}

#[tokio::test]
async fn another_way_to_prove_the_name_is_tried_after_a_failure() {
    let (web, secure) = steady();
    // The authority looks for port 80 where nobody is.
    let scene = Scene::with((closed(), secure), Settings::default()).await;
    let scene = Scene { addresses: (web, secure), ..scene };
    let directory = TempDir::new().unwrap();
    let storage = Storage::open(&directory.path().join("storage")).unwrap();
    let past = Clock::default().now() - 5 * MINUTE;
    let mut record = Record::new(scene.target(NAME), past);
    let of = scene.between.directory();
    let attempt =
        Attempt { id: NAME, directory: &of, directories: &[&of], left: None, retry_after: None };
    record.failed(attempt, LastProblem::default(), past);
    let lock = storage.lock(&CertId::new(NAME)).unwrap().unwrap();
    storage.keep_record(&lock, &record).unwrap();
    drop(lock);
    let text = scene.yaml(&[NAME], ", challenges: [http-01, tls-alpn-01]");
    let gateway = Gateway::start_in(directory, &text).await;
    gateway.wait_log(obtained(NAME)).await;
    let asked = scene.between.requests();
    assert_eq!(asked.iter().filter(|path| path.contains("/chalZ/")).count(), 1, "{asked:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_served_until_there_is_another() {
    let scene = Scene::begin().await;
    let directory = TempDir::new().unwrap();
    keep_expired(&scene, directory.path().join("storage"));
    scene.between.expect("/dir", 9, Fate::Hold);
    let gateway = Gateway::start_in(directory, &scene.yaml(&[NAME], "")).await;
    let shown = served(&gateway).await;
    assert!(shown.contains("subject=CN = long.gone") || shown.contains("CN=long.gone"), "{shown}");
    scene.between.release();
    let line = gateway.wait_log(obtained(NAME)).await;
    assert_eq!(field(&line, "reason"), "expired", "{line}");
    scene.assert_served(&gateway, NAME).await;
}

/// A certificate for [`NAME`] that ended long ago.
fn keep_expired(scene: &Scene, root: PathBuf) {
    let storage = Storage::open(&root).unwrap();
    let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "long.gone");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 3, 31);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let meta = Meta { target: scene.target(NAME), saved_at: 1, ..Meta::default() };
    let key_pem = Secret(key.serialize_pem());
    let pair = Pair { key_pem, chain_pem: made.pem(), meta };
    let lock = storage.lock(&CertId::new(NAME)).unwrap().unwrap();
    storage.save(Place::Live, &lock, &pair).unwrap();
}

/// What openssl says of the certificate that is served.
async fn served(gateway: &Gateway) -> String {
    let address = gateway.address("secure").to_string();
    let shown = run("openssl", ["s_client", "-connect", &address, "-servername", NAME]).await;
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[tokio::test]
async fn a_window_in_the_past_means_a_new_key_and_garbage_means_nothing() {
    let scene = Scene::begin().await;
    if !scene.pebble.offers("renewalInfo").await {
        return;
    }
    let garbage = Fate::Answer(200, Vec::new(), "{\"suggestedWindow\":{\"start\":7}}".to_owned());
    scene.between.expect("/draft-ietf-acme-ari", 1, garbage);
    let mut gateway = scene.obtained().await;
    scene.between.met(1).await;
    scene.assert_served(&gateway, NAME).await;
    kill(&mut gateway).await;
    assert_eq!(scene.pebble.issued(), 1);

    // The next answer recalls it; it is asked for at once.
    let old = fs::read_to_string(live(&gateway, "000001/chain.pem")).unwrap();
    let old_key = fs::read_to_string(live(&gateway, "000001/key.pem")).unwrap();
    scene.pebble.set_renewal_info(&old, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z").await;
    let state = live(&gateway, "state.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    record["ari"]["next_poll"] = 0.into();
    fs::write(&state, record.to_string()).unwrap();
    let gateway = gateway.again(&scene.yaml(&[NAME], "")).await;
    let line = gateway.wait_log(obtained(NAME)).await;
    assert_eq!(field(&line, "reason"), "revoked", "{line}");
    assert_eq!(scene.pebble.issued(), 2);
    assert_ne!(fs::read_to_string(live(&gateway, "000002/key.pem")).unwrap(), old_key);
}

#[tokio::test]
async fn a_chain_that_has_rotted_is_put_aside_and_ordered_anew() {
    let scene = Scene::begin().await;
    let mut gateway = scene.obtained().await;
    kill(&mut gateway).await;
    let chain = live(&gateway, "000001/chain.pem");
    let text = fs::read_to_string(&chain).unwrap();
    fs::write(&chain, &text[..text.len() / 3]).unwrap();
    let gateway = gateway.again(&scene.yaml(&[NAME], "")).await;
    gateway.wait_log(obtained(NAME)).await;
    scene.assert_served(&gateway, NAME).await;
    let quarantine = gateway.directory().join("storage/quarantine");
    assert_eq!(fs::read_dir(quarantine).unwrap().count(), 1);
    assert_eq!(scene.pebble.issued(), 2);
}

#[tokio::test]
async fn a_disk_that_fills_while_an_order_is_under_way_costs_no_certificate() {
    let scene = Scene::begin().await;
    let Some(program) = on_a_small_disk().await else {
        println!("not tested: this system has no private mounts (unshare --mount)");
        return;
    };
    scene.between.expect("/certZ/", 1, Fate::Hold);
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("storage")).unwrap();
    // Not of a minute, which would be over when there is room again.
    let text = scene.yaml(&[NAME], "");
    let gateway = Gateway::start_program(program, directory, &text).await;
    scene.between.met(1).await;
    let disk = PathBuf::from(format!("/proc/{}/root", gateway.id()))
        .join(gateway.directory().strip_prefix("/").unwrap())
        .join("storage");
    let filler = disk.join("filler");
    while fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filler)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &[0; 4096]))
        .is_ok()
    {}
    scene.between.release();
    let unsaved = "could not save a certificate, serving it from memory";
    gateway.wait_log(|line| field(line, "message") == unsaved).await;
    scene.assert_served(&gateway, NAME).await;
    assert!(!disk.join("live").join(NAME).join("000001").exists(), "no litter");

    // There is room again: it is saved, and nothing is ordered for it.
    fs::remove_file(filler).unwrap();
    let saved = disk.join("live").join(NAME).join("000001/chain.pem");
    let started = SystemTime::now();
    while !saved.exists() {
        assert!(started.elapsed().unwrap() < Duration::from_secs(120), "{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(scene.pebble.issued(), 1);
}

/// The gateway with a file system of half a MiB for `storage` in its working directory.
async fn on_a_small_disk() -> Option<Command> {
    for flags in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let attempt = ["sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"];
        if run("unshare", [flags, &attempt].concat()).await.status.success() {
            let script = "mount -t tmpfs -o size=512k,mode=700 tmpfs storage && exec \"$0\" \"$@\"";
            let mut command = Command::new("unshare");
            command.args(flags).args(["sh", "-c", script, env!("CARGO_BIN_EXE_wardgate")]);
            return Some(command);
        }
    }
    None
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_and_renews_nothing() {
    let scene = Scene::begin().await;
    let mut gateway = scene.obtained().await;
    kill(&mut gateway).await;
    let mut program = Command::new("faketime");
    // It waits for the gateway, which is to end with it.
    program.args(["-m", "-f", "+3650d", "setpriv", "--pdeathsig", "KILL"]);
    program.arg(env!("CARGO_BIN_EXE_wardgate"));
    let directory = gateway.take_directory();
    let gateway = Gateway::start_program(program, directory, &scene.yaml(&[NAME], "")).await;
    let wrong = "the clock of this machine is behind the authority's (below zero: ahead)";
    let line = gateway.wait_log(|line| field(line, "message") == wrong).await;
    assert!(field(&line, "seconds").as_i64().unwrap() < -300_000_000, "{line}");
    stands(&gateway, NAME, |it| it["state"] == "active").await;
    scene.assert_served(&gateway, NAME).await;
    assert_eq!(scene.pebble.issued(), 1, "it is good by the authority's clock");
}

#[tokio::test]
async fn an_authority_that_hangs_delays_nobody() {
    let scene = Scene::begin().await;
    scene.between.expect("/dir", 9, Fate::Hang);
    let mut gateway = Gateway::start(scene.yaml(&[NAME], "")).await;
    scene.between.met(1).await;
    let client = gateway.tls_client_of("secure", NAME);
    assert_eq!(client.get("/").await.text(), NAME);
    let admin = Client::new(gateway.admin_address()).host("localhost");
    assert_eq!(admin.get("/ready").await.status, 200);
    gateway.drain();
    assert!(gateway.exit_status().await.success(), "it ends at once");
}
