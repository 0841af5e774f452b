//! One request from its head to its access line, in terms of plain `http` types and our own.
//!
//! Answers "who is the client, what does the backend get to see, what does the client get back?".
//! Called by `listen`, which owns the connection, and by the engine's hooks. Never accepts a
//! connection, never picks a server, never decides a route: those are `listen`, `upstream` and
//! `route`.
//!
//! # Why
//! The rules stand apart from the engine that relays the bytes, so that a second engine for plain
//! HTTP/1.1 exchanges can obey the same ones.

pub mod accept;
mod admit;
mod answer;
mod certificate_fields;
pub mod client;
pub mod connection;
pub mod engine;
pub mod exchange;
pub mod failure;
mod field_class;
mod filtering;
pub mod forms;
pub mod forward;
pub mod forwarded_values;
pub mod gateway;
pub mod generation;
pub mod handles;
pub mod hooks;
mod identity;
mod onward;
mod outcome;
pub mod pressure;
mod record;
pub mod refuse;
pub mod reply;
pub mod response_check;
mod retry;
mod scrape;
mod told;
pub mod trace;
mod trailers;
pub mod watch;
