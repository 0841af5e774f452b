//! `filters:`: named chains, and the filters that stand in them, in a site or in a route.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::net::CidrSet;

/// One entry of `filters:`: a chain by name.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The key under `filters:`.
    pub name: String,
    /// Run in this order.
    pub filters: Vec<Filter>,
}

/// One item of a site's or a route's `filters:`.
#[derive(Clone, Debug)]
pub enum FilterUse {
    /// A named chain: an index into [`Config::filters`](super::Config::filters). Uses of one chain
    /// share its limiters' buckets.
    Chain(usize),
    /// A filter written in place.
    Inline(Filter),
}

/// One filter of a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    /// Line in the file where it starts, from 1.
    pub line: u32,
    /// Default enforce.
    pub mode: Mode,
    /// What it does.
    pub kind: FilterKind,
}

/// Whether a filter's verdict counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It is logged and counted, and the request goes on.
    Monitor,
    /// The filter does not run.
    Off,
}

/// What a filter does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FilterKind {
    /// `security_headers`.
    SecurityHeaders(SecurityHeaders),
    /// `access`.
    Access(Access),
    /// `rate_limit`.
    RateLimit(RateLimit),
    /// `body_limit`, in bytes; longer bodies get 413.
    BodyLimit(u64),
    /// `request_headers`: what the backend gets.
    RequestHeaders(HeaderEdits),
    /// `response_headers`: what the client gets.
    ResponseHeaders(HeaderEdits),
    /// `compress`.
    Compress(Compress),
}

/// `security_headers`: fields that are set in responses, by name; a backend's own value of the same
/// name stays. `Strict-Transport-Security` goes out over https only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecurityHeaders {
    /// Name and value.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// `access`: who may come, by address. The longest prefix decides where both lists have one that
/// holds the client; who is on neither list may come unless there is an `allow`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {
    /// Only these, unless empty.
    pub allow: CidrSet,
    /// Not these.
    pub deny: CidrSet,
}

/// `rate_limit`: a token bucket per key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// Whose requests share a bucket. Default the client's address.
    pub key: RateKey,
    /// Tokens added per [`period`](Self::period), 1 or more.
    pub rate: u32,
    /// One second, minute or hour.
    pub period: Duration,
    /// The bucket's size: requests that may come at once. Default `rate`.
    pub burst: u32,
}

/// Whose requests share a bucket.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum RateKey {
    /// `client_ip`: the client's address; of an IPv6 one its /64.
    ClientIp,
    /// `header:NAME`: the field's value. A request without it counts by client address.
    Header(HeaderName),
    /// `cookie:NAME`: the cookie's value. A request without it counts by client address.
    Cookie(String),
}

/// `request_headers` and `response_headers`: fields to remove, then to set, then to add.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeaderEdits {
    /// Removed, whatever their values.
    pub remove: Vec<HeaderName>,
    /// Replaces every value of the name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added beside the values there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// `compress`: which codings are offered, and for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Compress {
    /// In order of preference, where the client has none. Default zstd, br, gzip.
    pub codings: Vec<Coding>,
    /// Media types, such as `text/*` or `application/json`. Default: texts, JSON, XML, JavaScript,
    /// SVG, fonts that are not compressed already, WebAssembly.
    pub types: Vec<String>,
    /// Responses known to be shorter, in bytes, stay as they are. Default 1 KiB.
    pub min_size: u64,
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Coding {
    /// `zstd` (RFC 8878).
    Zstd,
    /// `br` (RFC 7932).
    Brotli,
    /// `gzip`.
    Gzip,
}
