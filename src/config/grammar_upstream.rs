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
        Key::later("discover"),
        Key::later("sticky"),
        Key::later("health"),
        Key::later("outlier"),
        Key::later("breaker"),
        Key::later("fallback"),
        Key::later("retry"),
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
        Key::later("backup"),
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
