//! What a gateway starts from.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::admin::control::{Control, LastReload, Request};
use crate::config::Loaded;
use crate::config::process::LogFile;
use crate::telemetry::log::LogControl;

/// Requests that wait; whoever comes beyond that waits for a turn to ask.
const PENDING: usize = 16;

/// What a gateway starts from, and by what it is reached while it runs.
#[derive(Debug)]
pub struct Launch {
    pub(super) loaded: Loaded,
    /// What a reload reads again; `None` when the configuration comes from the command line.
    pub(super) file: Option<PathBuf>,
    pub(super) log: LogControl,
    /// Where access lines go instead of standard output.
    pub(super) access_file: Option<LogFile>,
    pub(super) control: Control,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) last: LastReload,
}

impl Launch {
    /// A gateway with the configuration `loaded`, which was read from `file` if there is one.
    #[must_use]
    pub fn new(loaded: Loaded, file: Option<PathBuf>, log: LogControl) -> Self {
        let (control, requests) = Control::channel(PENDING);
        let last = LastReload::default();
        Self { loaded, file, log, access_file: None, control, requests, last }
    }

    /// The same with access lines in `file` where the configuration leaves them to standard output.
    #[must_use]
    pub fn with_access_file(mut self, file: Option<LogFile>) -> Self {
        self.access_file = file;
        self
    }

    /// For whoever may ask for a reload, such as a service manager.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}
