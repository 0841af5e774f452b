//! The classes of faults that proxies have had since 2019, and the tests that show that the gateway has
//! none of them.
//!
//! A class that is new here gets a line below and its tests; a line without a test fails.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, Gateway, Origin, Peer, Received, Shown, Stage, field, hold_against_sources,
    run, within,
};

use Shown::{By, Not};

/// A class, an advisory or two where it was had, and what shows that it is not had here.
const CLASSES: &[(&str, &str, Shown)] = &[
    (
        "CL.TE, TE.CL and obfuscated Transfer-Encoding",
        "CVE-2026-2835, RUSTSEC-2021-0020",
        By(&[
            "no_desync_payload_smuggles_a_request",
            "what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical",
        ]),
    ),
    (
        "upgrade smuggling",
        "CVE-2026-2833, CVE-2024-23326",
        By(&[
            "a_declined_upgrade_is_an_ordinary_exchange",
            "a_switch_that_was_not_asked_for_is_refused",
            "an_upgrade_to_another_http_is_not_passed_on",
        ]),
    ),
    (
        "response desync",
        "CVE-2026-1642",
        By(&[
            "no_fault_of_a_backend_reaches_another_request",
            "bytes_that_nobody_asked_for_poison_nothing",
        ]),
    ),
    (
        "a body that is not drained",
        "CVE-2025-4366",
        By(&[
            "a_body_behind_a_refusal_is_never_taken_for_requests",
            "no_fault_of_a_backend_reaches_another_request",
            "a_refused_client_is_not_told_to_go_on",
        ]),
    ),
    (
        "downgrade from h2 to HTTP/1.1",
        "CVE-2021-21295",
        By(&[
            "nothing_is_injected_through_pseudo_headers_and_fields",
            "a_body_that_contradicts_its_length_is_reset_and_smuggles_nothing",
            "cookies_reach_an_http1_backend_as_one_line",
        ]),
    ),
    (
        "rapid reset and MadeYouReset",
        "CVE-2023-44487, CVE-2025-8671",
        By(&[
            "floods_are_closed_while_others_are_served",
            "a_malformed_stream_has_its_line_and_too_many_end_the_connection",
        ]),
    ),
    (
        "floods of CONTINUATION, HPACK, empty frames, SETTINGS and PING",
        "RUSTSEC-2024-0332, CVE-2019-9511 to 9518",
        By(&["floods_are_closed_while_others_are_served", "limits_of_the_head_hold_on_h2"]),
    ),
    (
        "empty DATA frames that pile up where nobody takes them",
        "RUSTSEC-2026-0258",
        By(&[
            "empty_data_of_a_client_that_nobody_takes_is_not_kept",
            "empty_data_of_a_server_that_nobody_takes_is_not_kept",
        ]),
    ),
    (
        "stalled windows",
        "CVE-2019-9517",
        By(&["a_client_that_takes_nothing_costs_little_and_is_cut"]),
    ),
    (
        "path confusion",
        "CVE-2019-9901, CVE-2021-29492",
        By(&[
            "a_denied_path_cannot_be_dodged_by_its_spelling",
            "a_rewritten_path_is_what_the_backend_gets",
        ]),
    ),
    ("NUL and other controls", "CVE-2019-9900", By(&["a_control_is_refused_wherever_it_stands"])),
    (
        "hop-by-hop abuse",
        "CVE-2024-45410",
        By(&[
            "connection_takes_nothing_away_that_identifies",
            "no_name_that_connection_lists_takes_away_what_backends_rely_on",
        ]),
    ),
    (
        "spoofed forwarded headers",
        "GHSA-5m6w-wvh7-57vm",
        By(&[
            "no_alias_of_a_forwarded_field_reaches_the_backend",
            "no_trailer_of_a_request_reaches_a_backend",
            "the_backend_learns_who_asks_from_us_alone",
        ]),
    ),
    ("cache poisoning", "CVE-2026-2836", Not("there is no cache")),
    (
        "host confusion",
        "CVE-2026-27588, CVE-2022-23632",
        By(&[
            "a_hundred_and_fifty_sites_are_never_taken_for_one_another",
            "a_host_reaches_its_site_however_it_is_spelled",
        ]),
    ),
    (
        "another Host than the handshake's, and sessions that are used elsewhere",
        "CVE-2025-23419",
        By(&[
            "a_host_that_is_no_site_of_the_connection_is_misdirected",
            "a_host_that_the_connection_was_not_made_for_is_misdirected",
            "sessions_resume_at_every_listener_but_under_no_other_name",
        ]),
    ),
    (
        "count and size of header fields",
        "CVE-2019-15226",
        By(&[
            "a_hundred_heads_without_end_at_once_cost_no_memory",
            "heads_over_the_limits_are_refused",
        ]),
    ),
    (
        "regular expressions that blow up",
        "RUSTSEC-2022-0013",
        By(&["a_regex_that_blows_up_elsewhere_is_answered_in_milliseconds"]),
    ),
    ("decompression bombs", "", By(&["nothing_is_decompressed"])),
    (
        "an admin interface that strangers, pages and rebound names reach",
        "Caddy 2026-02",
        By(&[
            "supervisors_ask_on_loopback_and_nobody_else",
            "no_page_and_nobody_without_the_token_changes_anything",
            "an_admin_address_beyond_loopback_or_in_use_is_refused",
        ]),
    ),
    (
        "open proxy",
        "CVE-2021-40438",
        By(&[
            "an_absolute_target_of_another_scheme_or_host_goes_nowhere",
            "no_request_chooses_where_it_is_sent",
        ]),
    ),
    (
        "a PROXY protocol header from whoever sends one",
        "",
        By(&[
            "senders_that_are_not_listed_are_refused",
            "a_connection_without_a_sound_header_is_closed",
            "a_slow_header_is_cut_by_the_handshake_deadline",
            "a_connection_begins_with_the_clients_address_and_serves_only_this_client",
        ]),
    ),
    (
        "log injection",
        "",
        By(&[
            "whatever_a_client_says_is_one_json_line",
            "whatever_a_client_says_is_one_line_of_the_file",
        ]),
    ),
    (
        "bad certificates on reload",
        "",
        By(&[
            "a_broken_certificate_keeps_the_whole_new_configuration_out",
            "files_that_a_refused_configuration_names_are_waited_for",
            "killed_again_and_again_while_it_reloads_nothing_is_lost",
        ]),
    ),
    ("crash and spin", "CVE-2024-45506", By(&["garbage_leaves_the_same_process_and_an_idle_one"])),
];

#[test]
fn every_class_has_a_test() {
    hold_against_sources(CLASSES.iter().map(|(class, _, shown)| (*class, shown)));
}

/// A listener for HTTP/1.1 and h2c, and one for https, in front of `site`, which is YAML.
async fn gateway(site: &str, more: &str) -> Gateway {
    Gateway::start(format!(
        "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }}\n  \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         sites: {{ app.test: {{ https: both, {site} }} }}\n{more}\n"
    ))
    .await
}

async fn front(origin: &Origin) -> Gateway {
    gateway(&format!("upstream: \"{}\"", origin.url()), "").await
}

/// A request of an h2 client.
fn stream(number: u32, host: &str, path: &str, fields: &[(&str, &str)]) -> Value {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)];
    let headers = pseudo.iter().chain(fields).map(|(name, value)| json!([name, value]));
    json!({"request": {"stream": number, "headers": Value::from_iter(headers)}})
}

/// Each of these requests on a connection of its own; what came of it.
async fn play(gateway: &Gateway, requests: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let address = gateway.address("web").to_string();
    let scenarios: Vec<_> = requests
        .into_iter()
        .map(
            |request| json!({"address": address, "steps": [request, {"wait": "end", "stream": 1}]}),
        )
        .collect();
    Peer::results("h2_client.py", &scenarios).await
}

/// Sends bytes on a connection of their own, and reads all there is.
async fn sent(client: &Client, bytes: &[u8]) -> String {
    let mut connection = client.connect().await;
    let _ = connection.send(bytes).await;
    let answer = connection.read_to_end().await.unwrap_or_default();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_behind_a_refusal_is_never_taken_for_requests() {
    let origin = Origin::start().await;
    let site = format!(
        "routes: [ {{ match: {{ path: /no }}, respond: 403 }}, {{ match: {{ path: /moved }}, redirect: /x }}, \
         {{ match: {{ path: /small }}, upstream: \"{0}\", filters: [ {{ body_limit: 1KB }} ] }}, \
         {{ match: {{ path: /yes }}, upstream: \"{0}\" }} ]",
        origin.url()
    );
    let gateway = gateway(&site, "").await;
    let hidden = "GET /yes?hidden HTTP/1.1\r\nHost: app.test\r\n\r\n".repeat(20_000);
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let next = "GET /yes?next HTTP/1.1\r\nHost: app.test\r\n\r\n";
    for (path, status) in
        [("/no", 403), ("/none", 404), ("/moved", 308), ("/small", 413), ("/%zz", 400)]
    {
        for (framing, body) in [
            (format!("Content-Length: {}", hidden.len()), &hidden),
            ("Transfer-Encoding: chunked".to_owned(), &chunked),
        ] {
            let mut client = gateway.client().connect().await;
            let head = format!("POST {path} HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n");
            client.send(head.as_bytes()).await.unwrap();
            // Refused meanwhile, and closed on perhaps.
            let _ = client.send(body.as_bytes()).await;
            let _ = client.send(next.as_bytes()).await;
            let Ok(reply) = client.read_reply(false).await else { continue };
            assert_eq!(reply.status, status, "{path} {framing}");
            while let Ok(reply) = client.read_reply(false).await {
                assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{path} {framing}");
            }
        }
    }
    assert_eq!(gateway.client().host("app.test").get("/yes?last").await.text(), "ok");
    let targets: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert!(!targets.iter().any(|target| target == "/yes?hidden"), "{targets:?}");
}

#[tokio::test]
async fn a_control_is_refused_wherever_it_stands() {
    let origin = Origin::start().await;
    let gateway = front(&origin).await;
    let client = gateway.client();
    let controls = (0..0x20).chain([0x7f]).filter(|byte| *byte != b'\n');
    let mut streams = Vec::new();
    for byte in controls {
        let c = [byte];
        for (place, request) in [
            ("method", [b"G", &c[..], b"ET / HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat()),
            ("target", [b"GET /a", &c[..], b"b HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat()),
            ("query", [b"GET /?a", &c[..], b"b HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat()),
            ("version", [b"GET / HTTP/1.1", &c[..], b"\r\nHost: app.test\r\n\r\n"].concat()),
            ("host", [b"GET / HTTP/1.1\r\nHost: app", &c[..], b".test\r\n\r\n"].concat()),
            ("name", [b"GET / HTTP/1.1\r\nHost: app.test\r\nX", &c[..], b"-Y: 1\r\n\r\n"].concat()),
            (
                "value",
                [b"GET / HTTP/1.1\r\nHost: app.test\r\nX: a", &c[..], b"b\r\nY: 1\r\n\r\n"]
                    .concat(),
            ),
            (
                "escape",
                format!("GET /a%{byte:02X}b HTTP/1.1\r\nHost: app.test\r\n\r\n").into_bytes(),
            ),
        ] {
            // A tab may stand in a value, and a CR before the LF that ends the version is one too many.
            if (byte, place) == (b'\t', "value") {
                continue;
            }
            let answer = sent(&client, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{byte:#04x} in the {place}: {answer}");
        }
        let text = format!("a{}b", char::from(byte));
        streams.push(stream(1, "app.test", &format!("/{text}"), &[]));
        streams.push(stream(1, &format!("{text}.test"), "/", &[]));
        streams.push(stream(1, "app.test", "/", &[(&format!("x{text}"), "1")]));
        if byte != b'\t' {
            streams.push(stream(1, "app.test", "/", &[("x", &text)]));
        }
    }
    for (request, result) in streams.iter().zip(play(&gateway, streams.iter().cloned()).await) {
        let stream = &result["streams"]["1"];
        let is_refused = match stream["status"].as_u64() {
            Some(status) => status == 400,
            None => stream["reset"].is_number() || result["closed"] == true,
        };
        assert!(is_refused, "{request}: {result}");
    }
    let seen = origin.requests();
    assert!(seen.is_empty(), "{seen:?}");
}

/// The fields that a backend may rely on, as a client may try to take them away.
const RELIED_ON: [&str; 12] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "Forwarded",
    "X-Request-Id",
    "traceparent",
    "Authorization",
    "Cookie",
    "Host",
    "Content-Length",
    "X-From-Operator",
    "User-Agent",
];

#[tokio::test]
async fn no_name_that_connection_lists_takes_away_what_backends_rely_on() {
    let origin = Origin::start().await;
    let site = format!(
        "upstream: \"{}\", filters: [ {{ request_headers: {{ set: {{ X-From-Operator: \"1\" }} }} }} ]",
        origin.url()
    );
    let gateway = gateway(&site, "").await;
    let mut seen = 0;
    let all = RELIED_ON.join(", ").replace("Content-Length, ", "");
    let spellings = RELIED_ON.iter().flat_map(|name| {
        [
            (*name).to_owned(),
            name.to_uppercase(),
            format!("close,{name} ,,"),
            name.replace('-', "_"),
        ]
    });
    for listed in spellings.chain([all.clone(), format!("x\r\nConnection: {all}")]) {
        let fields = format!(
            "Connection: {listed}\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\nUser-Agent: t\r\n"
        );
        let client = gateway.client().host("app.test");
        let status = client.send("POST", "/", &fields, b"body").await.status;
        // The length of its own message is nothing that a sender can disown.
        if listed.to_ascii_lowercase().contains("length") && status == 400 {
            continue;
        }
        assert_eq!(status, 200, "{listed}");
        let request = origin.received(seen + 1).await.remove(seen);
        seen += 1;
        for name in RELIED_ON {
            assert_eq!(request.values(name).len(), 1, "{name} with {listed}: {request:?}");
        }
        assert_eq!(request.body, b"body", "{listed}");
    }
}

/// Names by which some backend takes a client's word for its address, scheme, host or path.
const ALIASES: [&str; 57] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Protocol",
    "X-Forwarded-Prefix",
    "X-Forwarded-Path",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Forwarded-By",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded",
    "X-Original-Forwarded-For",
    "Forwarded",
    "Forwarded-For",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Originating-IP",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-ProxyUser-Ip",
    "True-Client-IP",
    "Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "Proxy-Client-IP",
    "WL-Proxy-Client-IP",
    "X-Host",
    "X-Original-Host",
    "X-Http-Host-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-URI",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Clientcert",
    "X-True-Client-IP",
    "Fly-Client-IP",
    "X-Envoy-External-Address",
    "X-Envoy-Original-Path",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "X-Appengine-User-IP",
    "CloudFront-Viewer-Address",
    "Remote-User",
    "X-Remote-User",
    "X-Forward-For",
    "Forwarded-Proto",
];

const SPOOF: &str = "6.6.6.6";

/// What a backend may see that was a client's word.
fn believed(request: &Received) -> Vec<String> {
    let fields = request.headers.iter().filter(|(_, value)| value.contains(SPOOF));
    fields.map(|(name, value)| format!("{name}: {value}")).collect()
}

#[tokio::test]
async fn no_alias_of_a_forwarded_field_reaches_the_backend() {
    let origin = Origin::start().await;
    let gateway = front(&origin).await;
    let client = gateway.client().host("app.test");
    let spellings = |name: &str| {
        let mixed: String = name
            .chars()
            .enumerate()
            .map(
                |(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() },
            )
            .collect();
        [
            name.to_owned(),
            mixed,
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
            name.replace('-', "~").to_lowercase(),
        ]
    };
    let mut seen = 0;
    for name in ALIASES {
        // Every spelling twice, with one that is ours between them.
        let lines: String = spellings(name)
            .iter()
            .map(|name| {
                format!("{name}: {SPOOF}\r\nX-Forwarded-For: 1.1.1.1\r\n{name}:{SPOOF}\r\n")
            })
            .collect();
        assert_eq!(client.send("GET", "/", &lines, b"").await.status, 200, "{name}");
        let request = origin.received(seen + 1).await.remove(seen);
        seen += 1;
        assert_eq!(believed(&request), Vec::<String>::new(), "{name}");
        for ours in ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"] {
            assert_eq!(request.values(ours).len(), 1, "{ours} beside {name}");
        }
    }
    let streams = ALIASES.iter().map(|name| {
        let names: Vec<_> =
            spellings(name).into_iter().map(|name| name.to_ascii_lowercase()).collect();
        let fields: Vec<_> = names.iter().map(|name| (&**name, SPOOF)).collect();
        stream(1, "app.test", "/", &[&fields[..], &fields[..]].concat())
    });
    for (name, result) in ALIASES.iter().zip(play(&gateway, streams).await) {
        assert_eq!(result["streams"]["1"]["status"], 200, "{name} on h2: {result}");
    }
    for request in &origin.received(seen + ALIASES.len()).await[seen..] {
        assert_eq!(believed(request), Vec::<String>::new(), "on h2");
    }
}

#[tokio::test]
async fn a_hundred_and_fifty_sites_are_never_taken_for_one_another() {
    // More than any small table of hosts holds; every odd one is closed.
    let mut yaml =
        "listeners:\n  web: { bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }\n\
                    sites:\n"
            .to_owned();
    let names: Vec<_> = (0..150)
        .map(|number| match number % 3 {
            0 => (format!("site-{number}.test"), format!("site-{number}.test")),
            1 => (format!("s{number}.bücher.test"), format!("s{number}.xn--bcher-kva.test")),
            _ => (format!("a.b{number}.c.test"), format!("a.b{number}.c.test")),
        })
        .collect();
    for (number, (name, _)) in names.iter().enumerate() {
        let what = if number % 2 == 1 { "403".to_owned() } else { format!("\"{number}\"") };
        yaml += &format!(
            "  {name}: {{ https: both, certificate: internal, routes: [ {{ respond: {what} }} ] }}\n"
        );
    }
    let gateway = Gateway::start(yaml).await;
    let mut connection = gateway.client().connect().await;
    let mut streams = Vec::new();
    for (number, (_, name)) in names.iter().enumerate() {
        let (status, body) =
            if number % 2 == 1 { (403, None) } else { (200, Some(number.to_string())) };
        let (upper, next) = (name.to_uppercase(), &names[(number + 1) % 150].1);
        for (target, host) in [
            ("/", name.clone()),
            ("/", upper.clone()),
            ("/", format!("{name}.")),
            ("/", format!("{name}:80")),
            ("/", format!("{upper}.:65535")),
            (&*format!("http://{name}/"), name.clone()),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            connection.send(request.as_bytes()).await.unwrap();
            let reply = connection.read_reply(false).await.unwrap();
            assert_eq!(reply.status, status, "{target} {host}");
            assert!(body.as_ref().is_none_or(|body| *body == reply.text()), "{target} {host}");
        }
        if number % 10 == 0 {
            // What names two sites, or one and something else, is nobody's.
            for (target, hosts) in [
                (format!("http://{next}/"), format!("Host: {name}\r\n")),
                ("/".to_owned(), format!("Host: {name}\r\nHost: {next}\r\n")),
                ("/".to_owned(), format!("Host: {name}, {next}\r\n")),
                ("/".to_owned(), format!("Host: {name} {next}\r\n")),
                ("/".to_owned(), format!("Host: {name}@{next}\r\n")),
                ("/".to_owned(), format!("Host: {next}#@{name}\r\n")),
                ("/".to_owned(), format!("Host: {name}..\r\n")),
                ("/".to_owned(), format!("Host: {name}:80:80\r\n")),
                ("/".to_owned(), format!("Host: {name}%00\r\n")),
                ("/".to_owned(), format!("Host: {name}/\r\n")),
                (format!("http://{name}@{next}/"), format!("Host: {next}\r\n")),
            ] {
                let request = format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
                let answer = sent(&gateway.client(), request.as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
            }
            let answer = sent(
                &gateway.client(),
                format!("GET / HTTP/1.1\r\nConnection: close\r\nHost: x{name}\r\n\r\n").as_bytes(),
            )
            .await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            streams.push((stream(1, &upper, "/", &[]), status));
            streams.push((stream(1, name, "/", &[("host", next)]), 400));
            streams.push((stream(1, next, "/", &[("x-forwarded-host", name)]), 403));
        }
    }
    let played = play(&gateway, streams.iter().map(|(request, _)| request.clone())).await;
    for ((request, status), result) in streams.iter().zip(played) {
        let stream = &result["streams"]["1"];
        let is_refused = *status == 400 && stream["reset"].is_number();
        assert!(is_refused || stream["status"] == *status, "{request}: {result}");
    }
}

#[tokio::test]
async fn a_hundred_heads_without_end_at_once_cost_no_memory() {
    let origin = Origin::start().await;
    let gateway = front(&origin).await;
    let client = gateway.client().host("app.test");
    let attack = async |count: usize| {
        let mut attacks = tokio::task::JoinSet::new();
        for number in 0..count {
            let client = client.clone();
            attacks.spawn(async move {
                let head = match number % 4 {
                    0 => "X: 1\r\n".repeat(200_000),
                    1 => format!("X: {}", "x".repeat(1_000_000)),
                    2 => format!("Cookie: {}\r\n", "a=b; ".repeat(200_000)),
                    _ => format!("{}: 1\r\n", "N".repeat(1_000_000)),
                };
                let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{head}");
                sent(&client, request.as_bytes()).await
            });
        }
        for answer in attacks.join_all().await {
            // The rest that nobody read may have cost the answer.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
    };
    attack(20).await;
    let before = gateway.memory_peak();
    attack(100).await;
    let grown = gateway.memory_peak().saturating_sub(before);
    // 64 KiB each are allowed, and 100 MiB were sent.
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert!(origin.requests().is_empty());
    assert_eq!(client.get("/").await.text(), "ok");
}

#[tokio::test]
async fn nothing_is_decompressed() {
    // A gigabyte in a megabyte is a megabyte here, both ways, whatever is compressed otherwise.
    let directory = tempfile::TempDir::new().unwrap();
    let bomb = directory.path().join("bomb");
    let make = format!("head -c 64M /dev/zero | gzip -9 > {}", bomb.display());
    assert!(run("sh", ["-c", &make]).await.status.success());
    let bomb = std::fs::read(bomb).unwrap();
    assert!(bomb.len() < 1 << 17);
    let answer = bomb.clone();
    let origin = Origin::answering(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        Answer::Bytes([head.as_bytes(), &answer].concat())
    })
    .await;
    let site =
        format!("upstream: \"{}\", filters: [ {{ compress: [gzip, br, zstd] }} ]", origin.url());
    let gateway = gateway(&site, "").await;
    let client = gateway.client().host("app.test");
    client.get("/warm").await;
    let before = gateway.memory_peak();
    for accepted in ["gzip", "br", "identity", "zstd;q=1, *;q=0"] {
        let fields = format!("Accept-Encoding: {accepted}\r\nContent-Encoding: gzip\r\n");
        let reply = client.send("POST", "/", &fields, &bomb).await;
        assert_eq!(reply.status, 200, "{accepted}");
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{accepted}");
        assert!(reply.body == bomb, "{accepted}: passed as it is");
        assert!(origin.requests().last().unwrap().body == bomb, "{accepted}: passed as it is");
    }
    let grown = gateway.memory_peak().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

#[tokio::test]
async fn no_request_chooses_where_it_is_sent() {
    let origin = Origin::start().await;
    let elsewhere = Origin::start().await;
    let site = "routes: [ { match: { path: /strip/* }, upstream: app, rewrite: { strip_prefix: /strip } }, \
         { match: { path: /regex/* }, upstream: app, rewrite: { regex: { from: \"^/regex(.*)$\", to: \"$1\" } } }, \
         { upstream: app } ]";
    let pool = format!(
        "upstreams: {{ app: {{ servers: \"{}\", host: {{ name: inner.test }} }} }}",
        origin.url()
    );
    let gateway = gateway(site, &pool).await;
    let there = elsewhere.address();
    for target in [
        format!("http://{there}/"),
        format!("//{there}/"),
        format!("/strip//{there}/"),
        format!("/strip/http://{there}/"),
        format!("/regex//{there}/"),
        format!("/regex/@{there}/"),
        format!("/?url=http://{there}/"),
        format!("/http://{there}/"),
        format!("/..;@{there}/"),
        format!("*@{there}"),
        format!("@{there}"),
        there.to_string(),
    ] {
        for method in ["GET", "CONNECT"] {
            let fields = format!(
                "X-Forwarded-Host: {there}\r\nX-Host: {there}\r\nForwarded: host={there}\r\nConnection: close\r\n"
            );
            let request = format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
            let answer = sent(&gateway.client(), request.as_bytes()).await;
            assert!(method == "GET" || !answer.starts_with("HTTP/1.1 2"), "{request}: {answer}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
    for request in origin.requests() {
        assert!(request.target.starts_with('/'), "{request:?}");
        assert_eq!(request.values("host"), ["inner.test"], "{request:?}");
    }
}

/// Processor time that a process has used.
#[cfg(target_os = "linux")]
fn spent(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn garbage_leaves_the_same_process_and_an_idle_one() {
    let origin = Origin::start().await;
    let limits = "limits: { handshake_timeout: 1s, request_header_timeout: 1s, request_body_timeout: 1s, idle_timeout: 1s }";
    let gateway = gateway(&format!("upstream: \"{}\"", origin.url()), limits).await;
    let ports = [gateway.address("web"), gateway.address("secure"), gateway.admin_address()];
    let mut random = fastrand::Rng::with_seed(5);
    let mut attacks = tokio::task::JoinSet::new();
    for number in 0..600 {
        let prefix: &[u8] = match number % 8 {
            0 => b"GET / HTTP/1.1\r\nHost: app.test\r\n",
            1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            2 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            3 => b"POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n",
            4 => b"GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            5 => b"\x80\x80\x01\x03\x01",
            _ => b"",
        };
        let mut bytes = prefix.to_vec();
        let count = random.usize(0..4_000);
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(count));
        let address = ports[number % ports.len()];
        let (stays, ends) = (random.bool(), random.bool());
        attacks.spawn(async move {
            let Ok(mut connection) = Client::new(address).try_connect().await else { return };
            let _ = connection.send(&bytes).await;
            if ends {
                let _ = connection.shut_down().await;
            }
            if stays {
                let _ = connection.read_to_end().await;
            }
        });
    }
    attacks.join_all().await;
    assert_eq!(gateway.client().host("app.test").get("/after").await.text(), "ok");
    let admin = Client::new(gateway.admin_address());
    let deadline = Instant::now() + Duration::from_secs(20);
    while admin.get("/status").await.json()["connections"] != 0 {
        assert!(Instant::now() < deadline, "connections stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A task that spins takes all of a core; what is left are timers.
    let before = spent(gateway.id());
    tokio::time::sleep(Duration::from_millis(700)).await;
    let spent = spent(gateway.id()) - before;
    assert!(spent < Duration::from_millis(200), "idle, and {spent:?} of processor time");
    let metrics = admin.get("/metrics").await.text();
    assert!(metrics.contains("\nwardgate_panics_total 0\n"), "{metrics}");
    gateway.wait_access(|line| field(line, "url.path") == "/after").await;
}

#[tokio::test]
async fn no_trailer_of_a_request_reaches_a_backend() {
    // HTTP/1.1 refuses the first of them.
    const NAMES: [&str; 9] = [
        "x-forwarded-for",
        "x-real-ip",
        "x-request-id",
        "x.forwarded.for",
        "x-client-verify",
        "client-cert",
        "remote-user",
        "x-user",
        "x-sum",
    ];
    let trailers: String = NAMES[3..].iter().map(|name| format!("{name}: {SPOOF}\r\n")).collect();
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n{trailers}\r\n"
    );
    let pairs = Value::from_iter(NAMES.iter().map(|name| json!([name, SPOOF])));
    let mut post = stream(1, "app.test", "/echo", &[]);
    post["request"]["headers"][0][1] = json!("POST");
    (post["request"]["body"], post["request"]["trailers"]) = (json!("abc"), pairs);
    let yaml = |url: &str, protocol: &str| {
        format!(
            "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }} }}\n\
             sites: {{ app.test: {{ https: both, upstream: app }} }}\n\
             upstreams: {{ app: {{ servers: [\"{url}\"], protocol: {protocol} }} }}\n"
        )
    };

    let stage = Stage::open().await;
    let gateway = Gateway::start(yaml(&stage.url(), "http/1.1")).await;
    let mut client = gateway.client().connect().await;
    client.send(chunked.as_bytes()).await.unwrap();
    let asking = tokio::spawn({
        let address = gateway.address("web").to_string();
        let steps = json!([post.clone(), {"wait": "end", "stream": 1}]);
        Peer::run_result("h2_client.py", json!({"address": address, "steps": steps}))
    });
    for _ in 0..2 {
        let (mut backend, _) = stage.accept_head().await;
        let body = within("body", backend.read_until(b"\r\n0\r\n")).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("abc"));
        let end = within("end", backend.read_until(b"\r\n")).await.unwrap();
        assert_eq!(end, b"\r\n", "and no trailer");
        backend.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
    }
    assert_eq!(client.read_reply(false).await.unwrap().status, 204);
    asking.await.unwrap();

    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = Gateway::start(yaml(&format!("http://{}", origin.address()), "h2c")).await;
    let result = play(&gateway, [post]).await.remove(0);
    assert_eq!(result["streams"]["1"]["body"], "abc", "{result}");
    assert_eq!(result["streams"]["1"]["trailers"], json!([["x-origin", "end"]]), "{result}");
    let mut client = gateway.client().connect().await;
    client.send(chunked.as_bytes()).await.unwrap();
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "abc".to_owned()));
    assert!(reply.headers.iter().all(|(_, value)| value != SPOOF), "{:?}", reply.headers);
}
