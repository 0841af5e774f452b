//! When to renew: the whole rule, as functions of `now` and facts.
//!
//! Answers "when is this certificate to be ordered, why, and when has somebody to look again?".
//! The scheduler brings the facts and keeps the timers; nothing here reads a clock or a file.
//!
//! # Why
//!
//! A fixed span before expiry fails on short certificates: over a simulated year "30 days before"
//! issues a 45-day certificate 24 times instead of 12. So the span is a share of the life ([`Life`]),
//! the authority's own wish goes first (RFC 9773, [`Ari`]), and what has gone wrong twice must not
//! become a loop that ends in a rate limit ([`History`]). `simulation` steps a year of each.

mod ari;
mod history;
mod life;
mod plan;
#[cfg(test)]
mod simulation;

pub use ari::{Ari, BadWindow, Suggestion, Window};
pub use history::{History, Issuance, set_id};
pub use life::Life;
pub(crate) use life::uniform;
pub use plan::{Change, Facts, Guard, Plan, Priority, Why, next_wake, plan, priority, too_early};
