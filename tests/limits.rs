//! What a client can make last, and what happens when the process runs short.

mod idle;
mod overload;
mod pace;
mod reader;
mod unread;

use crate::support::Gateway;

/// A gateway that speaks HTTP/1.1 and h2c on `web`, in front of `upstream`; `more` is further YAML.
async fn gateway(upstream: &str, more: &str) -> Gateway {
    Gateway::start(yaml(upstream, "http/1.1", more)).await
}

fn yaml(upstream: &str, protocol: &str, more: &str) -> String {
    format!(
        "listeners:\n\
         \x20 web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }}\n\
         sites: {{ \"*\": {{ upstream: app, https: both }} }}\n\
         upstreams: {{ app: {{ servers: [\"{upstream}\"], protocol: {protocol} }} }}\n{more}\n"
    )
}
