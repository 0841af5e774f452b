//! How many connections an authority sees, and what becomes of those that it closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use wardgate::acme::http::{Limits, RequestError};
use wardgate::acme::session::{Authority, CallError};

use super::scene::{Scene, by_http, issue};
use crate::support::{Stage, within};

/// Forwards connections, counts them, and cuts them when it is told to.
struct Wire {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    cut: watch::Sender<()>,
}

impl Wire {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let cut = watch::Sender::new(());
        let (count, present, cuts) = (Arc::clone(&accepted), Arc::clone(&open), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                present.fetch_add(1, Ordering::SeqCst);
                let (present, mut cuts) = (Arc::clone(&present), cuts.subscribe());
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cuts.changed() => {}
                    }
                    drop((client, server));
                    present.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, accepted, open, cut }
    }

    async fn cut(&self) {
        self.cut.send_replace(());
        let all_gone = async {
            while self.open.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        within("end of the connections", all_gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_share_a_connection_and_outlive_its_end() {
    let scene = Scene::new().await;
    let target = scene.pebble.authority.directory.strip_prefix("https://").unwrap();
    let wire = Wire::to(target.trim_end_matches("/dir").parse().unwrap()).await;
    let transport = scene.pebble.transport(Limits::default());
    let authority = Authority::new(format!("https://{}/dir", wire.address), transport);
    let (issuer, _) = scene.register(&authority).await;
    issue(&issuer, &by_http(&["a.example.test"])).await;
    issue(&issuer, &by_http(&["b.example.test"])).await;
    assert_eq!(wire.accepted.load(Ordering::SeqCst), 1, "one connection for all of it");

    wire.cut().await;
    authority.fetch_directory().await.unwrap();
    issue(&issuer, &by_http(&["c.example.test"])).await;
    assert_eq!(wire.accepted.load(Ordering::SeqCst), 2, "and another when that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_trickles_is_left() {
    let scene = Scene::new().await;
    let limits = Limits { request: Duration::from_millis(700), ..Limits::default() };
    // Behind TLS nothing of it is seen, so the handshake is what trickles.
    let stage = Stage::open().await;
    let authority =
        Authority::new(format!("https://{}/dir", stage.address()), scene.pebble.transport(limits));
    let trickle = async {
        let mut connection = stage.accept().await;
        while connection.send(b"\x16").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let error = tokio::select! {
        error = within("end", authority.fetch_directory()) => error.unwrap_err(),
        () = trickle => panic!("it was taken for an answer"),
    };
    let CallError::Unreachable(error) = error else { panic!("{error}") };
    assert!(matches!(*error, RequestError::Timeout { .. } | RequestError::Tls { .. }), "{error}");
}
