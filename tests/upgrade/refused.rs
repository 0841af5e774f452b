//! Upgrades that come to nothing: the process that served goes on.

use std::time::Duration;

use super::*;

const YAML: &str = r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites: { "*": { routes: [{ respond: here }] } }
shutdown: { grace: 5s }
"#;

async fn assert_serves(gateways: &Generations) {
    assert_eq!(gateways.serving().await, gateways.first.id());
    let reply = gateways.first.client().get("/").await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("here", Some("keep-alive")));
    for pid in gateways.started() {
        gone(pid, gateways.directory()).await;
    }
}

#[tokio::test]
async fn a_program_that_does_not_come_up_leaves_the_old_one_serving() {
    let gateways = Generations::start(YAML).await;
    let script = |name: &str, text: &str| script(gateways.directory(), name, text);
    let speak = "connection=${WARDGATE_UPGRADE#*:}; connection=${connection%:*}";
    let ready = format!("{speak}\nprintf 'ready 9.9.9\\n' >&$connection\nexit 7");
    let absent = gateways.directory().join("absent").display().to_string();
    for (program, arguments, wanted) in [
        (
            script("fails", "echo 'no such library' >&2; exit 3"),
            &[][..],
            &["no such library\n", "it ended before it served (exit status: 3)"][..],
        ),
        (script("quiet", "exit 0"), &[], &["it ended before it served (exit status: 0)"]),
        (
            script("hangs", "echo thinking >&2; exec sleep 600"),
            &["--timeout", "1s"],
            &["thinking\n", "it was not ready within 1 s"],
        ),
        // What it says is read to the end, and no more is kept of it than is of use.
        (
            script(
                "talks",
                "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done >&2; exit 1",
            ),
            &[],
            &["19999\n", "it ended before it served (exit status: 1)"],
        ),
        (script("crashes", &ready), &[], &["it served, and ended right away (exit status: 7)"]),
        (absent, &[], &["cannot start ", "No such file"]),
        (env!("CARGO_MANIFEST_DIR").to_owned(), &[], &["cannot start ", "Permission denied"]),
    ] {
        let arguments = [&["--binary", &program], arguments].concat();
        let output = gateways.ask(&arguments).await;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{program}: {told}");
        for part in wanted {
            assert!(told.contains(part), "{program}: {told}");
        }
        let own = format!("(process {}) goes on serving\n", gateways.first.id());
        assert!(told.ends_with(&own) && told.len() < 20_000, "{program}: {told}");
        assert_serves(&gateways).await;
    }
    let metrics = gateways.admin().get("/metrics").await.text();
    assert!(metrics.contains("wardgate_upgrades_total{outcome=\"failed\"} 7\n"), "{metrics}");
    assert!(metrics.contains("wardgate_upgrades_total{outcome=\"upgraded\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn nothing_that_a_failed_program_has_started_keeps_the_sockets() {
    let gateways = Generations::start(YAML).await;
    let start = "sleep 600 & echo $! > left";
    for (name, text) in [("waits", format!("{start}; wait")), ("fails", format!("{start}; exit 3"))]
    {
        let program = script(gateways.directory(), name, &text);
        let output = gateways.ask(&["--binary", &program, "--timeout", "1s"]).await;
        assert_eq!(output.status.code(), Some(2), "{name}: {}", said(&output));
        let left = fs::read_to_string(gateways.directory().join("left")).unwrap();
        gone(left.trim().parse().unwrap(), gateways.directory()).await;
        assert_serves(&gateways).await;
    }
}

#[tokio::test]
async fn a_configuration_that_the_new_process_refuses_is_shown() {
    let secret = YAML.replace("shutdown", "# token: hunter2 hunter2\nshutdwon");
    let gateways = Generations::start(YAML).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bind = format!("bind: [\"127.0.0.1:0\", \"{taken}\"]");
    for (yaml, wanted) in [
        (secret, &["gateway.yaml:", "\"shutdwon\"", "did you mean \"shutdown\"?"][..]),
        (YAML.replace("bind: \"127.0.0.1:0\"", &bind), &["did not start: ", "in use", &taken]),
    ] {
        gateways.first.rewrite(&yaml);
        let output = gateways.ask(&[]).await;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        for part in wanted {
            assert!(told.contains(part), "{told}");
        }
        assert_serves(&gateways).await;
    }
    let log = gateways.first.log().to_string();
    assert!(log.contains("shutdwon") && !log.contains("hunter2"), "no line of the file: {log}");
}

#[tokio::test]
async fn an_address_is_widened_by_a_reload_and_by_no_upgrade() {
    let gateways = Generations::start(YAML).await;
    let port = gateways.first.address("web").port();
    // Without sites, so that the change of the file alone does not put it in force.
    let wide = format!("listeners: {{ web: {{ bind: \":{port}\", protocol: http }} }}\n");
    gateways.first.rewrite(&wide);
    let output = gateways.ask(&[]).await;
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("reload that one first"), "{told}");
    assert_serves(&gateways).await;
}

#[tokio::test]
async fn one_upgrade_at_a_time_and_what_else_is_asked_for_waits() {
    let gateways = Generations::start(YAML).await;
    let hangs = script(gateways.directory(), "hangs", "exec sleep 600");
    let directory = gateways.directory().to_owned();
    let first =
        tokio::spawn(
            async move { ask(&directory, &["--binary", &hangs, "--timeout", "3s"]).await },
        );
    gateways.first.wait_log(is_message("starting another process in the place of this one")).await;
    let second = gateways.ask(&[]).await;
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert_eq!(said(&second), "wardgate: another upgrade is under way\n");
    gateways.first.signal("USR2");
    gateways.first.wait_log(is_message("another upgrade is under way")).await;
    gateways.first.rewrite(&YAML.replace("here", "there"));
    let file = gateways.directory().join("gateway.yaml");
    let reload = run(env!("CARGO_BIN_EXE_wardgate"), [PathBuf::from("reload"), file]).await;
    assert_eq!(reload.status.code(), Some(0), "{}", said(&reload));
    assert_eq!(first.await.unwrap().status.code(), Some(2), "over by the time of the reload");
    assert_eq!(gateways.first.client().get("/").await.text(), "there");
}

#[tokio::test]
async fn a_stop_during_an_upgrade_ends_both_processes() {
    let mut gateways = Generations::start(YAML).await;
    let hangs = script(gateways.directory(), "hangs", "exec sleep 600");
    let directory = gateways.directory().to_owned();
    let asked = tokio::spawn(async move { ask(&directory, &["--binary", &hangs]).await });
    gateways.first.wait_log(is_message("starting another process in the place of this one")).await;
    gateways.first.drain();
    assert_eq!(gateways.first.end().await.code(), Some(0));
    let output = asked.await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    gone(gateways.started()[0], gateways.directory()).await;
}

#[tokio::test]
async fn a_new_process_does_not_outlive_the_old_one_before_it_serves() {
    let mut gateways = Generations::start(YAML).await;
    // Begins once the old process is gone.
    let text = format!(
        "while [ -e /proc/{}/exe ]; do sleep 0.05; done\nexec {} \"$@\"",
        gateways.first.id(),
        env!("CARGO_BIN_EXE_wardgate")
    );
    let waits = script(gateways.directory(), "waits", &text);
    let directory = gateways.directory().to_owned();
    let asked = tokio::spawn(async move { ask(&directory, &["--binary", &waits]).await });
    gateways.first.wait_log(is_message("starting another process in the place of this one")).await;
    gateways.first.signal("KILL");
    assert_eq!(gateways.first.end().await.code(), None);
    assert_eq!(asked.await.unwrap().status.code(), Some(1));
    gone(gateways.started()[0], gateways.directory()).await;
}

#[tokio::test]
async fn nobody_upgrades_without_the_token_or_beyond_what_there_is() {
    let gateways = Generations::start(YAML).await;
    let admin = gateways.admin();
    assert_eq!(admin.send("POST", "/upgrade", "", b"").await.status, 401);
    assert_eq!(admin.get("/upgrade").await.status, 405);
    let path = gateways.directory().join("storage/admin/token");
    let token = fs::read_to_string(path).unwrap();
    let fields = format!("Authorization: Bearer {}\r\n", token.trim());
    let fields = format!("{fields}Content-Type: application/json\r\n");
    let reply = admin.send("POST", "/upgrade", &fields, br#"{"binary":"sh"}"#).await;
    assert_eq!((reply.status, reply.text().contains("absolute path")), (400, true));
    assert!(gateways.started().is_empty());
    let output = gateways.ask(&["--timeout", "1h"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    tokio::time::timeout(Duration::from_secs(30), assert_serves(&gateways)).await.unwrap();
}
