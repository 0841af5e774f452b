//! What systemd is told, and what it hands over. The tests play systemd.

use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, PATIENCE, field, in_repository, run};

const YAML: &str = r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites: { "*": { routes: [{ respond: here }] } }
"#;

/// The socket that a service manager listens on for notifications.
struct Notified(UnixDatagram);

impl Notified {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The lines of the next notification that is not only a sign of life.
    fn next(&self) -> Vec<String> {
        loop {
            let lines = self.any();
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }

    /// The lines of the next notification.
    fn any(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let size = self.0.recv(&mut buffer).expect("a notification in time");
        let text = String::from_utf8(buffer[..size].to_vec()).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

/// The gateway, told by `variables` that something supervises it.
async fn supervised(variables: &[(&str, &str)], yaml: &str) -> Gateway {
    let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    program.envs(variables.iter().copied());
    Gateway::start_program(program, TempDir::new().unwrap(), yaml).await
}

fn is_message(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == text
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_ready_and_of_the_drain_and_how_long_it_may_take() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let abstract_name = format!("wardgate-test-{}-{}", std::process::id(), fastrand::u64(..));
    let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    for (address, socket) in [
        (path.display().to_string(), UnixDatagram::bind(&path).unwrap()),
        (format!("@{abstract_name}"), UnixDatagram::bind_addr(&abstract_address).unwrap()),
    ] {
        let notified = Notified::new(socket);
        let yaml = format!("{YAML}shutdown: {{ delay: 1s, grace: 10s }}\n");
        let mut gateway = supervised(&[("NOTIFY_SOCKET", &address)], &yaml).await;
        assert_eq!(notified.next(), ["READY=1", "STATUS=serving 1 site"], "{address}");
        gateway.drain();
        let stopping = notified.next();
        assert_eq!(stopping[0], "STOPPING=1", "{stopping:?}");
        let limit = stopping[1].strip_prefix("EXTEND_TIMEOUT_USEC=").expect("a limit");
        let limit = Duration::from_micros(limit.parse().unwrap());
        assert!(limit > Duration::from_secs(11), "delay, grace and the last steps: {limit:?}");
        assert_eq!(stopping[2], "STATUS=finishing what is in flight");
        assert_eq!(gateway.exit_status().await.code(), Some(0), "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_from_the_runtime_until_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let notified = Notified::new(UnixDatagram::bind(&path).unwrap());
    let address = path.display().to_string();
    let variables = [("NOTIFY_SOCKET", address.as_str()), ("WATCHDOG_USEC", "200000")];
    let yaml = format!("{YAML}shutdown: {{ delay: 10m }}\n");
    let mut gateway = supervised(&variables, &yaml).await;
    let told: Vec<_> = (0..4).map(|_| notified.any()).collect();
    assert_eq!(told.iter().filter(|lines| lines[..] == ["WATCHDOG=1"]).count(), 3, "{told:?}");
    gateway.drain();
    assert_eq!(notified.next()[0], "STOPPING=1");
    assert_eq!(notified.any(), ["WATCHDOG=1"], "it lives while it drains");
    gateway.signal("TERM");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn another_process_is_meant_by_a_watchdog_with_another_pid() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let notified = Notified::new(UnixDatagram::bind(&path).unwrap());
    let address = path.display().to_string();
    let variables =
        [("NOTIFY_SOCKET", address.as_str()), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let mut gateway = supervised(&variables, YAML).await;
    assert_eq!(notified.any()[0], "READY=1");
    gateway.drain();
    assert_eq!(notified.any()[0], "STOPPING=1", "no sign of life in between");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn a_notification_that_nobody_takes_stops_nothing() {
    let variables = [("NOTIFY_SOCKET", "/nonexistent/notify")];
    let mut gateway = supervised(&variables, YAML).await;
    gateway.wait_log(is_message("cannot notify the service manager")).await;
    assert_eq!(gateway.client().get("/").await.text(), "here");
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn inherited_sockets_serve_the_listeners_that_name_their_addresses() {
    let mut program = Command::new("python3");
    program.arg(in_repository("tests/peers/activate.py"));
    program.args(["3", env!("CARGO_BIN_EXE_wardgate")]);
    let yaml = r#"
listeners:
  first: { bind: "127.0.0.1:PORT_1", protocol: http }
  second: { bind: ["127.0.0.1:0", "127.0.0.1:PORT_0"], protocol: http }
sites:
  one.test: { listeners: [first], routes: [{ respond: first }] }
  two.test: { listeners: [second], routes: [{ respond: second }] }
"#;
    let gateway = Gateway::start_program(program, TempDir::new().unwrap(), yaml).await;
    let first = gateway.client_of("first").host("one.test").get("/").await;
    assert_eq!(first.text(), "first");
    let addresses = gateway.addresses("second");
    assert_eq!(addresses.len(), 2, "one inherited, one bound");
    for address in addresses {
        let client = crate::support::Client::new(address).host("two.test");
        assert_eq!(client.get("/").await.text(), "second");
    }
    let closed = is_message("closed an inherited socket that no listener names");
    let unused = gateway.wait_log(closed).await;
    let unused: std::net::SocketAddr =
        field(&unused, "server.address").as_str().unwrap().parse().unwrap();
    assert!(TcpStream::connect(unused).is_err(), "{unused} is closed");
    let datagram = gateway
        .wait_log(is_message("closed an inherited socket that does not listen on tcp"))
        .await;
    assert_eq!(field(&datagram, "name"), "socket-3");
}

#[tokio::test]
async fn sockets_for_another_process_are_left_alone() {
    let variables = [("LISTEN_PID", "1"), ("LISTEN_FDS", "1")];
    let mut gateway = supervised(&variables, YAML).await;
    assert_eq!(gateway.client().get("/").await.text(), "here");
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn the_units_in_deploy_are_what_systemd_expects() {
    // The program that a unit names has to be there for the check.
    let directory = TempDir::new().unwrap();
    let mut arguments = vec!["verify".to_owned(), "--man=no".to_owned()];
    for name in ["wardgate.service", "wardgate.socket"] {
        let unit = std::fs::read_to_string(in_repository("deploy").join(name)).unwrap();
        let path = directory.path().join(name);
        let program = env!("CARGO_BIN_EXE_wardgate");
        std::fs::write(&path, unit.replace("/usr/local/bin/wardgate", program)).unwrap();
        arguments.push(path.display().to_string());
    }
    let output = run("systemd-analyze", arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    // Of units outside of this directory, which are none of ours, it complains as well.
    let is_known = |line: &str| line.ends_with("ignoring: notify-reload"); // before systemd 253
    let is_of_ours = |line: &&str| line.contains("wardgate") && !is_known(line);
    let of_ours: Vec<&str> = said.lines().filter(is_of_ours).collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}
