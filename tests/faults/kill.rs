//! A process that is killed while it writes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::Gateway;

/// How often it is killed.
const ROUNDS: usize = 10;

/// Sites with certificates of the gateway's own CA, one more in each round, and one whose certificate
/// lies in files.
fn yaml(rounds: usize) -> String {
    let mut text = "listeners: { secure: { bind: \"127.0.0.1:0\", protocol: https } }\n\
         certificates: { mine: { chain: c.pem, key: k.pem } }\n\
         sites:\n  files.test: { certificate: mine, routes: [ { respond: files } ] }\n"
        .to_owned();
    for round in 0..=rounds {
        let _ = writeln!(
            text,
            "  r{round}.test: {{ certificate: internal, routes: [ {{ respond: r{round} }} ] }}"
        );
    }
    text
}

/// Another certificate for files.test, each file replaced by renaming.
fn renew(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["files.test".to_owned()]).unwrap();
    for (name, text) in [("c.pem", made.cert.pem()), ("k.pem", made.signing_key.serialize_pem())] {
        fs::write(directory.join("new"), text).unwrap();
        fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }
}

fn files(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path.display().to_string()),
        }
    }
}

#[tokio::test]
async fn killed_again_and_again_while_it_reloads_nothing_is_lost() {
    let mut directory = tempfile::TempDir::new().unwrap();
    let root = directory.path().to_owned();
    renew(&root);
    let mut random = fastrand::Rng::with_seed(7);
    let mut first = None;
    for round in 0..ROUNDS {
        let mut gateway = Gateway::start_in(directory, &yaml(round)).await;
        let ca = fs::read(gateway.ca()).unwrap();
        let token = fs::read(root.join("storage/admin/token")).unwrap();
        let first = first.get_or_insert_with(|| (ca.clone(), token.clone()));
        assert!(*first == (ca, token), "round {round}: the CA and the token are the first ones");
        // Everything that was served before a kill is served after it, under the same CA.
        for site in 0..=round {
            let host = format!("r{site}.test");
            let reply = gateway.tls_client_of("secure", &host).get("/").await;
            assert_eq!(reply.text(), format!("r{site}"), "round {round}");
        }
        renew(&root);
        gateway.rewrite(&yaml(round + 1));
        gateway.signal("HUP");
        // Any moment will do, before, during and after.
        tokio::time::sleep(Duration::from_micros(random.u64(0..40_000))).await;
        gateway.signal("KILL");
        gateway.exit_status().await;
        directory = gateway.take_directory();
    }
    let mut gateway = Gateway::start_in(directory, &yaml(ROUNDS)).await;
    let client = gateway.client_of("secure").tls(&root.join("c.pem")).host("files.test");
    assert_eq!(client.get("/").await.text(), "files", "the newest of the files, chain and key");
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let mut left = Vec::new();
    files(&root.join("storage"), &mut left);
    let names = left.iter().map(|path| path.rsplit('/').next().unwrap_or_default());
    let litter: Vec<_> =
        names.filter(|name| name.contains("tmp") || name.contains("new")).collect();
    assert!(litter.is_empty(), "{litter:?} of {left:#?}");
    assert!(left.len() < 12 + 3 * (ROUNDS + 1), "{} files: {left:#?}", left.len());
}
