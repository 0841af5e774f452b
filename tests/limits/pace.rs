//! Clients that keep moving, and hardly do.

use std::time::Duration;

use serde_json::{Value, json};

use super::{gateway, yaml};
use crate::support::{Answer, Gateway, Origin, Peer, Stage, field, within};

/// Gaps as long as these are fine, so that only the rate can be what is wrong.
const LIMITS: &str = "limits: { request_body_timeout: 1s, idle_timeout: 1s, min_rate: 10KiB/s }";

/// A scenario of h2_client.py with one request on stream 1.
fn scenario(gateway: &Gateway, head: &Value, settings: Value, steps: &[Value]) -> Value {
    let mut all =
        vec![json!({"request": {"stream": 1, "headers": head, "open": head[0][1] == "POST"}})];
    all.extend_from_slice(steps);
    let (address, stalled) = (gateway.address("web").to_string(), settings["4"] == 0);
    json!({"address": address, "settings": settings, "stalled": stalled, "steps": all})
}

fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Value {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path)];
    Value::from_iter(pseudo.iter().chain(fields).map(|(name, value)| json!([name, value])))
}

#[tokio::test]
async fn a_body_that_drips_in_is_cut_and_a_slow_one_is_not() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), LIMITS).await;
    for (step, status) in [(4096_usize, 200), (10, 408)] {
        let mut client = gateway.client().connect().await;
        let size = step * 15;
        let request = format!("POST /{step} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        client.send(request.as_bytes()).await.unwrap();
        let sending = async {
            for _ in 0..15 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                if client.send(&vec![b'x'; step]).await.is_err() {
                    break;
                }
            }
        };
        within("a body", sending).await;
        assert_eq!(
            client.read_reply(false).await.unwrap().status,
            status,
            "{step} bytes at a time"
        );
    }
    let line = gateway.wait_access(|line| field(line, "url.path") == "/10").await;
    assert_eq!(field(&line, "error.type"), "request_timeout", "{line}");
}

#[tokio::test]
async fn streams_that_drip_are_cut_and_slow_ones_are_not() {
    // Small enough to be in one piece: whoever takes it byte by byte always gets on a little.
    let origin = Origin::answering(|_| Answer::text(200, &"x".repeat(3_000))).await;
    let gateway = gateway(&origin.url(), LIMITS).await;
    let drip = |bytes: usize, times: usize, is_body: bool| json!({"drip": {"stream": 1, "bytes": bytes, "every": 0.15, "times": times, "body": is_body}});
    let (end, closed) = (json!({"wait": "end", "stream": 1}), json!({"4": 0}));
    let finish = json!({"data": {"stream": 1, "body": "x", "end": true}});
    let post = |path: &str| head("POST", path, &[]);
    let get = |path: &str| head("GET", path, &[]);
    let results = Peer::results(
        "h2_client.py",
        &[
            scenario(&gateway, &get("/read"), closed.clone(), &[drip(10, 20, false), end.clone()]),
            scenario(&gateway, &get("/slow"), closed, &[drip(2000, 2, false), end.clone()]),
            scenario(&gateway, &post("/sent"), json!({}), &[drip(10, 20, true), end.clone()]),
            scenario(&gateway, &post("/late"), json!({}), &[drip(4096, 15, true), finish, end]),
        ],
    )
    .await;
    let streams: Vec<_> = results.iter().map(|result| &result["streams"]["1"]).collect();
    assert!(streams[0]["reset"].is_number(), "{}", streams[0]);
    assert_eq!((&streams[1]["size"], &streams[1]["ended"]), (&json!(3000), &json!(true)));
    assert!(streams[2]["reset"].is_number() || streams[2]["status"] == 408, "{}", streams[2]);
    assert_eq!(streams[3]["status"], 200, "{}", streams[3]);
    for (path, error) in [("/read", "client_gone"), ("/sent", "request_timeout")] {
        let line = gateway.wait_access(|line| field(line, "url.path") == path).await;
        assert_eq!(field(&line, "error.type"), error, "{line}");
    }
}

#[tokio::test]
async fn a_grpc_call_may_be_silent_for_as_long_as_nobody_has_anything_to_say() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let limits = "limits: { request_body_timeout: 300ms, upgrade_idle_timeout: 3s }";
    let yaml = yaml(&format!("http://{}", origin.address()), "h2c", limits);
    let gateway = Gateway::start(yaml).await;
    let finish = json!({"data": {"stream": 1, "body": "said", "end": true}});
    let (pause, end) = (json!({"pause": 1}), json!({"wait": "end", "stream": 1}));
    let call = head("POST", "/echo", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let other = head("POST", "/echo", &[("content-type", "application/json")]);
    let steps = [pause, finish, end.clone()];
    let results = Peer::results(
        "h2_client.py",
        &[
            scenario(&gateway, &call, json!({}), &steps),
            scenario(&gateway, &other, json!({}), &steps),
            scenario(&gateway, &call, json!({}), std::slice::from_ref(&end)),
        ],
    )
    .await;
    let streams: Vec<_> = results.iter().map(|result| &result["streams"]["1"]).collect();
    assert_eq!(streams[0]["body"], "said", "{}", streams[0]);
    assert_ne!(streams[1]["body"], "said", "any other body has to come: {}", streams[1]);
    assert!(streams[2]["reset"].is_number() || !streams[2]["ended"].is_null(), "{}", streams[2]);
    let lines = gateway.wait_accesses(3, |_| true).await;
    let late = lines.iter().filter(|line| field(line, "error.type") == "request_timeout");
    assert_eq!(late.count(), 2, "silence does end a call: {lines:?}");
}

#[tokio::test]
async fn silence_of_the_server_is_not_the_client_s() {
    // It is silent for longer than a gap may last in all, and the client takes each event a moment
    // late, which nobody notices before the next one.
    const BEATS: u32 = 4;
    const BEAT: Duration = Duration::from_millis(600);
    let origin = Stage::open().await;
    let gateway = gateway(&origin.url(), LIMITS).await;
    let beating = async {
        let (mut connection, _) = origin.accept_head().await;
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..BEATS {
            connection.send(b"8\r\n: beat\n\n\r\n").await.unwrap();
            tokio::time::sleep(BEAT).await;
        }
        connection.send(b"0\r\n\r\n").await.unwrap();
    };
    let steps = [
        json!({"wait": "head", "stream": 1}),
        json!({"pause": 0.1}),
        json!({"drip": {"stream": 1, "bytes": 8, "every": BEAT.as_secs_f64(), "times": BEATS}}),
        json!({"wait": "end", "stream": 1}),
    ];
    let scenarios = [scenario(&gateway, &head("GET", "/events", &[]), json!({"4": 0}), &steps)];
    let (results, ()) = tokio::join!(Peer::results("h2_client.py", &scenarios), beating);
    let stream = &results[0]["streams"]["1"];
    assert_eq!(stream["reset"], Value::Null, "{stream}");
    assert_eq!((&stream["size"], &stream["ended"]), (&json!(8 * BEATS), &json!(true)), "{stream}");
}

#[tokio::test]
async fn a_server_that_does_not_take_a_body_is_not_its_sender_s_fault() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let limits = "limits: { request_body_timeout: 300ms, idle_timeout: 10s, min_rate: 10KiB/s }";
    let url = format!("http://{}", origin.address());
    let gateway = Gateway::start(yaml(&url, "h2c", limits)).await;
    let request = json!({"stream": 1, "headers": head("POST", "/late", &[]), "size": 200_000});
    let steps = json!([{ "request": request }, {"wait": "end", "stream": 1}]);
    let address = gateway.address("web").to_string();
    let scenarios = [json!({"address": address, "steps": steps})];
    let results = Peer::results("h2_client.py", &scenarios).await;
    let stream = &results[0]["streams"]["1"];
    assert_eq!((&stream["size"], &stream["ended"]), (&json!(200_000), &json!(true)), "{stream}");
}
