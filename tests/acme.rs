//! Orders at a real authority, proven through the gateway's own listeners.

mod certs;
mod challenges;
mod check;
mod connections;
mod crash;
mod events;
mod failures;
mod faults;
mod faulty;
mod fleet;
mod gateway;
mod imported;
mod lasting;
mod many;
mod orders;
mod revoked;
mod scene;
mod second;
mod shared;
mod survival;
mod updates;
#[cfg(target_os = "linux")]
mod upgraded;
