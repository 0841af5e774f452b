//! The tables of the sections that concern the whole process; see [`grammar`](super::grammar).

use super::process::MAX_THREADS;
use super::section::Absent::{Nothing, Text};
use super::section::Scalar as S;
use super::section::Shape::{self, Any, Choice, Count, List, One};
use super::section::{Key, Section};

/// `limits`.
pub(super) static LIMITS: Section = Section {
    title: "Bounds of the whole process",
    one_of: &[],
    keys: &[
        Key::new("connections", Count(1, 10_000_000), Text("10000"), "Client connections."),
        Key::new(
            "connections_per_ip",
            Count(0, 10_000_000),
            Text("0"),
            "Client connections from one address, of IPv6 from one /64; 0 is no limit.",
        ),
        Key::new(
            "requests",
            Count(1, 10_000_000),
            Text("10000"),
            "Requests in flight; more get 503.",
        ),
        Key::new(
            "memory",
            Any(&[Choice(&["auto", "off"], &[]), One(S::Size)]),
            Text("auto"),
            "Memory of the process. From nine tenths of it on requests get 503 and idle connections are closed, beyond all of it new connections are refused. `auto`: nine tenths of the machine's, or of the container's.",
        ),
        Key::new(
            "handshake_timeout",
            One(S::Duration),
            Text("10s"),
            "From accept to the end of the TLS handshake, with the PROXY header before it.",
        ),
        Key::new(
            "request_header_timeout",
            One(S::Duration),
            Text("10s"),
            "From the first byte of a request to the end of its head.",
        ),
        Key::new(
            "request_header_bytes",
            One(S::Size),
            Text("64KiB"),
            "Request line and header fields together, at most 1MB; more get 431.",
        ),
        Key::new(
            "request_headers",
            Count(1, 256),
            Text("100"),
            "Number of header fields, four pieces of a split h2 cookie being one; more get 431.",
        ),
        Key::new(
            "request_uri_bytes",
            One(S::Size),
            Text("16KiB"),
            "Length of the request target, at most 64KB; longer ones get 414.",
        ),
        Key::new(
            "request_body_timeout",
            One(S::Duration),
            Text("30s"),
            "Longest gap in a request's body.",
        ),
        Key::new(
            "min_rate",
            Any(&[Choice(&["off"], &[]), One(S::Speed)]),
            Text("240B/s"),
            "Slowest average at which a client may send a body or take a response while it keeps us waiting; judged once it has for as long as a gap may last.",
        ),
        Key::new(
            "idle_timeout",
            One(S::Duration),
            Text("75s"),
            "Between two requests, h1 and h2; also how long a client may take nothing of a response.",
        ),
        Key::new(
            "upgrade_idle_timeout",
            One(S::Duration),
            Text("1h"),
            "Longest silence on WebSockets and other upgrades.",
        ),
    ],
};

/// `log`.
pub(super) static LOG: Section = Section {
    title: "Logs",
    one_of: &[],
    keys: &[
        Key::new(
            "level",
            One(S::Text),
            Text("info"),
            "error, warn, info, debug, trace or off, or filters such as \"info,wardgate::tls=debug\".",
        ),
        Key::new(
            "format",
            Choice(&["text", "json"], &[]),
            Nothing,
            "Shape of log lines. Default: text on a terminal, json elsewhere.",
        ),
        Key::new(
            "access",
            Any(&[Choice(&["stdout", "off"], &[]), Shape::Section(&ACCESS)]),
            Text("stdout"),
            "Where access lines go.",
        ),
    ],
};

/// `log.access`.
pub(super) static ACCESS: Section = Section {
    title: "Where access lines go",
    one_of: &["to", "file"],
    keys: &[
        Key::new("to", Choice(&["stdout"], &[]), Nothing, "Standard output."),
        Key::new("file", One(S::Path), Nothing, "A file that is appended to."),
        Key::new(
            "rotate",
            List(&Any(&[Choice(&["daily"], &[]), One(S::Size)])),
            Nothing,
            "When a new file is begun, with `file`: every day at midnight UTC (`daily`), at a size such as 100MiB, or both. Default: never.",
        ),
        Key::new(
            "keep",
            Count(1, 10_000),
            Text("14"),
            "How many older files are kept, with `rotate`.",
        ),
    ],
};

/// `admin`.
pub(super) static ADMIN: Section = Section {
    title: "Admin interface",
    one_of: &[],
    keys: &[
        Key::new(
            "bind",
            One(S::Address),
            Text("127.0.0.1:2019"),
            "An address and a port; beyond loopback it needs a `token`.",
        ),
        Key::new(
            "token",
            One(S::Secret),
            Nothing,
            "The token for what changes state, of at least 16 characters. Default: one that is made under `storage`.",
        ),
    ],
};

/// `shutdown`.
pub(super) static SHUTDOWN: Section = Section {
    title: "How the process ends",
    one_of: &[],
    keys: &[
        Key::new(
            "delay",
            One(S::Duration),
            Text("0s"),
            "Between \"not ready\" and closing the listeners.",
        ),
        Key::new("grace", One(S::Duration), Text("30s"), "Longest wait for requests in flight."),
    ],
};

/// `runtime`.
pub(super) static RUNTIME: Section = Section {
    title: "Threads",
    one_of: &[],
    keys: &[Key::new(
        "threads",
        Any(&[Choice(&["auto"], &[]), Count(1, MAX_THREADS)]),
        Text("auto"),
        "Worker threads; `auto` is one per core.",
    )],
};
