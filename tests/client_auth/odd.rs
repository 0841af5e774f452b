//! Certificates that no client should have.

use std::time::SystemTime;

use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, SanType};

use serde_json::Value;

use super::Scene;
use super::pki::{Authority, HOUR, Leaf, unwrap, wrap};
use crate::support::{Client, field};

/// Whatever is odd about a certificate, the handshake is refused with a reason, and nothing panics.
#[tokio::test]
async fn an_odd_certificate_is_refused_and_counted() {
    let scene = Scene::start().await;
    let ca = &scene.clients;
    let now = SystemTime::now();
    let same_name = Authority::new("Clients");
    let odd: Vec<(&str, Leaf, &str)> = vec![
        ("expired", ca.client_with("old", |it| it.not_after = (now - HOUR / 2).into()), "expired"),
        ("early", ca.client_with("new", |it| it.not_before = (now + HOUR).into()), "not valid yet"),
        (
            "purpose",
            ca.client_with("server", |it| {
                it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "does not allow extended key usage",
        ),
        ("unknown", same_name.client("ann"), "names a CA that has not signed it"),
        ("itself", Authority::new("ann").client("ann"), "no CA of the rule has signed it"),
        (
            "authority",
            ca.client_with("ca", |it| {
                it.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            }),
            "it is the certificate of a CA",
        ),
        (
            "critical",
            ca.client_with("critical", |it| {
                let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions = vec![unknown];
            }),
            "critical extension",
        ),
        ("dates", ca.odd(bad_dates), ""),
        ("month", ca.odd(month_13), ""),
        ("version", ca.odd(version_1), "it is not of X.509 version 3"),
    ];
    let mut count = 0;
    for (name, leaf, wanted) in &odd {
        scene.write(name, leaf);
        for version in ["1.2", "1.3"] {
            for host in ["members.test", "maybe.test"] {
                let arguments = ["--tlsv1.2", "--tls-max", version];
                let status = scene.show("secure", host, name, &arguments).await;
                assert_eq!(status, None, "{name} {version} {host}");
            }
        }
        let is_refusal = |line: &Value| field(line, "message") == "failed a handshake";
        let log = scene.gateway.log();
        let lines = log.wait_for_count("refusals", count + 4, is_refusal).await;
        for line in &lines[count..] {
            let reason = field(line, "error").as_str().unwrap();
            assert!(reason.starts_with("the client's certificate was refused: "), "{name}: {line}");
            assert!(reason.contains(wanted), "{name}: {line}");
        }
        count = lines.len();
    }
    assert_eq!(scene.refusals().await, count as u64);
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));
    assert!(!scene.gateway.log().to_string().contains("panicked"));
}

/// The deadline of handshakes is not what ends this one, nor what it is counted as.
#[tokio::test]
async fn a_client_that_is_refused_and_stays_is_counted_as_refused() {
    let scene = Scene::start().await;
    let client = Client::new(scene.gateway.address("secure")).host("members.test");
    let client = client.tls(scene.path("servers.pem").as_ref());
    // With TLS 1.3 the client's part is over before its certificate is looked for.
    let stays = client.connect().await;
    let refused = |line: &Value| field(line, "message") == "failed a handshake";
    scene.gateway.wait_log(refused).await;
    assert_eq!(scene.refusals().await, 1);
    drop(stays);
}

#[tokio::test]
async fn what_is_unusual_and_sound_is_admitted() {
    let scene = Scene::start().await;
    let below = scene.clients.below("Intermediate").below("Lower");
    let huge = scene.clients.client_with("huge", |it| {
        let san = |index: usize| SanType::DnsName(format!("{index}.huge.test").try_into().unwrap());
        it.subject_alt_names = (0..1500).map(san).collect();
    });
    for (name, leaf) in [
        ("chain", below.client("ann")),
        ("nobody", scene.clients.leaf_for(&[], |_| ())),
        ("any-purpose", scene.clients.client_with("ann", |it| it.extended_key_usages.clear())),
        ("huge", huge),
    ] {
        scene.write(name, &leaf);
        for version in ["1.2", "1.3"] {
            let status = scene.show("secure", "members.test", name, &["--tls-max", version]).await;
            assert_eq!(status, Some(200), "{name} {version}");
        }
    }
    // Without what is between, the chain leads nowhere.
    let mut alone = below.client("ann");
    alone.chain = super::pki::to_pem(&alone.der);
    scene.write("alone", &alone);
    assert_eq!(scene.show("secure", "members.test", "alone", &[]).await, None);
}

/// A reader that believes dates to be dates panics here.
fn bad_dates(mut tbs: Vec<u8>) -> Vec<u8> {
    edit_dates(&mut tbs, |date| date.fill(b'X'));
    tbs
}

fn month_13(mut tbs: Vec<u8>) -> Vec<u8> {
    edit_dates(&mut tbs, |date| date[2..4].copy_from_slice(b"13"));
    tbs
}

fn edit_dates(tbs: &mut [u8], edit: impl Fn(&mut [u8])) {
    let is_time = |window: &[u8]| window[..2] == [0x17, 13] && window[14] == b'Z';
    let mut at = 0;
    let mut found = 0;
    while let Some(next) = tbs[at..].windows(15).position(is_time) {
        at += next;
        edit(&mut tbs[at + 2..at + 15]);
        at += 15;
        found += 1;
    }
    assert_eq!(found, 2, "a beginning and an end");
}

/// Without a version, and without extensions.
fn version_1(tbs: Vec<u8>) -> Vec<u8> {
    let (inside, _) = unwrap(&tbs);
    assert_eq!(inside[0], 0xa0, "the version");
    let (_, mut rest) = unwrap(inside);
    let mut kept = Vec::new();
    while !rest.is_empty() {
        let (_, after) = unwrap(rest);
        let value = &rest[..rest.len() - after.len()];
        if value[0] != 0xa3 {
            kept.extend_from_slice(value);
        }
        rest = after;
    }
    wrap(0x30, &kept)
}
