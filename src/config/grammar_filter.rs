//! The tables of filters; see [`grammar`](super::grammar).

use super::section::Absent::{Nothing, Required, Text};
use super::section::Scalar as S;
use super::section::Shape::{self, Any, Choice, Count, List, One, Values};
use super::section::{Key, Section};

/// One filter: in a chain, a site or a route.
pub(super) static FILTER: Section = Section {
    title: "Filter",
    one_of: &[
        "security_headers",
        "access",
        "rate_limit",
        "body_limit",
        "request_headers",
        "response_headers",
        "compress",
    ],
    keys: &[
        Key::new(
            "security_headers",
            Shape::Section(&SECURITY_HEADERS),
            Nothing,
            "Header fields that protect browsers, where the backend sets none of the same name.",
        ),
        Key::new("access", Shape::Section(&ACCESS_LISTS), Nothing, "Who may come, by address."),
        Key::new(
            "rate_limit",
            Shape::Section(&RATE_LIMIT),
            Nothing,
            "How often one client may come; more get 429.",
        ),
        Key::new(
            "body_limit",
            Any(&[One(S::Size), Shape::Section(&BODY_LIMIT)]),
            Nothing,
            "Longest body of a request, longer ones get 413; a single value is its `max`.",
        ),
        Key::new(
            "request_headers",
            Shape::Section(&HEADER_EDITS),
            Nothing,
            "Changes the header fields that the backend gets.",
        ),
        Key::new(
            "response_headers",
            Shape::Section(&HEADER_EDITS),
            Nothing,
            "Changes the header fields that the client gets.",
        ),
        Key::new(
            "compress",
            Any(&[List(&CODING), Shape::Section(&COMPRESS)]),
            Nothing,
            "Compresses responses for clients that take it; a list is its `codings`.",
        ),
        Key::later("screen"),
        Key::later("csrf"),
        Key::later("cors"),
        Key::later("basic_auth"),
        Key::later("jwt"),
        Key::later("forward_auth"),
    ],
};

/// `mode` of a filter that can refuse a request.
const MODE: Key = Key::new(
    "mode",
    Choice(&["enforce", "monitor", "off"], &[]),
    Text("enforce"),
    "`monitor` lets every request pass, and logs and counts what `enforce` would refuse; `off` does nothing.",
);

/// `mode` of a filter that refuses nothing.
const PLAIN_MODE: Key =
    Key::new("mode", PLAIN_MODES, Text("enforce"), "`off` switches the filter off.");

/// The modes of a filter that refuses nothing.
pub(super) const PLAIN_MODES: Shape = Choice(&["enforce", "off"], &[]);

/// `security_headers`.
pub(super) static SECURITY_HEADERS: Section = Section {
    title: "Header fields that protect browsers",
    one_of: &[],
    keys: &[
        Key::new(
            "hsts",
            One(S::Text),
            Text("max-age=31536000"),
            "Strict-Transport-Security, on https only: browsers use https for a year; or `off`.",
        ),
        Key::new(
            "content_type_options",
            Choice(&["nosniff", "off"], &[]),
            Text("nosniff"),
            "X-Content-Type-Options: browsers believe Content-Type; or `off`.",
        ),
        Key::new(
            "frame_options",
            Choice(&["SAMEORIGIN", "DENY", "off"], &[]),
            Text("SAMEORIGIN"),
            "X-Frame-Options: who may show the page in a frame; or `off`.",
        ),
        Key::new(
            "referrer_policy",
            One(S::Text),
            Text("strict-origin-when-cross-origin"),
            "Referrer-Policy: how much of a page's address other sites see; or `off`.",
        ),
        Key::new(
            "content_security_policy",
            One(S::Text),
            Text("off"),
            "Content-Security-Policy, such as \"default-src 'self'\"; or `off`.",
        ),
        Key::new(
            "permissions_policy",
            One(S::Text),
            Text("off"),
            "Permissions-Policy, such as \"camera=(), microphone=()\"; or `off`.",
        ),
        Key::new(
            "cross_origin_opener_policy",
            Choice(&["same-origin", "same-origin-allow-popups", "unsafe-none", "off"], &[]),
            Text("off"),
            "Cross-Origin-Opener-Policy: which windows share a browser's context; or `off`.",
        ),
        PLAIN_MODE,
    ],
};

/// `access`.
pub(super) static ACCESS_LISTS: Section = Section {
    title: "Access by address",
    one_of: &[],
    keys: &[
        Key::new(
            "allow",
            List(&One(S::Block)),
            Nothing,
            "Only these may come. Default: everybody who is not on `deny`.",
        ),
        Key::new(
            "deny",
            List(&One(S::Block)),
            Nothing,
            "These may not. Of both lists the longest prefix decides. Default: nobody.",
        ),
        MODE,
    ],
};

/// `rate_limit`.
pub(super) static RATE_LIMIT: Section = Section {
    title: "Rate limit",
    one_of: &[],
    keys: &[
        Key::new(
            "key",
            One(S::RateKey),
            Text("client_ip"),
            "Whose requests count together: `client_ip` (of an IPv6 address its /64), `header:NAME` or `cookie:NAME`; a request without that field or cookie counts by address.",
        ),
        Key::new(
            "rate",
            One(S::Rate),
            Required,
            "Requests that may come in the long run: 100/s, 100/min, 5000/h.",
        ),
        Key::new(
            "burst",
            Count(1, MAX_RATE),
            Nothing,
            "Requests that may come at once. Default: the number of `rate`.",
        ),
        MODE,
    ],
};

/// Most requests in one period: more than a gateway serves in an hour.
pub(super) const MAX_RATE: u64 = 1_000_000_000;

/// `body_limit`.
pub(super) static BODY_LIMIT: Section = Section {
    title: "Limit on request bodies",
    one_of: &[],
    keys: &[Key::new("max", One(S::Size), Required, "Longest body of a request."), MODE],
};

/// `request_headers` and `response_headers`.
pub(super) static HEADER_EDITS: Section = Section {
    title: "Changes of header fields",
    one_of: &[],
    keys: &[
        Key::new("remove", List(&One(S::FieldName)), Nothing, "Fields to remove, first of all."),
        Key::new(
            "set",
            Values(&One(S::Text)),
            Nothing,
            "Fields to set, in place of the values they have.",
        ),
        Key::new(
            "add",
            Values(&List(&One(S::Text))),
            Nothing,
            "Fields to add beside the values they have.",
        ),
        PLAIN_MODE,
    ],
};

/// `compress`.
pub(super) static COMPRESS: Section = Section {
    title: "Compression of responses",
    one_of: &[],
    keys: &[
        Key::new(
            "codings",
            List(&CODING),
            Nothing,
            "Codings to offer, in order of preference. Default: [zstd, br, gzip].",
        ),
        Key::new(
            "types",
            List(&One(S::MediaType)),
            Nothing,
            "Media types to compress, such as text/* or application/json. Default: texts, JSON, XML, JavaScript, SVG, uncompressed fonts, WebAssembly.",
        ),
        Key::new(
            "min_size",
            One(S::Size),
            Text("1KiB"),
            "Responses known to be shorter stay as they are.",
        ),
        PLAIN_MODE,
    ],
};

/// A content coding.
const CODING: Shape = Choice(&["zstd", "br", "gzip"], &[]);
