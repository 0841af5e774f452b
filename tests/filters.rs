//! Filters, as clients, backends and operators see them.

mod compress;
mod field;
mod verdict;

use serde_json::{Value, json};

use crate::support::{Gateway, Peer};

/// A gateway whose listener `web` speaks HTTP/1.1 and h2c and `secure` HTTPS. `more` are its sites
/// and the rest; `ORIGIN` in it stands for `origin`.
async fn gateway(origin: &str, more: &str) -> Gateway {
    let listeners = "listeners:\n  \
         web: { bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }\n  \
         secure: { bind: \"127.0.0.1:0\", protocol: https }\n";
    Gateway::start(format!("{listeners}{}\n", more.replace("ORIGIN", origin))).await
}

/// Plays `steps` on one h2c connection.
async fn play(gateway: &Gateway, steps: Value) -> Value {
    let address = gateway.address("web").to_string();
    Peer::result("h2_client.py", &json!({"address": address, "steps": steps})).await
}

/// A request for `path` of app.test on `stream`, with further fields.
fn request(stream: u32, method: &str, path: &str, fields: &[(&str, &str)]) -> Value {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path)];
    let headers = pseudo.iter().chain(fields).map(|(name, value)| json!([name, value]));
    json!({"stream": stream, "headers": Value::from_iter(headers)})
}

/// The values of a field that an h2 stream was answered with.
fn h2_values(stream: &Value, name: &str) -> Vec<String> {
    let fields = stream["headers"].as_array().expect("fields").iter();
    let named = fields.filter(|field| field[0] == name);
    named.map(|field| field[1].as_str().expect("text").to_owned()).collect()
}
