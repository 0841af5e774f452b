//! What the admin listener is lent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::state::{Stage, State};
use crate::admin::{BoundListener, Control, Desk, LastReload, Token, View, token};
use crate::config::Config;
use crate::listen::Bound;
use crate::listen::connection::Census;
use crate::proxy::gateway::Shared;

/// What the first generation shows of itself.
pub(super) fn view(config: &Config, effective: String, sockets: &[(usize, Bound)]) -> View {
    let mut addresses: HashMap<usize, Vec<SocketAddr>> = HashMap::new();
    for (index, bound) in sockets {
        addresses.entry(*index).or_default().push(bound.local);
    }
    let listeners = config.listeners.iter().enumerate().map(|(index, listener)| BoundListener {
        name: listener.name.clone(),
        protocol: listener.protocol,
        addresses: addresses.remove(&index).unwrap_or_default(),
    });
    View { effective, listeners: listeners.collect() }
}

/// The desk of a process that starts now.
pub(super) fn open(
    control: Control,
    shared: &Arc<Shared>,
    view: Arc<ArcSwap<View>>,
    stage: &Stage,
    census: &Arc<Census>,
    token: Option<Token>,
) -> Desk {
    let (state, census) = (stage.watch(), Arc::clone(census));
    Desk {
        control,
        shared: Arc::clone(shared),
        view,
        last_reload: LastReload::default(),
        state: Box::new(move || {
            let state = *state.borrow();
            (state == State::Running, state.as_str())
        }),
        connections: Box::new(move || census.count()),
        metrics: None,
        token,
        started: Instant::now(),
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
