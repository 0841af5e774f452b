//! A gateway with thousands of names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use wardgate::acme::schedule::Life;
use wardgate::acme::storage::{CertId, Place, Storage};

use super::gateway::{at, obtained, orders, verifying};
use crate::support::{Gateway, Pebble, Settings, field, steady, within};

const NAMES: usize = 5_000;

/// The one that is renewed.
const ONE: &str = "n4321.example.com";

fn names() -> impl Iterator<Item = String> {
    (0..NAMES).map(|number| format!("n{number:04}.example.com"))
}

/// Certificates of all names, as a gateway before has left them.
fn keep_all(live: &Path, directory: &str) {
    let made = rcgen::generate_simple_self_signed(["*.example.com".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for name in names() {
        let kept = live.join(&name).join("000001");
        fs::create_dir_all(&kept).unwrap();
        let write = |file: &str, text: &str| {
            use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
            fs::set_permissions(&kept, PermissionsExt::from_mode(0o700)).unwrap();
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).mode(0o600).open(kept.join(file)).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        write("key.pem", &key);
        write("chain.pem", &chain);
        let meta =
            json!({ "names": [name], "directory": directory, "profile": "classic", "saved_at": 1 });
        write("meta.json", &meta.to_string());
        fs::write(kept.parent().unwrap().join("current"), "000001").unwrap();
    }
}

/// When each certificate's directory was changed last.
fn changes(live: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let entries = fs::read_dir(live).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::metadata(path).unwrap().modified().unwrap())).collect()
}

#[tokio::test]
async fn one_of_five_thousand_is_renewed_and_the_others_are_left_alone() {
    let addresses = steady();
    let pebble = Pebble::start(addresses, Settings::default()).await;
    let mut text = format!(
        "listeners:\n  web: {{ bind: \"{}\", protocol: http }}\n  \
         secure: {{ bind: \"{}\", protocol: https }}\nsites:\n",
        addresses.0, addresses.1
    );
    for name in names() {
        text += &format!("  {name}: {{ https: both, routes: [ {{ respond: {name} }} ] }}\n");
    }
    text += &at(&pebble, "");
    let directory = TempDir::new().unwrap();
    let live = directory.path().join("storage/live");
    keep_all(&live, &pebble.authority.directory);
    let storage = Storage::open(&directory.path().join("storage")).unwrap();
    let found = storage.load(Place::Live, &CertId::new(ONE)).unwrap().generation.unwrap();
    let tag = Life::of(&found.certificate.leaf).tag().to_owned();
    let revoked = json!({ "is_revoked": true, "certificate": tag });
    fs::write(live.join(ONE).join("state.json"), revoked.to_string()).unwrap();
    let before = changes(&live);

    let program = std::env::var_os("WARDGATE_PROGRAM");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_wardgate").into());
    let started = Instant::now();
    let gateway = Gateway::start_program(Command::new(program), directory, &text).await;
    let ready = started.elapsed();
    let line = gateway.wait_log(obtained(ONE)).await;
    let renewed = started.elapsed();
    assert_eq!(field(&line, "reason"), "revoked", "{line}");
    let memory = gateway.memory() / 1024;
    println!(
        "{NAMES} names: ready after {} ms, one renewed after {} ms, {} KiB, {:.1} KiB a name",
        ready.as_millis(),
        renewed.as_millis(),
        memory,
        memory as f64 / NAMES as f64,
    );
    assert!(ready < Duration::from_secs(60), "{ready:?}");
    assert!(memory < NAMES * 64, "{memory} KiB");

    let client = verifying(&gateway, &pebble, ONE).await;
    // It is said when it is saved, and served a moment later.
    within("the new certificate", async {
        while client.try_get("/").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(client.get("/").await.text(), ONE);
    assert_eq!(pebble.issued(), 1);
    let standing = orders(&gateway).await;
    assert_eq!(standing.len(), NAMES);
    let is_active = |order: &Value| order["state"] == "active" && order["fails"] == 0;
    assert!(standing.iter().all(is_active), "{:?}", standing.iter().find(|it| !is_active(it)));
    for (path, after) in changes(&live) {
        let is_one = path.ends_with(ONE);
        assert_eq!(before[&path] != after, is_one, "{}", path.display());
    }
}
