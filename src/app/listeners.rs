//! Listeners over time: which socket serves which listener of the next configuration.
//!
//! An address keeps its socket from one configuration to the next, whichever listener it belongs to
//! there, so that nobody is refused in between. A listener is the same while its name and its
//! protocol are; then its connections go on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::prepare::Basis;
use crate::config::listener::{BindAddress, Listener, Protocol};
use crate::listen::connection::{Door, Surroundings, enable_fast_open};
use crate::listen::{
    BindCause, BindError, Bound, Heir, Heirs, Inherited, Owner, bind_address, bind_beside,
    listen_beside,
};
use crate::proxy::connection::ListenerFacts;
use crate::proxy::generation::BoundListener;
use crate::telemetry::metrics::ListenerMetrics;
use crate::tls::{CertStore, Policies, Terms};

/// A socket in service.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) at: Place,
    /// Through which its connections come in now.
    pub(super) door: Arc<ArcSwap<Door>>,
    /// Ends its accept loop.
    pub(super) close: CancellationToken,
    /// To which sockets that leaves who waits.
    pub(super) heirs: Arc<Heirs>,
    /// The other handle to the socket that is accepted on, for changes of its options.
    pub(super) handle: Arc<std::net::TcpListener>,
}

/// Where a socket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The listener's name.
    pub(super) listener: String,
    /// As configured.
    pub(super) address: BindAddress,
    /// As bound.
    pub(super) local: SocketAddr,
    /// Whether a service manager has it open as well.
    pub(super) is_held: bool,
}

/// A listener of the next configuration, ready to be put in force.
#[derive(Debug)]
pub(super) struct NextDoor {
    listener: Listener,
    facts: Arc<ListenerFacts>,
    tls: Option<(Arc<Terms>, Arc<CertStore>)>,
    metrics: Arc<ListenerMetrics>,
    /// The same listener in the configuration before.
    previous: Option<Arc<Door>>,
}

/// A socket of the next configuration.
#[derive(Debug)]
pub(super) struct NextSocket {
    /// Index of its listener.
    pub(super) listener: usize,
    pub(super) at: Place,
    pub(super) origin: Origin,
}

/// Where a socket comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// It is in service, at this index.
    Kept(usize),
    /// It has just been bound.
    Bound {
        /// To accept on.
        socket: TcpListener,
        /// The same socket.
        handle: std::net::TcpListener,
    },
    /// It has just been bound, and does not listen before [`open`]: it would take clients from sockets
    /// in service, of which nothing becomes if this configuration is not put in force.
    Reserved {
        /// To listen on.
        socket: std::net::TcpListener,
        /// The indices of those in service.
        beside: Vec<usize>,
    },
}

impl NextDoor {
    /// What `listener`, the one at `index`, needs, and what it is to those in service.
    ///
    /// # Errors
    /// [`StartError`] when TLS cannot be served.
    pub(super) fn new(
        (index, listener): (usize, &Listener),
        policies: &Policies,
        basis: &Basis,
    ) -> Result<Self, StartError> {
        let is_same = |door: &&Arc<Door>| {
            door.listener.name == listener.name && door.listener.protocol == listener.protocol
        };
        let previous = basis.doors.iter().find(is_same).cloned();
        let facts = previous.as_ref().map_or_else(
            || Arc::new(ListenerFacts::new(listener.name.clone())),
            |previous| Arc::clone(&previous.facts),
        );
        let tls = match listener.protocol {
            Protocol::Http => None,
            Protocol::Https => {
                let store = Arc::clone(&basis.store);
                let terms = Terms::new(listener, index, &store, &basis.tickets, policies)?;
                Some((Arc::new(terms), store))
            }
        };
        let metrics = basis.metrics.listener(&listener.name);
        Ok(Self { listener: listener.clone(), facts, tls, metrics, previous })
    }

    /// The door, with the surroundings of the listener before it or with new ones.
    pub(super) fn open(self, surroundings: impl FnOnce() -> Surroundings) -> Arc<Door> {
        let around = match self.previous {
            Some(previous) => Arc::clone(&previous.around),
            None => Arc::new(surroundings()),
        };
        let Self { listener, facts, tls, metrics, .. } = self;
        Arc::new(Door { listener, facts, tls, metrics, around })
    }
}

impl Socket {
    /// A socket that was bound.
    pub(super) fn new(
        at: Place,
        handle: std::net::TcpListener,
        door: &Arc<Door>,
        close: CancellationToken,
    ) -> Self {
        let door = Arc::new(ArcSwap::new(Arc::clone(door)));
        Self { at, door, close, heirs: Arc::default(), handle: Arc::new(handle) }
    }

    /// Closes it. Who waits there is left to those of `others` that are on the same port.
    pub(super) fn close(&self, others: &[Self]) {
        let is_heir = |other: &&Self| other.at.local.port() == self.at.local.port();
        let heir = |other: &Self| Heir {
            local: other.at.local,
            takes_both_families: other.at.local.is_ipv6()
                && matches!(other.at.address, BindAddress::Any { .. }),
            door: other.door.load_full(),
        };
        let heirs: Vec<Heir> = others.iter().filter(is_heir).map(heir).collect();
        if !heirs.is_empty() {
            self.heirs.name(heirs);
        }
        self.close.cancel();
    }

    /// Another handle, and what its owner calls it.
    pub(super) fn to_pass_on(&self) -> io::Result<(String, std::net::TcpListener)> {
        let owner = Owner::Listener(&self.at.listener);
        let name = owner.name_to_hand_over(self.at.address, self.at.is_held);
        Ok((name, self.handle.try_clone()?))
    }

    /// Lets connections come in through `door` from here on.
    pub(super) fn turn_to(&mut self, at: Place, door: &Arc<Door>) {
        let old = self.door.swap(Arc::clone(door));
        self.at = at;
        let (old, new) = (&old.listener, &door.listener);
        let mut outcome = Ok(());
        if old.backlog != new.backlog {
            let backlog = i32::try_from(new.backlog).unwrap_or(i32::MAX);
            outcome = SockRef::from(&*self.handle).listen(backlog);
        }
        if old.tcp_fast_open != new.tcp_fast_open {
            let queue = new.tcp_fast_open.unwrap_or(0);
            outcome = outcome.and_then(|()| enable_fast_open(&self.handle, queue));
        }
        if let Err(error) = outcome {
            tracing::warn!(listener = %new.name, %error, "could not change a socket's queues");
        }
    }
}

/// Finds sockets for every address of `listeners`: those at `present`, which have `handles`, where there
/// are any, else `inherited` ones, else new ones. Some of these wait for [`open`].
///
/// # Errors
/// [`StartError`] for the first address that cannot be had. What was bound is closed again.
pub(super) fn place(
    listeners: &[Listener],
    (present, handles): Present<'_>,
    inherited: &mut Inherited,
) -> Result<Vec<NextSocket>, StartError> {
    let wanted: Vec<(usize, BindAddress)> = listeners
        .iter()
        .enumerate()
        .flat_map(|(index, listener)| listener.bind.iter().map(move |address| (index, *address)))
        .collect();
    let named: Vec<(&str, BindAddress)> =
        wanted.iter().map(|(index, address)| (&*listeners[*index].name, *address)).collect();
    let mut sockets = Vec::new();
    for ((index, address), kept) in wanted.into_iter().zip(assign(present, &named)) {
        let listener = &listeners[index];
        let found: Vec<_> = if kept.is_empty() {
            let owner = Owner::Listener(&listener.name);
            match inherited.take(owner, address) {
                none if none.is_empty() => {
                    vec![bind_anew(listener, address, (present, handles), inherited)?]
                }
                taken => {
                    let fresh = taken.into_iter().map(|bound| fresh(listener, bound));
                    fresh.collect::<Result<_, _>>()?
                }
            }
        } else {
            let keep = |kept: usize| {
                let Place { local, is_held, .. } = present[kept];
                (local, is_held, Origin::Kept(kept))
            };
            kept.into_iter().map(keep).collect()
        };
        for (local, is_held, origin) in found {
            let at = Place { listener: listener.name.clone(), address, local, is_held };
            sockets.push(NextSocket { listener: index, at, origin });
        }
    }
    Ok(sockets)
}

/// Has those of `sockets` listen that are bound beside ones in service, which have `handles`. The last
/// step before they are put in force.
///
/// # Errors
/// [`StartError`] when one of them cannot.
pub(super) fn open(
    sockets: &mut [NextSocket],
    doors: &[NextDoor],
    handles: &[&std::net::TcpListener],
) -> Result<(), StartError> {
    for next in sockets {
        let Origin::Reserved { socket, beside } = &next.origin else { continue };
        let listener = &doors[next.listener].listener;
        let ours: Vec<_> = beside.iter().filter_map(|at| handles.get(*at).copied()).collect();
        let listening = listen_beside(listener, socket, &ours).and_then(|()| socket.try_clone());
        next.origin = accepting(listener, listening.map_err(StartError::Socket)?)?;
    }
    Ok(())
}

/// Sockets in service, and other handles to the same ones.
type Present<'a> = (&'a [Place], &'a [Arc<std::net::TcpListener>]);

/// Where a new socket is, whether a service manager has it open as well, and the socket.
type Found = (SocketAddr, bool, Origin);

/// Binds `address`. One that is for all addresses of a port and one that is not are in each other's way;
/// where sockets of ours are, which the next configuration has no use for, it is bound beside them. Not
/// beside one that somebody else has open as well: it would listen on when we have closed it.
fn bind_anew(
    listener: &Listener,
    address: BindAddress,
    (present, handles): Present<'_>,
    inherited: &Inherited,
) -> Result<Found, StartError> {
    let error = match bind_address(listener, address) {
        Err(error) if error.cause == BindCause::InUse => error,
        outcome => return fresh(listener, outcome?),
    };
    let wanted = error.address;
    let is_in_the_way = |local: SocketAddr| {
        let is_any = local.ip().is_unspecified() || wanted.ip().is_unspecified();
        local.port() == wanted.port() && is_any
    };
    let ours = (0..present.len()).filter(|at| is_in_the_way(present[*at].local));
    let (held, ours): (Vec<usize>, Vec<usize>) = ours.partition(|at| present[*at].is_held);
    let mut before =
        inherited.left().filter(|(socket, _)| socket.local_addr().is_ok_and(is_in_the_way));
    let cause = match before.next() {
        Some((_, true)) => BindCause::Held,
        _ if !held.is_empty() => BindCause::Held,
        Some((_, false)) => BindCause::Before,
        None if ours.is_empty() => return Err(error.into()),
        None => {
            let others: Vec<_> = ours.iter().map(|at| &*handles[*at]).collect();
            let Bound { socket, local, is_held } = bind_beside(listener, address, &others)?;
            return Ok((local, is_held, Origin::Reserved { socket, beside: ours }));
        }
    };
    Err(BindError { cause, ..error }.into())
}

fn fresh(listener: &Listener, bound: Bound) -> Result<Found, StartError> {
    let Bound { socket, local, is_held } = bound;
    Ok((local, is_held, accepting(listener, socket)?))
}

fn accepting(listener: &Listener, handle: std::net::TcpListener) -> Result<Origin, StartError> {
    if let Some(queue) = listener.tcp_fast_open {
        enable_fast_open(&handle, queue).map_err(StartError::Socket)?;
    }
    let socket = handle.try_clone().and_then(TcpListener::from_std);
    Ok(Origin::Bound { socket: socket.map_err(StartError::Socket)?, handle })
}

/// By wanted address: the indices in `present` of the sockets that serve it on; two where one for
/// each family was inherited. Those of the listener of the same name go first; a free port (0) is
/// nobody else's.
fn assign(present: &[Place], wanted: &[(&str, BindAddress)]) -> Vec<Vec<usize>> {
    let mut is_free = vec![true; present.len()];
    let mut take = |address: BindAddress, is_wanted: &dyn Fn(&Place) -> bool| {
        let most = if address.is_any_port() { 1 } else { usize::MAX };
        let found = present.iter().enumerate().filter(|(at, it)| is_free[*at] && is_wanted(it));
        let found: Vec<usize> = found.map(|(at, _)| at).take(most).collect();
        for at in &found {
            is_free[*at] = false;
        }
        found
    };
    let mut found: Vec<Vec<usize>> = wanted
        .iter()
        .map(|(name, address)| take(*address, &|it| it.listener == *name && it.address == *address))
        .collect();
    for (found, (_, address)) in found.iter_mut().zip(wanted) {
        if found.is_empty() && !address.is_any_port() {
            let is_there =
                |it: &Place| it.address == *address || BindAddress::Addr(it.local) == *address;
            *found = take(*address, &is_there);
        }
    }
    found
}

/// What requests need to know of the listeners.
pub(super) fn bound_listeners(doors: &[NextDoor], sockets: &[NextSocket]) -> Vec<BoundListener> {
    let port = |index: usize| {
        let first = sockets.iter().find(|socket| socket.listener == index);
        first.map_or(0, |socket| socket.at.local.port())
    };
    let listener = |(index, door): (usize, &NextDoor)| BoundListener {
        facts: Arc::clone(&door.facts),
        port: port(index),
        terms: door.tls.as_ref().map(|(terms, _)| Arc::clone(terms)),
    };
    doors.iter().enumerate().map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> BindAddress {
        match text.strip_prefix(':') {
            Some(port) => BindAddress::Any { port: port.parse().unwrap() },
            None => BindAddress::Addr(text.parse().unwrap()),
        }
    }

    #[test]
    fn an_address_keeps_its_socket_whoever_has_it_next() {
        let local: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let zero = "127.0.0.1:0";
        for (present, wanted, expected) in [
            (vec![], vec![("web", ":80")], vec![None]),
            (vec![("web", ":80")], vec![("web", ":80"), ("b", ":81")], vec![Some(0), None]),
            (vec![("web", ":80"), ("b", ":81")], vec![("b", ":81")], vec![Some(1)]),
            (
                vec![("a", ":80"), ("b", ":81")],
                vec![("a", ":81"), ("b", ":80")],
                vec![Some(1), Some(0)],
            ),
            (vec![("a", ":80")], vec![("b", ":80")], vec![Some(0)]),
            (vec![("a", ":80")], vec![("a", "127.0.0.1:80")], vec![None]),
            (vec![("a", zero)], vec![("b", zero)], vec![None]),
            (vec![("a", zero)], vec![("b", "127.0.0.1:1")], vec![Some(0)]),
            (
                vec![("a", zero), ("b", zero), ("b", zero)],
                vec![("b", zero), ("a", zero), ("b", zero), ("b", zero)],
                vec![Some(1), Some(0), Some(2), None],
            ),
        ] {
            let at = |(name, text): &(&str, &str)| Place {
                listener: (*name).to_owned(),
                address: address(text),
                local,
                is_held: false,
            };
            let places: Vec<Place> = present.iter().map(at).collect();
            let asked: Vec<_> = wanted.iter().map(|(name, text)| (*name, address(text))).collect();
            let found = assign(&places, &asked);
            let found: Vec<_> = found.iter().map(|found| found.first().copied()).collect();
            assert_eq!(found, expected, "{present:?} {wanted:?}");
        }
    }

    #[test]
    fn both_sockets_of_a_bare_port_are_kept() {
        let place = |local: &str| Place {
            listener: "web".to_owned(),
            address: address(":80"),
            local: local.parse().unwrap(),
            is_held: false,
        };
        let pair = [place("[::]:80"), place("0.0.0.0:80")];
        for name in ["web", "renamed"] {
            assert_eq!(assign(&pair, &[(name, address(":80"))]), [vec![0, 1]], "{name}");
        }
        assert_eq!(assign(&pair, &[("web", address("0.0.0.0:80"))]), [vec![1]], "IPv4 alone");
    }
}
