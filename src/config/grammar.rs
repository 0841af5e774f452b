//! The grammar of gateway.yaml as tables, one per section.
//!
//! Answers nothing by itself: `keys` reads by it, `schema` prints it, `effective` fills in its
//! defaults. A key stands here or it does not exist; `Key::later` marks what the grammar has and this
//! version does not support.

use super::section::Absent::{Defaults, Nothing, Required, Text};
use super::section::Scalar as S;
use super::section::Shape::{self, Any, Choice, Count, List, Named, One, Values};
use super::section::{Key, Section};

/// The whole file.
pub(super) static ROOT: Section = Section {
    title: "Wardgate configuration",
    one_of: &[],
    keys: &[
        Key::new(
            "listeners",
            Named(&LISTENER),
            Nothing,
            "Sockets to accept on, by name. Default: `web` on \":80\" (http) and `secure` on \":443\" (https).",
        ),
        Key::new(
            "sites",
            Named(&SITE),
            Nothing,
            "Sites by host name: an exact name, a one-level wildcard such as \"*.example.com\", an IP address, or \"*\" for the rest.",
        ),
        Key::new("upstreams", Named(&UPSTREAM), Nothing, "Pools of servers, by name."),
        Key::new(
            "certificates",
            Named(&CERTIFICATE),
            Nothing,
            "Certificates that somebody else manages, by name.",
        ),
        Key::new(
            "acme",
            Shape::Section(&ACME),
            Nothing,
            "Where certificates for public names come from.",
        ),
        Key::new(
            "storage",
            One(S::Storage),
            Nothing,
            "Directory for what the gateway keeps, such as its certificates and its local CA, or `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` (`rediss://` for TLS, `?ca=FILE` for a CA of its own, `?prefix=wardgate:`): a Redis through which a fleet shares certificates, beside the default directory. Default: `certs/` beside the file; `/var/lib/wardgate` for a file in /etc/wardgate; `%ProgramData%\\Wardgate` for a file there.",
        ),
        Key::new(
            "trusted_proxies",
            List(&One(S::Block)),
            Nothing,
            "Whose X-Forwarded-* and Forwarded headers are believed. Default: nobody.",
        ),
        Key::new("limits", Shape::Section(&LIMITS), Defaults, "Bounds of the whole process."),
        Key::new("log", Shape::Section(&LOG), Defaults, "Logs."),
        Key::new(
            "admin",
            Any(&[Choice(&["off"], &[]), Shape::Section(&ADMIN)]),
            Defaults,
            "The admin interface, or `off`.",
        ),
        Key::new("shutdown", Shape::Section(&SHUTDOWN), Defaults, "How the process ends."),
        Key::new("runtime", Shape::Section(&RUNTIME), Defaults, "Threads."),
        Key::new(
            "filters",
            Values(&List(&Shape::Section(&FILTER))),
            Nothing,
            "Chains of filters, by name, for sites and routes to use.",
        ),
        Key::later("telemetry"),
    ],
};

/// One of `listeners`.
pub(super) static LISTENER: Section = Section {
    title: "Listener",
    one_of: &[],
    keys: &[
        Key::new(
            "bind",
            List(&One(S::Address)),
            Required,
            "Addresses: \":443\" (every IPv6 and IPv4 address), \"127.0.0.1:8080\", \"[::1]:8443\". Port 0 takes a free one.",
        ),
        Key::new(
            "protocol",
            Choice(&["http", "https"], &[]),
            Required,
            "What a client speaks first.",
        ),
        Key::new(
            "alpn",
            List(&Choice(&["h2", "http/1.1"], &[])),
            Nothing,
            "Offered protocols in order of preference; on http, h2 is h2c with prior knowledge. Default: [h2, http/1.1] on https, [http/1.1] on http.",
        ),
        Key::new(
            "tls",
            Shape::Section(&LISTENER_TLS),
            Defaults,
            "TLS settings of an https listener.",
        ),
        Key::new("backlog", Count(1, 65_535), Text("4096"), "Length of the kernel's accept queue."),
        Key::new(
            "tcp_fast_open",
            Count(1, 65_535),
            Nothing,
            "Queue length of TCP Fast Open (RFC 7413), Linux only. Default: off.",
        ),
        Key::new(
            "keepalive",
            Any(&[One(S::Duration), Choice(&["off"], &[])]),
            Text("60s"),
            "Idle time before the kernel probes a silent peer, or `off`.",
        ),
        Key::new(
            "proxy_protocol",
            List(&One(S::Block)),
            Nothing,
            "Load balancers whose connections must begin with a PROXY header (version 1 or 2), which says whose they are; others are refused. Default: connections come from clients.",
        ),
    ],
};

/// `tls` of a listener.
pub(super) static LISTENER_TLS: Section = Section {
    title: "TLS of a listener",
    one_of: &[],
    keys: &[
        Key::new(
            "min_version",
            Choice(&["1.2", "1.3"], &[]),
            Text("1.2"),
            "The oldest TLS version that is accepted.",
        ),
        Key::new(
            "client_auth",
            Any(&[Choice(&["off"], &[]), Shape::Section(&CLIENT_AUTH)]),
            Nothing,
            "Client certificates of every site that does not say otherwise, or `off`. Default: off.",
        ),
    ],
};

/// `client_auth` of a listener's `tls` and of a site.
pub(super) static CLIENT_AUTH: Section = Section {
    title: "Client certificates",
    one_of: &[],
    keys: &[
        Key::new(
            "ca",
            One(S::Path),
            Required,
            "PEM file of the CAs whose certificates count. It is watched.",
        ),
        Key::new(
            "mode",
            Choice(&["request", "require"], &[]),
            Text("require"),
            "Whether a client without a certificate is served (`request`) or fails its handshake (`require`). One whose certificate does not count fails in both.",
        ),
        Key::new(
            "crl",
            List(&One(S::Path)),
            Nothing,
            "Files of revocation lists, PEM or DER. With it, every certificate of a chain needs a list of its issuer that is not over. They are watched.",
        ),
    ],
};

/// One of `sites`.
pub(super) static SITE: Section = Section {
    title: "Site",
    one_of: &[],
    keys: &[
        Key::new("aliases", List(&One(S::HostPattern)), Nothing, "More host names of the site."),
        Key::new(
            "listeners",
            List(&One(S::Text)),
            Nothing,
            "Names of the listeners that serve the site. Default: all.",
        ),
        Key::new(
            "certificate",
            One(S::Text),
            Text("auto"),
            "`auto`, `internal` (the local CA), `acme` (the authority of `acme:`) or the name of an entry of `certificates`. `auto` is `internal` for local names and `acme` for public ones.",
        ),
        Key::new(
            "https",
            Choice(&["redirect", "both", "only"], &[]),
            Text("redirect"),
            "What plain HTTP gets: a redirect to https, the site itself (`both`), or 404 (`only`).",
        ),
        Key::new(
            "client_auth",
            Any(&[Choice(&["off"], &[]), Shape::Section(&CLIENT_AUTH)]),
            Nothing,
            "Client certificates of this site, or `off`. Default: what its listeners say.",
        ),
        Key::new(
            "encoded_slashes",
            Choice(&["refuse", "pass"], &[]),
            Text("refuse"),
            "What becomes of %2F, %5C and \\ in a path: 400 (`refuse`), or they stay encoded (`pass`).",
        ),
        Key::new(
            "routes",
            List(&Shape::Section(&ROUTE)),
            Nothing,
            "Routes; the first that matches answers.",
        ),
        Key::new(
            "upstream",
            One(S::Text),
            Nothing,
            "One last route that matches everything: the name of a pool, or a URL.",
        ),
        Key::new(
            "filters",
            List(&Any(&[One(S::Text), Shape::Section(&FILTER)])),
            Nothing,
            "Names of chains, and filters, that run in this order for every route, before the route's own.",
        ),
    ],
};

/// One of `routes`.
pub(super) static ROUTE: Section = Section {
    title: "Route",
    one_of: &["upstream", "redirect", "respond"],
    keys: &[
        Key::new(
            "match",
            Shape::Section(&MATCH),
            Defaults,
            "Conditions that must all hold. Default: every request.",
        ),
        Key::new("upstream", One(S::Text), Nothing, "Proxies to a pool, by name, or to a URL."),
        Key::new(
            "redirect",
            Any(&[One(S::Template), Shape::Section(&REDIRECT)]),
            Nothing,
            "Answers with a redirect; a single value is its `to`.",
        ),
        Key::new(
            "respond",
            Any(&[One(S::Text), Shape::Section(&RESPOND)]),
            Nothing,
            "Answers by itself; a single number is its `status`, `welcome` the built-in page, any other text its `body`.",
        ),
        Key::new(
            "rewrite",
            Shape::Section(&REWRITE),
            Nothing,
            "Changes the path before it goes upstream.",
        ),
        Key::new("timeouts", Shape::Section(&ROUTE_TIMEOUTS), Defaults, "Deadlines of the route."),
        Key::new(
            "filters",
            List(&Any(&[One(S::Text), Shape::Section(&FILTER)])),
            Nothing,
            "Names of chains, and filters, that run in this order after the site's.",
        ),
        Key::later("split"),
    ],
};

/// `match` of a route.
pub(super) static MATCH: Section = Section {
    title: "Conditions of a route",
    one_of: &[],
    keys: &[
        Key::new(
            "path",
            List(&One(S::PathPattern)),
            Nothing,
            "/v1 is this path; /v1/* is /v1 and everything below it.",
        ),
        Key::new(
            "path_regex",
            One(S::Regex),
            Nothing,
            "Regular expression that the path must match somewhere; ^ and $ anchor it.",
        ),
        Key::new("method", List(&One(S::Method)), Nothing, "Methods such as GET, case-sensitive."),
        Key::new(
            "header",
            Values(&List(&One(S::Text))),
            Nothing,
            "Header fields and their values; \"*\" means present.",
        ),
        Key::new(
            "query",
            Values(&List(&One(S::Text))),
            Nothing,
            "Query parameters and their values; \"*\" means present.",
        ),
        Key::new(
            "cookie",
            Values(&List(&One(S::Text))),
            Nothing,
            "Cookies and their values; \"*\" means present.",
        ),
    ],
};

/// `redirect` of a route.
pub(super) static REDIRECT: Section = Section {
    title: "Redirect",
    one_of: &[],
    keys: &[
        Key::new(
            "to",
            One(S::Template),
            Required,
            "Target; {path}, {query}, {host} and {uri} are replaced.",
        ),
        Key::new(
            "status",
            Choice(&["301", "302", "303", "307", "308"], &[]),
            Text("308"),
            "Status code of the redirect.",
        ),
    ],
};

/// `respond` of a route.
pub(super) static RESPOND: Section = Section {
    title: "Fixed answer",
    one_of: &[],
    keys: &[
        Key::new("status", Count(200, 599), Text("200"), "Status code of the answer."),
        Key::new("body", One(S::Text), Text(""), "Text of the answer."),
        Key::new("headers", Values(&One(S::Text)), Nothing, "Header fields of the answer."),
    ],
};

/// `rewrite` of a route.
pub(super) static REWRITE: Section = Section {
    title: "Rewrite of the path",
    one_of: &["strip_prefix", "path", "regex"],
    keys: &[
        Key::new("strip_prefix", One(S::Text), Nothing, "Removed from the front of the path."),
        Key::new(
            "path",
            One(S::Template),
            Nothing,
            "The new path; {path}, {query}, {host} and {uri} are replaced.",
        ),
        Key::new(
            "regex",
            Shape::Section(&REWRITE_REGEX),
            Nothing,
            "Replaces the first match of a regular expression in the path.",
        ),
    ],
};

/// `rewrite.regex` of a route.
pub(super) static REWRITE_REGEX: Section = Section {
    title: "Replacement by a regular expression",
    one_of: &[],
    keys: &[
        Key::new("from", One(S::Regex), Required, "What is replaced."),
        Key::new("to", One(S::Text), Required, "The replacement; $1 or ${name} inserts a group."),
    ],
};

/// `timeouts` of a route.
pub(super) static ROUTE_TIMEOUTS: Section = Section {
    title: "Deadlines of a route",
    one_of: &[],
    keys: &[Key::new(
        "request",
        One(S::Duration),
        Nothing,
        "Longest time for the whole exchange. Default: no bound.",
    )],
};

use super::grammar_acme::ACME;
use super::grammar_filter::FILTER;
pub(super) use super::grammar_process::{ADMIN, LIMITS, LOG, RUNTIME, SHUTDOWN};
pub(super) use super::grammar_upstream::{CERTIFICATE, UPSTREAM};
