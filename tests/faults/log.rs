//! Logs that cannot be written: a full disk, and a reader that has stopped reading.

use std::process::Command;

use tempfile::TempDir;

use crate::support::{Client, Gateway, Origin, Program, field, steady, within};

/// The gateway behind a shell that turns its output as `script` says.
fn behind(script: &str) -> Command {
    let mut program = Command::new("sh");
    program.args(["-c", script, env!("CARGO_BIN_EXE_wardgate")]);
    program
}

#[tokio::test]
async fn a_full_standard_output_costs_lines_and_no_request() {
    let origin = Origin::start().await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: \"{}\" }} }}\n",
        origin.url()
    );
    let program = behind("exec \"$0\" \"$@\" >/dev/full");
    let mut gateway = Gateway::start_program(program, TempDir::new().unwrap(), &yaml).await;
    for _ in 0..50 {
        assert_eq!(gateway.client().get("/").await.status, 200);
    }
    gateway.wait_log(|line| field(line, "message") == "access log was not written").await;
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let last = gateway.wait_log(|line| field(line, "message") == "terminated").await;
    assert_eq!(field(&last, "dropped_lines"), 50, "{last}");
}

#[tokio::test]
async fn nobody_who_reads_the_logs_is_waited_for() {
    // Both outputs are a pipe that holds 64 KiB and that nobody reads.
    let origin = Origin::start().await;
    let (address, _) = steady();
    let directory = TempDir::new().unwrap();
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"{address}\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: \"{}\" }} }}\n\
         storage: storage\nadmin: off\nlog: {{ level: trace, format: json }}\n",
        origin.url()
    );
    let file = directory.path().join("gateway.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = behind("mkfifo pipe; exec 3<>pipe; exec \"$0\" \"$@\" >pipe 2>pipe");
    command.args(["run", file.to_str().unwrap()]).current_dir(directory.path());
    let mut program = Program::start(&mut command);
    let client = Client::new(address).host("app.test");
    within("listener", async {
        while client.try_get("/").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // Some lines for each, and each of them hundreds of bytes.
    for number in 0..1_500 {
        assert_eq!(client.get("/").await.status, 200, "request {number}");
    }
    program.signal("TERM");
    within("end", program.exit_status()).await;
}
