//! What makes the gateway read its configuration again, and what comes of it.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;
use tempfile::TempDir;

use super::{is_message, refused, replace, says, yaml};
use crate::support::{Client, Gateway, field};

#[tokio::test]
async fn a_signal_reloads_and_says_what_came_of_it() {
    let gateway = Gateway::start(yaml(&says("\"*\"", "one"))).await;
    gateway.signal("HUP");
    let is_answer = |line: &Value| field(line, "reason") == "SIGHUP";
    let line = gateway.wait_log(is_answer).await;
    assert_eq!(field(&line, "message"), "nothing to reload", "{line}");
    assert_eq!(field(&line, "generation"), 1, "{line}");
    gateway.reload(&yaml(&says("\"*\"", "two")), 2).await;
    assert_eq!(gateway.client().get("/").await.text(), "two");
}

#[tokio::test]
async fn a_changed_file_needs_no_signal() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("text"), "one").unwrap();
    let yaml = yaml(&says("\"*\"", "\"${file:text}\""));
    let gateway = Gateway::start_in(directory, &yaml).await;
    let (client, file) = (gateway.client(), gateway.directory().join("gateway.yaml"));
    assert_eq!(client.get("/").await.text(), "one");

    replace(&gateway.directory().join("text"), "two");
    let line = gateway.reloaded(2).await;
    assert_eq!(field(&line, "reason"), "file", "{line}");
    assert_eq!(client.get("/").await.text(), "two", "a file that a value comes from");

    gateway.rewrite(&yaml.replace("${file:text}", "three"));
    gateway.reloaded(3).await;
    assert_eq!(client.get("/").await.text(), "three", "renamed over");

    let text = fs::read_to_string(&file).unwrap().replace("three", "four");
    fs::write(&file, text).unwrap();
    gateway.reloaded(4).await;
    assert_eq!(client.get("/").await.text(), "four", "written in place");
}

#[tokio::test]
async fn a_link_that_is_turned_to_another_directory_is_a_change() {
    use std::os::unix::fs::symlink;
    // As Kubernetes mounts a config map.
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["..1", "..2"] {
        fs::create_dir(at(name)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/gateway.yaml", at("gateway.yaml")).unwrap();
    let gateway = Gateway::start_in(directory, &yaml(&says("\"*\"", "one"))).await;
    let at = |name: &str| gateway.directory().join(name);
    for (round, (old, new)) in [("..1", "..2"), ("..2", "..1")].into_iter().enumerate() {
        let text = fs::read_to_string(at("gateway.yaml")).unwrap();
        let said = format!("round-{round}");
        let text = text.replace("body: one", "body: round-x").replace("round-0", "round-x");
        fs::create_dir_all(at(new)).unwrap();
        fs::write(at(new).join("gateway.yaml"), text.replace("round-x", &said)).unwrap();
        symlink(new, at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at(old)).unwrap();
        gateway.reloaded(round as u64 + 2).await;
        assert_eq!(gateway.client().get("/").await.text(), said);
    }
}

#[tokio::test]
async fn a_directory_may_vanish_and_come_back() {
    let directory = TempDir::new().unwrap();
    let texts = directory.path().join("texts");
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("text"), "one").unwrap();
    let yaml = yaml(&says("\"*\"", "\"${file:texts/text}\""));
    let gateway = Gateway::start_in(directory, &yaml).await;
    let texts = gateway.directory().join("texts");
    fs::remove_dir_all(&texts).unwrap();
    let line = gateway.wait_log(is_message("rejected a configuration")).await;
    assert!(field(&line, "faults").as_str().unwrap().contains("texts/text"), "{line}");
    assert_eq!(gateway.client().get("/").await.text(), "one");
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("text"), "two").unwrap();
    gateway.reloaded(2).await;
    assert_eq!(gateway.client().get("/").await.text(), "two");
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("half.pem"), "-----BEGIN CERT").unwrap();
    let gateway = Gateway::start_in(directory, &yaml(&says("\"*\"", "one"))).await;
    let two = says("\"*\"", "two");
    let with = |listener: &str, more: &str| {
        format!(
            "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http }}\n  \
             extra: {{ bind: \"{listener}\", protocol: http }}\nsites:\n{two}{more}"
        )
    };
    let free = "127.0.0.1:0";
    for (name, yaml, wanted) in [
        ("no YAML", "sites: [".to_owned(), vec!["gateway.yaml:"]),
        (
            "faults",
            with(free, "limits: { requests: lots }\nlog: { colour: red }\n"),
            vec!["lots", "colour"],
        ),
        ("a port that is taken", with(&taken, ""), vec!["extra", &taken, "in use"]),
        (
            "a certificate",
            with(free, "certificates: { own: { chain: half.pem, key: half.pem } }\n"),
            vec!["own", "half.pem"],
        ),
        (
            "a CA",
            with(
                free,
                "upstreams: { app: { servers: \"https://a.test\", tls: { ca: half.pem } } }\n",
            ),
            vec!["app", "half.pem"],
        ),
        (
            "an admin address",
            with(free, &format!("admin: {{ bind: \"{taken}\" }}\n")),
            vec![&taken],
        ),
    ] {
        let faults = refused(&gateway, &yaml).await;
        for wanted in wanted {
            assert!(faults.contains(wanted), "{name}: {faults}");
        }
        assert_eq!(gateway.client_of("web").get("/").await.text(), "one", "{name}");
        assert_eq!(gateway.addresses("extra"), [], "{name}");
    }
    gateway.reload(&with(free, ""), 2).await;
    assert_eq!(gateway.client_of("web").get("/").await.text(), "two");
    assert_eq!(gateway.addresses("extra").len(), 1);
}

#[tokio::test]
async fn a_half_written_file_is_read_again_when_it_is_whole() {
    let one = yaml(&says("\"*\"", "one"));
    let gateway = Gateway::start(&one).await;
    let file = gateway.directory().join("gateway.yaml");
    fs::write(&file, &one[..one.len() - 5]).unwrap();
    let line = gateway.wait_log(is_message("rejected a configuration")).await;
    assert_eq!(field(&line, "reason"), "file", "{line}");
    assert_eq!(gateway.client().get("/").await.text(), "one");
    gateway.rewrite(&yaml(&says("\"*\"", "two")));
    gateway.reloaded(2).await;
    assert_eq!(gateway.client().get("/").await.text(), "two");
}

#[tokio::test]
async fn a_file_without_sites_is_taken_only_by_who_asks_for_it() {
    let gateway = Gateway::start(yaml(&says("\"*\"", "one"))).await;
    fs::write(gateway.directory().join("gateway.yaml"), "").unwrap();
    let line = gateway.wait_log(is_message("rejected a configuration")).await;
    assert!(field(&line, "faults").as_str().unwrap().contains("no sites"), "{line}");
    assert_eq!(gateway.client().get("/").await.text(), "one");
    let listeners = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }";
    gateway.reload(listeners, 2).await;
    assert_eq!(gateway.client().get("/").await.status, 404);
}

#[tokio::test]
async fn what_only_a_restart_can_change_is_named() {
    let one = yaml(&says("\"*\"", "one"));
    let gateway = Gateway::start(&one).await;
    gateway.reload(&format!("{one}runtime: {{ threads: 3 }}\n"), 2).await;
    let line = gateway.wait_log(is_message("needs a restart to change")).await;
    assert_eq!(field(&line, "setting"), "runtime.threads", "{line}");
}

#[tokio::test]
async fn the_admin_listener_comes_and_goes() {
    let one = yaml(&says("\"*\"", "one"));
    let gateway = Gateway::start(&one).await;
    let first = Client::new(gateway.admin_address()).host("localhost");
    assert_eq!(first.get("/ready").await.status, 200);
    gateway.reload(&format!("{one}admin: off\n"), 2).await;
    gateway.wait_log(is_message("admin stopped listening")).await;
    while first.try_get("/ready").await.is_ok() {
        tokio::task::yield_now().await;
    }
    gateway.reload(&one, 3).await;
    let is_admin = is_message("admin listening");
    let lines = gateway.log().wait_for_count("admin listeners", 2, is_admin).await;
    let address = field(&lines[1], "server.address").as_str().unwrap().parse().unwrap();
    assert_eq!(Client::new(address).host("localhost").get("/ready").await.status, 200);
}

#[tokio::test]
async fn a_stop_is_not_kept_waiting_by_reloads() {
    let mut gateway = Gateway::start(yaml(&says("\"*\"", "one"))).await;
    for round in 0..5 {
        gateway.rewrite(&yaml(&says("\"*\"", &format!("round-{round}"))));
        gateway.signal("HUP");
    }
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}
