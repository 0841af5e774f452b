//! The real program, started with a configuration of the test's own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;
use super::client::Client;
use super::lines::{Lines, field};
use super::program::Program;

/// A running `wardgate run gateway.yaml` in a directory of its own.
///
/// Its addresses come from its log: one `listening` event for each socket with `listener` and
/// `server.address`, one `admin listening`, then `ready`. So a configuration binds port 0.
pub(crate) struct Gateway {
    program: Program,
    directory: TempDir,
}

impl Gateway {
    /// Writes `yaml` to a file, starts the program with it and waits until it is ready.
    ///
    /// `storage: storage` and an admin address on port 0 are added where the text has none.
    pub(crate) async fn start(yaml: impl AsRef<str>) -> Self {
        let directory = TempDir::new().unwrap();
        Self::start_in(directory, yaml.as_ref()).await
    }

    /// The same in a directory that already holds the files which the configuration names.
    pub(crate) async fn start_in(directory: TempDir, yaml: &str) -> Self {
        Self::start_program(Command::new(env!("CARGO_BIN_EXE_wardgate")), directory, yaml).await
    }

    /// The same with `program` in the place of the gateway.
    pub(crate) async fn start_program(
        mut program: Command,
        directory: TempDir,
        yaml: &str,
    ) -> Self {
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, completed(yaml)).unwrap();
        program.arg("run").arg(&file).current_dir(directory.path()).env_remove("RUST_LOG");
        let gateway = Self { program: Program::start(&mut program), directory };
        gateway.wait_log(|line| field(line, "message") == "ready").await;
        gateway
    }

    /// The same directory with another process, after this one has ended.
    pub(crate) async fn again(mut self, yaml: &str) -> Self {
        let other = TempDir::new().unwrap();
        Self::start_in(std::mem::replace(&mut self.directory, other), yaml).await
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }

    /// The directory, for another program than the gateway to be started in.
    pub(crate) fn take_directory(mut self) -> TempDir {
        std::mem::replace(&mut self.directory, TempDir::new().unwrap())
    }

    /// A client of the first listener, plain HTTP.
    pub(crate) fn client(&self) -> Client {
        let first = self.log().all().into_iter().find(is_listening).expect("the gateway listens");
        Client::new(address(&first))
    }

    /// A plain client of the named listener.
    pub(crate) fn client_of(&self, listener: &str) -> Client {
        Client::new(self.address(listener))
    }

    /// An HTTPS client of the named listener that trusts the gateway's own CA.
    pub(crate) fn tls_client_of(&self, listener: &str, host: &str) -> Client {
        self.client_of(listener).tls(&self.ca()).host(host)
    }

    /// The first address of the named listener.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let addresses = self.addresses(listener);
        *addresses.first().unwrap_or_else(|| panic!("no listener {listener}:\n{}", self.log()))
    }

    /// Every address of the named listener, in the order bound.
    pub(crate) fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let log = self.log().all();
        let events =
            log.iter().filter(|line| is_listening(line) && field(line, "listener") == listener);
        events.map(address).collect()
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        let log = self.log().all();
        let event = log.iter().find(|line| field(line, "message") == "admin listening");
        address(event.unwrap_or_else(|| panic!("no admin listener:\n{}", self.log())))
    }

    /// The certificate of the gateway's own CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory().join("storage/local-ca/ca.pem")
    }

    /// Where `gateway.yaml` and `storage` are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The log, one event a line.
    pub(crate) fn log(&self) -> &Lines {
        &self.program.stderr
    }

    /// The first log event, past or future, that `is_wanted` accepts.
    pub(crate) async fn wait_log(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.log().wait("such log event", is_wanted).await
    }

    /// The access lines so far.
    pub(crate) fn access(&self) -> Vec<Value> {
        self.program.stdout.all()
    }

    /// The first access line, past or future, that `is_wanted` accepts.
    pub(crate) async fn wait_access(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.program.stdout.wait("such access line", is_wanted).await
    }

    /// The access lines that `is_wanted` accepts, once there are `count` of them.
    pub(crate) async fn wait_accesses(
        &self,
        count: usize,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        self.program.stdout.wait_for_count("such access lines", count, is_wanted).await
    }

    /// Puts `yaml` in the place of the configuration by renaming, completed as at the start.
    pub(crate) fn rewrite(&self, yaml: &str) {
        let file = self.directory().join("gateway.yaml");
        let new = file.with_extension("new");
        fs::write(&new, completed(yaml)).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// The same, and waits until it is in force as this generation.
    pub(crate) async fn reload(&self, yaml: &str, generation: u64) {
        self.rewrite(yaml);
        self.signal("HUP");
        self.reloaded(generation).await;
    }

    /// Waits until this generation is in force.
    pub(crate) async fn reloaded(&self, generation: u64) -> Value {
        let is_it = |line: &Value| {
            field(line, "message") == "reloaded" && *field(line, "generation") == generation
        };
        self.wait_log(is_it).await
    }

    /// The memory that the process has in use, in bytes. Linux only.
    pub(crate) fn memory(&self) -> usize {
        self.memory_by("VmRSS:")
    }

    /// The most memory the process has had in use, in bytes. Linux only.
    pub(crate) fn memory_peak(&self) -> usize {
        self.memory_by("VmHWM:")
    }

    fn memory_by(&self, key: &str) -> usize {
        let path = format!("/proc/{}/status", self.program.id());
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a size");
        let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    /// Sends a signal by its name without SIG, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.program.signal(name);
    }

    /// Begins the graceful end.
    pub(crate) fn drain(&self) {
        self.signal("TERM");
    }

    /// Waits for the end of the process itself, while others may go on with its streams.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        self.program.end().await
    }

    /// Waits for the end of the process.
    pub(crate) async fn exit_status(&mut self) -> ExitStatus {
        self.program.exit_status().await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let access = &self.program.stdout;
            eprintln!(
                "the gateway's log (waits end after {PATIENCE:?}):\n{}access lines:\n{access}",
                self.log()
            );
        }
    }
}

fn completed(yaml: &str) -> String {
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    let mut text = format!("{}\n", yaml.trim_end());
    if !has("storage:") {
        text.push_str("storage: storage\n");
    }
    if !has("admin:") {
        text.push_str("admin: { bind: \"127.0.0.1:0\" }\n");
    }
    text
}

fn is_listening(line: &Value) -> bool {
    field(line, "message") == "listening"
}

fn address(event: &Value) -> SocketAddr {
    let address = field(event, "server.address").as_str().expect("an address");
    address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}
