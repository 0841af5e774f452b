//! What the commands print, and how they end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use wardgate::config;

use crate::support::{Client, Gateway, Origin, field, in_repository, run};

const WARDGATE: &str = env!("CARGO_BIN_EXE_wardgate");

/// A file that is fine, with port 0 and state of its own.
const FINE: &str = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
    sites: { app.test: { routes: [ { respond: here } ] } }\nadmin: off\nstorage: state\n";

/// Runs `wardgate` in `directory` to its end.
async fn wardgate(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(WARDGATE);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A directory with `files`.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

#[tokio::test]
async fn the_exit_status_and_the_message_say_what_happened() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = socket.local_addr().unwrap().to_string();
    let directory = directory(&[
        ("fine.yaml", FINE),
        ("faulty.yaml", "sites:\n  app.test: { upstraem: app }\n"),
        ("bytes.yaml", "sites: \u{0}"),
    ]);
    let rows: [(&[&str], i32, &str); 20] = [
        (&["--help"], 0, "Exit status:"),
        (&["help", "run"], 0, "Usage: wardgate run [OPTIONS] [FILE]"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&["version"], 0, env!("CARGO_PKG_VERSION")),
        (&["schema"], 0, "\"$schema\""),
        (&["check", "fine.yaml"], 0, "fine.yaml: fine"),
        (&["config", "fine.yaml"], 0, "app.test"),
        (&[], 2, "Usage: wardgate <COMMAND>"),
        (&["chekc"], 2, "'check'"),
        (&["check", "--all"], 2, "unexpected argument '--all'"),
        (&["check", "faulty.yaml"], 2, "did you mean \"upstream\"?"),
        (&["run", "faulty.yaml"], 2, "did you mean \"upstream\"?"),
        (&["check", "bytes.yaml"], 2, "bytes.yaml:1:"),
        (&["check", "nowhere.yaml"], 1, "cannot read nowhere.yaml: No such file"),
        (&["run", "."], 1, "cannot read .: Is a directory"),
        (&["run"], 1, "there is no gateway.yaml here"),
        (&["proxy", "--from", "app.localhost"], 2, "--to <URL>"),
        (
            &["proxy", "--from", "app.localhost", "--to", "localhost:5000"],
            2,
            "\"http://localhost:5000\"?",
        ),
        (&["demo-backend", "--bind", &taken], 1, "in use"),
        (&["service", "status"], 1, "on Linux use the systemd units"),
    ];
    for (arguments, code, text) in rows {
        let output = wardgate(directory.path(), arguments).await;
        let said = if code == 0 { stdout(&output) } else { stderr(&output) };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(said.contains(text), "{arguments:?}: {said}");
        if code != 0 {
            assert_eq!(stdout(&output), "", "{arguments:?}: faults go to standard error");
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = directory(&[("gateway.yaml", FINE)]);
    let file = directory.path().join("gateway.yaml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&file).is_ok() {
        return; // root may read everything
    }
    let output = wardgate(directory.path(), &["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot read gateway.yaml: Permission denied"), "{output:?}");
}

#[tokio::test]
async fn check_lists_all_faults_and_lets_warnings_pass() {
    let directory = directory(&[
        (
            "faults.yaml",
            "sites:\n  a.test: { upstream: apo }\n  b.test: { https: never, upstream: app }\nlog: { levle: info }\nupstreams: { app: { servers: \"http://localhost:1\" } }\n",
        ),
        (
            "warning.yaml",
            "sites:\n  a.test: { upstream: app }\nupstreams: { app: { servers: \"https://localhost:1\", tls: { verify: false } } }\n",
        ),
    ]);
    let output = wardgate(directory.path(), &["check", "faults.yaml"]).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    for place in ["faults.yaml:2:23: ", "faults.yaml:3:20: ", "faults.yaml:4:8: "] {
        assert!(said.contains(place), "{place} in {said}");
    }
    let output = wardgate(directory.path(), &["check", "warning.yaml"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("warning"), "{output:?}");
    assert_eq!(stdout(&output), "warning.yaml: fine\n");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let script = "set -o pipefail; \"$0\" schema | head -n 1";
    let output = run("bash", ["-c", script, WARDGATE]).await;
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(stdout(&output), "{\n");
}

#[tokio::test]
async fn the_effective_configuration_loads_again_and_keeps_its_secrets() {
    let directory = directory(&[
        ("word", "hunter2"),
        (
            "gateway.yaml",
            "sites:\n  a.test:\n    routes:\n      - match: { header: { X-Key: \"${file:word}\" } }\n        \
             respond: ok\n      - upstream: app\n\
             upstreams: { app: { servers: \"http://localhost:5000\" } }\n",
        ),
    ]);
    let output = wardgate(directory.path(), &["config"]).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!text.contains("hunter2"), "{text}");
    for default in ["request_header_timeout: 10s", "grace: 30s", "least_requests", "127.0.0.1:2019"]
    {
        assert!(text.contains(default), "{default} in {text}");
    }
    let again = config::from_text("again.yaml", &text, directory.path());
    let again = again.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    assert_eq!(config::effective::yaml(&again), text, "and means the same");
}

#[tokio::test]
async fn proxy_serves_one_name_without_a_file() {
    let origin = Origin::start().await;
    let script = "exec \"$0\" proxy --from app.localhost:0 --to \"$ORIGIN\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, WARDGATE]).env("ORIGIN", origin.url());
    let mut gateway = Gateway::start_program(command, TempDir::new().unwrap(), "").await;
    let ca = gateway.directory().join("certs/local-ca/ca.pem");
    let client = gateway.client_of("secure").tls(&ca).host("app.localhost");
    assert_eq!(client.get("/").await.text(), "ok");
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

#[tokio::test]
async fn trust_prints_the_ca_that_the_gateway_uses() {
    let gateway = Gateway::start(FINE.replace("protocol: http", "protocol: https")).await;
    let output = wardgate(gateway.directory(), &["trust"]).await;
    let ca = std::fs::read_to_string(gateway.directory().join("state/local-ca/ca.pem")).unwrap();
    assert!(stdout(&output).contains(ca.trim()), "{output:?}");
    assert!(stdout(&output).contains("update-ca-certificates"), "{output:?}");
}

#[tokio::test]
async fn the_demo_backend_says_where_it_is_and_ends_when_told() {
    let mut child = Command::new(WARDGATE)
        .args(["demo-backend", "--bind", "127.0.0.1:0", "--name", "blue"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("demo backend on http://").unwrap();
    let address = address.trim_end_matches('/').parse().unwrap();
    let reply = Client::new(address).get("/any/path?q=1").await;
    assert_eq!(reply.json()["path"], "/any/path", "{}", reply.text());
    run("kill", ["-s", "TERM", &child.id().to_string()]).await;
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// `script` of util-linux gives the program a terminal; its standard input is the keyboard.
#[tokio::test]
async fn on_a_terminal_a_person_reads_urls_and_ctrl_c_ends_it() {
    let directory = directory(&[("gateway.yaml", FINE)]);
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("exec '{WARDGATE}' run"), "/dev/null"])
        // A shell of the user's might stay between the terminal and the program.
        .env("SHELL", "/bin/sh")
        .current_dir(directory.path())
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let seen = tokio::task::spawn_blocking(move || {
        let mut seen = String::new();
        let mut lines = BufReader::new(&mut screen);
        while !seen.contains("Ctrl-C") {
            assert!(lines.read_line(&mut seen).unwrap() > 0, "{seen}");
        }
        keyboard.write_all(b"\x03").unwrap();
        lines.read_to_string(&mut seen).unwrap();
        (seen, child.wait().unwrap())
    });
    let (seen, status) = crate::support::within("end of the program", seen).await.unwrap();
    assert_eq!(status.code(), Some(0), "{seen}");
    for text in
        ["INFO wardgate::app: ready", "Wardgate is ready\r\n    http://app.test:", "drained"]
    {
        assert!(seen.contains(text), "{text} in {seen}");
    }
    assert!(!seen.contains("panicked"), "{seen}");
}

#[tokio::test]
async fn where_nobody_looks_there_is_nothing_but_json() {
    let mut gateway = Gateway::start(FINE).await;
    gateway.client().host("app.test").get("/").await;
    gateway.drain();
    gateway.exit_status().await;
    for line in gateway.log().all().iter().chain(&gateway.access()) {
        assert!(field(line, "timestamp").is_string(), "{line}");
    }
}

#[tokio::test]
async fn ten_thousand_sites_are_checked_in_seconds() {
    let mut yaml = String::from("sites:\n");
    for site in 0..10_000 {
        yaml.push_str(&format!(
            "  site-{site}.example.com: {{ certificate: internal, upstream: app }}\n"
        ));
    }
    yaml.push_str("upstreams: { app: { servers: \"http://localhost:1\" } }\n");
    let directory = directory(&[("gateway.yaml", &yaml)]);
    let started = std::time::Instant::now();
    let output = wardgate(directory.path(), &["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // About a second here without optimisation, beside other tests.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_starter_file_is_the_one_that_a_clone_runs() {
    let output = wardgate(&in_repository(""), &["check"]).await;
    assert_eq!(stdout(&output), "gateway.yaml: fine\n", "{output:?}");
    assert_eq!(stderr(&output), "", "without a warning");
}

/// Answers one request like a gateway that says `status` and `body`; the future is what it was asked.
async fn gateway_that_says(status: u16, body: &str) -> (String, tokio::task::JoinHandle<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}");
    let asked = tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "a whole head");
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    (address, asked)
}

#[tokio::test]
async fn reload_says_how_it_ended() {
    let directory = directory(&[("gateway.yaml", FINE), ("word", "s3cret\n")]);
    for (status, body, code, out, err) in [
        (
            200,
            r#"{"outcome":"applied","generation":2,"warnings":"warned\n"}"#,
            0,
            "applied: generation 2 is in force\n",
            "warned\n",
        ),
        (
            200,
            r#"{"outcome":"unchanged","generation":2}"#,
            0,
            "unchanged: generation 2 stays in force\n",
            "",
        ),
        (
            422,
            r#"{"outcome":"rejected","generation":2,"faults":"a.yaml:1:1: wrong\n"}"#,
            2,
            "",
            "a.yaml:1:1: wrong\nrejected: generation 2 stays in force\n",
        ),
        (503, r#"{"error":"the gateway is stopping"}"#, 1, "", "is stopping\n"),
        (401, "no", 1, "", "does not take the token in word"),
        (404, "no\u{1b}[2J such", 1, "", "answers 404: no[2J such"),
    ] {
        let (address, asked) = gateway_that_says(status, body).await;
        let arguments = ["reload", "--admin", &address, "--token-file", "word"];
        let output = wardgate(directory.path(), &arguments).await;
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /reload HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Bearer s3cret\r\n"), "{asked}");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(stdout(&output), out);
        assert!(stderr(&output).contains(err), "{output:?}");
    }
}

#[tokio::test]
async fn status_finds_the_gateway_through_a_file_that_is_broken() {
    let gateway = Gateway::start(
        "sites: { app.test: { upstream: \"http://127.0.0.1:9\" } }\n\
        listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\nstorage: state\n",
    )
    .await;
    let file = gateway.directory().join("gateway.yaml");
    let sound = std::fs::read_to_string(&file).unwrap();
    for broken in ["", "sities: {}\n", "sites: [\n"] {
        std::fs::write(&file, format!("{sound}{broken}")).unwrap();
        let output = wardgate(gateway.directory(), &["status"]).await;
        assert_eq!(output.status.code(), Some(0), "{broken}: {output:?}");
        let said = stdout(&output);
        for part in
            ["running for", "Listeners\n  web  http  127.0.0.1:", "Sites\n  app.test", "Pool "]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
        let output = wardgate(gateway.directory(), &["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["state"], "running");
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_be_asked_is_a_failure_with_a_reason() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let silent = FINE.replace("admin: off", &format!("admin: {{ bind: \"{address}\" }}"));
    let directory =
        directory(&[("silent.yaml", &silent), ("off.yaml", FINE), ("word", "x"), ("empty", "")]);
    let nobody = format!("no gateway answers at {address} (is it running?)");
    let rows: [(&[&str], &str); 5] = [
        (&["status", "silent.yaml"], &nobody),
        (&["reload", "silent.yaml", "--token-file", "word"], &nobody),
        (&["reload", "silent.yaml"], &nobody),
        (&["reload", "off.yaml"], "`admin: off`"),
        (&["status", "nowhere.yaml"], "there is no nowhere.yaml"),
    ];
    for (arguments, text) in rows {
        let output = wardgate(directory.path(), arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(text), "{arguments:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_there_is_named() {
    let directory = directory(&[("gateway.yaml", FINE), ("empty", "\n")]);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let reload = ["reload", "--admin", &address];
    for (more, text) in [
        (&[][..], "cannot read the admin token state/admin/token"),
        (&["--token-file", "empty"], "the file is empty"),
    ] {
        let output = wardgate(directory.path(), &[&reload, more].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(text), "{output:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_token_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = directory(&[("gateway.yaml", FINE), ("word", "x")]);
    let word = directory.path().join("word");
    std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&word).is_ok() {
        return; // root may read everything
    }
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let arguments = ["reload", "--admin", &address, "--token-file", "word"];
    let output = wardgate(directory.path(), &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot read the admin token word"), "{output:?}");
    assert!(stderr(&output).contains("Permission denied"), "{output:?}");
}
