//! Sockets that somebody else has bound: a service manager hands them over.
//!
//! Answers "which of them serves this address?". Called by `app` at the start. Never binds.

use std::net::TcpListener;

use socket2::SockRef;

use super::Bound;
use crate::config::listener::BindAddress;

/// Sockets that listen already and are not in service yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// Takes over `sockets`, which have to be non-blocking.
    #[must_use]
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        Self(sockets)
    }

    /// The sockets that are bound as `address` would be; none where there is no such one.
    ///
    /// [`BindAddress::Any`] is one socket for IPv6 and IPv4 together, or what there is of one for each.
    /// An explicit IPv6 address never takes IPv4 connections, so a socket that does is another. Backlogs
    /// stay as they are.
    pub fn take(&mut self, address: BindAddress) -> Vec<Bound> {
        let (wanted, others): (Vec<_>, Vec<_>) =
            self.0.drain(..).partition(|socket| is_bound_to(socket, address));
        self.0 = others;
        wanted.into_iter().filter_map(bound).collect()
    }

    /// Closes what no listener has taken, and says so.
    pub fn close(self) {
        for unused in self.0 {
            let Ok(address) = unused.local_addr() else { continue };
            if takes_both_families(&unused) {
                tracing::warn!(server.address = %address, "closed an inherited socket for both families that no listener names");
            } else {
                tracing::warn!(server.address = %address, "closed an inherited socket that no listener names");
            }
        }
    }
}

fn is_bound_to(socket: &TcpListener, address: BindAddress) -> bool {
    let Ok(local) = socket.local_addr() else { return false };
    match address {
        BindAddress::Addr(address) => local == address && !takes_both_families(socket),
        BindAddress::Any { port } => local.ip().is_unspecified() && local.port() == port,
    }
}

fn takes_both_families(socket: &TcpListener) -> bool {
    let is_any =
        socket.local_addr().is_ok_and(|local| local.is_ipv6() && local.ip().is_unspecified());
    is_any && !SockRef::from(socket).only_v6().unwrap_or(false)
}

fn bound(socket: TcpListener) -> Option<Bound> {
    let local = socket.local_addr().ok()?;
    Some(Bound { socket, local })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn listening(address: &str, is_only_v6: bool) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(is_only_v6).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.listen(1).unwrap();
        socket.into()
    }

    fn port(socket: &TcpListener) -> u16 {
        socket.local_addr().unwrap().port()
    }

    #[test]
    fn an_address_gets_the_socket_that_is_bound_to_exactly_it() {
        let (one, other) = (listening("127.0.0.1:0", true), listening("0.0.0.0:0", true));
        let (local, any) = (one.local_addr().unwrap(), port(&other));
        let mut inherited = Inherited::new(vec![one, other]);
        let loopback = BindAddress::Addr(([127, 0, 0, 1], any).into());
        assert!(inherited.take(loopback).is_empty(), "0.0.0.0 is more than 127.0.0.1");
        assert!(inherited.take(BindAddress::Any { port: local.port() }).is_empty(), "and less");
        assert_eq!(inherited.take(BindAddress::Addr(local))[0].local, local);
        assert!(inherited.take(BindAddress::Addr(local)).is_empty(), "each is given once");
        assert_eq!(
            inherited.take(BindAddress::Any { port: any }).len(),
            1,
            "IPv4 is what there is"
        );
    }

    #[test]
    fn a_bare_port_is_both_families_in_one_socket_or_in_two() {
        if TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        let dual = listening("[::]:0", false);
        let local = dual.local_addr().unwrap();
        let mut inherited = Inherited::new(vec![dual]);
        assert!(inherited.take(BindAddress::Addr(local)).is_empty(), "it takes IPv4 as well");
        assert_eq!(inherited.take(BindAddress::Any { port: local.port() }).len(), 1);

        let v6 = listening("[::]:0", true);
        let port = port(&v6);
        let v4 = listening(&format!("0.0.0.0:{port}"), true);
        let mut pair = Inherited::new(vec![v4, v6]);
        assert_eq!(pair.take(BindAddress::Any { port }).len(), 2);
    }
}
