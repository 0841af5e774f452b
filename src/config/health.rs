//! `health:` and `retry:` of a pool.

use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;

use super::diagnostic::quoted;
use super::grammar_upstream::{EXPECT, HEALTH, RETRY};
use super::keys::Keys;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::tree::{Map, Node, Scalar};
use super::value;

/// `health:`: active checks of a pool's servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// Between two checks of one server. Default 10 s.
    pub every: Duration,
    /// For one check, connecting included. Default 2 s.
    pub timeout: Duration,
    /// Successes in a row that make a server healthy. Default 2.
    pub healthy_after: u32,
    /// Failures in a row that make it unhealthy. Default 3.
    pub unhealthy_after: u32,
    /// What holds until the first check, which is sent at once. Default hold.
    pub initial: Initial,
    /// Time over which a server that became healthy comes to its full share. Default none.
    pub slow_start: Option<Duration>,
}

/// What a check asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// A connection; with TLS for a server with an https URL.
    Tcp,
    /// GET on `path` of the server, over https for a server with an https URL.
    Http {
        /// In origin form, such as `/healthz?full=1`.
        path: String,
        /// Which answers are successes.
        expect: Expect,
    },
}

/// `expect:`: both conditions must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expect {
    /// Inclusive ranges of status codes. Default 200–399.
    pub status: Vec<(u16, u16)>,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// What holds for a server until its first check has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Initial {
    /// The first check decides; requests wait for it, at most [`Health::timeout`].
    Hold,
    /// Healthy.
    Healthy,
    /// Unhealthy, until `healthy_after` checks have succeeded.
    Unhealthy,
}

/// `retry:`: when a request is tried again, on another server where there is one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included, 1–16. Default 2.
    pub attempts: u32,
    /// After a connection that did not come about. Default true.
    pub after_connect: bool,
    /// After a connection that broke, or an answer that did not come in time, before the response
    /// head. Default false.
    pub after_reset: bool,
    /// After one of these statuses, 500–599 or 429. Default none.
    pub after_status: Vec<u16>,
    /// Retries under way, in percent of the pool's requests in flight, of which at least three may
    /// always be. Default 20.
    pub budget: u32,
    /// Methods that may be sent again once anything was sent. Default GET, HEAD, OPTIONS, PUT,
    /// DELETE, TRACE.
    pub methods: Vec<Method>,
}

/// Methods that may be repeated (RFC 9110 §9.2.2).
pub(super) const IDEMPOTENT: [Method; 6] =
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];

impl Health {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&HEALTH, reading);
        let path = keys.read("path", read_target);
        let tcp = keys.read("tcp", read_tcp);
        let every = keys.read("every", value::duration);
        let timeout = keys.read("timeout", value::duration);
        let healthy_after = keys.count("healthy_after");
        let unhealthy_after = keys.count("unhealthy_after");
        let expect = keys
            .read("expect", |node, reading| value::map_with(node, "status", reading, Expect::read));
        let initial = keys.choice("initial", &Initial::WORDS);
        let slow_start = keys.read("slow_start", value::duration);
        if let (Some(()), Some(span)) = (tcp, keys.span_of("expect")) {
            let message = "\"expect\" has no meaning with \"tcp\"";
            keys.reading.error_hint(span, message, "a check that expects an answer has a `path:`");
        }
        warn_slow(&mut keys, every, timeout);
        keys.finish();
        let check = match (path, tcp) {
            (Some(path), _) => Check::Http { path, expect: expect? },
            (None, Some(())) => Check::Tcp,
            (None, None) => return None,
        };
        Some(Self {
            check,
            every: every?,
            timeout: timeout?,
            healthy_after: healthy_after?,
            unhealthy_after: unhealthy_after?,
            initial: initial?,
            slow_start,
        })
    }
}

/// A path and perhaps a query, as a request line carries it (RFC 9112 §3.2.1).
fn read_target(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let text = &*scalar.text;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if text.starts_with('/') && is_plain && text.parse::<PathAndQuery>().is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("{} is not a path to ask for", quoted(shown(scalar)));
    let hint = match text.split_once("://") {
        Some((_, rest)) => {
            let path = rest.find('/').map_or("/", |start| &rest[start..]);
            format!("write {}; each server is asked at its own address", quoted(path))
        }
        None if text.contains('#') => "a fragment (#…) is not sent to servers".to_owned(),
        None if !is_plain => "other characters are written as %20 and so on".to_owned(),
        None if !text.starts_with('/') => format!("write {}", quoted(&format!("/{text}"))),
        None => String::new(),
    };
    reading.wrong(scalar, message, hint);
    None
}

fn read_tcp(node: &Node, reading: &mut Reading) -> Option<()> {
    if value::boolean(node, reading)? {
        return Some(());
    }
    let message = "\"tcp: false\" says nothing about what to check";
    reading.error_hint(node.span(), message, "write `tcp: true`, or a `path:` instead");
    None
}

fn warn_slow(keys: &mut Keys<'_, '_>, every: Option<Duration>, timeout: Option<Duration>) {
    if let (Some(every), Some(timeout)) = (every, timeout)
        && timeout >= every
        && let Some(span) = keys.span_of("timeout").or_else(|| keys.span_of("every"))
    {
        let message =
            format!("\"timeout\" ({timeout:?}) is not shorter than \"every\" ({every:?})");
        let hint = "a server that hangs is checked less often than the others";
        keys.reading.warning(span, message, hint);
    }
}

impl Expect {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let faults = reading.faults.error_count();
        let mut keys = map.keys(&EXPECT, reading);
        let status: Vec<Vec<(u16, u16)>> = keys.list("status", read_statuses);
        let body = keys.read("body", |node, reading| {
            let scalar = value::scalar(node, reading)?;
            match scalar.text.len() {
                0 => reading.error_hint(scalar.span, "every body contains \"\"", "remove it"),
                1..=BODY_SEARCHED => return Some(scalar.text.to_string()),
                _ => reading.error(scalar.span, "only the first 64KiB of a body are looked at"),
            }
            None
        });
        keys.finish();
        let is_sound = reading.faults.error_count() == faults;
        is_sound.then(|| Self { status: status.into_iter().flatten().collect(), body })
    }
}

/// As much of a body as a check looks at, in bytes.
const BODY_SEARCHED: usize = 64 << 10;

/// Reads `200-399`, `404` or `200-299, 404`.
fn read_statuses(node: &Node, reading: &mut Reading) -> Option<Vec<(u16, u16)>> {
    let scalar = value::scalar(node, reading)?;
    let status = |text: &str| {
        let is_decimal = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| is_decimal && (200..=599).contains(status))
    };
    let range = |text: &str| match text.trim().split_once('-') {
        Some((first, last)) => {
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some((first, last))
        }
        None => status(text.trim()).map(|one| (one, one)),
    };
    let ranges: Option<Vec<_>> = scalar.text.split(',').map(range).collect();
    if ranges.is_none() {
        let message = format!("{} is not a set of status codes", quoted(shown(scalar)));
        let class = scalar.text.to_ascii_lowercase();
        let hint = match class.as_bytes() {
            [first @ b'2'..=b'5', b'x', b'x'] => {
                let first = char::from(*first);
                format!("write {first}00-{first}99")
            }
            _ => "codes from 200 to 599, such as 200-399 or \"200-299, 404\"".to_owned(),
        };
        reading.wrong(scalar, message, hint);
    }
    ranges
}

impl Initial {
    const WORDS: [(&'static str, Self); 3] =
        [("hold", Self::Hold), ("healthy", Self::Healthy), ("unhealthy", Self::Unhealthy)];
}

impl Retry {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&RETRY, reading);
        let attempts = keys.count("attempts");
        let mut retry = Self { after_connect: false, ..Self::default() };
        keys.list("after", |node, reading| retry.read_after(node, reading));
        let budget = keys.read("budget", value::percent);
        let methods = keys.list("methods", read_method);
        if !methods.is_empty() {
            retry.methods = methods;
        }
        keys.finish();
        Some(Self { attempts: attempts?, budget: budget?, ..retry })
    }

    /// Takes one item of `after:`.
    fn read_after(&mut self, node: &Node, reading: &mut Reading) -> Option<()> {
        let scalar = value::scalar(node, reading)?;
        let status = scalar.text.parse::<u16>().ok();
        let is_new = match (&*scalar.text, status) {
            ("connect", _) => !std::mem::replace(&mut self.after_connect, true),
            ("reset", _) => !std::mem::replace(&mut self.after_reset, true),
            (_, Some(status @ (429 | 500..=599))) => {
                let is_new = !self.after_status.contains(&status);
                self.after_status.push(status);
                is_new
            }
            _ => {
                refuse_after(scalar, status, reading);
                return None;
            }
        };
        if !is_new {
            reading.error(scalar.span, format!("{} stands here twice", quoted(shown(scalar))));
        }
        is_new.then_some(())
    }
}

fn read_method(node: &Node, reading: &mut Reading) -> Option<Method> {
    if let Node::Scalar(scalar) = node
        && &*scalar.text == "*"
    {
        let hint = "list them; a server may act twice on what is sent twice";
        reading.wrong(scalar, "\"*\" is not a method", hint);
        return None;
    }
    value::method(node, reading)
}

fn refuse_after(scalar: &Scalar, status: Option<u16>, reading: &mut Reading) {
    let text = quoted(shown(scalar));
    let hint = match (status, nearest(&scalar.text, ["connect", "reset"])) {
        (Some(_), _) => "only 429 and 500 to 599 say that another attempt may help".to_owned(),
        (None, Some(near)) => format!("did you mean {}?", quoted(near)),
        (None, None) => "\"connect\", \"reset\", or a status such as \"503\"".to_owned(),
    };
    reading.wrong(scalar, format!("a request cannot be tried again after {text}"), hint);
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            after_connect: true,
            after_reset: false,
            after_status: Vec::new(),
            budget: 20,
            methods: IDEMPOTENT.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    fn pool(keys: &str) -> Result<crate::config::upstream::Upstream, String> {
        let text = format!(
            "upstreams: {{ app: {{ servers: [http://a, http://b], {keys} }} }}\nsites: {{ a.test: {{ upstream: app }} }}\n"
        );
        let loaded = from_text("f", &text, std::path::Path::new(""));
        loaded.map(|loaded| loaded.config.upstreams[0].clone()).map_err(|faults| faults.to_string())
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        let pool = pool("health: { path: /healthz?full=1 }").unwrap();
        let expect = Expect { status: vec![(200, 399)], body: None };
        let wanted = Health {
            check: Check::Http { path: "/healthz?full=1".to_owned(), expect },
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 3,
            initial: Initial::Hold,
            slow_start: None,
        };
        assert_eq!(pool.health, Some(wanted));
        assert_eq!(pool.retry, Retry::default());
        assert_eq!(self::pool("retry: {}").unwrap().retry, Retry::default());
        assert_eq!(self::pool("retry: {}").unwrap().health, None);
        assert_eq!(self::pool("health: { tcp: true }").unwrap().health.unwrap().check, Check::Tcp);
    }

    #[test]
    fn statuses_are_codes_ranges_and_lists_of_them() {
        for (written, wanted) in [
            ("204", vec![(204, 204)]),
            ("200-299", vec![(200, 299)]),
            ("[200, 404]", vec![(200, 200), (404, 404)]),
            ("\"200-299, 404\"", vec![(200, 299), (404, 404)]),
            ("[200-204, \"401,403\"]", vec![(200, 204), (401, 401), (403, 403)]),
        ] {
            let health = format!("health: {{ path: /, expect: {{ status: {written} }} }}");
            let Check::Http { expect, .. } = pool(&health).unwrap().health.unwrap().check else {
                panic!("no path")
            };
            assert_eq!(expect.status, wanted, "{written}");
        }
        for written in ["600", "100", "299-200", "2xx", "200-", "-", "\"\"", "0200", "200,,"] {
            let health = format!("health: {{ path: /, expect: {{ status: \"{written}\" }} }}");
            assert!(pool(&health).is_err(), "{written}");
        }
    }

    #[test]
    fn what_is_tried_again_is_words_and_statuses() {
        let retry = |after: &str| pool(&format!("retry: {{ after: {after} }}")).map(|p| p.retry);
        let all = retry("[connect, reset, \"502\", 429]").unwrap();
        assert!(all.after_connect && all.after_reset);
        assert_eq!(all.after_status, [502, 429]);
        let one = retry("\"503\"").unwrap();
        assert!(!one.after_connect && !one.after_reset);
        assert_eq!(one.after_status, [503]);
        for after in ["404", "[connect, connect]", "timeout", "[]", "600", "[503, \"503\"]"] {
            assert!(retry(after).is_err(), "{after}");
        }
    }

    #[test]
    fn a_path_to_ask_for_is_in_origin_form() {
        for (path, is_one) in [
            ("/", true),
            ("/healthz?full=1&x=%20", true),
            ("healthz", false),
            ("http://a/healthz", false),
            ("/a b", false),
            ("/a#b", false),
            ("/ä", false),
            ("*", false),
            ("", false),
        ] {
            let answer = pool(&format!("health: {{ path: \"{path}\" }}"));
            assert_eq!(answer.is_ok(), is_one, "{path}: {answer:?}");
        }
    }
}
