//! What is tried again, where, and how often.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::front;
use crate::support::{Answer, Gateway, Origin, Stage, field};

/// An origin that closes the connection where an answer is due.
async fn breaking() -> Origin {
    Origin::answering(|_| Answer::Close(Vec::new())).await
}

async fn answering(status: u16, body: &'static str) -> Origin {
    Origin::answering(move |_| Answer::text(status, body)).await
}

/// A gateway that asks `first` before the others, which are backups.
async fn front_of(first: &Origin, others: &[&Origin], retry: &str) -> Gateway {
    let mut servers = format!("\"{}\"", first.url());
    for other in others {
        servers.push_str(&format!(", {{ url: \"{}\", backup: true }}", other.url()));
    }
    front(&format!("servers: [{servers}], retry: {{ {retry} }}")).await
}

/// How often the gateway's first request was sent again.
async fn resends(gateway: &Gateway) -> u64 {
    let line = gateway.wait_access(|_| true).await;
    field(&line, "http.request.resend_count").as_u64().unwrap_or(0)
}

#[tokio::test]
async fn after_a_broken_connection_only_what_may_be_repeated_is_sent_again() {
    for (retry, method, body, expected) in [
        ("after: [connect, reset]", "GET", "", (200, 1, 1)),
        ("after: [connect, reset]", "PUT", "body", (200, 1, 1)),
        ("after: [connect, reset]", "POST", "body", (502, 1, 0)),
        ("after: [connect, reset]", "POST", "", (502, 1, 0)),
        ("after: [connect, reset]", "PATCH", "x", (502, 1, 0)),
        ("after: reset, methods: [POST]", "POST", "body", (200, 1, 1)),
        ("after: reset, methods: [POST]", "GET", "", (502, 1, 0)),
        ("after: [connect, \"503\"]", "GET", "", (502, 1, 0)),
        ("after: reset, attempts: 1", "GET", "", (502, 1, 0)),
    ] {
        let (broken, sound) = (breaking().await, Origin::start().await);
        let gateway = front_of(&broken, &[&sound], retry).await;
        let reply = gateway.client().send(method, "/", "", body.as_bytes()).await;
        let seen = (reply.status, broken.requests().len(), sound.requests().len());
        assert_eq!(seen, expected, "{retry} {method}");
        assert_eq!(resends(&gateway).await, expected.2 as u64, "{retry} {method}");
        if let [request] = &sound.requests()[..] {
            assert_eq!((&*request.method, &*request.body), (method, body.as_bytes()));
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_asked_for_elsewhere() {
    let (slow, sound) = (Stage::open().await, Origin::start().await);
    let pool = format!(
        "servers: [\"{}\", {{ url: \"{}\", backup: true }}], retry: {{ after: reset }}, \
         timeouts: {{ response: 1500ms }}",
        slow.url(),
        sound.url()
    );
    let gateway = front(&pool).await;
    assert_eq!(gateway.client().send("PUT", "/", "", b"body").await.status, 200);
    assert_eq!(sound.requests()[0].body, b"body");
    assert_eq!(gateway.client().send("POST", "/", "", b"body").await.status, 504);
    assert_eq!(sound.requests().len(), 1);
}

#[tokio::test]
async fn a_status_is_asked_about_elsewhere_and_the_last_answer_passes() {
    for (retry, method, second, expected) in [
        ("after: [\"503\"]", "GET", 200, (200, "second", 1)),
        ("after: [\"503\", \"500\"]", "GET", 503, (503, "second", 1)),
        ("after: [\"503\"]", "GET", 500, (500, "second", 1)),
        ("after: [\"503\"]", "POST", 200, (503, "first", 0)),
        ("after: [\"502\", reset]", "GET", 200, (503, "first", 0)),
        ("after: [\"503\"], attempts: 1", "GET", 200, (503, "first", 0)),
    ] {
        let (first, other) = (answering(503, "first").await, answering(second, "second").await);
        let gateway = front_of(&first, &[&other], retry).await;
        let reply = gateway.client().send(method, "/", "", b"").await;
        let text = reply.text();
        let seen = (reply.status, &*text, other.requests().len());
        assert_eq!(seen, expected, "{retry} {method} {second}");
        assert_eq!(first.requests().len(), 1);
        assert_eq!(resends(&gateway).await, expected.2 as u64);
        assert!(reply.header("x-request-id").is_none(), "the server's answer, not ours");
    }
}

#[tokio::test]
async fn the_only_server_is_asked_again_when_it_answered_and_not_when_it_refused() {
    let turn = AtomicUsize::new(0);
    let origin = Origin::answering(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::text(503, "no"),
        1 => Answer::Close(Vec::new()),
        _ => Answer::text(200, "ok"),
    })
    .await;
    let gateway = front_of(&origin, &[], "after: [connect, reset, \"503\"], attempts: 3").await;
    assert_eq!(gateway.client().get("/").await.status, 200);
    assert_eq!(resends(&gateway).await, 2);

    // Bound, so that the port is nobody else's, and not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap();
    let gateway = front(&format!("servers: \"http://{address}\", retry: {{ attempts: 3 }}")).await;
    assert_eq!(gateway.client().get("/").await.status, 502);
    let line = gateway.wait_access(|_| true).await;
    assert!(field(&line, "http.request.resend_count").is_null(), "{line}");
}

#[tokio::test]
async fn every_server_is_tried_before_any_is_tried_twice() {
    let (a, b, c) = (breaking().await, breaking().await, breaking().await);
    let gateway = front_of(&a, &[&b, &c], "after: reset, attempts: 3").await;
    assert_eq!(gateway.client().get("/").await.status, 502);
    let counts = [&a, &b, &c].map(|origin| origin.requests().len());
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(resends(&gateway).await, 2);
}

#[tokio::test]
async fn a_body_that_is_not_kept_whole_is_not_sent_again() {
    let (broken, sound) = (breaking().await, Origin::start().await);
    let gateway = front_of(&broken, &[&sound], "after: [reset]").await;
    let (small, large) = (vec![b'x'; 60 << 10], vec![b'x'; 100 << 10]);
    assert_eq!(gateway.client().send("PUT", "/", "", &small).await.status, 200);
    assert_eq!(sound.requests()[0].body, small);
    assert_eq!(gateway.client().send("PUT", "/", "", &large).await.status, 502);
    assert_eq!(sound.requests().len(), 1);
}

#[tokio::test]
async fn a_budget_keeps_retries_from_multiplying_a_failure() {
    const CLIENTS: usize = 40;
    let (first, other) = (answering(503, "no").await, Origin::start().await);
    first.hold();
    other.hold();
    let gateway = front_of(&first, &[&other], "after: [\"503\"], budget: 10%").await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let client = gateway.client();
        clients.spawn(async move { client.get("/").await.status });
    }
    first.received(CLIENTS).await;
    first.release();
    // Those that are tried again wait for the second server, so all others are answered first.
    let mut refused = 0;
    while refused < CLIENTS - 4 {
        assert_eq!(clients.join_next().await.unwrap().unwrap(), 503);
        refused += 1;
    }
    other.received(3).await;
    other.release();
    // The fourth of the last four was late, or counted while enough others were in flight.
    let left = clients.join_all().await;
    let retried = other.requests().len();
    assert!((3..=4).contains(&retried), "a tenth of {CLIENTS} and at least three: {retried}");
    assert_eq!(left.iter().filter(|status| **status == 200).count(), retried);
}

#[tokio::test]
async fn no_attempt_begins_after_the_routes_deadline() {
    let slow = Stage::open().await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ routes: [ {{ upstream: app, timeouts: {{ request: 700ms }} }} ] }} }}\n\
         upstreams: {{ app: {{ servers: \"{}\", retry: {{ after: reset, attempts: 16 }}, \
         timeouts: {{ response: 300ms }} }} }}\n",
        slow.url()
    );
    let gateway = Gateway::start(yaml).await;
    assert_eq!(gateway.client().get("/").await.status, 504);
    let line = gateway.wait_access(|_| true).await;
    // The second, if an attempt's own time ends late enough.
    let error = field(&line, "error.type").as_str().unwrap();
    assert!(["exchange_timeout", "response_timeout"].contains(&error), "{line}");
    assert!(field(&line, "http.request.resend_count").as_u64().unwrap() <= 3, "{line}");
}

#[tokio::test]
async fn a_body_that_is_sent_again_is_counted_once() {
    // The engine runs the filters of a body again when it replays it.
    let (broken, sound) = (breaking().await, Origin::start().await);
    let size = 40_000;
    let servers =
        format!("servers: [\"{}\", {{ url: \"{}\", backup: true }}]", broken.url(), sound.url());
    let yaml = super::config(&format!("{servers}, retry: {{ after: reset }}"))
        .replace("{ upstream: app }", "{ upstream: app, filters: [ { body_limit: 50KB } ] }");
    let gateway = Gateway::start(yaml).await;
    let mut client = gateway.client().connect().await;
    // Without a length it is counted as it comes.
    let body = "x".repeat(size);
    let request = format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
    );
    client.send(request.as_bytes()).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    assert_eq!(broken.requests()[0].body.len(), size);
    assert_eq!(sound.requests()[0].body.len(), size);
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "http.request.body.size"), size, "{line}");
    assert_eq!(field(&line, "http.request.resend_count"), 1, "{line}");
}
