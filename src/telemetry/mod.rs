//! What the gateway tells its operator: log lines, access lines and metrics.
//!
//! Answers "what happened, and who asked for what?". Called by `app`, which installs the log and
//! opens the access log, and by whatever ends a request. Never decides anything about a request,
//! never blocks one, and never writes a key, a token, a cookie or a query value.

pub mod access;
pub mod log;
pub mod metrics;

mod line;
#[cfg(unix)]
mod stderr;
mod timestamp;

pub use access::{AccessLog, AccessLogError, AccessRecord};
pub use log::{FilterError, InstallError, LogControl};
pub use metrics::Metrics;
