//! Another process in the place of the running one.

mod load;
mod refused;
mod silence;
mod supervised;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Gateway, field, run, within};

/// A gateway and those that have taken over from it, which share its log and its access lines.
pub(crate) struct Generations {
    pub(crate) first: Gateway,
}

impl Generations {
    async fn start(yaml: &str) -> Self {
        Self::of(Gateway::start(yaml).await)
    }

    pub(crate) fn of(first: Gateway) -> Self {
        Self { first }
    }

    async fn start_program(program: Command, yaml: &str) -> Self {
        Self { first: Gateway::start_program(program, TempDir::new().unwrap(), yaml).await }
    }

    fn directory(&self) -> &Path {
        self.first.directory()
    }

    /// Runs `wardgate upgrade` with `arguments`.
    async fn ask(&self, arguments: &[&str]) -> Output {
        ask(self.directory(), arguments).await
    }

    /// Upgrades to the program that runs. Returns the number of the new process.
    pub(crate) async fn upgrade(&self, arguments: &[&str]) -> u32 {
        let output = self.ask(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pid = self.serving().await;
        let version = env!("CARGO_PKG_VERSION");
        let wanted = format!("upgraded: {version} (process {pid}) serves, {version} (process ");
        assert!(text.starts_with(&wanted), "{text}");
        pid
    }

    fn admin(&self) -> Client {
        Client::new(self.first.admin_address()).host("localhost")
    }

    /// The number of the process that answers on the admin address.
    async fn serving(&self) -> u32 {
        pid(&self.admin().get("/status").await.json()["pid"])
    }

    /// Those that were started by an upgrade.
    fn started(&self) -> Vec<u32> {
        let log = self.first.log().all();
        let starts = log.iter().filter(|line| {
            field(line, "message") == "starting another process in the place of this one"
        });
        starts.map(|line| pid(field(line, "pid"))).collect()
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        for pid in self.started().into_iter().filter(|pid| is_of(*pid, self.directory())) {
            let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
        }
    }
}

/// Whether it lives and belongs to the gateway in `directory`: numbers come again.
fn is_of(pid: u32, directory: &Path) -> bool {
    let own = directory.canonicalize();
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| own.is_ok_and(|own| own == at))
}

/// Runs `wardgate upgrade` with `arguments` for the gateway in `directory`.
async fn ask(directory: &Path, arguments: &[&str]) -> Output {
    let file = directory.join("gateway.yaml");
    let words = ["upgrade"].iter().chain(arguments).map(PathBuf::from);
    run(env!("CARGO_BIN_EXE_wardgate"), words.chain([file])).await
}

/// Waits until a process that is not the test's own has ended.
async fn gone(pid: u32, directory: &Path) {
    let end = async {
        while is_of(pid, directory) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(&format!("end of process {pid}"), end).await;
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "process {pid} did not take SIG{name}");
}

fn pid(value: &Value) -> u32 {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process's number")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that the shell runs.
fn script(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn is_message(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == text
}

/// The process group that a process is in (proc_pid_stat(5)).
fn group(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(2).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
async fn descriptors_do_not_grow_from_one_process_to_the_next() {
    let yaml = r#"
listeners:
  web: { bind: ["127.0.0.1:0", "127.0.0.1:0", ":0"], protocol: http }
  b:c: { bind: "127.0.0.1:0", protocol: http }
sites: { "*": { routes: [{ respond: here }] } }
shutdown: { grace: 1s }
"#;
    let mut gateways = Generations::start(&yaml.replace("b:c:", "\"b:c\":")).await;
    let addresses = |gateways: &Generations| {
        let mut all = gateways.first.addresses("web");
        all.extend(gateways.first.addresses("b:c"));
        all
    };
    let (first, bound) = (gateways.first.id(), addresses(&gateways));
    let own_group = group(first);
    assert_eq!(gateways.serving().await, first);
    let (mut before, mut last) = (0, first);
    for generation in 2..=4 {
        let next = gateways.upgrade(&[]).await;
        // What speaks to the group, as a terminal does, speaks to it as to the one before.
        let as_before = async {
            while group(next) != own_group {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("return to the process group", as_before).await;
        match generation {
            2 => {
                assert_eq!(gateways.first.end().await.code(), Some(0));
                // It has served for a second, and has opened all that it opens.
                before = descriptors(next);
            }
            _ => gone(last, gateways.directory()).await,
        }
        last = next;
    }
    // Until the connections that were used to ask are closed.
    let as_before = async {
        while descriptors(last) > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("end of the descriptors beyond those of two generations before", as_before).await;
    let (mut all, mut wanted) = (addresses(&gateways), bound.repeat(4));
    all.sort();
    wanted.sort();
    assert_eq!(all, wanted, "every process serves the same sockets");
    for address in bound {
        let host = std::net::SocketAddr::from(([127, 0, 0, 1], address.port()));
        assert_eq!(Client::new(host).get("/").await.text(), "here", "{address}");
    }
    let metrics = gateways.admin().get("/metrics").await.text();
    assert!(metrics.contains("wardgate_upgrades_total{outcome=\"upgraded\"} 1\n"), "{metrics}");
    signal(last, "TERM");
    gone(last, gateways.directory()).await;
}

#[tokio::test]
async fn the_program_is_taken_from_where_it_lies_by_now() {
    let directory = TempDir::new().unwrap();
    let (program, next) = (directory.path().join("wardgate"), directory.path().join("next"));
    fs::copy(env!("CARGO_BIN_EXE_wardgate"), &program).unwrap();
    let yaml = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
                sites: { \"*\": { routes: [{ respond: here }] } }\nshutdown: { grace: 1s }\n";
    let mut gateways = Generations::start_program(Command::new(&program), yaml).await;

    fs::remove_file(&program).unwrap();
    let output = gateways.ask(&[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let wanted = format!("{} is gone: name the new program with --binary", program.display());
    assert!(said(&output).contains(&wanted), "{}", said(&output));

    // As an update of the package does it, and a signal as the operator's only word.
    let text = format!("echo \"$@\" > started\nexec {} \"$@\"", env!("CARGO_BIN_EXE_wardgate"));
    script(directory.path(), "next", &text);
    fs::rename(next, &program).unwrap();
    gateways.first.signal("USR2");
    let upgraded = gateways.first.wait_log(is_message("upgraded")).await;
    assert_eq!(field(&upgraded, "reason"), "SIGUSR2");
    assert_eq!(gateways.first.end().await.code(), Some(0));
    assert_eq!(pid(field(&upgraded, "pid")), gateways.serving().await);
    let started = fs::read_to_string(gateways.directory().join("started")).unwrap();
    assert!(started.starts_with("run ") && started.contains("gateway.yaml"), "{started}");
    assert_eq!(gateways.first.client().get("/").await.text(), "here");
}

#[tokio::test]
async fn a_process_that_drains_opens_its_log_anew_as_well() {
    let origin = crate::support::Origin::start().await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: \"{}\" }} }}\n\
         log: {{ access: {{ file: access.log }} }}\nshutdown: {{ grace: 60s }}\n",
        origin.url()
    );
    let mut gateways = Generations::start(&yaml).await;
    let [log, old] = ["access.log", "access.1"].map(|name| gateways.directory().join(name));
    let client = gateways.first.client();
    assert_eq!(client.get("/before").await.status, 200);
    origin.hold();
    let held = tokio::spawn(async move { client.get("/held").await.status });
    origin.received(2).await;
    let next = gateways.upgrade(&[]).await;
    // As logrotate does it, of which both processes hear; here the old one alone, for its part.
    fs::rename(&log, &old).unwrap();
    gateways.first.signal("HUP");
    let opened = async {
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("file that was opened anew", opened).await;
    origin.release();
    assert_eq!(held.await.unwrap(), 200);
    assert_eq!(gateways.first.end().await.code(), Some(0));
    let written = fs::read_to_string(&log).unwrap();
    assert!(written.contains("/held") && !written.contains("/before"), "{written}");
    signal(next, "TERM");
    gone(next, gateways.directory()).await;
}
