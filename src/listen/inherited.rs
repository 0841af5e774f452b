//! Sockets that somebody else has bound: a service manager hands them over, or the gateway in whose
//! place this one is started.
//!
//! Answers "which of them serves this address?". Called by `app` at the start. Never binds.
//!
//! # Why names
//! Sockets are matched by address, whatever they are called. Only where the kernel chose the port
//! does the address not tell: there the older gateway's name for the socket says whose it was. It also
//! says which ones a service manager has given to that: those listen on when all gateways have closed
//! them, and connections to them would wait there for nobody.

use std::net::TcpListener;

use socket2::SockRef;

use super::Bound;
use crate::config::listener::BindAddress;

/// Sockets that listen already and are not in service yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Handed>);

/// One of them.
#[derive(Debug)]
struct Handed {
    name: String,
    socket: TcpListener,
    /// A service manager has it open as well.
    is_held: bool,
}

/// What the name of a socket ends with that a service manager has open as well.
const HELD: &str = "#held";

/// Whose a socket is.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// Of the listener with this name.
    Listener(&'a str),
    /// Of the admin listener.
    Admin,
}

impl Inherited {
    /// Takes over `sockets`, which have to be non-blocking, with their names. Those of another gateway
    /// are named by that; other ones a service manager has open as well.
    #[must_use]
    pub fn new(sockets: Vec<(String, TcpListener)>, are_from_gateway: bool) -> Self {
        let handed = |(name, socket): (String, TcpListener)| match name.strip_suffix(HELD) {
            Some(rest) => Handed { name: rest.to_owned(), socket, is_held: true },
            None => Handed { name, socket, is_held: !are_from_gateway },
        };
        Self(sockets.into_iter().map(handed).collect())
    }

    /// The sockets that are bound as `address` of `owner` would be; none where there is no such one.
    ///
    /// [`BindAddress::Any`] is one socket for IPv6 and IPv4 together, or what there is of one for each.
    /// An explicit IPv6 address never takes IPv4 connections, so a socket that does is another. Backlogs
    /// stay as they are.
    pub fn take(&mut self, owner: Owner<'_>, address: BindAddress) -> Vec<Bound> {
        if address.is_any_port() {
            let name = owner.socket_name(address);
            let is_it = |handed: &Handed| {
                handed.name == name
                    && handed.socket.local_addr().is_ok_and(|local| {
                        is_bound_to(&handed.socket, owner, with_port(address, local.port()))
                    })
            };
            let place = self.0.iter().position(is_it);
            return place.and_then(|place| bound(self.0.remove(place))).into_iter().collect();
        }
        let (wanted, others): (Vec<_>, Vec<_>) =
            self.0.drain(..).partition(|handed| is_bound_to(&handed.socket, owner, address));
        self.0 = others;
        wanted.into_iter().filter_map(bound).collect()
    }

    /// Those that nobody has taken, and whether a service manager has them open as well.
    pub fn left(&self) -> impl Iterator<Item = (&TcpListener, bool)> {
        self.0.iter().map(|handed| (&handed.socket, handed.is_held))
    }

    /// Closes what no listener has taken, and says so.
    pub fn close(self) {
        for Handed { socket: unused, .. } in self.0 {
            let Ok(address) = unused.local_addr() else { continue };
            if takes_both_families(&unused) {
                tracing::warn!(server.address = %address, "closed an inherited socket for both families that no listener names");
            } else {
                tracing::warn!(server.address = %address, "closed an inherited socket that no listener names");
            }
        }
    }
}

impl Owner<'_> {
    /// What a socket is called when it is handed over: whose it is, whether the kernel chose its port, and
    /// whether a service manager has it open as well. Without colons, which `LISTEN_FDNAMES` has between
    /// names.
    #[must_use]
    pub fn name_to_hand_over(self, address: BindAddress, is_held: bool) -> String {
        let mut name = self.socket_name(address);
        if is_held {
            name.push_str(HELD);
        }
        name
    }

    fn socket_name(self, address: BindAddress) -> String {
        let mut name: String = match self {
            // The encoding has no `#`.
            Self::Listener(name) => form_urlencoded::byte_serialize(name.as_bytes()).collect(),
            Self::Admin => "#admin".to_owned(),
        };
        if address.is_any_port() {
            name.push_str("#0");
        }
        name
    }
}

fn with_port(address: BindAddress, port: u16) -> BindAddress {
    match address {
        BindAddress::Any { .. } => BindAddress::Any { port },
        BindAddress::Addr(mut address) => {
            address.set_port(port);
            BindAddress::Addr(address)
        }
    }
}

fn is_bound_to(socket: &TcpListener, owner: Owner<'_>, address: BindAddress) -> bool {
    let Ok(local) = socket.local_addr() else { return false };
    match address {
        // The admin listener on every IPv6 address is on what the system makes of that.
        BindAddress::Addr(address) if matches!(owner, Owner::Admin) => local == address,
        BindAddress::Addr(address) => local == address && !takes_both_families(socket),
        BindAddress::Any { port } => local.ip().is_unspecified() && local.port() == port,
    }
}

fn takes_both_families(socket: &TcpListener) -> bool {
    let is_any =
        socket.local_addr().is_ok_and(|local| local.is_ipv6() && local.ip().is_unspecified());
    is_any && !SockRef::from(socket).only_v6().unwrap_or(false)
}

fn bound(Handed { socket, is_held, .. }: Handed) -> Option<Bound> {
    let local = socket.local_addr().ok()?;
    Some(Bound { socket, local, is_held })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    const WEB: Owner<'_> = Owner::Listener("web");

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

    fn inherit(sockets: Vec<TcpListener>) -> Inherited {
        let named = sockets.into_iter().map(|socket| ("any name".to_owned(), socket));
        Inherited::new(named.collect(), false)
    }

    fn port(socket: &TcpListener) -> u16 {
        socket.local_addr().unwrap().port()
    }

    #[test]
    fn an_address_gets_the_socket_that_is_bound_to_exactly_it() {
        let (one, other) = (listening("127.0.0.1:0", true), listening("0.0.0.0:0", true));
        let (local, any) = (one.local_addr().unwrap(), port(&other));
        let mut inherited = inherit(vec![one, other]);
        let loopback = BindAddress::Addr(([127, 0, 0, 1], any).into());
        assert!(inherited.take(WEB, loopback).is_empty(), "0.0.0.0 is more than 127.0.0.1");
        assert!(
            inherited.take(WEB, BindAddress::Any { port: local.port() }).is_empty(),
            "and less"
        );
        assert_eq!(inherited.take(WEB, BindAddress::Addr(local))[0].local, local);
        assert!(inherited.take(WEB, BindAddress::Addr(local)).is_empty(), "each is given once");
        assert_eq!(
            inherited.take(WEB, BindAddress::Any { port: any }).len(),
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
        let mut inherited = inherit(vec![dual]);
        assert!(inherited.take(WEB, BindAddress::Addr(local)).is_empty(), "it takes IPv4 as well");
        assert_eq!(inherited.take(WEB, BindAddress::Any { port: local.port() }).len(), 1);

        let v6 = listening("[::]:0", true);
        let port = port(&v6);
        let v4 = listening(&format!("0.0.0.0:{port}"), true);
        let mut pair = inherit(vec![v4, v6]);
        assert_eq!(pair.take(WEB, BindAddress::Any { port }).len(), 2);
    }

    #[test]
    fn a_port_that_the_kernel_chose_is_known_by_its_listeners_name() {
        let zero = |text: &str| BindAddress::Addr(text.parse().unwrap());
        let loopback = zero("127.0.0.1:0");
        assert_ne!(
            Owner::Listener("#admin").socket_name(loopback),
            Owner::Admin.socket_name(loopback)
        );
        let sockets = ["a:b", "web", "web"].map(|listener| {
            (Owner::Listener(listener).socket_name(loopback), listening("127.0.0.1:0", true))
        });
        let locals = sockets.each_ref().map(|(_, socket)| socket.local_addr().unwrap());
        assert!(sockets.iter().all(|(name, _)| !name.contains(':')), "{sockets:?}");
        let mut inherited = Inherited::new(sockets.into(), true);
        assert!(inherited.take(WEB, zero("0.0.0.0:0")).is_empty(), "another address");
        assert!(inherited.take(WEB, BindAddress::Any { port: 0 }).is_empty(), "another address");
        for (listener, wanted) in [("web", locals[1]), ("web", locals[2]), ("a:b", locals[0])] {
            let [found] = &inherited.take(Owner::Listener(listener), loopback)[..] else {
                panic!("{listener}")
            };
            assert_eq!(found.local, wanted, "one for each that is asked for, in order");
        }
        assert!(inherited.take(WEB, loopback).is_empty());
        let named = (WEB.socket_name(zero("127.0.0.1:80")), listening("127.0.0.1:0", true));
        assert!(
            Inherited::new(vec![named], true).take(WEB, loopback).is_empty(),
            "it was asked for"
        );
    }

    #[test]
    fn what_a_service_manager_holds_is_known_from_one_gateway_to_the_next() {
        let zero = BindAddress::Addr("127.0.0.1:0".parse().unwrap());
        let is_held = |name: String, are_from_gateway| {
            let sockets = vec![(name, listening("127.0.0.1:0", true))];
            let taken = Inherited::new(sockets, are_from_gateway).take(WEB, zero);
            taken.first().map(|bound| bound.is_held)
        };
        let name = |is_held| WEB.name_to_hand_over(zero, is_held);
        assert_eq!(is_held(name(false), true), Some(false));
        assert_eq!(is_held(name(true), true), Some(true));
        assert_eq!(is_held(name(false), false), Some(true), "systemd gives any name");
        assert_eq!(is_held("fd".to_owned(), true), None);
    }
}
