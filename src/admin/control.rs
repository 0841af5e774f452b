//! What may be asked of a running gateway, and what it answers: the way from whoever asks for a
//! reload (a signal, a changed file, the admin API, the service control manager) or an
//! [upgrade](super::upgrade) to the one task of `app` that does it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};

use super::upgrade::{Turn, Upgrade, UpgradeError, Upgraded, Wish};

/// Asks the task that owns the configuration. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<Request>,
    /// Taken while an upgrade is under way, or waits to be.
    turn: Turn,
}

/// One request.
#[derive(Debug)]
pub enum Request {
    /// To read the configuration again.
    Reload(Reload),
    /// To start another process in the place of this one.
    Upgrade(Upgrade),
}

/// One request for a reload.
#[derive(Debug)]
pub struct Reload {
    /// Who asks, for the log: `SIGHUP`, `admin`, `file`, `service`.
    pub reason: &'static str,
    /// Gets the outcome; nobody need listen.
    pub answer: oneshot::Sender<Outcome>,
}

/// How a reload ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The new configuration is in force.
    Applied {
        /// Its generation.
        generation: u64,
        /// What was noticed, as `wardgate check` prints it; may be empty.
        warnings: String,
    },
    /// Nothing differs from what is in force.
    Unchanged {
        /// The generation in force.
        generation: u64,
    },
    /// What was in force stays in force.
    Rejected {
        /// The generation in force.
        generation: u64,
        /// Why, as `wardgate check` prints it.
        faults: String,
    },
}

/// The last reload, for whoever looks. Cheap to clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct LastReload(Arc<ArcSwapOption<Attempted>>);

/// A reload that was asked for.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// When it ended.
    pub at: SystemTime,
    /// Who asked.
    pub reason: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

/// The process is ending: nobody reloads any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the gateway is stopping")]
pub struct Stopping;

impl Control {
    /// The asking end and the answering end. Requests that come while one is worked on wait, at most
    /// `pending` of them; askers beyond that wait for their turn to ask.
    #[must_use]
    pub fn channel(pending: usize) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(pending);
        (Self { requests, turn: Turn::default() }, receiver)
    }

    /// Has the configuration read again, and waits for the outcome.
    ///
    /// # Errors
    /// [`Stopping`]: the process ends.
    pub async fn reload(&self, reason: &'static str) -> Result<Outcome, Stopping> {
        let (answer, outcome) = oneshot::channel();
        let request = Request::Reload(Reload { reason, answer });
        self.requests.send(request).await.map_err(|_| Stopping)?;
        outcome.await.map_err(|_| Stopping)
    }

    /// Has another process started that takes over, and waits until it has, or will not. Goes on when
    /// nobody waits any more.
    ///
    /// # Errors
    /// [`UpgradeError`]: this process goes on serving, unless it ends anyway.
    pub async fn upgrade(
        &self,
        reason: &'static str,
        wish: Wish,
    ) -> Result<Upgraded, UpgradeError> {
        let Some(taken) = self.turn.take() else { return Err(UpgradeError::Busy) };
        let (answer, outcome) = oneshot::channel();
        let request = Request::Upgrade(Upgrade { reason, wish, answer, taken });
        self.requests.send(request).await.map_err(|_| UpgradeError::Stopping)?;
        outcome.await.map_err(|_| UpgradeError::Stopping)?
    }
}

impl LastReload {
    /// Notes a reload.
    pub fn note(&self, attempted: Attempted) {
        self.0.store(Some(Arc::new(attempted)));
    }

    /// The last reload; `None` before the first.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Attempted>> {
        self.0.load_full()
    }
}

impl Outcome {
    /// `applied`, `unchanged` or `rejected`: the label in metrics and the word in the API.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Unchanged { .. } => "unchanged",
            Self::Rejected { .. } => "rejected",
        }
    }
}
