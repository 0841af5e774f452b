//! Start, drain and end of the process.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Gateway, Origin, Peer, field, run, within};

/// A gateway before `origin`, over http and https, with `more` in its configuration.
async fn gateway(origin: SocketAddr, more: &str) -> Gateway {
    Gateway::start(
        r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  app.test: { aliases: [127.0.0.1], https: both, upstream: "http://ORIGIN" }
"#
        .replace("ORIGIN", &origin.to_string())
            + more,
    )
    .await
}

fn is_state(state: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "state") == state
}

fn is_message(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == text
}

/// Waits until nothing accepts on `address`.
async fn refused(address: SocketAddr) {
    let refusal = async {
        // Between the signal and the end of the listener a connection may still come in.
        while Client::new(address).try_connect().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("refused connection", refusal).await;
}

#[tokio::test]
async fn the_states_are_told_in_order_by_the_log_and_by_ready() {
    let origin = Origin::start().await;
    origin.hold();
    let mut gateway = gateway(origin.address(), "").await;
    let admin = Client::new(gateway.admin_address()).host("localhost");
    let ready = admin.get("/ready").await;
    assert_eq!((ready.status, ready.text().as_str()), (200, "running\n"));

    let client = gateway.client_of("web").host("app.test");
    let reply = tokio::spawn(async move { client.get("/").await });
    origin.received(1).await;
    gateway.drain();
    gateway.wait_log(is_state("stopping")).await;
    let ready = admin.get("/ready").await;
    assert_eq!((ready.status, ready.text().as_str()), (503, "stopping\n"));
    assert_eq!(admin.get("/live").await.status, 200, "it lives while it drains");
    origin.release();
    assert_eq!(reply.await.unwrap().status, 200);
    assert_eq!(gateway.exit_status().await.code(), Some(0));

    let log = gateway.log().all();
    let states = log.iter().filter_map(|line| field(line, "state").as_str());
    let states: Vec<&str> = states.collect();
    assert_eq!(states, ["initializing", "running", "stopping", "terminated"]);
}

#[tokio::test]
async fn a_start_without_all_of_its_sockets_serves_nothing() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = socket.local_addr().unwrap();
    for (name, listener, admin) in [
        ("listener", taken.to_string(), "127.0.0.1:0".to_owned()),
        ("admin", "127.0.0.1:0".to_owned(), taken.to_string()),
    ] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("gateway.yaml");
        let yaml = format!(
            "listeners:\n  first: {{ bind: \"127.0.0.1:0\", protocol: https }}\n  \
             second: {{ bind: \"{listener}\", protocol: http }}\n\
             sites: {{ app.test: {{ upstream: \"http://127.0.0.1:9\" }} }}\n\
             admin: {{ bind: \"{admin}\" }}\nstorage: storage\n"
        );
        std::fs::write(&file, yaml).unwrap();
        let output = run(env!("CARGO_BIN_EXE_wardgate"), ["run".as_ref(), file.as_os_str()]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(&taken.to_string()), "{name}: {said}");
        assert!(said.contains("in use"), "{name}: {said}");
        assert!(!said.contains("\"running\"") && !said.contains("\"listening\""), "{name}: {said}");
        assert!(!directory.path().join("storage").exists(), "{name}: nothing was made");
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_ends_as_soon_as_that_is_done() {
    for signal in ["TERM", "INT"] {
        let origin = Origin::start().await;
        let mut gateway = gateway(origin.address(), "").await;
        let (web, address) = (gateway.client_of("web").host("app.test"), gateway.address("web"));
        let mut idle = web.connect().await;
        idle.send(b"GET /idle HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let reply = idle.read_reply(false).await.unwrap();
        assert_ne!(reply.header("connection"), Some("close"), "not yet");
        let mut silent = web.connect().await;
        let mut secure = gateway.tls_client_of("secure", "app.test").connect().await;

        origin.hold();
        let mut held = web.connect().await;
        let upload = b"POST /held HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\n1234";
        held.send(upload).await.unwrap();
        origin.received(2).await;
        gateway.signal(signal);
        let stopping = gateway.wait_log(is_message("stopping")).await;
        assert_eq!(field(&stopping, "reason"), &format!("SIG{signal}"));
        assert_eq!(idle.read_to_end().await.unwrap(), b"", "an idle connection is closed at once");
        assert_eq!(silent.read_to_end().await.unwrap(), b"", "so is one without a request");
        assert_eq!(secure.read_to_end().await.unwrap(), b"", "and one with TLS");
        refused(address).await;
        refused(gateway.address("secure")).await;

        origin.release();
        let reply = held.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        assert_eq!(reply.header("connection"), Some("close"));
        assert_eq!(held.read_to_end().await.unwrap(), b"");
        assert_eq!(gateway.exit_status().await.code(), Some(0));
        let drained = gateway.wait_log(is_message("drained")).await;
        assert!(
            field(&drained, "seconds").as_f64().unwrap() < 25.0,
            "long before grace: {drained}"
        );
    }
}

#[tokio::test]
async fn a_stop_says_goodbye_to_h2_and_finishes_its_streams() {
    let origin = Origin::start().await;
    let mut gateway = gateway(origin.address(), "").await;
    origin.hold();
    let url = format!("https://127.0.0.1:{}/held", gateway.address("secure").port());
    let told = tokio::spawn(async move { run("nghttp", ["--verbose", &url]).await });
    origin.received(1).await;
    gateway.drain();
    gateway.wait_log(is_state("stopping")).await;
    refused(gateway.address("secure")).await;
    origin.release();
    let told = String::from_utf8(told.await.unwrap().stdout).unwrap();
    assert!(told.contains("recv GOAWAY frame"), "{told}");
    assert!(told.contains(":status: 200") && told.contains("\nok"), "{told}");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn the_delay_goes_on_serving_while_ready_says_no() {
    let origin = Origin::start().await;
    let mut gateway = gateway(origin.address(), "shutdown: { delay: 10m }\n").await;
    let admin = Client::new(gateway.admin_address()).host("localhost");
    gateway.drain();
    gateway.wait_log(is_state("stopping")).await;
    assert_eq!(admin.get("/ready").await.status, 503);
    assert_eq!(gateway.client_of("web").host("app.test").get("/").await.status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_status().await.code(), Some(0), "a second signal ends the delay");
}

#[tokio::test]
async fn the_delay_is_kept_and_then_it_ends() {
    let origin = Origin::start().await;
    let mut gateway = gateway(origin.address(), "shutdown: { delay: 300ms }\n").await;
    let started = Instant::now();
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn what_outlasts_the_grace_is_cut_and_told() {
    let origin = Origin::start().await;
    let mut gateway = gateway(origin.address(), "shutdown: { grace: 200ms }\n").await;
    cut(&origin, &mut gateway, |_| ()).await;
}

#[tokio::test]
async fn a_second_signal_cuts_at_once() {
    for signal in ["TERM", "INT"] {
        let origin = Origin::start().await;
        let mut gateway = gateway(origin.address(), "shutdown: { grace: 1h }\n").await;
        cut(&origin, &mut gateway, |gateway| gateway.signal(signal)).await;
        gateway.wait_log(is_message("cutting what is in flight")).await;
    }
}

/// Stops `gateway` with a request in flight that does not end, lets `end` do its part, and expects
/// the request to be cut: its client and its backend see it, and it has its access line.
async fn cut(origin: &Origin, gateway: &mut Gateway, end: impl Fn(&Gateway)) {
    origin.hold();
    let client = gateway.client_of("web").host("app.test");
    let reply = tokio::spawn(async move { client.try_get("/held").await });
    origin.received(1).await;
    gateway.drain();
    gateway.wait_log(is_state("stopping")).await;
    end(gateway);
    assert!(reply.await.unwrap().is_err(), "no answer, and the connection ends");
    origin.aborted(1).await;
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    let line = gateway.wait_access(|line| field(line, "url.path") == "/held").await;
    assert_eq!(field(&line, "error.type"), "stopping", "{line}");
    let left = gateway.wait_log(is_message("drained in part")).await;
    assert_eq!(field(&left, "connections"), 1, "{left}");
}

#[tokio::test]
async fn a_websocket_goes_on_while_the_gateway_drains() {
    let server = Peer::start("ws_echo.py", &[]).await;
    let mut gateway = gateway(server.address(), "").await;
    let address = gateway.address("web");
    // Seconds of silence, in which the stop begins; what comes after it is echoed all the same.
    let scenario = json!({
        "uri": "ws://app.test/ws", "address": address.to_string(),
        "steps": [{"text": "before"}, {"idle": 0.5}, {"text": "after"}, {"close": 1000}]
    });
    let result = tokio::spawn(async move { Peer::result("ws_client.py", &scenario).await });
    server.event("opened").await;
    gateway.drain();
    gateway.wait_log(is_state("stopping")).await;
    refused(address).await;
    let result = result.await.unwrap();
    assert_eq!((&result["echoes"], &result["code"]), (&json!(2), &json!(1000)), "{result}");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    gateway.wait_log(is_message("drained")).await;
}

#[tokio::test]
async fn a_websocket_that_outlasts_the_grace_is_cut_and_told() {
    let server = Peer::start("ws_echo.py", &[]).await;
    let mut gateway = gateway(server.address(), "shutdown: { grace: 200ms }\n").await;
    let scenario = json!({
        "uri": "ws://app.test/ws", "address": gateway.address("web").to_string(),
        "steps": [{"text": "before"}, {"wait": "closed"}]
    });
    let result = tokio::spawn(async move { Peer::result("ws_client.py", &scenario).await });
    server.event("opened").await;
    gateway.drain();
    let result = result.await.unwrap();
    assert_eq!(result["code"], 1006, "closed without a farewell: {result}");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    let line = gateway.wait_access(|line| field(line, "url.path") == "/ws").await;
    assert_eq!(field(&line, "http.response.status_code"), 101, "{line}");
    assert_eq!(field(&line, "error.type"), "stopping", "{line}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_stops_nobody() {
    // RFC 6761 §6.4: `.invalid` never resolves.
    let gateway = Gateway::start(
        r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites:
  "*":
    routes:
      - match: { path: /here }
        respond: here
      - upstream: http://backend.invalid:8080
"#,
    )
    .await;
    assert_eq!(gateway.client().get("/here").await.text(), "here");
    let reply = gateway.client().get("/there").await;
    assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("upstream_unresolved")));
    assert!(reply.header("retry-after").is_some());
    let line = gateway.wait_access(|line| field(line, "url.path") == "/there").await;
    assert_eq!(field(&line, "error.type"), "upstream_unresolved");
}

#[tokio::test]
async fn a_name_is_served_as_soon_as_it_resolves() {
    let Some(mut program) = with_hosts_of_its_own().await else {
        eprintln!("not tested: this system has no private mounts (unshare --mount)");
        return;
    };
    let origin = Origin::start().await;
    let directory = TempDir::new().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    std::fs::write(directory.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    program.arg(env!("CARGO_BIN_EXE_wardgate"));
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: \"http://later.example:{}\" }} }}\n",
        origin.address().port()
    );
    let gateway = Gateway::start_program(program, directory, &yaml).await;
    assert_eq!(gateway.client().get("/").await.status, 503);
    gateway.wait_log(is_message("resolved nothing")).await;
    std::fs::write(&hosts, "127.0.0.1 localhost later.example\n").unwrap();
    gateway.wait_log(is_message("resolved")).await;
    assert_eq!(gateway.client().get("/").await.text(), "ok");
}

/// A command that takes a program and runs it with `hosts` and `resolv.conf` of its working
/// directory in the place of the system's, for itself only.
async fn with_hosts_of_its_own() -> Option<Command> {
    for flags in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let attempt = ["sh", "-c", "mount --bind /etc/hostname /etc/hosts"];
        if run("unshare", [flags, &attempt].concat()).await.status.success() {
            let script = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf \
                          && exec \"$0\" \"$@\"";
            let mut command = Command::new("unshare");
            command.args(flags).args(["sh", "-c", script]);
            return Some(command);
        }
    }
    None
}
