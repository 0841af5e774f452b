//! Clocks that jump while the gateway runs.

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Connection, Gateway, Origin, Stage, build_clock, field, run};

const DAY: i64 = 24 * 60 * 60;

/// A gateway and the clocks that it goes by.
struct Scene {
    gateway: Gateway,
    clocks: std::fs::File,
    _library: TempDir,
}

impl Scene {
    async fn begin(yaml: &str) -> Self {
        let library = TempDir::new().unwrap();
        let path = library.path().join("clocks");
        std::fs::write(&path, [0; 16]).unwrap();
        let clocks = std::fs::File::options().write(true).open(&path).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
        program.env("LD_PRELOAD", build_clock(library.path()).await).env("CLOCK_FILE", path);
        let gateway = Gateway::start_program(program, TempDir::new().unwrap(), yaml).await;
        Self { gateway, clocks, _library: library }
    }

    /// Puts the gateway's clock this far off ours.
    fn set_date(&self, seconds: i64) {
        self.clocks.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Lets `more` pass after `now` until `connection` is closed, and returns what time it is then. More
    /// than once, since bytes may have come before the gateway looked at the clock.
    async fn pass_until_closed(&self, now: i64, more: i64, connection: &mut Connection) -> i64 {
        for now in (1..5).map(|turn| now + turn * more) {
            self.pass(now).await;
            let closed = tokio::time::timeout(Duration::from_secs(1), connection.wait_readable());
            if closed.await.is_ok() {
                return now;
            }
        }
        panic!("still open after 4 times {more} s");
    }

    /// As much time has passed since the beginning, in which nothing happened, as when a machine was
    /// suspended. The kernel does not know of it, so that threads which wait for a moment, such as the
    /// access log's, wait in vain.
    async fn pass(&self, seconds: i64) {
        self.clocks.write_all_at(&seconds.to_ne_bytes(), 8).unwrap();
        // Timers are looked at when something happens.
        let _ = self.gateway.client().host("nowhere.test").get("/").await;
    }
}

fn yaml(origin: &str, tunnel: &str) -> String {
    format!(
        "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http }}\n  \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         sites:\n  app.test:\n    https: both\n    certificate: internal\n    routes:\n      \
         - {{ match: {{ path: /limited }}, respond: in, filters: [ {{ rate_limit: {{ rate: 1/h }} }} ] }}\n      \
         - {{ match: {{ path: /tunnel }}, upstream: \"{tunnel}\" }}\n      \
         - {{ upstream: app }}\n\
         upstreams:\n  app:\n    servers: \"{origin}\"\n    health: {{ path: /check, every: 200ms, timeout: 150ms }}\n    \
         timeouts: {{ response: 10m }}\n"
    )
}

async fn open_tunnel(gateway: &Gateway, stage: &Stage) -> (Connection, Connection) {
    let mut client = gateway.client().connect().await;
    let upgrade =
        "GET /tunnel HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    client.send(upgrade.as_bytes()).await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    origin.send(switched.as_bytes()).await.unwrap();
    client.read_until(b"\r\n\r\n").await.unwrap();
    (client, origin)
}

async fn echo((client, origin): &mut (Connection, Connection)) {
    client.send(b"up").await.unwrap();
    assert_eq!(origin.read_exact(2).await.unwrap(), b"up");
    origin.send(b"down").await.unwrap();
    assert_eq!(client.read_exact(4).await.unwrap(), b"down");
}

/// Asks on a connection that stays.
async fn ask(connection: &mut Connection, path: &str) -> u16 {
    let head = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n");
    connection.send(head.as_bytes()).await.unwrap();
    connection.read_reply(false).await.unwrap().status
}

/// The day of a line, counted from 1970, by its date alone.
fn day(line: &Value) -> i64 {
    let timestamp = field(line, "timestamp").as_str().unwrap();
    let mut parts = timestamp[..10].split('-').map(|part| part.parse::<i64>().unwrap());
    let (year, month, day) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    // Howard Hinnant's days_from_civil.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + of_year;
    year / 400 * 146_097 + of_era - 719_468
}

#[tokio::test]
async fn a_clock_that_is_put_forward_and_back_changes_nothing_but_dates() {
    let (origin, stage) = (Origin::start().await, Stage::open().await);
    let scene = Scene::begin(&yaml(&origin.url(), &stage.url())).await;
    let gateway = &scene.gateway;
    let client = gateway.client().host("app.test");
    let secure = gateway.tls_client_of("secure", "app.test");
    let mut kept = client.connect().await;
    assert_eq!(ask(&mut kept, "/").await, 200);
    let mut tunnel = open_tunnel(gateway, &stage).await;
    assert_eq!(client.get("/limited").await.status, 200);
    let session = gateway.directory().join("session").display().to_string();
    let handshake = async |option: &str| {
        let address = gateway.address("secure").to_string();
        // In TLS 1.3 the session comes behind the handshake, when openssl has left already.
        let arguments = ["s_client", "-tls1_2", "-connect", &address, "-servername", "app.test"];
        run("openssl", arguments.into_iter().chain([option, &session])).await
    };
    handshake("-sess_out").await;
    for (number, ahead) in [DAY, -2 * DAY, 400 * DAY, -400 * DAY, 0].into_iter().enumerate() {
        // Of a request that is under way meanwhile.
        let mut running = client.connect().await;
        running
            .send(b"POST /running HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\na")
            .await
            .unwrap();
        scene.set_date(ahead);
        assert_eq!(ask(&mut kept, &format!("/jump-{number}")).await, 200, "{ahead}");
        assert_eq!(client.get("/").await.status, 200, "{ahead}");
        assert_eq!(secure.get("/").await.status, 200, "{ahead}");
        running.send(b"b").await.unwrap();
        assert_eq!(running.read_reply(false).await.unwrap().status, 200, "{ahead}");
        echo(&mut tunnel).await;
        assert_eq!(
            client.get("/limited").await.status,
            429,
            "{ahead}: limits go by time that passed"
        );
        let again = handshake("-sess_in").await;
        assert!(again.status.success(), "{ahead}: an old session does no harm: {again:?}");
        let path = format!("/jump-{number}");
        let line = gateway.wait_access(|line| field(line, "url.path") == &path).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let expected = (i64::try_from(now).unwrap() + ahead) / DAY;
        assert!((day(&line) - expected).abs() <= 1, "{ahead}: {line}");
        let took = field(&line, "total_ms").as_f64().unwrap();
        assert!((0.0..20_000.0).contains(&took), "{ahead}: {line}");
    }
    // The checks went on as before.
    let checks = || origin.requests().iter().filter(|request| request.target == "/check").count();
    let seen = checks();
    origin.received(origin.requests().len() + 3).await;
    assert!(checks() > seen);
    let is_turn = |line: &&Value| field(line, "message") == "became unhealthy";
    assert_eq!(gateway.log().all().iter().filter(is_turn).count(), 0);
}

#[tokio::test]
async fn what_is_silent_for_a_minute_lives_as_long_as_it_may() {
    // The engine lets a read take 60 seconds unless it is told otherwise, in tunnels as well.
    let (origin, stage) = (Origin::start().await, Stage::open().await);
    let scene = Scene::begin(&yaml(&origin.url(), &stage.url())).await;
    let gateway = &scene.gateway;
    let client = gateway.client().host("app.test");
    let mut tunnel = open_tunnel(gateway, &stage).await;
    let mut kept = client.connect().await;
    assert_eq!(ask(&mut kept, "/").await, 200);
    scene.pass(70).await;
    echo(&mut tunnel).await;
    assert_eq!(ask(&mut kept, "/").await, 200, "idle_timeout is 75 s");
    let now = scene.pass_until_closed(70, 80, &mut kept).await;
    assert!(kept.read_to_end().await.unwrap().is_empty());
    echo(&mut tunnel).await;
    scene.pass(now + 59 * 60).await;
    echo(&mut tunnel).await;
    scene.pass_until_closed(now + 59 * 60, 61 * 60, &mut tunnel.0).await;
    tunnel.0.read_to_end().await.unwrap_or_default();
    tunnel.1.read_to_end().await.unwrap_or_default();
    assert_eq!(client.get("/").await.status, 200, "and the gateway goes on");
}
