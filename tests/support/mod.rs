//! What the tests talk through: the real gateway, origins, clients and peers in other languages.
//!
//! Everything here waits on events and fails after [`PATIENCE`] with what was seen until then;
//! nothing sleeps. Processes are ended by their own handle when their value is dropped.

mod between;
mod bind;
mod client;
mod gateway;
mod inside;
mod inventory;
mod lines;
mod origin;
mod pebble;
mod peer;
mod program;
mod redis;
mod stage;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) use between::{Between, Fate, problem};
pub(crate) use bind::{Bind, build_clock, key};
pub(crate) use client::{Client, Connection, Reply};
pub(crate) use gateway::Gateway;
pub(crate) use inside::Inside;
pub(crate) use inventory::{Shown, hold_against_sources};
pub(crate) use lines::field;
pub(crate) use origin::{Answer, Origin, Received};
pub(crate) use pebble::{EXTERNAL_KEY, Pebble, Settings, write_certificates};
pub(crate) use peer::{Peer, command};
pub(crate) use program::{Program, run};
pub(crate) use redis::{PASSWORD, Redis};
pub(crate) use stage::Stage;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `event` no longer than [`PATIENCE`], and fails naming it.
pub(crate) async fn within<F: Future>(what: &str, event: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(output) => output,
        Err(_) => panic!("no {what} within {PATIENCE:?}"),
    }
}

/// An address of this machine that refuses connections. Nobody else gets it while the test's process
/// lives, for its socket is bound, but does not listen.
pub(crate) fn closed() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// Two addresses that a process may have, and another after it: nothing listens there, and the kernel
/// gives their ports to nobody who asks for any.
pub(crate) fn steady() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 5_000).unwrap_or(0);
    let mut free = std::iter::from_fn(|| {
        let port = 20_000 + (start * 2 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    })
    .filter(|address| std::net::TcpListener::bind(address).is_ok());
    (free.next().expect("an endless sequence"), free.next().expect("an endless sequence"))
}

/// A path inside the repository.
pub(crate) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
