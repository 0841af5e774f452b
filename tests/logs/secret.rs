//! That no secret is in any log, whatever its level and shape.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Client, Origin, Peer, Program, run};

/// In every secret below, and in nothing else.
const MARK: &str = "s3cr3t";
const TOKEN: &str = "s3cr3t-admin-token-0123456789";

/// The configuration, with secrets in it as operators write them: in place and from a file.
fn yaml(level: &str, format: &str, h1: &str, h2: &str) -> String {
    let closed = crate::support::closed();
    format!(
        r#"
listeners:
  web: {{ bind: "127.0.0.1:0", protocol: http, alpn: [h2, http/1.1] }}
  secure: {{ bind: "127.0.0.1:0", protocol: https }}
sites:
  app.test:
    https: both
    filters: [ {{ request_headers: {{ set: {{ X-Key: "in-place-s3cr3t", X-File: "${{file:secret}}" }} }} }} ]
    routes:
      - {{ match: {{ path: /echo }}, upstream: newer }}
      - {{ match: {{ path: /closed }}, upstream: "http://{closed}" }}
      - {{ upstream: older }}
upstreams:
  older: {{ servers: "{h1}" }}
  newer: {{ servers: "{h2}", protocol: h2c }}
storage: storage
admin: {{ bind: "127.0.0.1:0", token: {TOKEN} }}
log: {{ level: "{level}", format: {format} }}
"#
    )
}

/// The program, whose log may be text.
struct Case {
    program: Program,
    directory: TempDir,
}

impl Case {
    async fn start(yaml: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("secret"), "from-a-file-s3cr3t").unwrap();
        fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
        program.arg("run").arg("gateway.yaml").current_dir(directory.path()).env_remove("RUST_LOG");
        let case = Self { program: Program::start(&mut program), directory };
        case.wait(&[" ready "]).await;
        case
    }

    /// Waits for a line of the log with all of these words.
    async fn wait(&self, words: &[&str]) -> String {
        let is_it = |line: &Value| words.iter().all(|word| as_text(line).contains(word));
        as_text(&self.program.stderr.wait(&words.concat(), is_it).await)
    }

    async fn address(&self, words: &[&str]) -> SocketAddr {
        let line = self.wait(words).await;
        let (_, rest) = line.split_once(" server.address ").expect("an address");
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    /// Everything that was logged, and the access lines.
    fn lines(&self) -> Vec<String> {
        let lines = [self.program.stderr.all(), self.program.stdout.all()].concat();
        lines.iter().map(Value::to_string).collect()
    }
}

/// A line without quotes, colons and signs of equality between its words.
fn as_text(line: &Value) -> String {
    let text = line.as_str().map_or_else(|| line.to_string(), str::to_owned);
    let text = text.replace("\":", " ").replace(['"', '=', ',', '{', '}'], " ").replace(": ", " ");
    let words: Vec<_> = text.split_whitespace().collect();
    format!(" {} ", words.join(" "))
}

/// Requests with secrets wherever a request has room for one, over every version.
async fn ask_all(case: &Case) {
    let ca = case.directory.path().join("storage/local-ca/ca.pem").display().to_string();
    let (web, secure) = (
        case.address(&[" listening ", " listener web "]).await,
        case.address(&[" listening ", " listener secure "]).await,
    );
    let fields = [
        "Cookie: id=s3cr3t",
        "Authorization: Bearer s3cr3t",
        "Proxy-Authorization: Basic s3cr3t",
        "X-Api-Key: s3cr3t",
        "Referer: http://a.test/?token=s3cr3t",
    ];
    for (scheme, address, version) in [
        ("http", web, "--http1.1"),
        ("http", web, "--http2-prior-knowledge"),
        ("https", secure, "--http1.1"),
        ("https", secure, "--http2"),
    ] {
        let port = address.port();
        for path in
            ["/a?token=s3cr3t", "/echo?token=s3cr3t", "/closed?token=s3cr3t", "/a%2fb?s3cr3t"]
        {
            let mut arguments =
                vec!["--silent".to_owned(), "--show-error".to_owned(), version.to_owned()];
            arguments.extend(["--noproxy", "*", "--cacert", &ca].map(str::to_owned));
            arguments.extend(["--resolve".to_owned(), format!("app.test:{port}:127.0.0.1")]);
            arguments.extend(
                fields.iter().flat_map(|field| ["--header".to_owned(), (*field).to_owned()]),
            );
            arguments.extend(["--data".to_owned(), "password=s3cr3t".to_owned()]);
            arguments.push(format!("{scheme}://app.test:{port}{path}"));
            let output = run("curl", arguments).await;
            assert!(output.status.success(), "{output:?}");
        }
    }
    for (address, bytes) in [
        (web, "GET http://user:s3cr3t@app.test/?s3cr3t HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        (web, "GET /?s3cr3t HTTP/1.1\r\nHost: app.test\r\nBad s3cr3t: s3cr3t\r\n\r\n"),
        (web, "GET /?s3cr3t HTTP/1.1\r\nHost: app.test\r\nCookie: s3cr3t\r\nX: \x01\r\n\r\n"),
        (secure, "GET /?s3cr3t HTTP/1.1\r\nHost: app.test\r\nCookie: s3cr3t\r\n\r\n"),
    ] {
        let mut connection = Client::new(address).connect().await;
        connection.send(bytes.as_bytes()).await.unwrap();
        let reply = connection.read_reply(false).await;
        assert!(reply.is_ok_and(|reply| reply.status < 500), "{bytes:?}");
    }
}

/// The admin interface and the file it reads again, with tokens that are right, wrong and misplaced.
async fn reload_all(case: &Case, yaml: &str) {
    let admin = Client::new(case.address(&[" admin listening "]).await).host("localhost");
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let file = case.directory.path().join("gateway.yaml");
    let token = format!("token: {TOKEN}");
    let key = "X-Key: \"in-place-s3cr3t\"";
    for (text, fields, status) in [
        (yaml.to_owned(), "Authorization: Bearer s3cr3t\r\n", 401),
        (yaml.to_owned(), &right, 200),
        (yaml.replace(&token, &format!("{token}, tokn: {TOKEN}")), &right, 422),
        (yaml.replace(&token, "token: s3cr3t"), &right, 422),
        (yaml.replace(&token, "token: \"s3cr3t with spaces in it\""), &right, 422),
        (yaml.replace(&token, &format!("{token}, bind: [")), &right, 422),
        (yaml.replace(key, "X-Key: \"in-place-s3cr3t\\n\""), &right, 422),
        (yaml.replace(key, "X-Key: in-place-s3cr3t: \"s3cr3t\""), &right, 422),
        // A warning beside a secret.
        (
            yaml.replace(key, &format!("{key}, X-More: s3cr3t"))
                + "filters: { unused: [ { body_limit: 1KiB } ] } # s3cr3t\n",
            &right,
            200,
        ),
    ] {
        fs::write(&file, &text).unwrap();
        let reply = admin.send("POST", "/reload?token=s3cr3t", fields, b"").await;
        assert_eq!(reply.status, status, "{text}: {}", reply.text());
    }
    for path in ["/status?token=s3cr3t", "/config", "/metrics", "/s3cr3t"] {
        admin.send("GET", path, &right, b"").await;
    }
    let told = admin.send("GET", "/status", &right, b"").await.text();
    assert!(!told.contains(MARK), "{told}");
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level_in_any_format() {
    for (level, format) in [("debug", "text"), ("trace", "json"), ("trace", "text")] {
        let h1 = Origin::answering(|_| {
            let fields = "Set-Cookie: id=s3cr3t\r\nX-Internal: s3cr3t\r\n";
            Answer::Bytes(
                format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 6\r\n\r\ns3cr3t").into(),
            )
        })
        .await;
        let h2 = Peer::start("h2_origin.py", &[]).await;
        let yaml = yaml(level, format, &h1.url(), &format!("http://{}", h2.address()));
        let mut case = Case::start(&yaml).await;
        ask_all(&case).await;
        let received = h1.requests();
        let first = &received[0];
        assert_eq!(first.target, "/a?token=s3cr3t", "the backend does get it");
        assert_eq!(first.header("x-file"), Some("from-a-file-s3cr3t"));
        assert_eq!(first.header("cookie"), Some("id=s3cr3t"));
        reload_all(&case, &yaml).await;
        case.program.signal("TERM");
        case.program.exit_status().await;
        let lines = case.lines();
        let access =
            lines.iter().filter(|line| line.contains("user_agent") || line.contains("agent="));
        assert!(access.count() >= 16, "every request is told: {lines:#?}");
        let speaks = |target: &str| lines.iter().any(|line| line.contains(target));
        assert!(level != "trace" || (speaks("h2::") && speaks("mio::")), "libraries are heard");
        for line in lines {
            assert!(!line.contains(MARK), "{level} {format}: {line}");
        }
    }
}
