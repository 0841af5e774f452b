//! The gateway's tests: real sockets, the real binary, one test program.
//!
//! `cfg(test)` always holds here; it is written out so that the lints know these modules as tests.

#[cfg(test)]
mod acme;
#[cfg(test)]
mod admin;
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod client_auth;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod config_corpus;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod conformance;
#[cfg(test)]
mod cve;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod deploy;
#[cfg(test)]
mod desync;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod faults;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod http1;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod judges;
#[cfg(test)]
mod life_cycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routing;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod service;
#[cfg(test)]
mod stapling;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traps;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod upgrade;
#[cfg(test)]
mod upstream;
