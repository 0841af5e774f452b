//! What README and the starter file promise to somebody who has just cloned the repository.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use wardgate::config;

use crate::support::{Gateway, Peer, in_repository, run};

const WARDGATE: &str = env!("CARGO_BIN_EXE_wardgate");

/// Every page that a user reads.
const PAGES: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/certificates.md",
    "docs/client-certificates.md",
    "docs/configuration.md",
    "docs/conformance.md",
    "docs/deploy.md",
    "docs/errors.md",
    "docs/filters.md",
    "docs/metrics.md",
    "docs/operations.md",
];

fn page(path: &str) -> String {
    let text = std::fs::read_to_string(in_repository(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks of a page in the given language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let parts = page.split("```").skip(1).step_by(2);
    let blocks = parts.filter_map(|block| block.strip_prefix(&format!("{language}\n")));
    blocks.map(str::to_owned).collect()
}

/// `wardgate demo-backend` on a free port; ends with its value.
struct DemoBackend {
    child: Child,
    address: SocketAddr,
}

impl DemoBackend {
    async fn start() -> Self {
        let mut command = Command::new(WARDGATE);
        command.args(["demo-backend", "--bind", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
        let line = line.await.unwrap();
        let address = line.strip_prefix("demo backend on http://").unwrap().trim_end_matches('/');
        Self { child, address: address.parse().unwrap() }
    }
}

impl Drop for DemoBackend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_starter_file_does_what_its_comments_say() {
    let demo = DemoBackend::start().await;
    let mut starter = page("gateway.yaml");
    for (written, here) in [
        ("\":8080\"", "\"127.0.0.1:0\""),
        ("\":8443\"", "\"127.0.0.1:0\""),
        ("127.0.0.1:9000]", &format!("{}]", demo.address)),
        ("127.0.0.1:2019", "127.0.0.1:0"),
        ("storage: certs/", "storage: storage"),
    ] {
        assert!(starter.contains(written), "{written}");
        starter = starter.replace(written, here);
    }
    let gateway = Gateway::start(starter).await;
    let port = gateway.address("secure").port();

    let page = gateway.tls_client_of("secure", "localhost").get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<h1>") && page.text().contains("Wardgate"), "{}", page.text());
    for (host, path, seen) in [
        ("localhost", "/demo/a/b?c=d", "/a/b"),
        ("localhost", "/demo", "/"),
        ("demo.localhost", "/x", "/x"),
    ] {
        let reply = gateway.tls_client_of("secure", host).get(path).await;
        assert_eq!(reply.json()["path"], seen, "{host}{path}: {}", reply.text());
    }
    let client = gateway.tls_client_of("secure", "demo.localhost");
    assert_eq!(client.get("/status/418").await.status, 418);
    assert!(client.get("/stream?count=3&every=1").await.text().lines().count() > 1);
    let redirect = gateway.client_of("web").host("localhost").get("/demo/?a").await;
    let location = format!("https://localhost:{port}/demo/?a");
    assert_eq!((redirect.status, redirect.header("location")), (308, Some(&*location)));

    let scenario = json!({
        "uri": "wss://demo.localhost/ws", "address": gateway.address("secure").to_string(), "ca": gateway.ca(),
        "steps": [{"text": "hello"}, {"close": 1000}]
    });
    let result = Peer::result("ws_client.py", &scenario).await;
    assert_eq!((&result["status"], &result["echoes"]), (&json!(101), &json!(1)), "{result}");
}

#[test]
fn the_tour_in_the_starter_file_is_right_too() {
    let starter = page("gateway.yaml");
    let (_, tour) = starter.split_once("# A tour of what else works.").expect("there is a tour");
    let sections: Vec<&str> = tour.split("\n#\n").collect();
    let mut yaml = String::new();
    for line in sections.iter().flat_map(|section| section.lines()) {
        let Some(line) = line.strip_prefix("# ") else { continue };
        // Prose begins with a capital letter and has no key.
        if !line.starts_with(char::is_uppercase) {
            yaml.push_str(line);
            yaml.push('\n');
        }
    }
    let loaded = config::from_text("the tour", &yaml, Path::new(""));
    let loaded = loaded.unwrap_or_else(|faults| panic!("{faults}\n{yaml}"));
    assert_eq!(loaded.config.sites.len(), 1, "{yaml}");
    assert!(loaded.warnings.iter().next().is_none(), "{}\n{yaml}", loaded.warnings);
}

#[test]
fn every_example_of_every_page_is_right() {
    let mut count = 0;
    for path in PAGES.iter().copied() {
        for example in blocks(&page(path), "yaml") {
            count += 1;
            if let Err(faults) = config::from_text(path, &example, Path::new("")) {
                panic!("{path}: {faults}\n{example}");
            }
        }
    }
    assert!(count > 8, "{count}");
    let smallest = &blocks(&page("README.md"), "yaml")[0];
    let loaded = config::from_text("README.md", smallest, Path::new("")).unwrap();
    assert_eq!(loaded.config.listeners.len(), 2, "ports 80 and 443");
    assert!(loaded.warnings.iter().next().is_none(), "{}", loaded.warnings);
}

#[tokio::test]
async fn readme_names_every_command_and_no_other() {
    let help = run(WARDGATE, ["--help"]).await;
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: BTreeSet<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let readme = page("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `wardgate "));
    let named: BTreeSet<&str> = rows.filter_map(|row| row.split([' ', '`']).next()).collect();
    assert_eq!(named, commands);
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    for path in PAGES.iter().copied() {
        let text = page(path);
        let directory = in_repository(path).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                assert!(directory.join(target).exists(), "{path}: {target}");
            }
        }
    }
}
