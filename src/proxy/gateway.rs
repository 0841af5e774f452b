//! What all requests share, and the hooks' owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::generation::Generation;
use super::pressure::Pressure;
use super::told::FailuresTold;
use crate::telemetry::Metrics;
use crate::telemetry::access::AccessLog;
use crate::tls::CertStore;

/// What all requests of the process share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force, replaced whole.
    pub current: ArcSwap<Generation>,
    /// The certificates in service.
    pub certificates: Arc<CertStore>,
    /// Where access lines go.
    pub access: ArcSwap<AccessLog>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the process is short of.
    pub pressure: Pressure,
    /// What the log was told of failures.
    pub(super) failures: FailuresTold,
    requests: AtomicUsize,
    panics: AtomicU64,
    /// Access lines that logs dropped which are replaced.
    lines_dropped: AtomicU64,
    is_stopping: AtomicBool,
    is_cut: AtomicBool,
}

impl Shared {
    /// The shared state of a process that starts with `generation`.
    #[must_use]
    pub fn new(
        generation: Arc<Generation>,
        certificates: Arc<CertStore>,
        access: Arc<AccessLog>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            current: ArcSwap::new(generation),
            certificates,
            access: ArcSwap::new(access),
            metrics,
            pressure: Pressure::default(),
            failures: FailuresTold::default(),
            requests: AtomicUsize::new(0),
            panics: AtomicU64::new(0),
            lines_dropped: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
        }
    }

    /// Counts a request for as long as the guard lives; `None` when `limit` are in flight, or memory
    /// is short. One at a time always passes: else memory that never comes back would be the end.
    #[must_use]
    pub fn enter(self: &Arc<Self>, limit: usize) -> Option<InFlight> {
        let guard = InFlight(Arc::clone(self));
        // Counted first, so that two at once cannot both pass; the drop takes it back.
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < limit && (before == 0 || !self.pressure.is_shedding())).then_some(guard)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// From here on answers announce that their connection closes.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether answers announce that their connection closes.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// From here on exchanges end because the process does.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    /// Whether exchanges end because the process does.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Counts a panic that was contained.
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Panics contained since the start.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Counts the access lines that a log dropped which is replaced.
    pub fn count_lines_dropped(&self, lines: u64) {
        self.lines_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Access lines dropped since the start.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Ordering::Relaxed) + self.access.load().dropped()
    }
}

/// One request in flight; the count falls when this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
