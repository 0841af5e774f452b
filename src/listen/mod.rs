//! Listeners: from a bound socket to the bytes of one request that is safe to hand on.
//!
//! Answers "what did this client send, where does its message end, and may it pass?". Called by
//! `app`, which binds the sockets and starts the accept loops. Never routes a request and never
//! chooses a backend.
//!
//! # Why
//!
//! The proxy engine behind us forgives what RFC 9112 forbids: bare line feeds, two lengths, codings
//! it does not know. What two parsers read differently is how requests are smuggled, so one strict
//! reader stands in front. [`HeadGate`] lets a head pass or refuses it and [`BodyTracker`] finds the
//! end of its body. Both are pure: no socket, no clock, no allocation.

pub mod connection;
mod frame;
mod frame_budget;
mod frame_faults;
mod frame_watch;
mod framing;
mod h2_transport;
mod head_gate;
mod heirs;
pub mod http1;
pub mod http2;
mod inherited;
pub mod line;
pub mod loan;
mod parting;
mod proxy_protocol;
mod socket;
mod syntax;

pub use frame_watch::FrameWatch;
pub use framing::{BodyTracker, FramingError};
pub use head_gate::{BodyFraming, Head, HeadGate, HeadLimits, Refusal, Span, TargetForm, Verdict};
pub use heirs::{Heir, Heirs};
pub use inherited::{Inherited, Owner};
pub use socket::{
    AcceptAction, BindCause, BindError, Bound, accept_error, bind, bind_address, bind_beside,
    listen_beside, tune,
};
