//! The admin listener: what supervisors and operators ask of a running gateway.
//!
//! Answers `/live` (the process answers), `/ready` (it serves), `/metrics`, `/config`, `/status`,
//! `POST /reload`, `POST /upgrade`, `POST /probe` and what [`certs`] has about certificates. Called by `app`, which lends
//! it what it tells about ([`Desk`]). Reads, and changes nothing itself: reloads and upgrades are passed
//! on through [`Control`]. `guard` keeps browsers out.

pub mod certs;
pub mod control;
mod guard;
mod probe;
mod server;
mod status;
mod taking;
pub mod token;
pub mod upgrade;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::config::listener::Protocol;
use crate::proxy::gateway::Shared;
pub use control::{Attempted, Control, LastReload, Outcome, Reload, Request, Stopping};
pub use probe::Probes;
pub use server::serve;
pub use status::timestamp;
pub use token::Token;

/// What the admin listener tells about, and whom it passes requests on to.
pub struct Desk {
    /// Takes requests for a reload.
    pub control: Control,
    /// The generation in force, requests in flight, certificates.
    pub shared: Arc<Shared>,
    /// What else belongs to the generation in force; replaced whole by each reload.
    pub view: Arc<ArcSwap<View>>,
    /// How the reload before this question ended.
    pub last_reload: LastReload,
    /// Whether the gateway serves, and the word for its state.
    pub state: Box<dyn Fn() -> (bool, &'static str) + Send + Sync>,
    /// Client connections now.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// How the certificates stand that an authority issues.
    pub orders: Box<dyn Fn() -> Vec<OrderStatus> + Send + Sync>,
    /// Answers what is asked about certificates.
    pub certs: Box<certs::Answer>,
    /// The body of `/metrics`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Challenges that are answered for who checks from outside.
    pub probes: Probes,
    /// The token under `storage:`; `None` when it could not be made. `admin.token` of the
    /// generation in force goes before it.
    pub token: ArcSwapOption<Token>,
    /// When the process started.
    pub started: Instant,
}

/// What the admin listener shows of the generation in force.
#[derive(Clone, Debug)]
pub struct View {
    /// The configuration as `wardgate config` prints it.
    pub effective: String,
    /// The listeners, as bound.
    pub listeners: Vec<BoundListener>,
}

/// How a certificate stands that an authority issues.
#[derive(Clone, Debug)]
pub struct OrderStatus {
    /// The site, in the spelling of file names.
    pub name: String,
    /// Where it stands, in one word.
    pub state: &'static str,
    /// Failures in a row.
    pub fails: u32,
    /// What went wrong last; `None` since it went well.
    pub problem: Option<String>,
    /// When it is ordered next; `None` while somebody has to change something first.
    pub next_at: Option<SystemTime>,
    /// Why it is ordered then, in one word.
    pub why: &'static str,
    /// It is served, and could not be saved.
    pub is_unsaved: bool,
}

/// A listener with its sockets.
#[derive(Clone, Debug)]
pub struct BoundListener {
    /// As configured.
    pub name: String,
    /// As configured.
    pub protocol: Protocol,
    /// As bound.
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("view", &self.view).finish_non_exhaustive()
    }
}
