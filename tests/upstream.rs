//! Between the gateway and its backends: faults, kept connections, the choice among servers, health,
//! retries, TLS.

mod fault;
mod h2;
mod heads;
mod health;
mod pool;
mod retry;
mod tls;

use crate::support::Gateway;

/// A gateway with one plain listener, `web`, in front of the pool `app` with these keys.
async fn front(pool: &str) -> Gateway {
    Gateway::start(config(pool)).await
}

fn config(pool: &str) -> String {
    format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: app }} }}\n\
         upstreams: {{ app: {{ {pool} }} }}\n"
    )
}
