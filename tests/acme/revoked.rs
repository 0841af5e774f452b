//! A certificate that its authority has revoked, as its responder says, and what becomes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::gateway::{at, obtained, yaml};
use crate::support::{Answer, Gateway, Origin, Pebble, Received, Settings, field, run, steady};

/// Answers in the name of an authority once its certificate, its key and an index are in `directory`.
fn answer(request: &Received, directory: &Path) -> Answer {
    if request.method != "POST" {
        // As responders do that know nothing else.
        return Answer::text(405, "ask by POST");
    }
    if !directory.join("index.txt").exists() {
        return Answer::text(503, "not yet");
    }
    fs::write(directory.join("question.der"), &request.body).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.current_dir(directory).args(["ocsp", "-index", "index.txt", "-nmin", "60"]);
    openssl.args(["-CA", "issuer.pem", "-rsigner", "issuer.pem", "-rkey", "issuer.key"]);
    openssl.args(["-reqin", "question.der", "-respout", "answer.der"]);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = fs::read(directory.join("answer.der")).unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    Answer::Bytes([head.into_bytes(), answer].concat())
}

/// The files of the certificate in service.
fn in_service(storage: &Path) -> PathBuf {
    let live = storage.join("live/app.example.com");
    let current = fs::read_to_string(live.join("current")).unwrap();
    live.join(current.trim())
}

#[tokio::test]
async fn a_revoked_certificate_is_replaced_at_once_with_a_new_key() {
    let directory = TempDir::new().unwrap();
    let own = directory.path().to_owned();
    let responder = Origin::answering(move |request| answer(request, &own)).await;
    let settings = Settings { responder: responder.url(), ..Settings::default() };
    let (web, secure) = steady();
    let pebble = Pebble::start((web, secure), settings).await;
    let text = yaml(&["app.example.com"], "https: both", &at(&pebble, ", profile: classic"));
    let text = text.replacen("127.0.0.1:0", &web.to_string(), 1);
    let text = text.replacen("127.0.0.1:0", &secure.to_string(), 1);
    let mut gateway = Gateway::start(&text).await;
    gateway.wait_log(obtained("app.example.com")).await;
    let of_site = |message: &'static str| {
        move |line: &Value| {
            field(line, "message") == message
                && field(line, "certificate") == "acme:app.example.com"
        }
    };
    let line = gateway.wait_log(of_site("could not obtain an OCSP response")).await;
    assert!(field(&line, "error").as_str().unwrap().contains("status 503"), "{line}");

    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let files = in_service(&gateway.directory().join("storage"));
    let chain = fs::read_to_string(files.join("chain.pem")).unwrap();
    let issuer = chain.find("-----END CERTIFICATE-----\n").map(|end| &chain[end + 26..]).unwrap();
    fs::write(directory.path().join("issuer.pem"), issuer).unwrap();
    fs::write(directory.path().join("issuer.key"), pebble.issuer_key().await).unwrap();
    let path = files.join("chain.pem");
    let serial = run("openssl", ["x509", "-noout", "-serial", "-in", path.to_str().unwrap()]).await;
    let serial = String::from_utf8(serial.stdout).unwrap();
    let serial = serial.trim().strip_prefix("serial=").unwrap();
    let line = format!("R\t491231235959Z\t260101000000Z,keyCompromise\t{serial}\tunknown\t/CN=x\n");
    fs::write(directory.path().join("index.txt"), line).unwrap();

    let gateway = gateway.again(&text).await;
    gateway.wait_log(of_site("the certificate is revoked")).await;
    let line = gateway.wait_log(obtained("app.example.com")).await;
    assert_eq!(field(&line, "reason"), "revoked", "{line}");
    assert_eq!(pebble.issued(), 2);
    let renewed = in_service(&gateway.directory().join("storage"));
    let key = |files: &Path| fs::read_to_string(files.join("key.pem")).unwrap();
    assert_ne!(key(&renewed), key(&files), "the old key may be known");
}
