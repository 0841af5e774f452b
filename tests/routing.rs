//! Which site and which route a request reaches, and what the backend then gets.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use serde_json::json;
use wardgate::config;
use wardgate::net::{Host, RequestHead};
use wardgate::route::Router;

use crate::support::{Client, Gateway, Origin, Peer, field, run};

/// Answers "which route?" for every request: the status and the body, which names the route.
async fn answer(client: &Client, method: &str, target: &str, fields: &str) -> (u16, String) {
    let reply = client.send(method, target, fields, b"").await;
    let text = if reply.status == 200 { reply.text() } else { String::new() };
    (reply.status, text)
}

/// Fails with the row that was answered otherwise.
async fn expect_routes(client: &Client, rows: &[(&str, &str, &str, &str)]) {
    for (method, target, fields, route) in rows {
        let (status, text) = answer(client, method, target, fields).await;
        let found = if status == 200 { text } else { status.to_string() };
        assert_eq!(&found, route, "{method} {target} {fields:?}");
    }
}

const SITES: &str = r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  other: { bind: "127.0.0.1:0", protocol: http }
sites:
  example.com: { aliases: [www.example.com, "*.example.com"], listeners: web, routes: [ { respond: named } ] }
  api.example.com: { listeners: web, routes: [ { respond: exact } ] }
  bücher.example: { listeners: web, routes: [ { respond: unicode } ] }
  127.0.0.1: { aliases: ["[::1]"], listeners: web, routes: [ { respond: address } ] }
  "*": { listeners: web, routes: [ { respond: rest } ] }
  EXAMPLE.com: { listeners: other, routes: [ { respond: other } ] }
"#;

#[tokio::test]
async fn a_host_reaches_its_site_however_it_is_spelled() {
    let gateway = Gateway::start(SITES).await;
    let rows = [
        ("web", "example.com", "named"),
        ("web", "www.example.com", "named"),
        ("web", "anything.example.com", "named"),
        ("web", "api.example.com", "exact"),
        ("web", "two.levels.example.com", "rest"),
        ("web", "EXAMPLE.com", "named"),
        ("web", "Api.Example.COM", "exact"),
        ("web", "api.example.com.", "exact"),
        ("web", "api.example.com:8080", "exact"),
        ("web", "API.example.com.:443", "exact"),
        ("web", "xn--bcher-kva.example", "unicode"),
        ("web", "XN--BCHER-KVA.example:80", "unicode"),
        ("web", "127.0.0.1", "address"),
        ("web", "127.0.0.1:8080", "address"),
        ("web", "[::1]:8080", "address"),
        ("web", "[0:0:0:0:0:0:0:1]", "address"),
        ("web", "10.0.0.1", "rest"),
        ("other", "example.com", "other"),
        ("other", "www.example.com", "404"),
        ("other", "127.0.0.1", "404"),
    ];
    for (listener, host, site) in rows {
        let client = gateway.client_of(listener).host(host);
        let (status, text) = answer(&client, "GET", "/", "").await;
        let found = if status == 200 { text } else { status.to_string() };
        assert_eq!(found, site, "{host} on {listener}");
    }
}

#[tokio::test]
async fn a_host_of_10_000_sites_is_served_like_the_only_one() {
    let mut yaml =
        String::from("listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\nsites:\n");
    for site in 0..10_000 {
        yaml.push_str(&format!(
            "  site-{site}.example.com: {{ routes: [ {{ respond: \"{site}\" }} ] }}\n"
        ));
    }
    let started = Instant::now();
    let gateway = Gateway::start(&yaml).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "started after {took:?}");
    for site in [0, 4_999, 9_999] {
        let client = gateway.client().host(&format!("site-{site}.example.com"));
        assert_eq!(client.get("/").await.text(), site.to_string());
    }
    assert_eq!(gateway.client().host("site-10000.example.com").get("/").await.status, 404);
}

const ROUTES: &str = r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites:
  "*":
    routes:
      - match: { path: /exact }
        respond: exact
      - match: { path: [/v1/*, /v2], method: [GET, POST] }
        respond: versions
      - match: { path_regex: "^/status/[0-9]+$" }
        respond: status
      - match: { path: /fields, header: { X-Api: ["2", "3"], X-Any: "*" } }
        respond: header
      - match: { path: /fields, query: { debug: "*", level: [high, "5 %"] } }
        respond: query
      - match: { path: /fields, cookie: { beta: "1" } }
        respond: cookie
      - match: { path: /fields, method: DELETE }
        respond: method
      - match: { path: /order/* }
        respond: first
      - match: { path_regex: /order/second }
        respond: second
"#;

#[tokio::test]
async fn the_first_route_whose_conditions_all_hold_answers() {
    let gateway = Gateway::start(ROUTES).await;
    let both = "X-Api: 3\r\nX-Any: x\r\n";
    let rows = [
        ("GET", "/exact", "", "exact"),
        ("GET", "/exact?any=1", "", "exact"),
        ("GET", "/exact/", "", "404"),
        ("GET", "/Exact", "", "404"),
        ("GET", "/v1", "", "versions"),
        ("POST", "/v1/", "", "versions"),
        ("GET", "/v1/a/b", "", "versions"),
        ("GET", "/v10", "", "404"),
        ("GET", "/v2", "", "versions"),
        ("GET", "/v2/a", "", "404"),
        ("PUT", "/v1/a", "", "404"),
        ("GET", "/status/42", "", "status"),
        ("GET", "/status/42a", "", "404"),
        ("GET", "/fields", both, "header"),
        ("GET", "/fields", "x-api: 2\r\nx-any: y\r\n", "header"),
        ("GET", "/fields", "X-Api: 1\r\nX-Api: 2\r\nX-Any: y\r\n", "header"),
        ("GET", "/fields", "X-Api: 2\r\n", "404"),
        ("GET", "/fields", "X-Api: 1\r\nX-Any: y\r\n", "404"),
        ("GET", "/fields?debug&level=high", "", "query"),
        ("GET", "/fields?level=5+%25&debug=0", "", "query"),
        ("GET", "/fields?level=low&level=high&debug=", "", "query"),
        ("GET", "/fields?level=High&debug", "", "404"),
        ("GET", "/fields?level=high", "", "404"),
        ("GET", "/fields", "Cookie: a=b; beta=1\r\n", "cookie"),
        ("GET", "/fields", "Cookie: beta=2; beta=1\r\n", "cookie"),
        ("GET", "/fields", "Cookie: beta=11\r\n", "404"),
        ("GET", "/fields", "Cookie: xbeta=1\r\n", "404"),
        ("DELETE", "/fields", "", "method"),
        ("DELETE", "/fields", both, "header"),
        ("GET", "/order/second", "", "first"),
        ("GET", "/none", "", "404"),
    ];
    expect_routes(&gateway.client(), &rows).await;
}

#[tokio::test]
async fn redirects_and_fixed_answers_are_given_as_written() {
    let gateway = Gateway::start(
        r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites:
  "*":
    routes:
      - match: { path: /old/* }
        redirect: { to: "https://{host}/new{path}{query}", status: 301 }
      - match: { path: /uri/* }
        redirect: { to: "https://example.com{uri}", status: 302 }
      - match: { path: /joined }
        redirect: { to: "/found?from=gateway{query}", status: 303 }
      - match: { path: /kept }
        redirect: { to: /temporary, status: 307 }
      - match: { path: /docs }
        redirect: /docs/
      - match: { path: /text }
        respond: { status: 418, body: "short\n", headers: { Content-Type: text/x-tea, X-Own: "yes" } }
      - match: { path: /empty }
        respond: 204
"#,
    )
    .await;
    let client = gateway.client().host("app.test:81");
    let rows = [
        ("/old/a%20b?x=1&y=%2F", 301, "https://app.test/new/old/a%20b?x=1&y=%2F"),
        ("/old", 301, "https://app.test/new/old"),
        ("/uri/x?q", 302, "https://example.com/uri/x?q"),
        ("/joined?a=b", 303, "/found?from=gateway&a=b"),
        ("/joined", 303, "/found?from=gateway"),
        ("/kept?gone", 307, "/temporary"),
        ("/docs", 308, "/docs/"),
    ];
    for (target, status, location) in rows {
        let reply = client.get(target).await;
        assert_eq!((reply.status, reply.header("location")), (status, Some(location)), "{target}");
    }
    let text = client.get("/text").await;
    assert_eq!((text.status, text.text().as_str()), (418, "short\n"));
    assert_eq!(
        (text.header("content-type"), text.header("x-own")),
        (Some("text/x-tea"), Some("yes"))
    );
    let head = client.send("HEAD", "/text", "", b"").await;
    assert_eq!((head.status, head.header("content-length")), (418, Some("6")));
    let empty = client.get("/empty").await;
    assert_eq!((empty.status, empty.body.len()), (204, 0));
}

#[tokio::test]
async fn a_rewritten_path_is_what_the_backend_gets() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(
        r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites:
  "*":
    routes:
      - match: { path: /strip/* }
        upstream: ORIGIN
        rewrite: { strip_prefix: /strip }
      - match: { path: /path/* }
        upstream: ORIGIN
        rewrite: { path: "/api{path}" }
      - match: { path: /query/* }
        upstream: ORIGIN
        rewrite: { path: "/fixed?a=1" }
      - match: { path: /v1/* }
        upstream: ORIGIN
        rewrite: { strip_prefix: /v1 }
      - match: { path: /files/* }
        upstream: ORIGIN
        rewrite: { regex: { from: "^/files/(.*)$", to: "/tenants/a/files/$1" } }
      - match: { path: /regex/* }
        upstream: ORIGIN
        rewrite: { regex: { from: "^/regex/([a-z]+)/(?P<id>.*)$", to: "/${id}/$1" } }
      - upstream: ORIGIN
"#
        .replace("ORIGIN", &origin.url()),
    )
    .await;
    let rows = [
        ("/strip/a/b?q=%2F", "/a/b?q=%2F"),
        ("/strip", "/"),
        ("/strip/", "/"),
        ("/strip?x", "/?x"),
        ("/strip;v=1/a;w?x", "/a;w?x"),
        ("/;a/v1/x", "/x"),
        ("/files/x;y", "/tenants/a/files/x;y"),
        ("/files;x/secret", "/tenants/a/files/secret"),
        ("/;x/files%3by/secret?q", "/tenants/a/files/secret?q"),
        ("/path/x?y", "/api/path/x?y"),
        ("/query/x?lost", "/fixed?a=1"),
        ("/regex/user/7/8?z", "/7/8/user?z"),
        ("/regex/USER/7", "/regex/USER/7"),
        ("/as/it/is?a=b&c=%20%2f+", "/as/it/is?a=b&c=%20%2f+"),
        ("/a%7eb/%c3%a4/%40", "/a~b/%C3%A4/%40"),
        ("//a/./b//../c", "/a/c"),
    ];
    for (at, (target, expected)) in rows.into_iter().enumerate() {
        assert_eq!(gateway.client().get(target).await.status, 200, "{target}");
        let received = origin.received(at + 1).await;
        assert_eq!(received[at].target, expected, "{target}");
    }
}

const POLICIES: &str = r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  redirect.test: { aliases: ["*.redirect.test"], routes: [ { respond: here } ] }
  both.test: { https: both, routes: [ { respond: here } ] }
  only.test: { https: only, routes: [ { respond: here } ] }
  plain.test: { listeners: web, https: both, routes: [ { respond: here } ] }
"#;

#[tokio::test]
async fn plain_http_is_redirected_served_or_refused_as_the_site_says() {
    let gateway = Gateway::start(POLICIES).await;
    let port = gateway.address("secure").port();
    let web = gateway.client_of("web");
    for (method, host, target, kept) in [
        ("GET", "redirect.test", "/", "redirect.test:PORT/"),
        (
            "POST",
            "redirect.test:8080",
            "/a/%40b?x=%2F&y=//../;&&z",
            "redirect.test:PORT/a/%40b?x=%2F&y=//../;&&z",
        ),
        ("DELETE", "Any.Redirect.test.", "/p?", "any.redirect.test:PORT/p?"),
        ("HEAD", "redirect.test", "/%C3%A4?%c3%a4", "redirect.test:PORT/%C3%A4?%c3%a4"),
    ] {
        let reply =
            web.clone().host(host).send(method, target, "X-Forwarded-Proto: https\r\n", b"").await;
        let location = format!("https://{}", kept.replace("PORT", &port.to_string()));
        assert_eq!(
            (reply.status, reply.header("location")),
            (308, Some(&*location)),
            "{method} {host}{target}"
        );
    }
    let secure = |host: &str| gateway.tls_client_of("secure", host);
    for (client, host, status) in [
        (web.clone(), "both.test", 200),
        (web.clone(), "plain.test", 200),
        (web.clone(), "only.test", 404),
        (web.clone(), "unknown.test", 404),
        (secure("redirect.test"), "redirect.test", 200),
        (secure("both.test"), "both.test", 200),
        (secure("only.test"), "only.test", 200),
    ] {
        assert_eq!(client.host(host).get("/").await.status, status, "{host}");
    }
    let unknown = secure("unknown.test").try_get("/").await.unwrap_err();
    assert!(unknown.to_string().contains("UnrecognisedName"), "{unknown}");
}

#[tokio::test]
async fn a_trusted_proxy_that_says_https_is_not_redirected() {
    let gateway = Gateway::start(format!("{POLICIES}trusted_proxies: [127.0.0.1]\n")).await;
    let client = gateway.client_of("web").host("redirect.test");
    for (fields, status) in [
        ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n", 200),
        ("Forwarded: for=192.0.2.1;proto=https\r\n", 200),
        ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n", 308),
        ("", 308),
    ] {
        assert_eq!(client.send("GET", "/", fields, b"").await.status, status, "{fields:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_no_site_of_the_connection_is_misdirected() {
    let gateway = Gateway::start(POLICIES).await;
    let ca = gateway.ca();
    for host in ["both.test", "plain.test", "unknown.test", "sub.both.test", "10.0.0.1"] {
        let mut connection = gateway.tls_client_of("secure", "redirect.test").connect().await;
        connection
            .send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!(reply.status, 421, "{host} on HTTP/1.1");
        let scenario = json!({
            "address": gateway.address("secure").to_string(),
            "tls": {"ca": ca, "name": "redirect.test"},
            "steps": [
                {"request": {"stream": 1, "headers": [[":method", "GET"], [":scheme", "https"],
                    [":authority", host], [":path", "/"]]}},
                {"wait": "end", "stream": 1},
            ]
        });
        let result = Peer::result("h2_client.py", &scenario).await;
        assert_eq!(result["streams"]["1"]["status"], 421, "{host} on h2: {result}");
    }
    let line = gateway.wait_access(|line| field(line, "url.domain") == "unknown.test").await;
    assert_eq!(field(&line, "error.type"), "misdirected");
}

/// What becomes of a target: `None` is denied by the route or refused as ambiguous, else what the
/// backend gets.
const CONFUSION: [(&str, Option<&str>); 63] = [
    ("/admin", None),
    ("/admin/", None),
    ("/admin/users", None),
    ("/admin?x=1", None),
    ("//admin", None),
    ("///admin//users", None),
    ("/./admin", None),
    ("/x/../admin", None),
    ("/x/%2e%2e/admin", None),
    ("/x/.%2E/admin", None),
    ("/%2e/admin", None),
    ("/../admin", None),
    ("/%61dmin", None),
    ("/%61%64%6d%69%6E", None),
    ("/admin%2f", None),
    ("/admin%2Fusers", None),
    ("/x/..%2fadmin", None),
    ("/x/..%5cadmin", None),
    ("/\\admin", None),
    ("/x/..\\admin", None),
    ("/admin%00", None),
    ("/admin%0a", None),
    ("/admin/../public", Some("/public")),
    ("/admin/..", Some("/")),
    ("/administrator", Some("/administrator")),
    ("/%2561dmin", Some("/%2561dmin")),
    ("/x/..;/admin", None),
    ("/x?/../admin", Some("/x?/../admin")),
    ("/%E2%80%A5/admin", Some("/%E2%80%A5/admin")),
    ("/x/..//admin", None),
    ("/x/y/../../admin", None),
    ("/./././admin", None),
    ("/admin/.", None),
    ("/admin/./x", None),
    ("/admin/x/..", None),
    ("//x/..//./admin", None),
    ("/%2fadmin", None),
    ("/%2F%2Fadmin", None),
    ("/%5cadmin", None),
    ("/admin%5c", None),
    ("/x%2f..%2fadmin", None),
    ("/.%2fadmin", None),
    ("/..%2fadmin", None),
    ("/%2e%2e%2fadmin", None),
    ("/%2e%2e%5cadmin", None),
    ("/x/%2e%2e;/admin", None),
    ("/x/..%3b/admin", None),
    ("/%00admin", None),
    ("/x/..%00/admin", None),
    // Overlong forms of a dot and of a slash are not UTF-8 and no dot and slash of ours.
    ("/x/%c0%ae%c0%ae/admin", None),
    ("/x/..%c0%afadmin", None),
    ("/%u002e%u002e/admin", None),
    ("/%", None),
    // Encoded twice it is text: it stays as it is, and who decodes it twice is on his own.
    ("/x/%252e%252e/admin", Some("/x/%252e%252e/admin")),
    ("/x/..%252fadmin", Some("/x/..%252fadmin")),
    ("/ADMIN", Some("/ADMIN")),
    ("/admin;x=1", None),
    ("/admin;x/users;y", None),
    ("/admin%3bx", None),
    ("/;/admin", None),
    ("/;x/admin", None),
    ("/x;/../admin", None),
    ("/x/;admin", Some("/x/;admin")),
];

#[tokio::test]
async fn a_denied_path_cannot_be_dodged_by_its_spelling() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(
        r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  app.test:
    https: both
    routes:
      - match: { path: /admin/* }
        respond: 403
      - upstream: ORIGIN
"#
        .replace("ORIGIN", &origin.url()),
    )
    .await;
    let mut seen = 0;
    for (version, scheme) in [("--http1.1", "http"), ("--http1.1", "https"), ("--http2", "https")] {
        let statuses = curl(&gateway, version, scheme).await;
        let requests = origin.requests();
        let mut received = requests[seen..].iter();
        for ((target, expected), status) in CONFUSION.iter().zip(statuses) {
            match expected {
                None => {
                    assert!(matches!(status, 400 | 403), "{version} {scheme} {target}: {status}")
                }
                Some(forwarded) => {
                    assert_eq!(status, 200, "{version} {scheme} {target}");
                    assert_eq!(
                        received.next().unwrap().target,
                        *forwarded,
                        "{version} {scheme} {target}"
                    );
                }
            }
        }
        assert_eq!(received.next().map(|request| &request.target), None, "{version} {scheme}");
        seen = requests.len();
    }
}

/// The statuses of all targets of [`CONFUSION`], sent as they are.
async fn curl(gateway: &Gateway, version: &str, scheme: &str) -> Vec<u16> {
    let address = gateway.address(if scheme == "http" { "web" } else { "secure" });
    let base = format!("{scheme}://app.test:{}", address.port());
    let resolve = format!("app.test:{}:127.0.0.1", address.port());
    let ca = gateway.ca().display().to_string();
    let mut arguments: Vec<String> = [
        "--silent",
        "--noproxy",
        "*",
        "--globoff",
        "--path-as-is",
        version,
        "--cacert",
        &ca,
        "--resolve",
        &resolve,
    ]
    .map(str::to_owned)
    .into();
    arguments.extend(["--write-out".to_owned(), "%{http_code}\\n".to_owned()]);
    for (target, _) in CONFUSION {
        arguments.extend([
            "--output".to_owned(),
            "/dev/null".to_owned(),
            format!("{base}{target}"),
        ]);
    }
    let output = run("curl", arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let statuses: Vec<u16> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(statuses.len(), CONFUSION.len(), "{version} {scheme}: {output:?}");
    statuses
}

#[tokio::test]
async fn a_regex_that_blows_up_elsewhere_is_answered_in_milliseconds() {
    let gateway = Gateway::start(
        r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
limits: { request_uri_bytes: 64KB, request_header_bytes: 128KiB }
sites:
  "*":
    routes:
      - match: { path_regex: "^/(a+)+$" }
        respond: matched
"#,
    )
    .await;
    let target = format!("/{}!", "a".repeat(60_000));
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        assert_eq!(gateway.client().get(&target).await.status, 404);
    }
    let longer = format!("/{}!", "a".repeat(100_000));
    assert_eq!(gateway.client().get(&longer).await.status, 414);
    assert_eq!(gateway.client().get("/aaa").await.text(), "matched");
    gateway.wait_access(|line| field(line, "http.response.status_code") == 200).await;
    for line in
        gateway.access().iter().filter(|line| field(line, "http.response.status_code") == 404)
    {
        best = best.min(field(line, "total_ms").as_f64().unwrap());
    }
    assert!(best < 100.0, "{best} ms"); // a build without optimisation, beside other tests
}

#[test]
fn a_look_up_among_10_000_sites_costs_about_what_one_costs() {
    let (one, many) = (look_up_time(1), look_up_time(10_000));
    assert!(
        many < one * 20,
        "{one:?} among 1, {many:?} among 10,000: a search would take thousands of times as long"
    );
}

/// The shortest of several rounds of look-ups in a configuration with `count` sites.
fn look_up_time(count: usize) -> Duration {
    let mut yaml = String::from("sites:\n");
    for site in 0..count {
        yaml.push_str(&format!("  site-{site}.test: {{ routes: [ {{ respond: here }} ] }}\n"));
    }
    let loaded = config::from_text("gateway.yaml", &yaml, std::path::Path::new("")).unwrap();
    let router = Router::new(&loaded.config);
    let hosts: Vec<Host> = (0..1_000)
        .map(|at| Host::parse(&format!("site-{}.test", at * 7 % count)).unwrap())
        .collect();
    let headers = HeaderMap::new();
    let round = || {
        let started = Instant::now();
        for host in &hosts {
            let site = router.site(0, host).expect("every host has a site");
            let head = RequestHead {
                method: &Method::GET,
                host: host.as_ref(),
                path: "/",
                match_key: "/",
                query: None,
                headers: &headers,
            };
            assert_eq!(router.route(site, &head), Some(0));
        }
        started.elapsed()
    };
    (0..20).map(|_| round()).min().expect("there were rounds")
}
