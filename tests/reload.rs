//! A new configuration while the gateway runs.

mod certificate;
mod keep;
mod listener;
mod load;
mod outcome;

use std::io;
use std::path::Path;

use serde_json::Value;

use crate::support::{Connection, Gateway, Reply, field};

/// A configuration with a plain listener `web`, h2c included, and these sites.
fn yaml(sites: &str) -> String {
    with_listener("", sites)
}

/// The same with `more` beside it.
fn with_listener(more: &str, sites: &str) -> String {
    let web = "web: { bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }";
    format!("listeners:\n  {web}\n  {more}\nsites:\n{sites}")
}

/// A site that answers with `text`.
fn says(host: &str, text: &str) -> String {
    format!("  {host}: {{ routes: [ {{ respond: {{ status: 200, body: {text} }} }} ] }}\n")
}

/// Asks `host` for `path` on a connection that stays.
async fn ask(connection: &mut Connection, host: &str, path: &str) -> io::Result<Reply> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    connection.send(head.as_bytes()).await?;
    connection.read_reply(false).await
}

/// Puts `yaml` in the place of the configuration, which is refused; returns the faults.
async fn refused(gateway: &Gateway, yaml: &str) -> String {
    let is_refusal = |line: &Value| {
        field(line, "message") == "rejected a configuration" && field(line, "reason") == "SIGHUP"
    };
    let before = gateway.log().all().iter().filter(|line| is_refusal(line)).count();
    gateway.rewrite(yaml);
    gateway.signal("HUP");
    let what = "refusal of the configuration";
    let lines = gateway.log().wait_for_count(what, before + 1, is_refusal).await;
    field(&lines[before], "faults").as_str().unwrap().to_owned()
}

/// Puts a file in the place of another by renaming.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn is_message(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == text
}
