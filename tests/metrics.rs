//! What `/metrics` says after known traffic, and what Prometheus makes of it.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Client, Gateway, Origin, Program, closed, in_repository, within};

/// A gateway before `origin`, over http and https, and a server that nobody listens at.
async fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(
        r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  app.test:
    https: both
    routes:
      - { match: { path: /gone }, upstream: gone }
      - { match: { path: /moved }, redirect: /new }
      - { match: { path: "/app/*" }, upstream: shop }
upstreams:
  shop: { servers: "ORIGIN" }
  gone: { servers: "http://GONE" }
"#
        .replace("ORIGIN", &origin.url())
        .replace("GONE", &closed().to_string()),
    )
    .await
}

/// An address for a program that cannot tell where it listens.
fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn origin() -> Origin {
    let answer = |request: &crate::support::Received| match request.target.as_str() {
        "/app/broken" => Answer::text(500, "broken"),
        _ => Answer::text(200, "four"),
    };
    Origin::answering(answer).await
}

pub(crate) async fn scrape(gateway: &Gateway) -> String {
    let reply = Client::new(gateway.admin_address()).host("localhost").get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    reply.text()
}

/// The metrics, once they have every one of `lines`: a request is counted after its answer is sent.
pub(crate) async fn scrape_until(gateway: &Gateway, lines: &[String]) -> String {
    let mut text = String::new();
    let has_all = async {
        while !lines.iter().all(|line| text.lines().any(|one| one == line)) {
            text = scrape(gateway).await;
        }
    };
    if tokio::time::timeout(crate::support::PATIENCE, has_all).await.is_err() {
        let missing: Vec<_> =
            lines.iter().filter(|line| !text.lines().any(|one| one == *line)).collect();
        panic!("not in the metrics: {missing:#?}\n{text}");
    }
    text
}

#[tokio::test]
async fn known_traffic_is_counted_where_it_belongs() {
    let origin = origin().await;
    let gateway = gateway(&origin).await;
    let web = gateway.client_of("web").host("app.test");
    for (path, status) in
        [("/app/", 200), ("/app/broken", 500), ("/gone", 502), ("/moved", 308), ("/nowhere", 404)]
    {
        assert_eq!(web.get(path).await.status, status, "{path}");
    }
    assert_eq!(web.send("POST", "/app/", "", b"12345").await.status, 200);
    let secure = gateway.tls_client_of("secure", "app.test");
    assert_eq!(secure.get("/app/").await.status, 200);
    let mut plain = gateway.client_of("secure").connect().await;
    plain.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(plain.read_reply(false).await.unwrap().status, 400);

    let shop = origin.url();
    let route = "site=\"app.test\",route=\"/app/*\"";
    let attempt = |outcome| {
        format!(
            "wardgate_upstream_attempts_total{{pool=\"shop\",endpoint=\"{shop}\",outcome=\"{outcome}\"}}"
        )
    };
    let lines = [
        format!("wardgate_requests_total{{{route},code=\"2xx\"}} 3"),
        format!("wardgate_requests_total{{{route},code=\"5xx\"}} 1"),
        format!("wardgate_request_duration_seconds_count{{{route}}} 4"),
        format!("wardgate_request_first_byte_seconds_count{{{route}}} 4"),
        format!("wardgate_request_body_bytes_total{{{route}}} 5"),
        format!("wardgate_response_body_bytes_total{{{route}}} 18"),
        "wardgate_requests_total{site=\"app.test\",route=\"/gone\",code=\"5xx\"} 1".to_owned(),
        "wardgate_requests_total{site=\"app.test\",route=\"/moved\",code=\"3xx\"} 1".to_owned(),
        "wardgate_requests_total{site=\"app.test\",route=\"\",code=\"4xx\"} 1".to_owned(),
        "wardgate_requests_total{site=\"\",route=\"\",code=\"4xx\"} 1".to_owned(),
        "wardgate_requests_refused_total{error=\"bad_request\"} 1".to_owned(),
        "wardgate_requests_failed_total{error=\"upstream_refused\"} 1".to_owned(),
        format!("wardgate_requests_in_flight{{{route}}} 0"),
        format!("{} 3", attempt("answered")),
        format!("{} 1", attempt("server_error")),
        "wardgate_connections_accepted_total{listener=\"web\"} 6".to_owned(),
        "wardgate_connections_accepted_total{listener=\"secure\"} 2".to_owned(),
        "wardgate_tls_handshakes_total{listener=\"secure\",version=\"1.3\"} 1".to_owned(),
        "wardgate_tls_handshake_failures_total{listener=\"secure\",reason=\"plain_http\"} 1"
            .to_owned(),
        "wardgate_config_generation 1".to_owned(),
        "wardgate_config_last_reload_success 1".to_owned(),
    ];
    let text = scrape_until(&gateway, &lines).await;
    for beginning in [
        "wardgate_upstream_attempts_total{pool=\"gone\",",
        "wardgate_upstream_endpoint_requests_in_flight{pool=\"shop\",",
        "wardgate_certificate_not_after_timestamp_seconds{certificate=\"internal:app.test\"} 1",
        "wardgate_build_info{version=\"",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(beginning)), "{beginning}\n{text}");
    }
    assert!(text.contains(",outcome=\"unreachable\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_request_in_flight_counts_for_its_route() {
    let origin = origin().await;
    let gateway = gateway(&origin).await;
    let line = |site: &str, route: &str, count: u32| {
        format!("wardgate_requests_in_flight{{site=\"{site}\",route=\"{route}\"}} {count}")
    };
    origin.hold();
    let client = gateway.client_of("web").host("app.test");
    let reply = tokio::spawn(async move { client.get("/app/held").await });
    origin.received(1).await;
    scrape_until(&gateway, &[line("app.test", "/app/*", 1), line("", "", 0)]).await;
    origin.release();
    assert_eq!(reply.await.unwrap().status, 200);
    scrape_until(&gateway, &[line("app.test", "/app/*", 0), line("", "", 0)]).await;
}

#[tokio::test]
async fn a_reload_is_told_and_a_rejected_one_leaves_the_counts() {
    let yaml = |path: &str| {
        format!(
            "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
             sites: {{ app.test: {{ routes: [ {{ match: {{ path: /a }}, respond: 200 }}, \
             {{ match: {{ path: {path} }}, respond: 200 }} ] }} }}\n"
        )
    };
    let lines = |generation: u32, success: u32, applied: u32, rejected: u32| {
        let reloads = |outcome: &str, count: u32| {
            format!("wardgate_config_reloads_total{{outcome=\"{outcome}\"}} {count}")
        };
        [
            format!("wardgate_config_generation {generation}"),
            format!("wardgate_config_last_reload_success {success}"),
            reloads("applied", applied),
            reloads("unchanged", 0),
            reloads("rejected", rejected),
        ]
    };
    let gateway = Gateway::start(yaml("/b")).await;
    scrape_until(&gateway, &lines(1, 1, 0, 0)).await;
    let client = gateway.client().host("app.test");
    for path in ["/a", "/b"] {
        assert_eq!(client.get(path).await.status, 200);
    }
    let counted = |route: &str| {
        format!("wardgate_requests_total{{site=\"app.test\",route=\"{route}\",code=\"2xx\"}} 1")
    };
    scrape_until(&gateway, &[counted("/a"), counted("/b")]).await;

    gateway.rewrite("sites: { app.test: { upstream: nobody } }\n");
    scrape_until(&gateway, &lines(1, 0, 0, 1)).await;
    gateway.reload(&yaml("/c"), 2).await;
    let text = scrape_until(&gateway, &lines(2, 1, 1, 1)).await;
    assert!(text.contains(&counted("/a")), "what stays counts on: {text}");
    assert!(!text.contains("route=\"/b\""), "what went has no series: {text}");
}

#[tokio::test]
async fn what_filters_decide_is_counted_by_their_place() {
    let gateway = Gateway::start(
        r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
filters:
  public:
    - security_headers: {}
    - access: { deny: [192.0.2.0/24], allow: [127.0.0.0/8] }
    - rate_limit: { rate: 1/h, burst: 2 }
sites:
  app.test:
    filters: [public, { body_limit: { max: 3B, mode: monitor } }]
    routes: [ { respond: 200 } ]
"#,
    )
    .await;
    let client = gateway.client().host("app.test");
    for status in [200, 200, 429] {
        assert_eq!(client.send("POST", "/", "", b"12345").await.status, status);
    }
    let line = |chain: &str, position: u32, filter: &str, verdict: &str, count: u32| {
        let place = format!("chain=\"{chain}\",position=\"{position}\",filter=\"{filter}\"");
        format!("wardgate_filter_verdicts_total{{{place},verdict=\"{verdict}\"}} {count}")
    };
    let lines = [
        line("chain public", 2, "access", "allowed", 3),
        line("chain public", 3, "rate_limit", "allowed", 2),
        line("chain public", 3, "rate_limit", "blocked", 1),
        line("site app.test", 2, "body_limit", "would_block", 2),
        line("site app.test", 2, "body_limit", "blocked", 0),
    ];
    let text = scrape_until(&gateway, &lines).await;
    assert!(!text.contains("filter=\"security_headers\""), "it decides nothing: {text}");
    promtool_accepts(text);
}

#[tokio::test]
async fn promtool_finds_nothing_to_say() {
    let origin = origin().await;
    let gateway = gateway(&origin).await;
    let line = "wardgate_requests_total{site=\"app.test\",route=\"/app/*\",code=\"2xx\"} 1";
    assert_eq!(gateway.client_of("web").host("app.test").get("/app/").await.status, 200);
    let text = scrape_until(&gateway, &[line.to_owned()]).await;

    promtool_accepts(text);
}

/// Has `promtool check metrics` look at `text`.
pub(crate) fn promtool_accepts(text: String) {
    let mut promtool = Command::new(tool("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success());
}

#[tokio::test]
async fn no_client_makes_a_series() {
    let origin = origin().await;
    let gateway = gateway(&origin).await;
    let web = gateway.client_of("web");
    let series = |text: &str| {
        let name = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(name).collect::<std::collections::BTreeSet<_>>()
    };
    let count = |code: &str, count: u32| {
        format!("wardgate_requests_total{{site=\"app.test\",route=\"\",code=\"{code}\"}} {count}")
    };
    let unknown = |count: u32| {
        format!("wardgate_requests_total{{site=\"\",route=\"\",code=\"4xx\"}} {count}")
    };
    assert_eq!(web.clone().host("app.test").get("/x").await.status, 404);
    assert_eq!(web.clone().host("other.test").get("/x").await.status, 404);
    let before = series(&scrape_until(&gateway, &[count("4xx", 1), unknown(1)]).await);
    for turn in 0..50 {
        let host = format!("hostile-{turn}.test");
        let path = format!("/hostile-{turn}\"}}%0Aevil_total%201");
        let method = format!("HOSTILE{turn}");
        assert_eq!(web.clone().host(&host).get(&path).await.status, 404);
        let status = web.clone().host("app.test").send(&method, &path, "", b"").await.status;
        assert!((400..500).contains(&status), "{status}");
    }
    // Whether an odd method is refused before its site is known is not this test's business.
    let all = async {
        loop {
            let text = scrape(&gateway).await;
            let of = |line: &str| line.starts_with("wardgate_requests_total{");
            let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
            if text.lines().filter(|line| of(line)).map(value).sum::<u64>() == 102 {
                return text;
            }
        }
    };
    let text = within("count of every request", all).await;
    assert!(!text.to_ascii_lowercase().contains("hostile"), "{text}");
    assert_eq!(series(&text), before);
}

#[tokio::test]
async fn prometheus_scrapes_the_gateway() {
    let origin = origin().await;
    let gateway = gateway(&origin).await;
    assert_eq!(gateway.client_of("web").host("app.test").get("/app/").await.status, 200);

    let directory = TempDir::new().unwrap();
    let (mut prometheus, address) = start_prometheus(&directory, gateway.admin_address()).await;
    let query = "/api/v1/query?query=wardgate_requests_total%7Broute%3D%22%2Fapp%2F*%22%2Ccode%3D%222xx%22%7D";
    let seen = async {
        loop {
            let value = match Client::new(address).try_get(query).await {
                Ok(reply) => serde_json::from_str::<Value>(&reply.text()).unwrap_or_default(),
                Err(_) => Value::Null,
            };
            if value["data"]["result"][0]["value"][1] == "1" {
                assert_eq!(value["data"]["result"][0]["metric"]["site"], "app.test");
                return;
            }
            // Prometheus tells nobody when it has scraped.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("series in Prometheus", seen).await;
    prometheus.signal("TERM");
    prometheus.exit_status().await;
}

/// A Prometheus that scrapes `target`, on a port that the system chose. The port is free when it is
/// chosen; where another program takes it before Prometheus does, another is tried.
async fn start_prometheus(directory: &TempDir, target: SocketAddr) -> (Program, SocketAddr) {
    let file = directory.path().join("prometheus.yml");
    let yaml = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: wardgate\n    \
         static_configs: [ {{ targets: [ \"{target}\" ] }} ]\n"
    );
    std::fs::write(&file, yaml).unwrap();
    for turn in 0..5 {
        let address = unused();
        let mut command = Command::new(tool("prometheus"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join(format!("{turn}")).display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(directory.path());
        let mut prometheus = Program::start(&mut command);
        let ready = async {
            while !Client::new(address).try_get("/-/ready").await.is_ok_and(|it| it.status == 200) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = within("Prometheus", ready) => return (prometheus, address),
            _ = prometheus.exit_status() => {}
        }
    }
    panic!("Prometheus found no port in five turns");
}

/// A tool of Debian's package `prometheus`: the system's, or the one that `./dev test` unpacks.
fn tool(name: &str) -> std::path::PathBuf {
    let cache =
        std::env::var_os("WARDGATE_CACHE").map_or_else(|| in_repository(".cache"), Into::into);
    let unpacked = cache.join("prometheus/usr/bin").join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}

#[tokio::test]
async fn the_alerts_in_deploy_fire_when_they_should_and_name_what_there_is() {
    let folder = in_repository("deploy/prometheus");
    for arguments in
        [["check", "rules", "wardgate.rules.yml"], ["test", "rules", "wardgate.test.yml"]]
    {
        let output =
            Command::new(tool("promtool")).args(arguments).current_dir(&folder).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let rules = std::fs::read_to_string(folder.join("wardgate.rules.yml")).unwrap();
    assert_names_what_there_is(&rules);
}

#[test]
fn the_dashboard_in_deploy_asks_for_what_there_is() {
    let text = std::fs::read_to_string(in_repository("deploy/grafana/wardgate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asked = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked: Vec<&str> = asked.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(asked.len() > 20);
    // Grafana fills in its variables; promtool reads the rest.
    let rules: String = asked
        .iter()
        .enumerate()
        .map(|(number, expr)| {
            let expr = expr.replace("$__rate_interval", "5m").replace(['$'], "");
            format!("      - record: r{number}\n        expr: {}\n", serde_json::json!(expr))
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dashboard.yml");
    std::fs::write(&file, format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    let output = Command::new(tool("promtool")).args(["check", "rules"]).arg(&file).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    assert_names_what_there_is(&asked.join("\n"));
}

/// Every metric in `text` is in docs/metrics.md, which a test holds against the program.
fn assert_names_what_there_is(text: &str) {
    let docs = std::fs::read_to_string(in_repository("docs/metrics.md")).unwrap();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    let mut count = 0;
    for name in words.filter(|word| word.starts_with("wardgate_") || word.starts_with("process_")) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_there = |name: &str| docs.contains(&format!("| `{name}` |"));
        assert!(is_there(name) || family.is_some_and(is_there), "there is no metric {name}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}
