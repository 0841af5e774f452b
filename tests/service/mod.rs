//! What systemd is told, and what it hands over. The tests play systemd.

use std::net::{IpAddr, SocketAddr as InternetAddress, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Gateway, PATIENCE, Program, field, in_repository, run};

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

    /// Follows reloads up to the one that ends with `status`. Returns when that began.
    fn reloads_until(&self, status: &str) -> u64 {
        loop {
            let begun = self.next();
            assert_eq!(begun[0], "RELOADING=1", "{begun:?}");
            let at = begun[1].strip_prefix("MONOTONIC_USEC=").expect("a time").parse().unwrap();
            let ended = self.next();
            assert_eq!(ended[0], "READY=1", "{ended:?}");
            if ended[1] == format!("STATUS={status}") {
                return at;
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
        assert_eq!(
            notified.next(),
            ["READY=1", "STATUS=serving 1 site, generation 1"],
            "{address}"
        );
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

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_each_reload_whoever_asks_for_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let notified = Notified::new(UnixDatagram::bind(&path).unwrap());
    let gateway = supervised(&[("NOTIFY_SOCKET", &path.display().to_string())], YAML).await;
    assert_eq!(notified.next()[0], "READY=1");

    gateway.rewrite(&YAML.replace("sites: {", "sites: { a.test: { routes: [{ respond: a }] },"));
    let begun = notified.reloads_until("serving 2 sites, generation 2"); // the file's change did it
    gateway.rewrite("sites: 5");
    gateway.signal("HUP");
    let rejected = "serving 2 sites, generation 2; the last reload was rejected, see the log";
    let again = notified.reloads_until(rejected);
    assert!(again > begun, "the times of systemd's clock: {begun}, {again}");
    gateway.rewrite(YAML);
    notified.reloads_until("serving 1 site, generation 3");
}

#[tokio::test]
async fn inherited_sockets_serve_the_listeners_that_name_their_addresses() {
    let mut program = Command::new("python3");
    program.arg(in_repository("tests/peers/activate.py"));
    program.args(["127.0.0.1,127.0.0.1,127.0.0.1,*", env!("CARGO_BIN_EXE_wardgate")]);
    let yaml = r#"
listeners:
  first: { bind: "127.0.0.1:PORT_1", protocol: http }
  second: { bind: ["127.0.0.1:0", "127.0.0.1:PORT_0"], protocol: http }
  every: { bind: ":PORT_3", protocol: http }
sites:
  one.test: { listeners: [first], routes: [{ respond: first }] }
  two.test: { listeners: [second], routes: [{ respond: second }] }
  all.test: { listeners: [every], routes: [{ respond: every }] }
"#;
    let gateway = Gateway::start_program(program, TempDir::new().unwrap(), yaml).await;
    let first = gateway.client_of("first").host("one.test");
    assert_eq!(first.get("/").await.text(), "first");
    let addresses = gateway.addresses("second");
    assert_eq!(addresses.len(), 2, "one inherited, one bound");
    for address in addresses {
        let client = Client::new(address).host("two.test");
        assert_eq!(client.get("/").await.text(), "second");
    }
    let [every] = gateway.addresses("every")[..] else { panic!("a bare port is one socket") };
    for host in if every.is_ipv6() { &["127.0.0.1", "::1"][..] } else { &["127.0.0.1"] } {
        let client = Client::new((host.parse::<IpAddr>().unwrap(), every.port()).into());
        assert_eq!(client.host("all.test").get("/").await.text(), "every", "{host}");
    }
    let closed = is_message("closed an inherited socket that no listener names");
    let unused = gateway.wait_log(closed).await;
    let unused: InternetAddress =
        field(&unused, "server.address").as_str().unwrap().parse().unwrap();
    assert!(TcpStream::connect(unused).is_err(), "{unused} is closed");
    let datagram = gateway
        .wait_log(is_message("closed an inherited socket that does not listen on tcp"))
        .await;
    assert_eq!(field(&datagram, "name"), "socket-4");

    let file = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
    let renamed = file.replace("first", "renamed").replace("respond: every", "respond: still");
    gateway.reload(&renamed, 2).await;
    assert_eq!(first.get("/").await.text(), "renamed", "the socket is kept, as any other");
    assert_eq!(Client::new(every_at(every)).host("all.test").get("/").await.text(), "still");
}

#[tokio::test]
async fn an_address_that_systemd_holds_is_neither_widened_nor_narrowed() {
    let mut program = Command::new("python3");
    program.arg(in_repository("tests/peers/activate.py"));
    program.args(["127.0.0.1,*", env!("CARGO_BIN_EXE_wardgate")]);
    let yaml = r#"
listeners:
  one: { bind: "127.0.0.1:PORT_0", protocol: http }
  every: { bind: ":PORT_1", protocol: http }
sites: { "*": { routes: [{ respond: here }] } }
"#;
    let gateway = Gateway::start_program(program, TempDir::new().unwrap(), yaml).await;
    let file = std::fs::read_to_string(gateway.directory().join("gateway.yaml")).unwrap();
    let (one, every) = (gateway.address("one").port(), gateway.address("every").port());
    for (name, port, is_narrow) in [("one", one, true), ("every", every, false)] {
        let (narrow, wide) = (format!("\"127.0.0.1:{port}\""), format!("\":{port}\""));
        let (from, to) = if is_narrow { (&narrow, &wide) } else { (&wide, &narrow) };
        assert!(file.contains(from), "{file}");
        gateway.rewrite(&file.replace(from, to));
        let text = format!("listener {name} cannot use");
        let faults = |line: &Value| field(line, "faults").as_str().unwrap_or_default().to_owned();
        let line = gateway.wait_log(|line| faults(line).contains(&text)).await;
        assert!(faults(&line).contains("change ListenStream="), "systemd listens on: {line}");
        let client = Client::new(([127, 0, 0, 1], port).into());
        assert_eq!(client.get("/").await.text(), "here", "{name}");
    }
}

/// Where a socket that takes every address is reached.
fn every_at(every: InternetAddress) -> InternetAddress {
    ([127, 0, 0, 1], every.port()).into()
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

#[tokio::test]
async fn logs_go_to_a_directory_where_nobody_reads_what_is_printed() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let messages = Notified::new(UnixDatagram::bind(path("notify")).unwrap());
    let yaml = |text: &str| format!("admin: off\nstorage: storage\n{}", YAML.replace("here", text));
    std::fs::write(path("gateway.yaml"), yaml("here")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    command.args(["run", "--logs", "logs", "gateway.yaml"]).current_dir(directory.path());
    let mut program = Program::start(command.env("NOTIFY_SOCKET", path("notify")));
    assert_eq!(messages.next()[0], "READY=1");
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let log = lines("logs/wardgate.log");
    let listening = log.iter().find(|line| is_message("listening")(line)).unwrap();
    let address = field(listening, "server.address").as_str().unwrap().parse().unwrap();
    let client = Client::new(address).host("a");
    assert_eq!(client.get("/").await.text(), "here");

    std::fs::write(path("gateway.yaml"), yaml("there")).unwrap();
    program.signal("HUP");
    while client.get("/").await.text() != "there" {}
    program.signal("TERM");
    assert!(program.exit_status().await.success());
    assert_eq!(program.stdout.all(), Vec::<Value>::new());
    assert_eq!(program.stderr.all(), Vec::<Value>::new());
    let asked = lines("logs/access.log").len();
    assert!(asked >= 2, "{asked} lines");
    let log = lines("logs/wardgate.log");
    assert!(is_message("terminated")(log.last().unwrap()), "{log:?}");
    assert_eq!(field(log.last().unwrap(), "dropped_lines"), 0);
}
