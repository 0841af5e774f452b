//! Memory and descriptors that run short: who gives way, and that it passes.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{gateway, yaml};
use crate::support::{Client, Gateway, Origin, Peer, field, within};

fn says(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == text
}

async fn status(gateway: &Gateway) -> Value {
    Client::new(gateway.admin_address()).get("/status").await.json()
}

#[tokio::test]
async fn short_of_memory_it_sheds_requests_then_connections_and_recovers() {
    let origin = Origin::start().await;
    let with =
        |memory: &str| yaml(&origin.url(), "http/1.1", &format!("limits: {{ memory: {memory} }}"));
    let gateway = Gateway::start(with("off")).await;
    let client = gateway.client();
    assert_eq!(client.get("/warm").await.status, 200);
    assert!(status(&gateway).await["memory"]["limit"].is_null());
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut connection = client.connect().await;
        connection.send(b"GET /idle HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(connection.read_reply(false).await.unwrap().status, 200);
        idle.push(connection);
    }
    origin.hold();
    let before = origin.requests().len();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.get("/first").await }
    });
    origin.received(before + 1).await;

    // What is in use now is 95 % of it.
    let bytes = gateway.memory() / 95 * 100;
    gateway.reload(&with(&format!("{bytes}B")), 2).await;
    gateway.wait_log(says("shedding requests to save memory")).await;
    let refused = client.get("/second").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("connection"), Some("close"));
    let line = gateway.wait_access(|line| field(line, "url.path") == "/second").await;
    assert_eq!(field(&line, "error.type"), "overloaded");
    for mut connection in idle {
        let ended = within("idle connections", connection.read_to_end()).await;
        assert_eq!(ended.unwrap(), b"", "closed without a word");
    }
    let admin = Client::new(gateway.admin_address());
    assert_eq!(admin.get("/ready").await.status, 200, "it serves what it can");
    assert_eq!(status(&gateway).await["memory"]["level"], "shedding");
    let metrics = admin.get("/metrics").await.text();
    assert!(metrics.contains("wardgate_shedding 1\n"), "{metrics}");
    assert!(metrics.contains("wardgate_connections_relieved_total 8\n"), "{metrics}");

    gateway.reload(&with("32MiB"), 3).await;
    gateway.wait_log(says("refusing connections to save memory")).await;
    assert!(client.try_get("/third").await.is_err(), "not even let in");

    gateway.reload(&with("off"), 4).await;
    gateway.wait_log(says("has memory again")).await;
    origin.release();
    assert_eq!(first.await.unwrap().status, 200, "what was in flight was left alone");
    assert_eq!(client.get("/fourth").await.status, 200);
    assert!(admin.get("/metrics").await.text().contains("wardgate_shedding 0\n"));
}

#[tokio::test]
async fn one_request_at_a_time_passes_however_short_memory_is() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), "limits: { memory: 32MiB }").await;
    gateway.wait_log(says("refusing connections to save memory")).await;
    let reply = gateway.client().get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
}

/// A gateway with so many descriptors in all.
async fn with_descriptors(count: u32, yaml: &str) -> Gateway {
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_wardgate");
    shell.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\""), program]);
    let directory = TempDir::new().unwrap();
    Gateway::start_program(shell, directory, yaml).await
}

#[tokio::test]
async fn out_of_descriptors_nothing_dies_and_everything_comes_back() {
    let origin = Origin::start().await;
    // Checks and probes of their own would take some now and then.
    let gateway = with_descriptors(72, &yaml(&origin.url(), "http/1.1", "admin: off")).await;
    let warned = gateway.wait_log(says("descriptors allow fewer connections")).await;
    assert_eq!(
        (field(&warned, "connections"), field(&warned, "limit")),
        (&10_000.into(), &40.into())
    );
    let client = gateway.client();
    assert_eq!(client.get("/before").await.status, 200);

    // More idle connections than there is room for: the rest is turned away, then some make room.
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.extend(client.try_connect().await);
    }
    gateway.wait_log(says("short of descriptors")).await;
    let served = async {
        while !matches!(client.try_get("/meanwhile").await, Ok(reply) if reply.status == 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a request beside idle connections", served).await;
    drop(idle);

    // As many requests as there is room for, which leaves too few descriptors for their other ends.
    // None of them is idle: each has begun with its head.
    let before = origin.requests().len();
    origin.hold();
    let mut asking = Vec::new();
    while asking.len() < 34 {
        let mut connection = client.connect().await;
        let begun = connection.send(b"GET /busy HTTP/1.1\r\nHost: a\r\n").await;
        // One that was turned away shows it at once.
        let wait = tokio::time::timeout(Duration::from_millis(20), connection.wait_readable());
        if begun.is_ok() && wait.await.is_err() {
            asking.push(connection);
        }
    }
    for connection in &mut asking {
        connection.send(b"\r\n").await.unwrap();
    }
    origin.received(before + 1).await;
    let refused = |line: &Value| field(line, "error.type") == "overloaded";
    let line = gateway.wait_access(refused).await;
    assert_eq!(field(&line, "http.response.status_code"), 503, "told so, and at once");
    origin.release();
    let mut statuses = Vec::new();
    for connection in &mut asking {
        let reply = within("every answer", connection.read_reply(false)).await;
        statuses.push(reply.unwrap().status);
    }
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    drop(asking);

    for _ in 0..20 {
        let again = async {
            while !matches!(client.try_get("/after").await, Ok(reply) if reply.status == 200) {}
        };
        within("room again", again).await;
    }
    let log = gateway.log().all();
    let told = log.iter().filter(|line| says("short of descriptors")(line)).count();
    assert_eq!(told, 1, "once a minute is enough");
    assert!(!log.iter().any(|line| field(line, "message") == "failed"), "{}", gateway.log());
}

/// Lets `gateway` have so many descriptors from now on.
fn allow_descriptors(gateway: &Gateway, count: Option<u64>) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let pid = Pid::from_raw(i32::try_from(gateway.id()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: count.or(maximum), maximum }).unwrap();
}

#[tokio::test]
async fn out_of_descriptors_the_admin_address_tells_the_log_as_rarely() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), "").await;
    let admin = Client::new(gateway.admin_address());
    let mut kept = admin.connect().await;
    kept.send(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(kept.read_reply(false).await.unwrap().status, 200);
    allow_descriptors(&gateway, Some(0));
    let waiting = admin.connect().await;
    gateway.wait_log(says("short of descriptors")).await;
    kept.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let reply = kept.read_reply(false).await.unwrap();
    assert_eq!(reply.json()["descriptors_short"], true);
    allow_descriptors(&gateway, None);
    let passed = async { while status(&gateway).await["descriptors_short"] == true {} };
    within("the shortage's end", passed).await;
    drop(waiting);
    let log = gateway.log().all();
    let paused = log.iter().find(|line| says("paused accepting on the admin address")(line));
    assert!(paused.is_none(), "{}", gateway.log());
}

#[tokio::test]
async fn out_of_descriptors_no_server_is_blamed_whatever_it_speaks() {
    let http1 = Origin::start().await;
    let h2 = Peer::start("h2_origin.py", &[]).await;
    let https = crate::support::closed();
    for (url, protocol) in [
        (http1.url(), "http/1.1"),
        (format!("http://{}", h2.address()), "h2c"),
        (format!("https://{https}"), "h2"),
    ] {
        let routes = "routes: [ { match: { path: /here }, respond: here }, { upstream: app } ]";
        let yaml = yaml(&url, protocol, "").replace("upstream: app, ", &format!("{routes}, "));
        let gateway = Gateway::start(yaml).await;
        let mut client = gateway.client().connect().await;
        client.send(b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().text(), "here");
        allow_descriptors(&gateway, Some(0));
        client.send(b"GET /headers HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        allow_descriptors(&gateway, None);
        assert_eq!(reply.status, 503, "{protocol}: {}", reply.text());
        gateway.wait_log(says("short of descriptors")).await;
        let line = gateway.wait_access(|line| field(line, "url.path") == "/headers").await;
        assert_eq!(field(&line, "error.type"), "overloaded", "{protocol}");
    }
}
