//! Certificates of a gateway that another process takes over from.

use std::fs;
use std::path::{Path, PathBuf};

use super::gateway::{at, begin, obtained, verifying, yaml};
use crate::support::{Settings, run};
use crate::upgrade::Generations;

/// The files below `directory` that hold certificates and keys, with their bytes.
fn pairs(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pairs(&path));
        } else if path.extension().is_some_and(|extension| extension == "pem") {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_upgrade_orders_nothing_and_leaves_nothing_locked() {
    let (gateway, pebble) = begin(Settings::default()).await;
    let more = at(&pebble, "") + "shutdown: { grace: 30s }\n";
    gateway.reload(&yaml(&["app.example.com"], "https: both", &more), 2).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let before = pairs(&gateway.directory().join("storage"));
    assert!(!before.is_empty());
    let mut held = gateway.client_of("web").connect().await;
    held.send(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n").await.unwrap();

    let mut gateways = Generations::of(gateway);
    gateways.upgrade(&[]).await;
    let client = verifying(&gateways.first, &pebble, "app.example.com").await;
    assert_eq!(client.get("/").await.text(), "app.example.com");
    assert_eq!(pebble.issued(), 1, "the new process serves what there is");
    assert_eq!(pairs(&gateways.first.directory().join("storage")), before);

    // The old process still drains, and has let go of the certificate.
    let file = gateways.first.directory().join("gateway.yaml");
    let words =
        ["certs", "renew", "app.example.com", "--force", "--wait", "--config"].map(PathBuf::from);
    let renewed = run(env!("CARGO_BIN_EXE_wardgate"), words.into_iter().chain([file])).await;
    let said = String::from_utf8_lossy(&renewed.stderr);
    assert_eq!(renewed.status.code(), Some(0), "{said}");
    assert_eq!(pebble.issued(), 2);
    assert_eq!(client.get("/").await.text(), "app.example.com");
    held.send(b"\r\n").await.unwrap();
    let reply = held.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    drop(held);
    assert_eq!(gateways.first.end().await.code(), Some(0));
}
