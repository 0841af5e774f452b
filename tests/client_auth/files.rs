//! The files of a rule: what they may hold, and what happens when they change.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::Scene;
use super::pki::{Authority, HOUR, pem_of};
use crate::metrics::{promtool_accepts, scrape_until};
use crate::support::{Client, Connection, Program, field, run};

/// A rule whose files are not whole is no reason to serve anybody without it (CVE-2026-27586).
#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start() {
    let directory = TempDir::new().unwrap();
    let (ca, other) = (Authority::new("Clients"), Authority::new("Clients"));
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    let pem = ca.pem();
    let soon = SystemTime::now() + HOUR;
    let crl = ca.crl(&[1], soon, 1);
    write("ca.pem", pem.as_bytes());
    write("empty", b"");
    write("text", b"no certificate\n");
    write("key", ca.client("ann").key.as_bytes());
    write("cut", &pem.as_bytes()[..pem.len() / 2]);
    write("damaged", pem.replace("MII", "MIA").as_bytes());
    write("second", (pem.clone() + &pem.replace("MII", "MIA")).as_bytes());
    write("der", &ca.client("ann").der);
    write("crl.pem", pem_of("X509 CRL", &crl).as_bytes());
    write("cut.crl", &crl[..crl.len() / 2]);
    write("cut-pem.crl", &pem_of("X509 CRL", &crl).as_bytes()[..100]);
    write("forged.crl", &other.crl(&[], soon, 2));
    // What pins a client elsewhere. Here its key could sign for any other client.
    let bob = Authority::with("bob", |it| it.is_ca = rcgen::IsCa::ExplicitNoCa);
    let ann = Authority::with("ann", |it| it.is_ca = rcgen::IsCa::NoCa);
    let signer = Authority::with("signer", |it| {
        it.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    });
    write("pinned", (pem.clone() + &bob.pem()).as_bytes());
    write("silent", ann.pem().as_bytes());
    write("usage", signer.pem().as_bytes());
    write("leaf", ca.client("ann").chain.as_bytes());
    write("namesakes", (pem.clone() + &other.pem()).as_bytes());
    for (rule, wanted) in [
        ("ca: absent", "cannot read"),
        ("ca: .", "cannot read"),
        ("ca: empty", "holds no certificate in PEM form: it holds nothing"),
        ("ca: text", "holds no certificate in PEM form"),
        ("ca: key", "it holds PRIVATE KEY"),
        ("ca: cut", "is damaged"),
        ("ca: damaged", "certificate 1 in "),
        ("ca: second", "certificate 2 in "),
        ("ca: der", "holds no certificate in PEM form: it holds binary data"),
        ("ca: crl.pem", "it holds X509 CRL"),
        ("ca: pinned", "is not a CA's: CN=bob may not sign certificates"),
        ("ca: silent, mode: request", "is not a CA's: CN=ann may not sign certificates"),
        ("ca: usage", "is not a CA's: CN=signer may not sign certificates"),
        ("ca: leaf", "is not a CA's: CN=ann"),
        ("ca: absent, mode: request", "cannot read"),
        ("ca: ca.pem, crl: absent", "cannot read"),
        ("ca: ca.pem, crl: empty", "holds no revocation list: it holds nothing"),
        ("ca: ca.pem, crl: [crl.pem, ca.pem]", "holds no revocation list: it holds CERTIFICATE"),
        ("ca: ca.pem, crl: cut.crl", "revocation list 1 in "),
        ("ca: ca.pem, crl: cut-pem.crl", "is damaged"),
        ("ca: ca.pem, crl: forged.crl", "is not signed by CN=Clients"),
        ("ca: namesakes, crl: crl.pem", "two CAs called CN=Clients with different keys"),
        ("ca: namesakes, crl: [crl.pem, forged.crl]", "two CAs called CN=Clients"),
    ] {
        for yaml in [
            format!(
                "  secure: {{ bind: \"127.0.0.1:0\", protocol: https, tls: {{ client_auth: {{ {rule} }} }} }}\n\
                     sites:\n  a.test: {{ certificate: internal, routes: [ {{ respond: here }} ] }}\n"
            ),
            format!(
                "  secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
                     sites:\n  a.test: {{ certificate: internal, client_auth: {{ {rule} }}, routes: [ {{ respond: here }} ] }}\n"
            ),
        ] {
            let file = directory.path().join("gateway.yaml");
            fs::write(&file, format!("listeners:\n{yaml}storage: storage\nadmin: off\n")).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_wardgate"));
            command.arg("run").arg(&file).current_dir(directory.path());
            let mut program = Program::start(&mut command);
            let status = program.exit_status().await;
            let told = program.stderr.to_string();
            assert_eq!(status.code(), Some(1), "{rule}: {told}");
            assert!(
                told.contains(wanted) && told.contains("client_auth at line "),
                "{rule}: {told}"
            );
            assert!(!told.contains("panicked"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_broken_file_keeps_what_is_in_force_and_a_whole_one_is_put_in_force() {
    let scene = Scene::start().await;
    let ca = scene.path("clients.pem");
    let old = fs::read(&ca).unwrap();
    for broken in [&b""[..], b"half", &old[..old.len() / 2]] {
        let before = scene.gateway.log().all().len();
        fs::write(&ca, broken).unwrap();
        scene
            .gateway
            .log()
            .wait_for_count("rejections", 1 + count(&scene, before), |line| {
                field(line, "message") == "rejected a configuration"
            })
            .await;
        assert_eq!(scene.show("secure", "members.test", "", &[]).await, None);
        assert_eq!(scene.show("secure", "members.test", "stranger", &[]).await, None);
        assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));
    }
    fs::remove_file(&ca).unwrap();
    fs::write(&ca, scene.others.pem()).unwrap();
    scene.gateway.reloaded(2).await;
    assert_eq!(scene.show("secure", "members.test", "stranger", &[]).await, Some(200));
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, None);
}

/// Rejections among the first `lines` of the log.
fn count(scene: &Scene, lines: usize) -> usize {
    let log = scene.gateway.log().all();
    let is_it = |line: &&serde_json::Value| field(line, "message") == "rejected a configuration";
    log.iter().take(lines).filter(is_it).count()
}

#[tokio::test]
async fn a_certificate_that_is_revoked_is_refused_from_then_on() {
    let soon = SystemTime::now() + HOUR;
    let scene = Scene::start_with(", crl: members.crl", |directory, clients| {
        fs::write(directory.join("members.crl"), clients.crl(&[7], soon, 1)).unwrap();
        for (name, serial) in [("one", 1_u64), ("seven", 7), ("nine", 9)] {
            let leaf = clients.client_with(name, |it| it.serial_number = Some(serial.into()));
            leaf.write(directory, name);
        }
    })
    .await;
    for (name, status) in [("one", Some(200)), ("nine", Some(200)), ("seven", None)] {
        assert_eq!(scene.show("secure", "members.test", name, &[]).await, status, "{name}");
    }
    assert_eq!(
        scene.show("strict", "open.test", "seven", &[]).await,
        Some(200),
        "a rule without lists knows nothing of it"
    );
    let mut one = connect(&scene, "one").await;
    let mut nine = connect(&scene, "nine").await;
    for connection in [&mut one, &mut nine] {
        assert_eq!(ask(connection).await, 200);
    }
    // PEM this time, and with an older list behind the newer one.
    let lists = [scene.clients.crl(&[7, 9], soon, 3), scene.clients.crl(&[], soon, 2)];
    let text: String = lists.iter().rev().map(|list| pem_of("X509 CRL", list)).collect();
    fs::write(scene.path("members.crl"), text).unwrap();
    scene.gateway.reloaded(2).await;
    assert_eq!(ask(&mut one).await, 200, "its certificate was verified anew");
    assert_eq!(ask(&mut one).await, 200);
    assert_eq!(ask(&mut nine).await, 421, "a connection that is open ends, too");
    for (name, status) in [("one", Some(200)), ("nine", None), ("seven", None)] {
        assert_eq!(scene.show("secure", "members.test", name, &[]).await, status, "{name}");
    }
}

#[tokio::test]
async fn a_list_that_is_over_or_missing_refuses_instead_of_admitting() {
    let now = SystemTime::now();
    let scene = Scene::start_with(", crl: members.crl", |directory, clients| {
        fs::write(directory.join("members.crl"), clients.crl(&[], now - HOUR, 1)).unwrap();
    })
    .await;
    let warned = |part: &'static str| {
        move |line: &serde_json::Value| {
            field(line, "warning").as_str().is_some_and(|text| text.contains(part))
        }
    };
    scene.gateway.wait_log(|line| is_told(line, OVER, "failing")).await;
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, None);
    let below = scene.clients.below("Below");
    scene.write("below", &below.client("ann"));
    let list = scene.clients.crl(&[], now + HOUR, 2);
    fs::write(scene.path("members.crl"), &list).unwrap();
    scene.gateway.reloaded(2).await;
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));
    assert_eq!(
        scene.show("secure", "members.test", "below", &[]).await,
        None,
        "nothing is known of what the CA below has revoked"
    );
    let lists: String =
        [list, below.crl(&[], now + HOUR, 1)].iter().map(|it| pem_of("X509 CRL", it)).collect();
    fs::write(scene.path("members.crl"), lists).unwrap();
    scene.gateway.reloaded(3).await;
    assert_eq!(scene.show("secure", "members.test", "below", &[]).await, Some(200));
    // A list of somebody else's leaves every certificate unknown.
    fs::write(scene.path("members.crl"), scene.others.crl(&[], now + HOUR, 1)).unwrap();
    scene.gateway.reloaded(4).await;
    scene.gateway.wait_log(warned("no revocation list is of CN=Clients")).await;
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, None);
}

/// How the log begins about a list that is over, or about to be.
const OVER: &str = "a revocation list is over";
const NEAR: &str = "a revocation list is about to end";

fn is_told(line: &serde_json::Value, message: &str, state: &str) -> bool {
    field(line, "message").as_str().is_some_and(|text| text.starts_with(message))
        && field(line, "issuer") == "CN=Clients"
        && field(line, "state") == state
}

/// A list that nobody renews locks everybody out: who could renew it hears of it before and then.
#[tokio::test]
async fn a_list_that_nears_its_end_is_told_of_in_time() {
    let now = SystemTime::now();
    // Made three hours ago: with another quarter it has less than an eighth left, with seconds a twentieth.
    let scene = Scene::start_with(", crl: members.crl", |directory, clients| {
        fs::write(directory.join("members.crl"), clients.crl(&[], now + HOUR / 4, 1)).unwrap();
    })
    .await;
    let is_news = |message: &'static str, state: &'static str| {
        move |line: &serde_json::Value| is_told(line, message, state)
    };
    let told = scene.gateway.wait_log(is_news(NEAR, "degraded")).await;
    let seconds = field(&told, "seconds").as_u64().unwrap();
    assert!((600..=900).contains(&seconds) && told["level"] == "warn", "{told}");
    let series = |name: &str, health: &str, value: u64| {
        let file = scene.path("members.crl");
        format!("wardgate_crl_{name}{{file=\"{file}\",issuer=\"CN=Clients\"{health}}} {value}")
    };
    let ends = |end: SystemTime| {
        let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        series("next_update_timestamp_seconds", "", since)
    };
    let is = |health: &str| series("health", &format!(",health=\"{health}\""), 1);
    let text = scrape_until(&scene.gateway, &[ends(now + HOUR / 4), is("degraded")]).await;
    promtool_accepts(text);
    let status = Client::new(scene.gateway.admin_address()).get("/status").await.text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let list = &status["revocation_lists"][0];
    assert_eq!((&list["issuer"], &list["health"]), (&"CN=Clients".into(), &"degraded".into()));
    assert_eq!((&list["days_left"], &list["file"]), (&0.into(), &scene.path("members.crl").into()));
    let shown =
        run(env!("CARGO_BIN_EXE_wardgate"), ["status", &scene.path("gateway.yaml")].iter()).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    for part in ["revocation lists: 1 degraded, refusing", "0 days left, degraded  CN=Clients"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));

    let end = SystemTime::now() + HOUR / 20;
    fs::write(scene.path("members.crl"), scene.clients.crl(&[], end, 2)).unwrap();
    let told = scene.gateway.wait_log(is_news(NEAR, "failing")).await;
    assert_eq!(told["level"], "error", "{told}");
    let end = SystemTime::now() + Duration::from_secs(3);
    fs::write(scene.path("members.crl"), scene.clients.crl(&[], end, 3)).unwrap();
    scene.gateway.wait_log(is_news(OVER, "failing")).await;
    scrape_until(&scene.gateway, &[ends(end), is("failing")]).await;
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, None);

    let end = SystemTime::now() + 24 * HOUR;
    fs::write(scene.path("members.crl"), scene.clients.crl(&[], end, 4)).unwrap();
    scene.gateway.wait_log(is_news("a revocation list is as it should be again", "good")).await;
    scrape_until(&scene.gateway, &[ends(end), is("good")]).await;
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));
    // What is not in force is not told.
    scene.gateway.rewrite(&super::yaml(&scene.origin.url(), ""));
    scene.gateway.reloaded(5).await;
    let text = crate::metrics::scrape(&scene.gateway).await;
    assert!(!text.contains("wardgate_crl_health{"), "{text}");
}

#[tokio::test]
async fn a_ca_that_has_ended_admits_nobody() {
    let now = SystemTime::now();
    let scene = Scene::start().await;
    let ended = Authority::with("Ended", |it| {
        it.not_before = (now - 48 * HOUR).into();
        it.not_after = (now - HOUR).into();
    });
    scene.write("ended", &ended.client("ann"));
    let both = ended.pem() + &fs::read_to_string(scene.path("clients.pem")).unwrap();
    fs::write(scene.path("clients.pem"), both).unwrap();
    scene.gateway.reloaded(2).await;
    scene
        .gateway
        .wait_log(|line| {
            field(line, "warning").as_str().is_some_and(|it| it.contains("CN=Ended has expired"))
        })
        .await;
    assert_eq!(scene.show("secure", "members.test", "ended", &[]).await, None);
    assert_eq!(scene.show("secure", "members.test", "good", &[]).await, Some(200));
    fs::write(scene.path("clients.pem"), ended.pem()).unwrap();
    scene.gateway.reloaded(3).await;
    for name in ["ended", "good", ""] {
        assert_eq!(scene.show("secure", "members.test", name, &[]).await, None, "{name:?}");
    }
}

/// A connection for the members that shows the certificate of this name and stays.
async fn connect(scene: &Scene, name: &str) -> Connection {
    let (chain, key) = (scene.path(&format!("{name}.pem")), scene.path(&format!("{name}.key")));
    let client = Client::new(scene.gateway.address("secure")).host("members.test");
    let client = client.tls(scene.path("servers.pem").as_ref());
    client.showing(chain.as_ref(), key.as_ref()).connect().await
}

async fn ask(connection: &mut Connection) -> u16 {
    connection.send(b"GET / HTTP/1.1\r\nHost: members.test\r\n\r\n").await.unwrap();
    connection.read_reply(false).await.unwrap().status
}
