//! How a pool's servers stand, for those who ask: the admin API and metrics.

use std::sync::Arc;
use std::time::SystemTime;

use super::health::Standing;
use super::pool::Pool;
use crate::config::upstream::Server;

/// How one endpoint stands, or a server that has no address.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// The server's URL as configured.
    pub url: String,
    /// `10.0.0.5:8080`; `None` for a server whose name has no address.
    pub address: Option<String>,
    /// What its checks say. Unknown where there are none.
    pub standing: Standing,
    /// Since when; `None` before the first verdict and without checks.
    pub since: Option<SystemTime>,
    /// Why the last check that failed did; `None` if none did, and without checks.
    pub reason: Option<Arc<str>>,
    /// Requests it is answering now.
    pub in_flight: usize,
    /// As configured.
    pub weight: u32,
    /// As configured.
    pub backup: bool,
}

impl Pool {
    /// How its servers stand, in the order configured.
    #[must_use]
    pub fn status(&self) -> Vec<EndpointStatus> {
        let health = self.spec().health.as_ref();
        let status = |server: &Server| EndpointStatus {
            url: server.url.clone(),
            address: None,
            standing: Standing::Unknown,
            since: None,
            reason: None,
            in_flight: 0,
            weight: server.weight,
            backup: server.backup,
        };
        let (mut all, endpoints) = (Vec::new(), self.endpoints());
        for (index, server) in self.spec().servers.iter().enumerate() {
            let before = all.len();
            for endpoint in endpoints.iter().filter(|it| it.server_index == index) {
                let monitor = endpoint.monitor();
                all.push(EndpointStatus {
                    address: Some(endpoint.label.clone()),
                    standing: monitor.standing(health),
                    since: health.and_then(|_| monitor.since()),
                    reason: health.and_then(|_| monitor.reason().cloned()),
                    in_flight: endpoint.in_flight(),
                    ..status(server)
                });
            }
            if all.len() == before {
                all.push(status(server));
            }
        }
        all
    }
}
