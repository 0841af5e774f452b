//! The Python peers of `tests/peers`: judges that share no code with the gateway.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use super::in_repository;
use super::lines::Lines;
use super::program::Program;

/// A peer that serves until it is dropped.
pub(crate) struct Peer {
    program: Program,
    address: SocketAddr,
}

impl Peer {
    /// Starts `tests/peers/NAME` and waits until it listens.
    pub(crate) async fn start(name: &str, arguments: &[&str]) -> Self {
        let program = Program::start(&mut command(name, arguments));
        let told = program.stdout.wait("listening", |line| line["event"] == "listening").await;
        let port = told["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        Self { program, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Runs `tests/peers/NAME` to its end and returns what it told.
    pub(crate) async fn run(name: &str, arguments: &[&str]) -> Vec<Value> {
        let mut program = Program::start(&mut command(name, arguments));
        let status = program.exit_status().await;
        assert!(
            status.success(),
            "{name} ended with {status}:\n{}{}",
            program.stdout,
            program.stderr
        );
        program.stdout.all()
    }

    /// Runs a client whose last word is its `result` event, with the scenario as its argument.
    pub(crate) async fn result(name: &str, scenario: &Value) -> Value {
        let told = Self::run(name, &[&scenario.to_string()]).await;
        told.into_iter().find(|line| line["event"] == "result").expect("a result")
    }

    /// The same, of values that a task can own.
    pub(crate) async fn run_result(name: &'static str, scenario: Value) -> Value {
        Self::result(name, &scenario).await
    }

    /// The same for several scenarios, one after the other in one process.
    pub(crate) async fn results(name: &str, scenarios: &[Value]) -> Vec<Value> {
        let told = Self::run(name, &[&Value::from(scenarios).to_string()]).await;
        let results: Vec<_> = told.into_iter().filter(|line| line["event"] == "result").collect();
        assert_eq!(results.len(), scenarios.len());
        results
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the peer has told and tells, one event a line.
    pub(crate) fn events(&self) -> &Lines {
        &self.program.stdout
    }

    /// The first event with this name, past or future.
    pub(crate) async fn event(&self, name: &str) -> Value {
        self.events().wait(name, |line| line["event"] == name).await
    }

    /// Every byte that came in on connection `number` of raw_origin.py, from 1.
    pub(crate) fn received(&self, number: u64) -> Vec<u8> {
        let events = self.events().all();
        let received = events
            .iter()
            .filter(|line| line["event"] == "received" && line["connection"] == number);
        received.flat_map(|line| bytes(line["hex"].as_str().expect("hexadecimal digits"))).collect()
    }
}

/// Python, about to run `tests/peers/NAME`.
pub(crate) fn command(name: &str, arguments: &[&str]) -> Command {
    let python = in_repository(".venv/bin/python3");
    assert!(python.exists(), "{} is missing: ./dev test makes it", python.display());
    let mut command = Command::new(python);
    command
        .arg(in_repository("tests/peers").join(name))
        .args(arguments)
        .env("GRPC_VERBOSITY", "NONE");
    command
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
