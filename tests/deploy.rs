//! What `deploy/` holds: the unit, the image and the manifests, as far as they can be tried without
//! systemd, Docker and Kubernetes. `./dev check` holds them against their schemas.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Gateway, Origin, command, field, in_repository, run};

const WARDGATE: &str = env!("CARGO_BIN_EXE_wardgate");

fn file(path: &str) -> String {
    let text = std::fs::read_to_string(in_repository(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    let text = file(path);
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
}

/// The document of this kind in the Kubernetes example.
fn manifest(kind: &str) -> Value {
    let all = documents("deploy/kubernetes/wardgate.yaml");
    all.into_iter().find(|document| document["kind"] == kind).expect("it is part of the example")
}

/// Where a configuration stands, and its text.
fn configurations() -> [(&'static str, String); 3] {
    let of_kubernetes = manifest("ConfigMap")["data"]["gateway.yaml"].as_str().unwrap().to_owned();
    [
        ("image", file("deploy/container/gateway.yaml")),
        ("compose", file("deploy/compose/gateway/gateway.yaml")),
        ("kubernetes", of_kubernetes),
    ]
}

/// `wardgate`, with the secrets that the Kubernetes example hands over.
fn wardgate() -> Command {
    let mut command = Command::new(WARDGATE);
    command.env("ADMIN_TOKEN", "a".repeat(64)).env("REDIS_PASSWORD", "b".repeat(64));
    command
}

#[test]
fn every_configuration_in_deploy_is_right() {
    for (place, text) in configurations() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        let output = wardgate().arg("check").arg(&path).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{place}: {output:?}");
    }
}

/// How exposed systemd takes the unit for: 0 is not at all, 10 fully.
async fn exposure(with_drop_in: bool) -> String {
    let directory = TempDir::new().unwrap();
    let mut names = vec!["wardgate.service", "wardgate.socket"];
    names.extend(with_drop_in.then_some("wardgate.service.d/no-capabilities.conf"));
    std::fs::create_dir(directory.path().join("wardgate.service.d")).unwrap();
    for name in names {
        let text = file(&format!("deploy/{name}"));
        let text = text.replace("/usr/local/bin/wardgate", WARDGATE);
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let unit = directory.path().join("wardgate.service").display().to_string();
    let output = run("systemd-analyze", ["security", "--offline=true", "--no-pager", &unit]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, score) = said.split_once("exposure level for wardgate.service: ").expect(&said);
    score.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_unit_is_as_closed_as_the_docs_say() {
    let docs = file("docs/operations.md");
    for (with_drop_in, row) in [(false, "| `wardgate.service` |"), (true, "| with the drop-in |")] {
        let stated = docs.lines().find_map(|line| line.strip_prefix(row)).expect(row);
        let stated: f64 = stated.split('|').next().unwrap().trim().parse().unwrap();
        let score: f64 = exposure(with_drop_in).await.parse().unwrap();
        assert!(score <= stated, "{row} {score}, and the docs say {stated}");
    }
}

#[tokio::test]
async fn the_gateway_lives_with_what_its_unit_forbids() {
    let origin = Origin::start().await;
    let yaml = format!(
        r#"
listeners:
  web: {{ bind: "127.0.0.1:0", protocol: http }}
  secure: {{ bind: "127.0.0.1:0", protocol: https }}
log: {{ access: {{ file: access.log, rotate: [daily, 1MiB] }} }}
sites:
  app.localhost: {{ https: both, upstream: named }}
upstreams:
  named: {{ servers: [ "http://localhost:{}" ], health: {{ path: / }} }}
"#,
        origin.address().port()
    );
    let unit = in_repository("deploy/wardgate.service").display().to_string();
    let program = command("under_unit.py", &[&unit, WARDGATE]);
    let directory = TempDir::new().unwrap();
    let mut gateway = Gateway::start_program(program, directory, &yaml).await;
    let client = gateway.tls_client_of("secure", "app.localhost");
    assert_eq!(client.get("/").await.status, 200);
    let metrics = Client::new(gateway.admin_address()).host("localhost").get("/metrics").await;
    assert!(metrics.text().contains("process_resident_memory_bytes"), "{}", metrics.text());
    gateway.reload(&yaml.replace("app.localhost", "api.localhost"), 2).await;
    assert_eq!(gateway.tls_client_of("secure", "api.localhost").get("/").await.status, 200);
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
}

/// The words of an instruction of the image's last stage that has them as a JSON list.
fn instruction(name: &str) -> Vec<String> {
    let text = file("deploy/container/Dockerfile").replace("\\\n", " ");
    let is_it = |line: &&str| line.starts_with(name);
    let line = text.lines().rfind(is_it).expect(name);
    serde_json::from_str(&line[line.find('[').expect("a list")..]).unwrap()
}

/// Runs words of the Dockerfile here: our program, our file.
fn here(words: &[String], file: &Path) -> Command {
    assert_eq!(words[0], "/usr/local/bin/wardgate");
    let mut command = Command::new(WARDGATE);
    for word in &words[1..] {
        if word == "/etc/wardgate/gateway.yaml" {
            command.arg(file);
        } else {
            command.arg(word);
        }
    }
    command
}

async fn ended(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_image_starts_is_healthy_and_stops() {
    let start = [instruction("ENTRYPOINT"), instruction("CMD")].concat();
    assert_eq!(start[1..], ["run", "/etc/wardgate/gateway.yaml"], "as the harness starts it");
    let probe = instruction("HEALTHCHECK");
    let compose = &documents("deploy/compose/compose.yaml")[0]["services"]["gateway"];
    let of_compose: Vec<String> =
        serde_json::from_value(compose["healthcheck"]["test"].clone()).unwrap();
    assert_eq!(of_compose[1..], probe);

    let yaml = file("deploy/container/gateway.yaml").replace("127.0.0.1:2019", "127.0.0.1:0");
    let listeners = r#"listeners: { secure: { bind: "127.0.0.1:0", protocol: https } }"#;
    let mut gateway = Gateway::start(format!("{yaml}{listeners}\n")).await;
    let path = gateway.directory().join("gateway.yaml");
    let page = gateway.tls_client_of("secure", "localhost").get("/").await;
    assert!(page.text().contains("Wardgate"), "{}", page.text());
    let healthy = ended(here(&probe, &path)).await;
    assert!(healthy.status.success(), "{healthy:?}");
    let access = gateway.wait_access(|line| field(line, "url.path") == "/").await;
    assert_eq!(field(&access, "http.response.status_code"), 200);

    assert!(file("deploy/container/Dockerfile").contains("\nSTOPSIGNAL SIGTERM\n"));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    let unhealthy = ended(here(&probe, &path)).await;
    assert_eq!(unhealthy.status.code(), Some(1), "{unhealthy:?}");
}

#[tokio::test]
async fn the_probes_of_kubernetes_are_answered_and_nothing_else_without_a_token() {
    let container = &manifest("Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"][0], "run");
    let ports = container["ports"].as_array().unwrap();
    let admin = ports.iter().find(|port| port["name"] == "admin").unwrap();
    // Free ports, a directory in the place of Redis, and nobody who could be asked for a certificate.
    let mut yaml = configurations()[2].1.clone();
    let bind = format!("bind: \"0.0.0.0:{}\"", admin["containerPort"]);
    for (there, here) in [
        (bind.as_str(), "bind: \"0.0.0.0:0\""),
        ("storage: \"redis:", "storage: storage # \""),
        ("email:", "directory: \"https://127.0.0.1:1/\"\n  email:"),
        ("delay: 10s", "delay: 0s"),
    ] {
        assert!(yaml.contains(there), "{there}");
        yaml = yaml.replace(there, here);
    }
    yaml.push_str("listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n");
    let gateway = Gateway::start_program(wardgate(), TempDir::new().unwrap(), &yaml).await;
    let client = Client::new(gateway.admin_address()).host("10.0.0.7:2019");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let request = &container[probe]["httpGet"];
        assert_eq!(request["port"], "admin", "{probe}");
        let reply = client.get(request["path"].as_str().unwrap()).await;
        assert_eq!(reply.status, 200, "{probe}: {}", reply.text());
    }
    assert_eq!(client.get("/metrics").await.status, 401);
}

/// `shutdown.delay` and `shutdown.grace` together, as the program understands the file.
fn longest_stop(text: &str) -> Duration {
    let place = Path::new("/etc/wardgate");
    let text = text.replace("${env:", "$${env:"); // no secret is needed for this
    let loaded = wardgate::config::from_text("gateway.yaml", &text, place);
    let shutdown = loaded.unwrap_or_else(|faults| panic!("{faults}")).config.shutdown;
    shutdown.delay + shutdown.grace
}

#[test]
fn who_stops_a_gateway_waits_for_what_it_may_take() {
    let [image, compose, kubernetes] = configurations().map(|(_, text)| longest_stop(&text));
    assert!(image < Duration::from_secs(10), "docker stop waits for 10 s");
    let file = &documents("deploy/compose/compose.yaml")[0];
    let waits = file["services"]["gateway"]["stop_grace_period"].as_str().unwrap();
    let waits: u64 = waits.strip_suffix('s').unwrap().parse().unwrap();
    assert!(compose < Duration::from_secs(waits), "{compose:?}");
    let pod = &manifest("Deployment")["spec"]["template"]["spec"];
    let waits = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(kubernetes < Duration::from_secs(waits), "{kubernetes:?}");
}

#[test]
fn whoever_runs_in_a_container_can_do_little() {
    let image = file("deploy/container/Dockerfile");
    assert!(image.contains("\nUSER 65532:65532\n"));
    let compose = &documents("deploy/compose/compose.yaml")[0]["services"];
    for service in ["gateway", "demo"] {
        assert_eq!(compose[service]["read_only"], true, "{service}");
        assert_eq!(compose[service]["cap_drop"][0], "ALL", "{service}");
    }
    let mut pods = documents("deploy/kubernetes/wardgate.yaml");
    pods.extend(documents("deploy/kubernetes/redis.yaml"));
    pods.retain(|document| document["spec"]["template"].is_object());
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let pod = &pod["spec"]["template"]["spec"];
        let (context, own) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert_eq!(own["readOnlyRootFilesystem"], true);
        assert_eq!(own["capabilities"]["drop"][0], "ALL");
        assert!(pod["containers"][0]["resources"]["limits"].is_object());
    }
}
