//! Connections that wait at a socket which closes while others are there for its clients: an address was
//! widened or narrowed.
//!
//! Answers "whose are they now?". Named by `app` before it closes a socket, and asked by that one's accept
//! loop as it ends.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;

use super::connection::{Door, admit};
use super::socket::{AcceptAction, accept_error};

/// The sockets that take over from one that closes; none while it stays.
#[derive(Debug, Default)]
pub struct Heirs(OnceLock<Vec<Heir>>);

/// One of them.
#[derive(Debug)]
pub struct Heir {
    /// Where it is.
    pub local: SocketAddr,
    /// Whether that is all addresses of both families.
    pub takes_both_families: bool,
    /// Through which its connections come in.
    pub door: Arc<Door>,
}

impl Heirs {
    /// Says who they are, once.
    pub fn name(&self, heirs: Vec<Heir>) {
        // There is nobody to say it again.
        let _ = self.0.set(heirs);
    }

    /// Whether somebody takes over.
    pub(super) fn are_named(&self) -> bool {
        self.0.get().is_some()
    }

    /// Takes the connections that have come in on `socket` and nobody has accepted: their clients have
    /// been told that they are connected.
    pub(super) fn take_waiting(&self, socket: &TcpListener) {
        loop {
            match socket.accept() {
                Ok((stream, peer)) => {
                    let is_ready = stream.set_nonblocking(true);
                    if let Ok(stream) = is_ready.and_then(|()| TcpStream::from_std(stream)) {
                        self.take(stream, peer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if accept_error(&error) == AcceptAction::Retry => {}
                Err(_) => return,
            }
        }
    }

    /// Lets a connection in where it belongs, and nobody in at an address that is no longer served.
    pub(super) fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let heirs = self.0.get().map(Vec::as_slice).unwrap_or_default();
        let heir = stream.local_addr().ok().and_then(|local| find(heirs, local));
        if let Some(heir) = heir {
            admit(stream, peer, &heir.door);
        }
    }
}

/// The one that has the connections of an address: as in the kernel, the most specific one.
fn find(heirs: &[Heir], address: SocketAddr) -> Option<&Heir> {
    let ip = address.ip().to_canonical();
    let closeness = |heir: &Heir| closeness(heir.local.ip(), heir.takes_both_families, ip);
    let fitting = heirs.iter().filter_map(|heir| Some((closeness(heir)?, heir)));
    fitting.min_by_key(|(closeness, _)| *closeness).map(|(_, heir)| heir)
}

/// How far a socket at `local` is from one that is for `ip` alone; `None` when it does not take that.
fn closeness(local: IpAddr, takes_both_families: bool, ip: IpAddr) -> Option<u8> {
    let is_of_family = local.is_ipv4() == ip.is_ipv4();
    match local.is_unspecified() {
        _ if local == ip => Some(0),
        true if is_of_family => Some(1),
        true if takes_both_families => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_goes_where_the_address_is_served_now() {
        for (local, takes_both_families, ip, wanted) in [
            ("127.0.0.1", false, "127.0.0.1", Some(0)),
            ("127.0.0.1", false, "192.0.2.1", None),
            ("127.0.0.1", false, "::1", None),
            ("0.0.0.0", false, "192.0.2.1", Some(1)),
            ("0.0.0.0", false, "2001:db8::1", None),
            ("::", true, "2001:db8::1", Some(1)),
            ("::", true, "192.0.2.1", Some(2)),
            ("::", false, "192.0.2.1", None),
        ] {
            let closeness =
                closeness(local.parse().unwrap(), takes_both_families, ip.parse().unwrap());
            assert_eq!(closeness, wanted, "{local} {takes_both_families} {ip}");
        }
    }
}
