//! The tables of `upstreams:` and `certificates:`; see [`grammar`](super::grammar).

use super::section::Absent::{Defaults, Nothing, Required, Text};
use super::section::Scalar as S;
use super::section::Shape::{self, Any, Choice, Count, List, One};
use super::section::{Key, Section};

/// One of `upstreams`.
pub(super) static UPSTREAM: Section = Section {
    title: "Upstream pool",
    one_of: &[],
    keys: &[
        Key::new(
            "servers",
            List(&Any(&[One(S::Url), Shape::Section(&SERVER)])),
            Required,
            "Servers as URLs without a path, or as maps.",
        ),
        Key::new(
            "balance",
            Choice(&["least_requests", "round_robin", "random"], &["peak_ewma", "hash"]),
            Text("least_requests"),
            "How a server is picked: the less busy of two random ones, in turn, or at random; always by weight.",
        ),
        Key::new(
            "host",
            Any(&[Choice(&["preserve", "upstream"], &[]), Shape::Section(&HOST)]),
            Text("preserve"),
            "The Host header the servers get: the client's (`preserve`), the server's own (`upstream`), or `{ name: … }`.",
        ),
        Key::new("timeouts", Shape::Section(&TIMEOUTS), Defaults, "Deadlines towards the servers."),
        Key::new("limits", Shape::Section(&POOL_LIMITS), Defaults, "Bounds of the pool."),
        Key::new(
            "tls",
            Shape::Section(&UPSTREAM_TLS),
            Defaults,
            "TLS towards servers with https URLs.",
        ),
        Key::new(
            "protocol",
            Choice(&["http/1.1", "h2", "h2c", "auto"], &[]),
            Text("http/1.1"),
            "What is spoken to the servers; h2 needs https URLs, h2c http ones, auto lets ALPN decide.",
        ),
        Key::new(
            "proxy_protocol",
            Choice(&["v1", "v2"], &[]),
            Nothing,
            "Begins every connection to the servers with a PROXY header of this version, which says whose it is; each client then has connections of its own. Not with protocol auto. Default: none.",
        ),
        Key::new(
            "health",
            Shape::Section(&HEALTH),
            Nothing,
            "Active checks of the servers. Default: none, servers count as healthy.",
        ),
        Key::new(
            "retry",
            Shape::Section(&RETRY),
            Defaults,
            "When a request is tried again, on another server where there is one.",
        ),
        Key::later("discover"),
        Key::later("sticky"),
        Key::later("outlier"),
        Key::later("breaker"),
        Key::later("fallback"),
        Key::later("windows_auth"),
        Key::later("recover"),
    ],
};

/// One of `servers`.
pub(super) static SERVER: Section = Section {
    title: "Server of a pool",
    one_of: &[],
    keys: &[
        Key::new("url", One(S::Url), Required, "http:// or https://, a host and perhaps a port."),
        Key::new(
            "weight",
            Count(1, 1000),
            Text("1"),
            "Share of requests relative to the pool's other servers.",
        ),
        Key::new(
            "backup",
            One(S::Boolean),
            Text("false"),
            "Whether it is used only while no other server of the pool is available.",
        ),
    ],
};

/// `host` of a pool.
pub(super) static HOST: Section = Section {
    title: "Host header of a pool",
    one_of: &[],
    keys: &[Key::new("name", One(S::Text), Required, "The host, perhaps with a port.")],
};

/// `timeouts` of a pool.
pub(super) static TIMEOUTS: Section = Section {
    title: "Deadlines of a pool",
    one_of: &[],
    keys: &[
        Key::new(
            "connect",
            One(S::Duration),
            Text("5s"),
            "For TCP and TLS together; also for the wait for a place in the pool, and for the first look-up.",
        ),
        Key::new(
            "response",
            One(S::Duration),
            Text("60s"),
            "From the end of the request to the head of the response.",
        ),
        Key::new("read", One(S::Duration), Text("60s"), "Longest gap in the response's body."),
        Key::new(
            "pool_idle",
            One(S::Duration),
            Text("60s"),
            "How long an unused connection is kept.",
        ),
    ],
};

/// `limits` of a pool.
pub(super) static POOL_LIMITS: Section = Section {
    title: "Bounds of a pool",
    one_of: &[],
    keys: &[
        Key::new(
            "connections",
            Count(1, 1_000_000),
            Text("512"),
            "Requests in flight to all servers of the pool together.",
        ),
        Key::new(
            "pending",
            Count(0, 1_000_000),
            Text("1024"),
            "Requests that may wait for one of those places, up to `timeouts.connect`; more get 503.",
        ),
    ],
};

/// `tls` of a pool.
pub(super) static UPSTREAM_TLS: Section = Section {
    title: "TLS of a pool",
    one_of: &[],
    keys: &[
        Key::new(
            "ca",
            One(S::Path),
            Nothing,
            "PEM file of the CAs to trust. Default: the system's.",
        ),
        Key::new(
            "verify",
            One(S::Boolean),
            Text("true"),
            "Whether the servers' certificates are checked.",
        ),
        Key::new(
            "server_name",
            One(S::Text),
            Nothing,
            "Name that is sent and checked. Default: the URL's host.",
        ),
        Key::new(
            "cert",
            One(S::Path),
            Nothing,
            "PEM file of the certificate chain to present; with `key`. Default: none.",
        ),
        Key::new("key", One(S::Path), Nothing, "PEM file of its private key; with `cert`."),
    ],
};

/// `health` of a pool.
pub(super) static HEALTH: Section = Section {
    title: "Active checks of a pool's servers",
    one_of: &["path", "tcp"],
    keys: &[
        Key::new(
            "path",
            One(S::Target),
            Nothing,
            "What a check asks each server for with GET, such as /healthz; over https for https URLs.",
        ),
        Key::new(
            "tcp",
            One(S::Boolean),
            Nothing,
            "`true`: a check only connects; with TLS for https URLs.",
        ),
        Key::new("every", One(S::Duration), Text("10s"), "Between two checks of one server."),
        Key::new(
            "timeout",
            One(S::Duration),
            Text("2s"),
            "Longest time for one check, connecting included.",
        ),
        Key::new(
            "healthy_after",
            Count(1, 100),
            Text("2"),
            "Successes in a row that make an unhealthy server healthy.",
        ),
        Key::new(
            "unhealthy_after",
            Count(1, 100),
            Text("3"),
            "Failures in a row that make a healthy server unhealthy.",
        ),
        Key::new(
            "expect",
            Shape::Section(&EXPECT),
            Defaults,
            "What an answer to `path` must be to count as a success.",
        ),
        Key::new(
            "initial",
            Choice(&["hold", "healthy", "unhealthy"], &[]),
            Text("hold"),
            "What holds until the first check, which is sent at once: it decides and requests wait for it up to `timeout` (`hold`), or a state.",
        ),
        Key::new(
            "slow_start",
            One(S::Duration),
            Nothing,
            "Time over which a server that became healthy comes to its full share. Default: at once.",
        ),
    ],
};

/// `health.expect` of a pool.
pub(super) static EXPECT: Section = Section {
    title: "What a check expects",
    one_of: &[],
    keys: &[
        Key::new(
            "status",
            List(&One(S::Statuses)),
            Text("200-399"),
            "Status codes that are successes: 200-399, [200, 404], \"200-299, 404\".",
        ),
        Key::new(
            "body",
            One(S::Text),
            Nothing,
            "Text that the first 64 KiB of the body must contain. Default: any body.",
        ),
    ],
};

/// `retry` of a pool.
pub(super) static RETRY: Section = Section {
    title: "Retries of a pool",
    one_of: &[],
    keys: &[
        Key::new(
            "attempts",
            Count(1, 16),
            Text("2"),
            "Attempts in all, the first included; 1 is no retry.",
        ),
        Key::new(
            "after",
            List(&Any(&[Choice(&["connect", "reset"], &[]), One(S::RetryStatus)])),
            Text("connect"),
            "What is tried again: a connection that did not come about (`connect`), one that broke or an answer that did not come in time (`reset`), statuses.",
        ),
        Key::new(
            "budget",
            One(S::Percent),
            Text("20%"),
            "Retries under way, in percent of the pool's requests in flight; three may always be.",
        ),
        Key::new(
            "methods",
            List(&One(S::Method)),
            Nothing,
            "Methods that may be sent again once anything was sent. Default: [GET, HEAD, OPTIONS, PUT, DELETE, TRACE].",
        ),
    ],
};

/// One of `certificates`.
pub(super) static CERTIFICATE: Section = Section {
    title: "Certificate",
    one_of: &[],
    keys: &[
        Key::new("chain", One(S::Path), Required, "PEM file of the chain, leaf first."),
        Key::new("key", One(S::Path), Required, "PEM file of the leaf's private key."),
        Key::new(
            "names",
            List(&One(S::HostPattern)),
            Nothing,
            "Names it is served for. Default: the names in the certificate.",
        ),
    ],
};
