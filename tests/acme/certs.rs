//! `wardgate certs`: what operators ask, of a running gateway and where none runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wardgate::acme::renewer::{
    Assignment, Commands, Deed, Renewer, Source, Taken, Verdict, Wanted, Work,
};
use wardgate::acme::rollover::Credentials;
use wardgate::acme::session::Authority;
use wardgate::acme::storage::{CertId, Place, Storage};
use wardgate::acme::time::Clock;

use super::gateway::{ask, at, begin, obtained, verifying, yaml};
use super::scene::Scene;
use crate::support::{Client, Gateway, Pebble, Settings, field, within};

const NAME: &str = "app.example.com";

/// Pebble chooses one by chance where none is asked for.
const LONG: &str = ", profile: classic";

/// What `wardgate certs` said, and its exit status.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// With this status, and this text on either output.
    fn is(&self, code: i32, text: &str) {
        assert!(
            self.code == code && (self.out.contains(text) || self.err.contains(text)),
            "{code} {text:?} was wanted: {self:?}"
        );
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit status {}\n{}\n{}", self.code, self.out, self.err)
    }
}

/// Runs `wardgate certs` beside the `gateway.yaml` in `directory`.
async fn certs(directory: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    command.arg("certs").args(arguments).current_dir(directory).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output: Output = within("wardgate certs", output).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A gateway with a certificate of `pebble`'s.
async fn with_certificate(settings: Settings, more: &str) -> (Gateway, Pebble, String) {
    let (gateway, pebble) = begin(settings).await;
    let text = yaml(&[NAME], "https: both", &at(&pebble, &format!("{LONG}{more}")));
    gateway.reload(&text, 2).await;
    gateway.wait_log(obtained(NAME)).await;
    (gateway, pebble, text)
}

/// The serial number of the certificate in service, by `certs show`.
async fn serial(directory: &Path) -> String {
    let shown = certs(directory, &["show", NAME, "--json"]).await;
    shown.json()["certificate"]["serial"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_table_shows_every_certificate_and_another_all_about_one() {
    let (gateway, pebble) = begin(Settings::default()).await;
    let sites = yaml(&[NAME, "bücher.example"], "https: both", "");
    let local = "  local.test: { routes: [ { respond: local } ] }\n";
    gateway.reload(&format!("{sites}{local}{}", at(&pebble, LONG)), 2).await;
    gateway.wait_log(obtained(NAME)).await;
    gateway
        .wait_log(|line| {
            field(line, "message") == "obtained a certificate" && field(line, "certificate") != NAME
        })
        .await;
    let directory = gateway.directory();
    let list = certs(directory, &["list"]).await;
    eprintln!("{list:?}");
    for text in
        [NAME, "bücher.example (xn--bcher-kva.example)", "local CA", "local.test", " %", "next "]
    {
        list.is(0, text);
    }
    assert!(list.out.lines().all(|line| line.chars().count() <= 80), "{list:?}");
    let json = certs(directory, &["list", "--json"]).await.json();
    let sources: Vec<&Value> =
        json["certificates"].as_array().unwrap().iter().map(|it| &it["source"]).collect();
    assert_eq!(sources, ["acme", "acme", "local_ca"], "{json:#}");

    let shown = certs(directory, &["show", "xn--bcher-kva.example"]).await;
    eprintln!("{shown:?}");
    for text in ["bücher.example", "active since", "in service", "SHA-256", "key.pem"] {
        shown.is(0, text);
    }
    let mut lines = shown.out.lines().filter(|line| !line.contains("/storage/"));
    assert!(lines.all(|line| line.chars().count() <= 80), "{shown:?}");
    certs(directory, &["show", "local.test"]).await.is(0, "local CA");
    certs(directory, &["show", "app.exmaple.com"]).await.is(1, "did you mean \"app.example.com\"?");
    certs(directory, &["renew", "local.test"]).await.is(1, "by itself");
}

#[tokio::test]
async fn renew_orders_at_once_and_waits_if_told_to() {
    let (gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let first = serial(directory).await;
    certs(directory, &["renew", NAME]).await.is(0, "--force renews it all the same");
    assert_eq!((serial(directory).await, pebble.issued()), (first.clone(), 1));
    let renewed = certs(directory, &["renew", NAME, "--force", "--wait"]).await;
    eprintln!("{renewed:?}");
    renewed.is(0, "renewed; next order");
    let second = serial(directory).await;
    assert!(second != first && pebble.issued() == 2, "{second}");
    certs(directory, &["renew", "--all", "--force"]).await.is(0, "begun");
    let is_third = |line: &Value| {
        obtained(NAME)(line) && field(line, "reason") == "requested" && pebble.issued() == 3
    };
    gateway.wait_log(is_third).await;
    // Three in seven days are the fewest that the authority's limits bear.
    certs(directory, &["renew", NAME]).await.is(0, "--force");

    pebble.break_dns_of(NAME).await;
    let failed = certs(directory, &["renew", NAME, "--force", "--wait"]).await;
    eprintln!("{failed:?}");
    failed.is(1, NAME);
    failed.is(1, "next try");
    let client = verifying(&gateway, &pebble, NAME).await;
    assert_eq!(client.get("/").await.text(), NAME, "the old one is served");
}

#[tokio::test]
async fn an_older_generation_is_served_at_once() {
    let (mut gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory().to_owned();
    let first = serial(&directory).await;
    certs(&directory, &["renew", NAME, "--force", "--wait"]).await.is(0, "renewed");
    let second = serial(&directory).await;
    let client = verifying(&gateway, &pebble, NAME).await;
    let mut kept = client.connect().await;
    certs(&directory, &["restore", NAME, "--generation", "9"]).await.is(1, "no good generation 9");
    let restored = certs(&directory, &["restore", NAME, "--generation", "1"]).await;
    eprintln!("{restored:?}");
    restored.is(0, "restored; next order");
    assert_eq!(serial(&directory).await, first);
    assert_eq!(client.get("/").await.text(), NAME);
    assert_eq!(ask(&mut kept, NAME).await, 200, "connections stay");

    // The same without a gateway.
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let list = certs(&directory, &["list"]).await;
    eprintln!("{list:?}");
    list.is(0, "no gateway runs");
    list.is(0, NAME);
    let shown = certs(&directory, &["show", NAME, "--json"]).await.json();
    assert_eq!(shown["certificate"]["serial"], first.as_str(), "{shown:#}");
    assert_eq!(shown["generations"].as_array().unwrap().len(), 3, "{shown:#}");
    certs(&directory, &["restore", NAME, "--generation", "2"]).await.is(0, "restored");
    assert_eq!(serial(&directory).await, second);
    certs(&directory, &["renew", NAME]).await.is(1, "only a running one does this");
}

#[tokio::test]
async fn the_exit_status_says_what_stands_in_the_way() {
    // Somebody else is at it.
    let (gateway, _pebble, text) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let locked = directory.join("storage/locks").join(format!("{NAME}.lock"));
    let lock = std::fs::File::open(&locked).unwrap();
    lock.lock().unwrap();
    let force = ["renew", NAME, "--force", "--wait"];
    certs(directory, &force).await.is(5, "busy");
    certs(directory, &["renew", NAME, "--force"]).await.is(5, "busy");
    certs(directory, &["restore", NAME, "--generation", "1"]).await.is(5, "busy");
    drop(lock);

    // The authority has said until when.
    let mut gateway = gateway;
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let file = gateway.directory().join(format!("storage/live/{NAME}/state.json"));
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let until = state["since"].as_i64().unwrap() + 3600;
    state["state"] =
        serde_json::json!({ "is": "limited", "until": until, "scope": { "scope": "authority" } });
    std::fs::write(&file, state.to_string()).unwrap();
    let gateway = gateway.again(&text).await;
    for arguments in [&["renew", NAME, "--force"][..], &force] {
        certs(gateway.directory(), arguments).await.is(3, "limited until 20");
    }
    certs(gateway.directory(), &["show", NAME]).await.is(0, "by a rate limit until");

    // Nothing but a change helps.
    let (gateway, pebble) = begin(Settings { needs_external: true, ..Settings::default() }).await;
    let wrong = at(&pebble, ", eab: { kid: kid-1, hmac_key: AAAA }");
    gateway.reload(&yaml(&[NAME], "https: both", &wrong), 2).await;
    gateway
        .wait_log(|line| {
            field(line, "message") == "cannot obtain a certificate until something is changed"
        })
        .await;
    let blocked = certs(gateway.directory(), &["renew", NAME, "--wait"]).await;
    eprintln!("{blocked:?}");
    blocked.is(4, "blocked");
    let list = certs(gateway.directory(), &["list"]).await;
    eprintln!("{list:?}");
    list.is(0, "waits for a change");
}

#[tokio::test]
async fn the_admin_api_says_what_is_wrong_with_a_question() {
    let (gateway, _pebble, _) = with_certificate(Settings::default(), "").await;
    let token = std::fs::read_to_string(gateway.directory().join("storage/admin/token")).unwrap();
    let admin = Client::new(gateway.admin_address()).host("localhost");
    let token =
        format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", token.trim());
    for (path, body, status, text) in [
        ("/certs/other.example/renew", "", 404, "no site or certificate is called"),
        ("/certs/app.example.com/renew", "{\"forse\":true}", 400, "unknown field `forse`"),
        ("/certs/app.example.com/renew", "[]", 400, "no JSON object"),
        ("/certs/app.example.com/restore", "", 400, "generation"),
        ("/certs/app.example.com/restore", "{\"generation\":7}", 502, "no good generation 7"),
        ("/certs/app.example.com/renew", "{}", 200, "early"),
        ("/certs/app.example.com/renew", "{\"force\":true}", 202, "begun"),
    ] {
        let reply = admin.send("POST", path, &token, body.as_bytes()).await;
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
        assert!(reply.text().contains(text), "{path} {body}: {}", reply.text());
    }
    assert_eq!(admin.send("POST", "/renew", "", b"").await.status, 401);
    let shown = admin.get("/certs/www.example.com").await;
    assert_eq!(shown.status, 404);
}

/// The file of the only account.
fn account_file(directory: &Path) -> PathBuf {
    let mut accounts = std::fs::read_dir(directory.join("storage/accounts")).unwrap();
    accounts.next().unwrap().unwrap().path().join("account.json")
}

async fn thumbprint(directory: &Path) -> String {
    let shown = certs(directory, &["account", "show", "--json"]).await.json();
    shown["accounts"][0]["thumbprint"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_revoked_certificate_is_replaced_and_never_served_again() {
    let (gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let first = serial(directory).await;
    certs(directory, &["revoke", NAME, "--reason", "superseded"]).await.is(1, "--yes");
    certs(directory, &["revoke", NAME, "--reason", "boredom", "--yes"]).await.is(2, "superseded");
    assert_eq!(pebble.status_of(&first).await, "Valid");

    // A new one first.
    let revoke = ["revoke", NAME, "--yes", "--reason"];
    let said = certs(directory, &[&revoke[..], &["superseded", "--reissue"]].concat()).await;
    eprintln!("{said:?}");
    said.is(0, "renewed, and the old one revoked");
    let second = serial(directory).await;
    assert_ne!(first, second);
    assert_eq!(
        (pebble.status_of(&first).await, pebble.status_of(&second).await),
        ("Revoked".into(), "Valid".into())
    );
    certs(directory, &["restore", NAME, "--generation", "1"]).await.is(1, "1 was revoked");

    // The rule replaces what is revoked, at once. Its own key signs where the account is gone.
    for (reason, gone) in [("keyCompromise", false), ("cessationofoperation", true)] {
        let present = serial(directory).await;
        let file = account_file(directory);
        if gone {
            std::fs::rename(&file, directory.join("gone")).unwrap();
        }
        let said = certs(directory, &[&revoke[..], &[reason]].concat()).await;
        eprintln!("{said:?}");
        said.is(0, "revoked; next order");
        said.is(0, "it is revoked");
        assert_eq!(pebble.status_of(&present).await, "Revoked");
        let is_held_back = said.out.contains("held back: its names were issued too often");
        assert_eq!(is_held_back, gone, "{said:?}");
        if reason == "keyCompromise" {
            let renewed = |line: &Value| obtained(NAME)(line) && field(line, "reason") == "revoked";
            gateway.wait_log(renewed).await;
            within("another to be served", async { while serial(directory).await == present {} })
                .await;
            assert_eq!(pebble.status_of(&serial(directory).await).await, "Valid");
        }
    }
    // Three in seven days: the fourth needs somebody who insists, or waits.
    certs(directory, &["show", NAME]).await.is(0, "issued too often in seven");
    certs(directory, &["renew", NAME, "--force", "--wait"]).await.is(0, "renewed");
}

#[tokio::test]
async fn an_account_gets_another_key_and_survives_half_of_it() {
    let (gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let first = thumbprint(directory).await;
    let shown = certs(directory, &["account", "show"]).await;
    eprintln!("{shown:?}");
    for text in ["valid", "ops@example.com", "account.json", &first] {
        shown.is(0, text);
    }
    certs(directory, &["account", "rollover"]).await.is(0, "has a new key");
    let second = thumbprint(directory).await;
    assert_ne!(first, second);
    let renew = ["renew", NAME, "--force", "--wait"];
    certs(directory, &renew).await.is(0, "renewed");

    // A key that the authority has never heard of, as a crash leaves it.
    let break_off = || {
        let file = account_file(directory);
        let text = std::fs::read_to_string(&file).unwrap();
        let mut kept: Value = serde_json::from_str(&text).unwrap();
        let present = Credentials::parse(kept["credentials"].as_str().unwrap()).unwrap();
        kept["credentials"] = present.with_new_key().unwrap().text().into();
        std::fs::write(file.with_extension("json.prev"), text).unwrap();
        std::fs::write(&file, kept.to_string()).unwrap();
    };
    break_off();
    assert_ne!(thumbprint(directory).await, second);
    certs(directory, &renew).await.is(0, "renewed");
    assert_eq!(thumbprint(directory).await, second, "the key before counts");
    break_off();
    certs(directory, &["account", "rollover"]).await.is(0, "has a new key");
    assert_ne!(thumbprint(directory).await, second);
    certs(directory, &renew).await.is(0, "renewed");
    assert_eq!(pebble.issued(), 4);
    certs(directory, &["account", "rollover", "--authority", "other"]).await.is(1, "127.0.0.1");
}

#[tokio::test]
async fn a_deactivated_account_orders_nothing_until_somebody_has_another_made() {
    let (gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    certs(directory, &["account", "deactivate"]).await.is(1, "--yes");
    let ended = certs(directory, &["account", "deactivate", "--yes"]).await;
    eprintln!("{ended:?}");
    ended.is(0, "deactivated; to have another account made, remove");
    let shown = certs(directory, &["account", "show"]).await;
    eprintln!("{shown:?}");
    shown.is(0, "status      deactivated");
    shown.is(0, "account made, remove");
    let renew = ["renew", NAME, "--force", "--wait"];
    let blocked = certs(directory, &renew).await;
    eprintln!("{blocked:?}");
    blocked.is(4, "the account was deactivated; to have another made, remove");
    certs(directory, &["account", "rollover"]).await.is(4, "deactivated");
    let client = verifying(&gateway, &pebble, NAME).await;
    assert_eq!(client.get("/").await.text(), NAME, "what was obtained is served");

    std::fs::remove_file(account_file(directory)).unwrap();
    certs(directory, &["account", "show"]).await.is(0, "the first order makes one");
    certs(directory, &["renew", "--all", "--wait", "--force"]).await.is(0, "renewed");
    certs(directory, &["account", "show"]).await.is(0, "status      valid");
    certs(directory, &["renew", NAME, "--staging"]).await.is(1, "of Let's Encrypt");
}

#[tokio::test]
async fn what_is_exported_is_what_other_programs_read() {
    let (gateway, _pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let export = ["export", NAME, "--chain", "out.pem", "--key", "out.key"];
    certs(directory, &export).await.is(0, "chain in out.pem, key in out.key");
    certs(directory, &export).await.is(1, "exists; --force replaces it");
    certs(directory, &[&export[..], &["--force"]].concat()).await.is(0, "chain in");
    certs(directory, &[&export[..], &["--force", "--generation", "4"]].concat())
        .await
        .is(1, "generation 4");
    certs(directory, &["export", "ap.example.com", "--chain", "a", "--key", "b"])
        .await
        .is(1, "did you mean \"app.example.com\"?");
    let openssl = async |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(directory);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let of_chain = openssl(&["x509", "-in", "out.pem", "-noout", "-pubkey"]).await;
    let of_key = openssl(&["pkey", "-in", "out.key", "-pubout"]).await;
    assert_eq!(of_chain, of_key);
    let shown = openssl(&["x509", "-in", "out.pem", "-noout", "-serial"]).await;
    assert!(shown.to_lowercase().contains(&serial(directory).await), "{shown}");
}

#[tokio::test]
async fn a_rehearsal_is_neither_kept_nor_served() {
    let scene = Scene::new().await;
    // The authority of the configuration is down; the other one is asked all the same.
    let down = "https://127.0.0.1:1/dir";
    let text = format!("sites: {{ {NAME}: {{ routes: [ {{ respond: x }} ] }} }}\n")
        + &format!("acme: {{ email: ops@example.com, directory: \"{down}\" }}\n");
    let loaded = wardgate::config::from_text("gateway.yaml", &text, Path::new(""));
    let acme = loaded.unwrap_or_else(|faults| panic!("{faults}")).config.acme.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::open(directory.path()).unwrap();
    let (id, clock) = (CertId::new(NAME), Clock::default());
    let transport = scene.pebble.transport(Default::default());
    let source = Source {
        settings: acme.authority.clone(),
        authority: Authority::new(down, transport).with_clock(&clock),
        ca_digest: None,
    };
    let (name, names) = (format!("acme:{NAME}"), vec![NAME.to_owned()]);
    let wanted = vec![Wanted { id: id.clone(), name, names }];
    let sources = vec![source];
    let events = wardgate::acme::event::Events::silent();
    let assignment = Assignment { acme, storage: storage.clone(), sources, clock, wanted, events };
    let (assignments, given) = watch::channel(Some(Arc::new(assignment)));
    let (commands, heard) = Commands::channel();
    let install = Arc::new(|_: &CertId, _| panic!("nothing is to be served"));
    let challenges = Arc::clone(scene.inside.store.challenges());
    let renewer = Renewer::new(challenges, install, given, Default::default(), heard);
    let stop = CancellationToken::new();
    let renewing = tokio::spawn(renewer.keep(stop.clone()));
    let rehearse = async || {
        let (of, directory) = (down.to_owned(), scene.pebble.authority.directory.clone());
        let work = Work::Rehearse { of, directory };
        match commands.act(id.clone(), Deed::Work(work)).await.unwrap() {
            Taken::Decided(verdict) => verdict,
            Taken::Begun(pending) => pending.verdict().await,
        }
    };
    let rehearsed = within("a rehearsal", async {
        loop {
            match rehearse().await {
                // The order by the rule, which is about to fail.
                Verdict::Busy => tokio::task::yield_now().await,
                verdict => return verdict,
            }
        }
    });
    assert_eq!(rehearsed.await, Verdict::Done);
    assert_eq!(scene.pebble.issued(), 1);
    assert!(storage.kept(Place::Live, &id).unwrap().is_empty());
    scene.pebble.break_dns_of(NAME).await;
    let Verdict::Failed { problem, .. } = rehearse().await else { panic!("it cannot work") };
    assert!(problem.contains(NAME), "{problem}");
    scene.assert_clean();
    drop(assignments);
    stop.cancel();
    renewing.await.unwrap();
}

/// A certificate of an operator's own CA for `name`, that ends after `days`: PEM, key and CA.
fn own_certificate(name: &str, days: u64) -> (String, String, String) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    params.not_before = (SystemTime::now() - day).into();
    params.not_after = (SystemTime::now() + u32::try_from(days).unwrap() * day).into();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem(), ca.pem())
}

#[tokio::test]
async fn what_is_imported_is_served_until_it_is_taken_away() {
    let (gateway, pebble, _) = with_certificate(Settings::default(), "").await;
    let directory = gateway.directory();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    let (chain, key, ca) = own_certificate(NAME, 300);
    let (other, other_key, _) = own_certificate("other.example.com", 300);
    for (name, text) in [
        ("own.pem", &*chain),
        ("own.key", &*key),
        ("ca.pem", &*ca),
        ("other.pem", &*other),
        ("other.key", &*other_key),
        ("word", "pass word\nrest\n"),
    ] {
        write(name, text);
    }
    let import = ["import", NAME, "--chain"];
    let pem =
        |chain: &'static str, key: &'static str| [&import[..], &[chain, "--key", key]].concat();
    let wrong = certs(directory, &pem("other.pem", "other.key")).await;
    eprintln!("{wrong:?}");
    wrong.is(1, "not imported");
    wrong.is(1, "it is not valid for app.example.com");
    certs(directory, &pem("own.pem", "other.key")).await.is(1, "another certificate");
    certs(directory, &["import", NAME]).await.is(1, "say what");
    certs(directory, &["import", NAME, "--remove"]).await.is(1, "nothing was imported");

    let done = certs(directory, &pem("own.pem", "own.key")).await;
    eprintln!("{done:?}");
    done.is(0, "the gateway serves it");
    let own = gateway.client_of("secure").tls(&directory.join("ca.pem")).host(NAME);
    assert_eq!(own.get("/").await.text(), NAME);
    let list = certs(directory, &["list"]).await;
    eprintln!("{list:?}");
    list.is(0, "app.example.com  imported  100 %");
    certs(directory, &["show", NAME]).await.is(0, "/imported/");
    certs(directory, &["renew", NAME]).await.is(1, "--remove");
    certs(directory, &["renew", "--all"]).await.is(0, "no authority issues");

    // It goes out as it came in, and comes in again.
    let pfx = ["--pfx", "own.pfx", "--password-file", "word"];
    certs(directory, &[&["export", NAME], &pfx[..]].concat()).await.is(0, "own.pfx");
    let gone = certs(directory, &["import", NAME, "--remove"]).await;
    gone.is(0, "the gateway takes note");
    let client = verifying(&gateway, &pebble, NAME).await;
    assert_eq!(client.get("/").await.text(), NAME, "what was ordered");
    certs(directory, &["import", NAME, "--pfx", "own.pfx"]).await.is(1, "password");
    let again = certs(directory, &[&["import", NAME, "--json"], &pfx[..]].concat()).await;
    assert_eq!((again.code, &again.json()["generation"]), (0, &1.into()), "{again:?}");
    assert_eq!(own.get("/").await.text(), NAME);
    assert_eq!(pebble.issued(), 1);
}
