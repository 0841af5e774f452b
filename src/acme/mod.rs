//! The certificate manager: obtains certificates from ACME authorities (RFC 8555) and renews them.
//!
//! Answers "which certificate is due, and how does it come about?". Decisions are pure and take the
//! time; `storage` alone touches files, `order` alone the network.

pub mod backoff;
pub mod journal;
pub mod schedule;
pub mod state;
pub mod storage;
pub mod time;
