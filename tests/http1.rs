//! HTTP/1.1 between a client, the gateway and a backend.

mod deadline;
mod duplex;
mod header;
mod limit;
mod message;
mod stream;
mod upgrade;

use crate::support::Gateway;

/// A gateway with one plain listener, `web`, whose every request goes to `origin`.
async fn front(origin: &str) -> Gateway {
    Gateway::start(config(origin, "", "")).await
}

/// The same with more keys for the pool, each after a comma, and more sections.
fn config(origin: &str, pool: &str, sections: &str) -> String {
    format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: app }} }}\n\
         upstreams: {{ app: {{ servers: [\"{origin}\"]{pool} }} }}\n{sections}\n"
    )
}
