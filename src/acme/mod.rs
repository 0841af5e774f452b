//! The certificate manager: obtains certificates from ACME authorities (RFC 8555) and renews them.
//!
//! Answers "which certificate is due, and how does it come about?". Decisions are pure and take the
//! time; `storage` alone touches files, `order` and `fleet` alone the network.

pub mod account;
pub mod backoff;
pub mod check;
pub mod dns;
pub mod event;
pub mod finding;
pub mod fleet;
pub mod hook;
pub mod http;
pub mod import;
pub mod journal;
mod jws;
pub mod key;
pub mod order;
pub mod problem;
pub mod renewal_info;
pub mod renewer;
pub mod revocation;
pub mod rollover;
pub mod schedule;
pub mod session;
pub mod state;
pub mod storage;
pub mod time;
pub mod turns;
