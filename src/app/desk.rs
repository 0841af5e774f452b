//! What the admin listener is lent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use super::certs::CertDesk;
use super::listeners::NextSocket;
use super::running::Running;
use crate::acme::renewer::Standing;
use crate::admin::{BoundListener, Desk, OrderStatus, Probes, Token, View, token};
use crate::config::Config;

/// What a generation shows of itself.
pub(super) fn view(config: &Config, effective: String, sockets: &[NextSocket]) -> View {
    let mut addresses: HashMap<usize, Vec<SocketAddr>> = HashMap::new();
    for socket in sockets {
        addresses.entry(socket.listener).or_default().push(socket.at.local);
    }
    let listeners = config.listeners.iter().enumerate().map(|(index, listener)| BoundListener {
        name: listener.name.clone(),
        protocol: listener.protocol,
        addresses: addresses.remove(&index).unwrap_or_default(),
    });
    View { effective, listeners: listeners.collect() }
}

impl Running {
    /// What the admin listener is lent, with `token`.
    pub(super) fn desk(&self, token: Option<Token>) -> Desk {
        let (state, census) = (self.stage.watch(), Arc::clone(&self.census));
        let shared = Arc::clone(&self.shared);
        let certs = CertDesk {
            shared: Arc::clone(&self.shared),
            certificates: Arc::clone(&self.certificates),
            commands: self.commands.clone(),
        };
        let certificates = Arc::clone(&self.certificates);
        let readings = Arc::clone(&self.certificates);
        Desk {
            control: self.control.clone(),
            shared: Arc::clone(&self.shared),
            view: Arc::clone(&self.view),
            last_reload: self.last.clone(),
            state: Box::new(move || {
                let state = *state.borrow();
                (state.is_ready(), state.as_str())
            }),
            connections: Box::new(move || census.count()),
            orders: Box::new(move || {
                let mut standings = certificates.imported();
                standings.extend(certificates.standings.load().iter().cloned());
                standings.sort_by(|one, other| one.id.cmp(&other.id));
                standings.iter().map(order).collect()
            }),
            certs: Box::new(move |question, arguments| {
                Box::pin(certs.clone().answer(question, arguments))
            }),
            metrics: Box::new(move || shared.scrape(readings.readings())),
            probes: Probes::default(),
            token: ArcSwapOption::from_pointee(token),
            started: self.started,
        }
    }
}

fn order(standing: &Standing) -> OrderStatus {
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    OrderStatus {
        name: standing.id.to_string(),
        state: standing.state,
        fails: standing.fails,
        problem: standing.problem.clone(),
        next_at: standing.next_at.map(at),
        why: standing.why,
        is_unsaved: standing.is_unsaved,
    }
}

/// The token under `storage`, and beside it the address to show it at. A gateway whose state cannot
/// be written serves all the same; it is only not reloaded through this listener.
pub(super) fn token(storage: &Path, address: SocketAddr) -> Option<Token> {
    let token = Token::open_or_create(storage).and_then(|token| {
        token::write_address(storage, address)?;
        Ok(token)
    });
    match token {
        Ok(token) => Some(token),
        Err(error) => {
            let path = token::path(storage);
            tracing::warn!(path = %path.display(), %error, "has no admin token");
            None
        }
    }
}
