//! What backends are told.

use std::fs;

use rcgen::{DnType, DnValue};

use super::Scene;
use crate::support::{field, run};

/// Names under which some backend would take somebody for authenticated.
const FORGED: [&str; 22] = [
    "Client-Cert",
    "client_cert",
    "Client-Cert-Chain",
    "X-Client-Verify",
    "X_Client_Verify",
    "X-Client-Cert",
    "X-Client-Cert-Subject",
    "X.Client.Cert.Subject",
    "X-Client_Cert-Issuer",
    "X-Client-Cert-Serial",
    "X-Client-Cert-Fingerprint",
    "X-Client-Cert-San",
    "X-SSL-Client-S-DN",
    "SSL_CLIENT_VERIFY",
    "X-Forwarded-Client-Cert",
    "X-Amzn-Mtls-Clientcert",
    "X-Clientcert",
    "X-ARR-ClientCert",
    "MS-ASPNETCORE-CLIENTCERT",
    "SSL-Client-Cert",
    "X-TLS-Client-Subject",
    "X-Forwarded-Tls-Client-Cert",
];

fn is_about_certificates(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["cert", "client", "ssl", "mtls"].iter().any(|part| name.contains(part))
}

#[tokio::test]
async fn what_clients_say_of_certificates_reaches_nobody() {
    let scene = Scene::start().await;
    let lines: Vec<String> = FORGED.iter().map(|name| format!("{name}: CN=root")).collect();
    let forged: Vec<&str> = lines.iter().flat_map(|line| ["-H", line]).collect();
    let mut requests = 0;
    for (host, name, ours) in [
        ("open.test", "", &[][..]),
        ("maybe.test", "", &["x-client-verify"]),
        (
            "members.test",
            "good",
            &[
                "client-cert",
                "x-client-cert-fingerprint",
                "x-client-cert-issuer",
                "x-client-cert-serial",
                "x-client-cert-subject",
                "x-client-verify",
            ],
        ),
    ] {
        // A trusted proxy's word on certificates counts no more than anybody's.
        for from in ["127.0.0.1", "127.0.0.2"] {
            for version in ["--http1.1", "--http2"] {
                let arguments = [&forged[..], &[version, "--interface", from]].concat();
                let status = scene.show("secure", host, name, &arguments).await;
                assert_eq!(status, Some(200), "{host} {version}");
                requests += 1;
                let received = scene.origin.received(requests).await.pop().unwrap();
                let mut found: Vec<String> = received
                    .headers
                    .iter()
                    .map(|(name, _)| name.to_ascii_lowercase())
                    .filter(|name| is_about_certificates(name))
                    .collect();
                found.sort();
                assert_eq!(found, ours, "{host} {version} {from}");
                let values: Vec<_> = ours.iter().flat_map(|name| received.values(name)).collect();
                assert_eq!(values.len(), ours.len(), "each once");
                assert!(values.iter().all(|value| !value.contains("root")), "{values:?}");
            }
        }
    }
    let plain = crate::support::Client::new(scene.gateway.address("web")).host("open.test");
    let head: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let proto = format!("{head}X-Forwarded-Proto: https\r\n");
    assert_eq!(plain.send("GET", "/", &proto, b"").await.status, 308);
}

#[tokio::test]
async fn the_backend_is_told_what_openssl_reads_in_the_certificate() {
    let scene = Scene::start().await;
    let hostile = scene.clients.client_with("ann", |params| {
        let name = &mut params.distinguished_name;
        name.push(DnType::CountryName, "FR");
        let text = "Zoé, \"CN=root\"+<x>;\\\r\nX-Client-Verify: SUCCESS ";
        name.push(DnType::OrganizationalUnitName, DnValue::Utf8String(text.to_owned()));
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0xff, 0x00, 0x0a]));
    });
    scene.write("hostile", &hostile);
    for (index, name) in ["good", "hostile"].into_iter().enumerate() {
        assert_eq!(scene.show("secure", "members.test", name, &[]).await, Some(200), "{name}");
        let received = scene.origin.received(index + 1).await.pop().unwrap();
        let value = |name: &str| received.header(name).unwrap().to_owned();
        let file = scene.path(&format!("{name}.pem"));
        let read = async |arguments: &[&str]| {
            let fixed = ["x509", "-noout", "-nameopt", "RFC2253", "-in", &file];
            let output = run("openssl", fixed.iter().chain(arguments)).await;
            let text = String::from_utf8(output.stdout).unwrap();
            text.trim_end_matches('\n').split_once('=').unwrap().1.to_owned()
        };
        assert_eq!(value("x-client-verify"), "SUCCESS");
        assert_eq!(value("x-client-cert-subject"), read(&["-subject"]).await);
        assert_eq!(value("x-client-cert-issuer"), read(&["-issuer"]).await);
        assert_eq!(value("x-client-cert-serial"), read(&["-serial"]).await);
        let fingerprint = read(&["-fingerprint", "-sha256"]).await.replace(':', "");
        assert_eq!(value("x-client-cert-fingerprint"), fingerprint.to_ascii_lowercase());
        let pem = fs::read_to_string(&file).unwrap();
        let inside: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(value("client-cert"), format!(":{inside}:"), "RFC 9440 §2.1");
        assert_eq!(received.header("client-cert-chain"), None);
        let line = scene
            .gateway
            .wait_access(|line| {
                field(line, "tls.client.subject") == value("x-client-cert-subject").as_str()
            })
            .await;
        assert_eq!(field(&line, "site"), "members.test");
    }
    assert_eq!(scene.show("secure", "maybe.test", "", &[]).await, Some(200));
    let received = scene.origin.received(3).await.pop().unwrap();
    assert_eq!(received.values("x-client-verify"), ["NONE"]);
    assert_eq!(received.header("x-client-cert-subject"), None);
    let line = scene.gateway.wait_access(|line| field(line, "site") == "maybe.test").await;
    assert!(line.get("tls.client.subject").is_none(), "{line}");
}
