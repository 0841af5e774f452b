//! `filters:`: named chains, and the filters that stand in them, in a site or in a route.

use std::collections::HashSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::diagnostic::quoted;
use super::grammar_filter::{
    ACCESS_LISTS, BODY_LIMIT, FILTER, HEADER_EDITS, PLAIN_MODES, RATE_LIMIT, SECURITY_HEADERS,
};
use super::keys::Keys;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::tree::{Entry, Node, Scalar};
use super::{compress, header, security_headers, value};
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

/// Reads `filters:` of the file.
pub(super) fn read_chains(node: &Node, reading: &mut Reading) -> Option<Vec<Chain>> {
    if let Node::List(list) = node {
        let message = "a map of chains by name is wanted here, not a list";
        reading.error_hint(list.span, message, "write { NAME: [ … ] }, and NAME in a site");
        return None;
    }
    value::map(node, reading, |map, reading| {
        Some(map.entries.iter().filter_map(|entry| Chain::read(entry, reading)).collect())
    })
}

impl Chain {
    fn read(entry: &Entry, reading: &mut Reading) -> Option<Self> {
        let name = &entry.key.text;
        if FILTER.key(name).is_some() {
            let message = format!("{} is a filter, not the name of a chain", quoted(name));
            let hint = format!("write NAME: [ {{ {name}: … }} ], and NAME in a site");
            reading.error_hint(entry.key.span, message, hint);
            return None;
        }
        let items = match &entry.value {
            Node::List(list) => list.items.as_slice(),
            Node::Scalar(scalar) if scalar.is_faulty => return None,
            Node::Scalar(scalar) if scalar.is_null() => &[],
            one => std::slice::from_ref(one),
        };
        if items.is_empty() {
            let message = format!("the chain {} has no filters", quoted(name));
            reading.error_hint(entry.key.span, message, "write them, or remove it");
        }
        let read = |node: &Node| match node {
            Node::Scalar(scalar) => {
                refuse_word(scalar, "a chain cannot hold another one", reading);
                None
            }
            _ => Filter::read(node, reading),
        };
        let filters = items.iter().map(read).collect::<Vec<_>>().into_iter().flatten().collect();
        Some(Self { name: name.to_string(), filters })
    }
}

/// Reports a word where a filter is wanted.
fn refuse_word(scalar: &Scalar, otherwise: &str, reading: &mut Reading) {
    if scalar.is_faulty {
        return;
    }
    let message = format!("a filter is a map, unlike {}", quoted(shown(scalar)));
    let hint = example(&scalar.text).unwrap_or_else(|| otherwise.to_owned());
    reading.wrong(scalar, message, hint);
}

/// How the filter called `name` is written.
fn example(name: &str) -> Option<String> {
    let key = FILTER.supported().find(|key| key.name == name)?;
    let inside = match key.name {
        "security_headers" | "compress" => "{}",
        "body_limit" => "10MiB",
        "rate_limit" => "{ rate: 100/min }",
        _ => "{ … }",
    };
    Some(format!("write {{ {name}: {inside} }}"))
}

/// Reads `filters:` of a site or a route.
pub(super) fn read_uses(keys: &mut Keys<'_, '_>) -> Vec<FilterUse> {
    let mut seen = HashSet::new();
    keys.list("filters", |node, reading| {
        let Node::Scalar(scalar) = node else {
            return Filter::read(node, reading).map(FilterUse::Inline);
        };
        let scalar = value::scalar(node, reading).unwrap_or(scalar);
        if !reading.filters.contains(&scalar.text) && example(&scalar.text).is_some() {
            refuse_word(scalar, "", reading);
            return None;
        }
        let index = reading.filters.resolve(scalar, &mut reading.faults)?;
        if !seen.insert(index) {
            let message = format!("{} stands here twice", quoted(shown(scalar)));
            reading.error_hint(scalar.span, message, "every request would count twice");
            return None;
        }
        Some(FilterUse::Chain(index))
    })
}

impl Filter {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let Node::Map(map) = node else {
            let message =
                format!("a filter is a map with its name as the key, not {}", node.kind());
            reading.error(node.span(), message);
            return None;
        };
        let line = map.entries.first().map_or(map.span.line, |entry| entry.key.span.line);
        let mut keys = map.keys(&FILTER, reading);
        let found = [
            keys.read("security_headers", read_security_headers),
            keys.read("access", Access::read),
            keys.read("rate_limit", RateLimit::read),
            keys.read("body_limit", read_body_limit),
            keys.read("request_headers", |node, reading| read_edits(node, false, reading)),
            keys.read("response_headers", |node, reading| read_edits(node, true, reading)),
            keys.read("compress", compress::read),
        ];
        keys.finish();
        let (mode, kind) = found.into_iter().flatten().next()?;
        Some(Self { line, mode, kind })
    }
}

/// What the map of one filter says.
pub(super) type Setting = (Mode, FilterKind);

impl Mode {
    /// `mode:` of a filter that can refuse a request.
    fn read(keys: &mut Keys<'_, '_>) -> Option<Self> {
        let words = [("enforce", Self::Enforce), ("monitor", Self::Monitor), ("off", Self::Off)];
        keys.choice("mode", &words)
    }

    /// `mode:` of a filter that refuses nothing, so that there is nothing to monitor.
    pub(super) fn read_plain(keys: &mut Keys<'_, '_>) -> Option<Self> {
        keys.read("mode", |node, reading| {
            if let Node::Scalar(scalar) = node
                && &*scalar.text == "monitor"
            {
                let message = "\"monitor\" has no meaning for a filter that refuses nothing";
                reading.error_hint(scalar.span, message, "write enforce or off");
                return None;
            }
            value::choice(
                node,
                &PLAIN_MODES,
                &[("enforce", Self::Enforce), ("off", Self::Off)],
                reading,
            )
        })
    }
}

fn read_security_headers(node: &Node, reading: &mut Reading) -> Option<Setting> {
    value::map(node, reading, |map, reading| {
        let mut keys = map.keys(&SECURITY_HEADERS, reading);
        let fields = security_headers::read(&mut keys);
        let mode = Mode::read_plain(&mut keys);
        keys.finish();
        Some((mode?, FilterKind::SecurityHeaders(SecurityHeaders { fields: fields? })))
    })
}

impl Access {
    fn read(node: &Node, reading: &mut Reading) -> Option<Setting> {
        value::map_with(node, "allow", reading, |map, reading| {
            let mut keys = map.keys(&ACCESS_LISTS, reading);
            let allow = keys.list("allow", value::block);
            let deny = keys.list("deny", |node, reading| {
                let block = value::block(node, reading)?;
                if allow.contains(&block) {
                    let message = format!("{block} is on both lists");
                    let hint = "the longer prefix decides, and these are the same";
                    reading.error_hint(node.span(), message, hint);
                }
                Some(block)
            });
            let is_written = ["allow", "deny"].iter().any(|name| keys.span_of(name).is_some());
            let is_misspelt = keys.is_misspelt("allow") || keys.is_misspelt("deny");
            if !is_written && !is_misspelt {
                let message = "at least one of \"allow\", \"deny\" is missing";
                keys.reading.error_hint(map.span, message, "such as { allow: [10.0.0.0/8] }");
            }
            let mode = Mode::read(&mut keys);
            keys.finish();
            let (allow, deny) = (CidrSet::from_iter(allow), CidrSet::from_iter(deny));
            Some((mode?, FilterKind::Access(Self { allow, deny })))
        })
    }
}

impl RateLimit {
    fn read(node: &Node, reading: &mut Reading) -> Option<Setting> {
        value::map_with(node, "rate", reading, |map, reading| {
            let mut keys = map.keys(&RATE_LIMIT, reading);
            let key = keys.read("key", RateKey::read);
            let rate = keys.read("rate", value::rate);
            let burst = keys.count("burst");
            let mode = Mode::read(&mut keys);
            keys.finish();
            let (rate, period) = rate?;
            let limit = Self { key: key?, rate, period, burst: burst.unwrap_or(rate) };
            Some((mode?, FilterKind::RateLimit(limit)))
        })
    }
}

impl RateKey {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let scalar = value::scalar(node, reading)?;
        let found = match scalar.text.split_once(':') {
            None if &*scalar.text == "client_ip" => Some(Self::ClientIp),
            Some(("header", name)) => {
                HeaderName::from_bytes(name.as_bytes()).ok().map(Self::Header)
            }
            // Both are tokens (RFC 6265 §4.1.1, RFC 9110 §5.1).
            Some(("cookie", name)) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Some(Self::Cookie(name.to_owned()))
            }
            _ => None,
        };
        if found.is_none() {
            let message = format!("{} is not what requests are counted by", quoted(shown(scalar)));
            let hint = match nearest(&scalar.text, ["client_ip", "ip"]) {
                Some(_) => "write client_ip".to_owned(),
                None => "client_ip, \"header:NAME\" or \"cookie:NAME\"".to_owned(),
            };
            reading.wrong(scalar, message, hint);
        }
        found
    }
}

fn read_body_limit(node: &Node, reading: &mut Reading) -> Option<Setting> {
    let read = |node: &Node, reading: &mut Reading| value::bytes(node, LARGEST_BODY, reading);
    if let Node::Scalar(scalar) = node
        && !scalar.is_null()
    {
        return Some((Mode::Enforce, FilterKind::BodyLimit(read(node, reading)?)));
    }
    value::map(node, reading, |map, reading| {
        let mut keys = map.keys(&BODY_LIMIT, reading);
        let max = keys.read("max", read);
        let mode = Mode::read(&mut keys);
        keys.finish();
        Some((mode?, FilterKind::BodyLimit(max?)))
    })
}

/// A body limit bounds no memory of ours, so only a slip of the keyboard is kept out.
const LARGEST_BODY: value::Most = value::Most { bytes: 1 << 40, name: "1024GiB", words: "" };

fn read_edits(node: &Node, is_response: bool, reading: &mut Reading) -> Option<Setting> {
    value::map_with(node, "remove", reading, |map, reading| {
        let mut keys = map.keys(&HEADER_EDITS, reading);
        let edits = header::read_edits(&mut keys, is_response);
        let names = ["remove", "set", "add"];
        let is_written = names.iter().any(|name| keys.span_of(name).is_some());
        if !is_written && !names.iter().any(|name| keys.is_misspelt(name)) {
            let message = "one of \"remove\", \"set\", \"add\" is missing";
            keys.reading.error_hint(map.span, message, "such as { set: { X-Env: prod } }");
        }
        let mode = Mode::read_plain(&mut keys);
        keys.finish();
        let kind =
            if is_response { FilterKind::ResponseHeaders } else { FilterKind::RequestHeaders };
        Some((mode?, kind(edits)))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::compress::COMPRESSIBLE;
    use crate::config::from_text;

    /// What a chain of these filters, in flow style, is read as.
    fn filters(written: &str) -> Result<Vec<Filter>, String> {
        let text = format!(
            "filters: {{ x: [ {written} ] }}\nsites: {{ a.test: {{ upstream: http://b, filters: x }} }}\n"
        );
        let loaded = from_text("f", &text, Path::new(""));
        let first = |loaded: crate::config::Loaded| loaded.config.filters[0].filters.clone();
        loaded.map(first).map_err(|faults| faults.to_string())
    }

    fn kind(written: &str) -> FilterKind {
        filters(written).unwrap().remove(0).kind
    }

    #[test]
    fn a_chain_keeps_the_order_and_the_modes_written() {
        let all = filters(
            "body_limit: 1KiB, { body_limit: { max: 2KiB, mode: monitor } }, { compress: { mode: off } }",
        );
        let all = all.unwrap();
        let modes: Vec<Mode> = all.iter().map(|filter| filter.mode).collect();
        assert_eq!(modes, [Mode::Enforce, Mode::Monitor, Mode::Off]);
        assert_eq!(all[0].kind, FilterKind::BodyLimit(1024));
        assert_eq!(all[1].kind, FilterKind::BodyLimit(2048));
    }

    #[test]
    fn sites_and_routes_use_chains_by_name_and_filters_in_place() {
        let text = "\
filters: { a: { body_limit: 1KiB }, b: [ { compress: } ] }
sites:
  a.test:
    filters: [ b, { body_limit: 2KiB }, a ]
    routes: [ { upstream: http://b, filters: a } ]
";
        let config = from_text("f", text, Path::new("")).unwrap().config;
        let site = &config.sites[0];
        let [FilterUse::Chain(1), FilterUse::Inline(inline), FilterUse::Chain(0)] = &*site.filters
        else {
            panic!("{:?}", site.filters)
        };
        assert_eq!((inline.line, &inline.kind), (4, &FilterKind::BodyLimit(2048)));
        assert!(matches!(*site.routes[0].filters, [FilterUse::Chain(0)]));
    }

    #[test]
    fn a_rate_limit_counts_addresses_and_bursts_as_much_as_its_rate() {
        for (written, key, rate, seconds, burst) in [
            ("rate: 100/s", RateKey::ClientIp, 100, 1, 100),
            ("rate: 100/min, burst: 20", RateKey::ClientIp, 100, 60, 20),
            ("rate: 5000/h, key: \"cookie:uid\"", RateKey::Cookie("uid".into()), 5000, 3600, 5000),
            (
                "rate: 1/s, key: \"header:X-Api-Key\"",
                RateKey::Header(HeaderName::from_static("x-api-key")),
                1,
                1,
                1,
            ),
        ] {
            let period = Duration::from_secs(seconds);
            let wanted = FilterKind::RateLimit(RateLimit { key, rate, period, burst });
            assert_eq!(kind(&format!("rate_limit: {{ {written} }}")), wanted, "{written}");
        }
    }

    #[test]
    fn security_headers_have_defaults_and_each_can_be_off() {
        let shown = |written: &str| match kind(&format!("security_headers: {written}")) {
            FilterKind::SecurityHeaders(SecurityHeaders { fields }) => {
                let field = |(name, value): &(HeaderName, HeaderValue)| {
                    format!("{name}: {}", value.to_str().unwrap())
                };
                fields.iter().map(field).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        let defaults = [
            "strict-transport-security: max-age=31536000",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN",
            "referrer-policy: strict-origin-when-cross-origin",
        ];
        assert_eq!(shown("{}"), defaults);
        let some =
            "{ hsts: off, frame_options: off, content_security_policy: \"default-src 'self'\" }";
        let wanted = [defaults[1], defaults[3], "content-security-policy: default-src 'self'"];
        assert_eq!(shown(some), wanted);
    }

    #[test]
    fn compression_has_defaults_and_a_short_form() {
        let FilterKind::Compress(all) = kind("compress: {}") else { panic!("another kind") };
        assert_eq!(all.codings, [Coding::Zstd, Coding::Brotli, Coding::Gzip]);
        assert_eq!((all.types.len(), all.min_size), (COMPRESSIBLE.len(), 1024));
        let FilterKind::Compress(some) = kind("compress: [br, gzip]") else {
            panic!("another kind")
        };
        assert_eq!(some.codings, [Coding::Brotli, Coding::Gzip]);
        assert_eq!(kind("compress: br"), kind("compress: { codings: [br] }"));
    }

    #[test]
    fn header_edits_keep_every_value_and_hide_what_a_reference_brought() {
        let edits =
            "request_headers: { add: { X-A: [\"1\", \"2\"] }, set: { X-B: \"3\" }, remove: X-C }";
        let FilterKind::RequestHeaders(edits) = kind(edits) else { panic!("another kind") };
        let value = HeaderValue::from_static;
        let name = HeaderName::from_static;
        assert_eq!(edits.add, [(name("x-a"), value("1")), (name("x-a"), value("2"))]);
        assert_eq!(edits.set, [(name("x-b"), value("3"))]);
        assert_eq!(edits.remove, [name("x-c")]);
        let secret = kind("request_headers: { set: { X-B: \"${env:PATH}\" } }");
        let FilterKind::RequestHeaders(secret) = secret else { panic!("another kind") };
        assert!(secret.set[0].1.is_sensitive());
    }

    #[test]
    fn a_filter_that_refuses_nothing_cannot_be_monitored() {
        for name in ["security_headers", "request_headers", "response_headers", "compress"] {
            let keys = if name.ends_with("st_headers") || name.ends_with("se_headers") {
                "set: { X-A: b }, "
            } else {
                ""
            };
            assert!(filters(&format!("{name}: {{ {keys}mode: off }}")).is_ok(), "{name}");
            let faults = filters(&format!("{name}: {{ {keys}mode: monitor }}")).unwrap_err();
            assert!(faults.contains("write enforce or off"), "{faults}");
        }
    }
}
