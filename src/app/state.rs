//! Where the process stands.

use tokio::sync::watch;

/// Where the process stands: `Initializing → Running → Stopping → Terminated`; after an upgrade
/// `Upgraded` in the place of `Stopping`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Binding, loading, building.
    Initializing,
    /// Serving.
    Running,
    /// Finishing what is in flight.
    Stopping,
    /// The same, while another process serves on the same addresses.
    Upgraded,
    /// Done.
    Terminated,
}

impl State {
    /// Whether new requests are served at the gateway's addresses, by whichever process.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Running | Self::Upgraded)
    }

    /// The word for it in logs, `/ready` and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Upgraded => "upgraded",
            Self::Terminated => "terminated",
        }
    }
}

/// The process's state, for whoever changes it and whoever looks.
#[derive(Clone, Debug)]
pub struct Stage(watch::Sender<State>);

impl Stage {
    /// A process that has just started.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(State::Initializing))
    }

    /// Goes on to `state`, and says so.
    pub fn enter(&self, state: State) {
        self.0.send_replace(state);
        tracing::info!(state = state.as_str(), "state changed");
    }

    /// A view of it that follows.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}
