//! What one access line says, and how it is spelled.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::super::line::{self, Escaping, Fields, Key, Quoted, key};
use crate::config::process::LogFormat;

/// Longest path and host that a line repeats; what is longer ends in `...`. A request's target may be
/// 16 KiB, and one escaped byte takes six.
const TARGET_BYTES: usize = 4096;
/// Longest user agent, method or request id that a line repeats.
const WORD_BYTES: usize = 512;

/// One finished request, borrowed from whoever knows it. What the client said is bytes: it may be
/// anything. `None` and zero mean that the request did not come that far.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    /// When the request ended; the line's timestamp.
    pub ended: SystemTime,
    /// The configured name of the listener it came through.
    pub listener: &'a str,
    /// The site's first name.
    pub site: Option<&'a str>,
    /// The route's pattern, such as `/api`.
    pub route: Option<&'a str>,
    /// The upstream pool.
    pub pool: Option<&'a str>,
    /// The server's URL as configured.
    pub endpoint: Option<&'a str>,
    /// The server's resolved address.
    pub server: Option<&'a str>,
    /// Who asks, as trusted proxies say.
    pub client: Option<IpAddr>,
    /// Whose connection it is, where that is not [`Self::client`].
    pub peer: Option<IpAddr>,
    /// The method.
    pub method: &'a [u8],
    /// The host asked for.
    pub host: &'a [u8],
    /// The path. A query or fragment, or an authority in front, is cut off here.
    pub path: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The client's version of HTTP: `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    /// The client's version of TLS: `1.2` or `1.3`.
    pub tls: Option<&'static str>,
    /// Whom the client's certificate is for, where it was asked for one and has shown it.
    pub client_subject: Option<&'a str>,
    /// The user agent.
    pub user_agent: Option<&'a [u8]>,
    /// The status sent; `None` when the client left before there was one.
    pub status: Option<u16>,
    /// Why it failed, one of a small set of words such as `connect_timeout`.
    pub error: Option<&'a str>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Attempts after the first.
    pub retries: u32,
    /// Time spent connecting to the server; `None` on a connection that was kept.
    pub connect: Option<Duration>,
    /// From the request's first byte to the response's first byte.
    pub first_byte: Option<Duration>,
    /// From the request's first byte to the response's last.
    pub total: Duration,
    /// The id that the client, the server and this line share.
    pub request_id: &'a [u8],
    /// The W3C trace id, 32 hexadecimal digits.
    pub trace_id: Option<&'a str>,
}

impl AccessRecord<'_> {
    /// A record of nothing yet, for struct update syntax.
    #[must_use]
    pub const fn new(ended: SystemTime) -> Self {
        Self {
            ended,
            listener: "",
            site: None,
            route: None,
            pool: None,
            endpoint: None,
            server: None,
            client: None,
            peer: None,
            method: b"",
            host: b"",
            path: b"",
            scheme: "http",
            protocol: "1.1",
            tls: None,
            client_subject: None,
            user_agent: None,
            status: None,
            error: None,
            request_bytes: 0,
            response_bytes: 0,
            retries: 0,
            connect: None,
            first_byte: None,
            total: Duration::ZERO,
            request_id: b"",
            trace_id: None,
        }
    }

    /// Appends the line, its break included.
    pub(super) fn format(&self, format: LogFormat, stamp: &[u8], out: &mut Vec<u8>) {
        match format {
            LogFormat::Json => self.json(stamp, out),
            LogFormat::Text => self.text(stamp, out),
        }
    }

    /// Names as OpenTelemetry's semantic conventions have them; what they do not name is ours.
    fn json(&self, stamp: &[u8], out: &mut Vec<u8>) {
        let mut fields = Fields::begin(out, LogFormat::Json);
        fields.key(key!("timestamp")).text(stamp);
        fields.key(key!("message")).text(b"request");
        fields.key(key!("listener")).text(self.listener.as_bytes());
        fields.address(key!("client.address"), self.client);
        fields.address(key!("network.peer.address"), self.peer);
        fields.clipped(key!("http.request.method"), self.method, WORD_BYTES);
        fields.key(key!("url.scheme")).text(self.scheme.as_bytes());
        fields.clipped(key!("url.domain"), self.host, TARGET_BYTES);
        fields.clipped(key!("url.path"), path_of(self.path), TARGET_BYTES);
        fields.key(key!("network.protocol.version")).text(self.protocol.as_bytes());
        fields.text_if(key!("tls.protocol.version"), self.tls);
        if let Some(subject) = self.client_subject {
            fields.clipped(key!("tls.client.subject"), subject.as_bytes(), WORD_BYTES);
        }
        if let Some(agent) = self.user_agent {
            fields.clipped(key!("user_agent.original"), agent, WORD_BYTES);
        }
        if let Some(status) = self.status {
            fields.key(key!("http.response.status_code")).number(status.into());
        }
        fields.text_if(key!("error.type"), self.error);
        fields.key(key!("http.request.body.size")).number(self.request_bytes);
        fields.key(key!("http.response.body.size")).number(self.response_bytes);
        fields.text_if(key!("site"), self.site);
        fields.text_if(key!("http.route"), self.route);
        fields.text_if(key!("pool"), self.pool);
        fields.text_if(key!("endpoint"), self.endpoint);
        fields.text_if(key!("server.address"), self.server);
        if self.retries > 0 {
            fields.key(key!("http.request.resend_count")).number(self.retries.into());
        }
        fields.millis_if(key!("connect_ms"), self.connect);
        fields.millis_if(key!("first_byte_ms"), self.first_byte);
        fields.key(key!("total_ms")).millis(self.total);
        fields.clipped(key!("request_id"), self.request_id, WORD_BYTES);
        fields.text_if(key!("trace_id"), self.trace_id);
        fields.end();
    }

    /// `TIME CLIENT METHOD scheme://host/path STATUS TOTALms` and then pairs, for people.
    fn text(&self, stamp: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(stamp);
        out.push(b' ');
        match self.client {
            Some(client) => address(out, client),
            None => out.push(b'-'),
        }
        out.push(b' ');
        word(out, self.method, WORD_BYTES);
        out.push(b' ');
        out.extend_from_slice(self.scheme.as_bytes());
        out.extend_from_slice(b"://");
        word(out, self.host, TARGET_BYTES);
        escape_word(out, path_of(self.path), TARGET_BYTES);
        out.push(b' ');
        match self.status {
            Some(status) => line::decimal(out, status.into()),
            None => out.push(b'-'),
        }
        out.push(b' ');
        line::millis(out, self.total);
        out.extend_from_slice(b"ms");
        self.text_pairs(out);
    }

    fn text_pairs(&self, out: &mut Vec<u8>) {
        let mut fields = Fields::begin(out, LogFormat::Text);
        fields.text_if(key!("error"), self.error);
        fields.key(key!("http")).text(self.protocol.as_bytes());
        fields.text_if(key!("tls"), self.tls);
        if let Some(subject) = self.client_subject {
            fields.clipped(key!("subject"), subject.as_bytes(), WORD_BYTES);
        }
        fields.key(key!("in")).number(self.request_bytes);
        fields.key(key!("out")).number(self.response_bytes);
        fields.key(key!("listener")).text(self.listener.as_bytes());
        fields.text_if(key!("site"), self.site);
        fields.text_if(key!("route"), self.route);
        fields.text_if(key!("pool"), self.pool);
        fields.text_if(key!("endpoint"), self.endpoint);
        fields.text_if(key!("server"), self.server);
        if self.retries > 0 {
            fields.key(key!("retries")).number(self.retries.into());
        }
        fields.millis_if(key!("connect_ms"), self.connect);
        fields.millis_if(key!("first_byte_ms"), self.first_byte);
        fields.address(key!("peer"), self.peer);
        if let Some(agent) = self.user_agent {
            fields.clipped(key!("agent"), agent, WORD_BYTES);
        }
        fields.clipped(key!("request_id"), self.request_id, WORD_BYTES);
        fields.text_if(key!("trace_id"), self.trace_id);
        fields.end();
    }
}

/// What only access lines need. `None` adds nothing.
impl Fields<'_> {
    #[inline]
    fn text_if(&mut self, key: Key, value: Option<&str>) {
        if let Some(value) = value {
            self.key(key).text(value.as_bytes());
        }
    }

    #[inline]
    fn clipped(&mut self, key: Key, value: &[u8], limit: usize) {
        match value.get(..limit) {
            Some(head) if value.len() > limit => self.key(key).text(&[head, b"..."].concat()),
            _ => self.key(key).text(value),
        }
    }

    #[inline]
    fn millis_if(&mut self, key: Key, value: Option<Duration>) {
        if let Some(value) = value {
            self.key(key).millis(value);
        }
    }

    #[inline]
    fn address(&mut self, key: Key, value: Option<IpAddr>) {
        if let Some(value) = value {
            self.key(key).plain(|out| address(out, value));
        }
    }
}

/// An address as text; IPv4 without the price of `fmt`.
fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                line::decimal(out, octet.into());
            }
        }
        IpAddr::V6(v6) => {
            // Writing to memory does not fail.
            let _ = write!(Escaping(out), "{v6}");
        }
    }
}

/// A word in a line of text, `-` when empty. A space in it would shift the columns: it is written `%20`.
fn word(out: &mut Vec<u8>, value: &[u8], limit: usize) {
    if value.is_empty() {
        out.push(b'-');
    }
    escape_word(out, value, limit);
}

fn escape_word(out: &mut Vec<u8>, value: &[u8], limit: usize) {
    let clipped = &value[..value.len().min(limit)];
    for (index, piece) in clipped.split(|byte| *byte == b' ').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"%20");
        }
        line::escape(out, piece, Quoted::Yes);
    }
    if clipped.len() < value.len() {
        out.extend_from_slice(b"...");
    }
}

/// The path of a request target in any form (RFC 9112 §3.2): without query and fragment, which may
/// carry tokens, and without an authority, which may carry a password.
fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let path = &target[..end];
    if path.first() == Some(&b'/') {
        return path;
    }
    let Some(scheme) = path.windows(3).position(|window| window == b"://") else {
        // Authority form, `*`, or garbage; only an authority can hide a password.
        let at = path.iter().rposition(|byte| *byte == b'@');
        return &path[at.map_or(0, |at| at + 1)..];
    };
    let after = &path[scheme + 3..];
    after.iter().position(|byte| *byte == b'/').map_or(b"/", |slash| &after[slash..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::UNIX_EPOCH;

    use super::*;

    const STAMP: &[u8] = b"2026-07-01T12:00:00.123Z";

    fn full() -> AccessRecord<'static> {
        AccessRecord {
            ended: UNIX_EPOCH,
            listener: "secure",
            site: Some("app.example.com"),
            route: Some("/api"),
            pool: Some("app"),
            endpoint: Some("http://app-1:8080"),
            server: Some("10.0.0.7:8080"),
            client: Some("203.0.113.9".parse().unwrap()),
            peer: Some("2001:db8::1".parse().unwrap()),
            method: b"GET",
            host: b"app.example.com",
            path: b"/api/items?token=hush",
            scheme: "https",
            protocol: "2",
            tls: Some("1.3"),
            client_subject: Some("CN=ann,O=Example"),
            user_agent: Some(b"curl/8.5.0"),
            status: Some(200),
            error: None,
            request_bytes: 12,
            response_bytes: 3456,
            retries: 1,
            connect: Some(Duration::from_micros(321)),
            first_byte: Some(Duration::from_micros(12_345)),
            total: Duration::from_micros(13_001),
            request_id: b"01J2ZX",
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
        }
    }

    fn line(record: &AccessRecord<'_>, format: LogFormat) -> String {
        let mut out = Vec::new();
        record.format(format, STAMP, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_says_everything_by_its_agreed_name() {
        let value: serde_json::Value =
            serde_json::from_str(&line(&full(), LogFormat::Json)).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2026-07-01T12:00:00.123Z",
            "message": "request",
            "listener": "secure",
            "client.address": "203.0.113.9",
            "network.peer.address": "2001:db8::1",
            "http.request.method": "GET",
            "url.scheme": "https",
            "url.domain": "app.example.com",
            "url.path": "/api/items",
            "network.protocol.version": "2",
            "tls.protocol.version": "1.3",
            "tls.client.subject": "CN=ann,O=Example",
            "user_agent.original": "curl/8.5.0",
            "http.response.status_code": 200,
            "http.request.body.size": 12,
            "http.response.body.size": 3456,
            "site": "app.example.com",
            "http.route": "/api",
            "pool": "app",
            "endpoint": "http://app-1:8080",
            "server.address": "10.0.0.7:8080",
            "http.request.resend_count": 1,
            "connect_ms": 0.321,
            "first_byte_ms": 12.345,
            "total_ms": 13.001,
            "request_id": "01J2ZX",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        });
        assert_eq!(value, expected);
    }

    /// Another field is a change for whoever reads the log by program: it is said in the changelog.
    #[test]
    fn the_fields_of_a_line_are_those_of_the_documentation() {
        let record = AccessRecord { error: Some("upstream_refused"), ..full() };
        let line: serde_json::Value =
            serde_json::from_str(&line(&record, LogFormat::Json)).unwrap();
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let documented = include_str!("../../../docs/operations.md");
        let (_, table) = documented.split_once("Every request has one access line").unwrap();
        let rows = table.lines().skip_while(|row| !row.starts_with("| `"));
        let rows = rows.take_while(|row| row.starts_with('|'));
        let names = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`'));
        let names: BTreeSet<&str> =
            names.filter(|name| !name.trim_matches([' ', ',']).is_empty()).collect();
        assert_eq!(fields, names);
    }

    #[test]
    fn a_text_line_reads_from_left_to_right() {
        assert_eq!(
            line(&full(), LogFormat::Text),
            "2026-07-01T12:00:00.123Z 203.0.113.9 GET https://app.example.com/api/items 200 \
             13.001ms http=2 tls=1.3 subject=\"CN=ann,O=Example\" in=12 out=3456 listener=secure site=app.example.com \
             route=/api pool=app endpoint=http://app-1:8080 server=10.0.0.7:8080 retries=1 \
             connect_ms=0.321 first_byte_ms=12.345 peer=2001:db8::1 agent=curl/8.5.0 \
             request_id=01J2ZX trace_id=0af7651916cd43dd8448eb211c80319c\n"
        );
        let refused = AccessRecord { error: Some("bad_request"), ..AccessRecord::new(UNIX_EPOCH) };
        assert_eq!(
            line(&refused, LogFormat::Text),
            "2026-07-01T12:00:00.123Z - - http://- - 0.000ms error=bad_request http=1.1 in=0 \
             out=0 listener=\"\" request_id=\"\"\n"
        );
    }

    #[test]
    fn neither_query_nor_password_is_ever_written() {
        let table: [(&[u8], &[u8]); 9] = [
            (b"/a?token=x", b"/a"),
            (b"/a#frag", b"/a"),
            (b"?token=x", b""),
            (b"https://user:pass@host/p?q", b"/p"),
            (b"https://user:pass@host", b"/"),
            (b"https://user:pass@host?q", b"/"),
            (b"user:pass@host:443", b"host:443"),
            (b"/redirect/https://host/x", b"/redirect/https://host/x"),
            (b"*", b"*"),
        ];
        for (target, expected) in table {
            let shown = String::from_utf8_lossy(target);
            assert_eq!(path_of(target), expected, "{shown}");
        }
    }

    #[test]
    fn hostile_bytes_stay_one_line_of_bounded_length() {
        let hostile = [b"\r\n{\"forged\":1}\x1b[2J\"\\ \xff\xc2\x9b".as_slice(); 2000].concat();
        let record = AccessRecord {
            method: &hostile,
            host: &hostile,
            path: &hostile,
            user_agent: Some(&hostile),
            request_id: &hostile,
            ..full()
        };
        for format in [LogFormat::Json, LogFormat::Text] {
            let line = line(&record, format);
            assert_eq!(line.matches('\n').count(), 1);
            assert!(!line.trim_end().chars().any(char::is_control));
            assert!(line.len() < 64 * 1024, "{}", line.len());
        }
        let value: serde_json::Value =
            serde_json::from_str(&line(&record, LogFormat::Json)).unwrap();
        assert!(value.get("forged").is_none());
    }
}
