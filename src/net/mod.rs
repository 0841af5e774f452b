//! Hosts, addresses, paths, request heads and PROXY headers: the vocabulary that every other module shares.
//!
//! Answers "is this a host name, does this pattern or block cover it, what is this path's one
//! spelling?". Called by `config` while it reads and by everything that compares hosts, addresses
//! or paths afterwards. Never does I/O.

mod alarm;
mod cidr;
mod customer;
mod fields;
mod head;
mod host;
mod pace;
pub mod path;
mod pattern;
pub mod proxy_protocol;
mod trailer;

pub use alarm::Alarm;
pub use cidr::{Cidr, CidrError, CidrSet};
pub use customer::customer;
pub use fields::Fields;
pub use head::{LONGEST_METHOD, RequestHead};
pub use host::{Host, HostError, HostName, HostNameError, HostNameRef, HostRef, unicode_form};
pub use pace::Pace;
pub use pattern::{HostPattern, HostPatternError};
pub use trailer::is_forbidden_trailer;
