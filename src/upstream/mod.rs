//! Upstream pools: where requests go and over which connections.
//!
//! Answers "which endpoint, and how do we get there?". Called by `proxy`. Knows nothing of routes,
//! sites or clients. Only [`peer`] knows the proxy engine.

pub mod attempt;
pub mod balance;
pub mod dial;
pub mod endpoint;
pub mod peer;
pub mod pool;
pub mod resolve;
pub mod wire;

pub use attempt::{Attempt, Expired, Phase};
pub use dial::DialFailure;
pub use endpoint::Endpoint;
pub use pool::{Place, Pool, PoolFull};
pub use resolve::Resolver;
