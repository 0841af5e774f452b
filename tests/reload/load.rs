//! Two hundred reloads under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::keep::{echo, open_websocket};
use super::{ask, says, with_listener};
use crate::support::{Gateway, Origin, Peer};

/// Reloads before memory is first looked at: by then caches, threads and arenas are there.
const WARM_UP: u64 = 50;

/// Reloads in all.
const ROUNDS: u64 = 200;

/// What memory may grow by over the reloads after the warm-up. A configuration that leaked with all
/// it holds would be some 50 KiB at each of them.
const GROWTH: usize = 6 << 20;

#[tokio::test]
async fn two_hundred_reloads_under_load_lose_no_request_no_socket_and_no_memory() {
    let origin = Origin::start().await;
    let server = Peer::start("ws_echo.py", &[]).await;
    let sites = format!(
        "  app.test: {{ https: both, routes: [ {{ match: {{ path: /ws }}, upstream: \"http://{}\" }}, \
         {{ upstream: app }} ] }}\n",
        server.address()
    );
    // Every round has another site and other settings of the pool, and every other one a listener
    // more.
    let round = |round: u64| {
        let pool = format!(
            "upstreams: {{ app: {{ servers: [\"{}\"], timeouts: {{ response: {}s }} }} }}\n",
            origin.url(),
            60 + round
        );
        let more = "more: { bind: \"127.0.0.1:0\", protocol: https }";
        let site = says(&format!("r{round}.test"), "round");
        with_listener(if round.is_multiple_of(2) { "" } else { more }, &(sites.clone() + &site))
            + &pool
    };
    let gateway = Gateway::start(round(1)).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(open_websocket(&gateway).await);
    }
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let visits: Vec<_> = (0..4)
        .map(|number| {
            let client = gateway.client().host("app.test");
            let (is_over, served) = (Arc::clone(&is_over), Arc::clone(&served));
            tokio::spawn(async move {
                let mut kept = client.connect().await;
                while !is_over.load(Ordering::Relaxed) {
                    let reply = if number % 2 == 0 {
                        ask(&mut kept, "app.test", "/").await.unwrap()
                    } else {
                        client.get("/").await
                    };
                    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let mut before = 0;
    for number in 2..=ROUNDS + 1 {
        gateway.reload(&round(number), number).await;
        if number % 10 == 0 {
            for socket in &mut sockets {
                echo(socket, b"still here").await;
            }
        }
        if number == WARM_UP {
            before = gateway.memory();
        }
    }
    let grown = gateway.memory().saturating_sub(before);
    is_over.store(true, Ordering::Relaxed);
    for visit in visits {
        visit.await.expect("no request failed");
    }
    for socket in &mut sockets {
        echo(socket, b"to the end").await;
    }
    let served = served.load(Ordering::Relaxed);
    eprintln!(
        "{served} requests over {ROUNDS} reloads; memory grew by {grown} from {before} bytes"
    );
    assert!(served as u64 > ROUNDS, "{served} requests are no load");
    assert!(grown < GROWTH, "memory grew by {grown} bytes from {before}");
}
