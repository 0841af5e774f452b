//! Upstream pools: where requests go and over which connections.
//!
//! Answers "which endpoint, and how do we get there?". Called by `proxy`. Knows nothing of routes,
//! sites or clients, but for what a client's connection
//! is announced as. Only [`peer`] knows the proxy engine.

mod ahead;
pub mod announcement;
pub mod attempt;
pub mod backlog;
pub mod balance;
mod check;
pub mod dial;
pub mod endpoint;
pub mod flight;
pub mod health;
mod keep;
pub mod peer;
pub mod pool;
mod probe;
mod queue;
pub mod resolve;
mod selection;
mod status;
mod turn;
pub mod vigil;
pub mod wire;

pub use announcement::{Announcement, Announcer};
pub use attempt::{Attempt, Expired, Phase};
pub use backlog::Backlog;
pub use dial::DialFailure;
pub use endpoint::Endpoint;
pub use flight::Flight;
pub use health::Standing;
pub use keep::keep;
pub use pool::{Place, Pool, PoolFull, Retrying};
pub use resolve::Resolver;
pub use status::EndpointStatus;
