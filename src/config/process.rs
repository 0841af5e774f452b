//! The sections that concern the process as a whole: `limits:`, `log:`, `admin:`, `shutdown:`,
//! `runtime:`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::diagnostic::{Span, quoted};
use super::grammar_process::{ACCESS, ADMIN, LIMITS, LOG, RUNTIME, SHUTDOWN};
use super::keys::Keys;
use super::listener::BindAddress;
use super::reading::{Reading, shown};
use super::tree::{Map, Node};
use super::value;

/// `limits:` of the whole process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Client connections. Default 10,000.
    pub connections: usize,
    /// Client connections from one address; 0 is no limit. Default 0.
    pub connections_per_ip: usize,
    /// Requests in flight; more get 503. Default 10,000.
    pub requests: usize,
    /// Memory of the process. Default [`MemoryLimit::Auto`].
    pub memory: MemoryLimit,
    /// From accept to the end of the TLS handshake, with the PROXY header before it. Default 10 s.
    pub handshake_timeout: Duration,
    /// From a request's first byte to its head's end. Default 10 s.
    pub request_header_timeout: Duration,
    /// Request line and header fields together. Default 64 KiB.
    pub request_header_bytes: usize,
    /// Number of header fields. Default 100.
    pub request_headers: usize,
    /// Length of the request target; longer ones get 414. Default 16 KiB.
    pub request_uri_bytes: usize,
    /// Longest gap in a request's body. Default 30 s.
    pub request_body_timeout: Duration,
    /// Bytes a second that a client sends of a body, or takes of a response, on average over the
    /// time it keeps us waiting; `None` is no bound. Default 240.
    pub min_rate: Option<u64>,
    /// Between requests, h1 and h2; also how long a client may take nothing of a response. Default
    /// 75 s.
    pub idle_timeout: Duration,
    /// Longest silence on WebSockets and other upgrades. Default 1 h.
    pub upgrade_idle_timeout: Duration,
}

/// How much memory the process may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryLimit {
    /// Most of what the machine has, or the container may have.
    Auto,
    /// Whatever it takes.
    Off,
    /// So many bytes.
    Bytes(u64),
}

/// `log:`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// Filter directives as `tracing_subscriber::EnvFilter` reads them. Default `info`.
    pub level: String,
    /// `None`: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// Where access lines go.
    pub access: AccessLog,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where access lines go. Default standard output.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, which is replaced by a new one from time to time.
    File(LogFile),
}

/// A log file, and when a new one is begun.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogFile {
    /// The file that is written now; older ones stand beside it.
    pub path: PathBuf,
    /// Whether a new one is begun every day, at midnight UTC. Default false.
    pub daily: bool,
    /// Size in bytes at which a new one is begun; `None` is no bound. Default none.
    pub max_size: Option<u64>,
    /// How many older ones are kept. Default 14.
    pub keep: usize,
}

/// `admin:`. Its `Debug` form hides the token.
#[derive(Clone, Eq, PartialEq)]
pub struct Admin {
    /// Loopback unless a token is set. Default 127.0.0.1:2019.
    pub bind: SocketAddr,
    /// The token for what changes state; `None`: one that is made under `storage:`.
    pub token: Option<String>,
}

/// `shutdown:`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shutdown {
    /// Between "not ready" and closing the listeners. Default 0.
    pub delay: Duration,
    /// Longest wait for requests in flight. Default 30 s.
    pub grace: Duration,
}

/// `runtime:`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Runtime {
    /// Worker threads; `None` (`auto`) is one per core.
    pub threads: Option<usize>,
}

impl Limits {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&LIMITS, reading);
        let connections = keys.count("connections");
        let connections_per_ip = keys.count("connections_per_ip");
        let requests = keys.count("requests");
        let memory = keys.read("memory", MemoryLimit::read);
        let handshake_timeout = keys.read("handshake_timeout", value::duration);
        let request_header_timeout = keys.read("request_header_timeout", value::duration);
        let request_header_bytes = keys.read("request_header_bytes", value::size);
        let request_headers = keys.count("request_headers");
        let request_uri_bytes = keys.read("request_uri_bytes", value::size);
        let request_body_timeout = keys.read("request_body_timeout", value::duration);
        let min_rate = keys.read("min_rate", |node, reading| match node {
            Node::Scalar(scalar) if &*scalar.text == "off" => Some(None),
            _ => value::speed(node, reading).map(Some),
        });
        let idle_timeout = keys.read("idle_timeout", value::duration);
        let upgrade_idle_timeout = keys.read("upgrade_idle_timeout", value::duration);
        if let (Some(head), Some(uri)) = (request_header_bytes, request_uri_bytes)
            && uri > head
            && let Some(span) =
                keys.span_of("request_uri_bytes").or_else(|| keys.span_of("request_header_bytes"))
        {
            let message = "\"request_uri_bytes\" exceeds \"request_header_bytes\"";
            keys.reading.error_hint(span, message, "the header's size includes the request line");
        }
        at_most(&mut keys, "request_header_bytes", request_header_bytes, LONGEST_HEAD);
        at_most(&mut keys, "request_uri_bytes", request_uri_bytes, LONGEST_TARGET);
        keys.finish();
        Some(Self {
            connections: connections?,
            connections_per_ip: connections_per_ip?,
            requests: requests?,
            memory: memory?,
            handshake_timeout: handshake_timeout?,
            request_header_timeout: request_header_timeout?,
            request_header_bytes: request_header_bytes?,
            request_headers: request_headers?,
            request_uri_bytes: request_uri_bytes?,
            request_body_timeout: request_body_timeout?,
            min_rate: min_rate?,
            idle_timeout: idle_timeout?,
            upgrade_idle_timeout: upgrade_idle_timeout?,
        })
    }
}

impl MemoryLimit {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        match node {
            Node::Scalar(scalar) if &*scalar.text == "auto" => Some(Self::Auto),
            Node::Scalar(scalar) if &*scalar.text == "off" => Some(Self::Off),
            _ => {
                let bytes = value::bytes(node, MOST_MEMORY, reading)?;
                if bytes < LEAST_MEMORY {
                    let message = "the gateway alone needs more memory than that";
                    reading.error_hint(node.span(), message, "auto, off, or at least 32MiB");
                    return None;
                }
                if !IS_MEASURED {
                    let message = "this system does not tell how much memory is in use";
                    reading.error_hint(node.span(), message, "off");
                    return None;
                }
                Some(Self::Bytes(bytes))
            }
        }
    }
}

/// Beyond what machines have.
const MOST_MEMORY: value::Most =
    value::Most { bytes: 1 << 44, name: "16384GiB", words: "auto, off, or " };

/// Below this it would refuse every request from the start. Bytes.
const LEAST_MEMORY: u64 = 32 << 20;

/// Whether a limit can be kept: memory in use is read from `/proc`, or asked of Windows.
const IS_MEASURED: bool = cfg!(any(target_os = "linux", windows));

/// The engine that relays requests takes heads of less than 1 MiB.
const LONGEST_HEAD: (usize, &str) = (1_000_000, "1MB");

/// The URI type takes 65,534 bytes.
const LONGEST_TARGET: (usize, &str) = (64_000, "64KB");

/// Reports a size beyond what can be honoured.
fn at_most(keys: &mut Keys<'_, '_>, key: &str, size: Option<usize>, most: (usize, &str)) {
    if size.is_some_and(|size| size > most.0)
        && let Some(span) = keys.span_of(key)
    {
        keys.reading.error(span, format!("\"{key}\" is at most {}", most.1));
    }
}

impl Log {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&LOG, reading);
        let level = keys.read("level", read_level);
        let format = keys.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let access = keys.read("access", AccessLog::read);
        keys.finish();
        Some(Self { level: level?, format, access: access? })
    }
}

fn read_level(node: &Node, reading: &mut Reading) -> Option<String> {
    const WORDS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let scalar = value::scalar(node, reading)?;
    // The parser takes any other word for a target and enables all of it.
    let says_a_level = |directive: &str| {
        let directive = directive.trim().to_ascii_lowercase();
        WORDS.contains(&directive.as_str()) || directive.contains(['=', '['])
    };
    let parsed = EnvFilter::builder().parse(&*scalar.text);
    if parsed.is_ok() && scalar.text.split(',').all(says_a_level) {
        return Some(scalar.text.to_string());
    }
    let message = format!("{} is not a log level", quoted(shown(scalar)));
    let near = super::nearest::nearest(&scalar.text, WORDS);
    let hint = match near {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("{}, or filters such as \"info,wardgate::tls=debug\"", WORDS.join(", ")),
    };
    reading.wrong(scalar, message, hint);
    None
}

impl AccessLog {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let words = [("stdout", Self::Stdout), ("off", Self::Off)];
        if let Node::Scalar(scalar) = node {
            let found = words.into_iter().find(|(word, _)| **word == *scalar.text);
            if found.is_none() {
                let message =
                    format!("{} is not one of \"stdout\", \"off\"", quoted(shown(scalar)));
                reading.wrong(scalar, message, "a file is written as { file: … }");
            }
            return found.map(|(_, access)| access);
        }
        value::map(node, reading, |map, reading| {
            let mut keys = map.keys(&ACCESS, reading);
            let to = keys.choice("to", &[("stdout", ())]);
            let file = keys.read("file", value::path);
            let mut rotation = Rotation::default();
            keys.list("rotate", |node, reading| rotation.read(node, reading));
            let keep = keys.count("keep");
            for (name, needed) in [("rotate", "file"), ("keep", "rotate")] {
                if let (Some(span), None) = (keys.span_of(name), keys.span_of(needed))
                    && !keys.is_misspelt(needed)
                {
                    let message = format!("\"{name}\" has no meaning without \"{needed}\"");
                    keys.reading.error(span, message);
                }
            }
            keys.finish();
            let Rotation { daily, max_size } = rotation;
            let file = file.zip(keep).map(|(path, keep)| LogFile { path, daily, max_size, keep });
            file.map(Self::File).or_else(|| to.map(|()| Self::Stdout))
        })
    }
}

/// `rotate:`.
#[derive(Default)]
struct Rotation {
    daily: bool,
    max_size: Option<u64>,
}

impl Rotation {
    /// Takes `daily` or a size.
    fn read(&mut self, node: &Node, reading: &mut Reading) -> Option<()> {
        let scalar = value::scalar(node, reading)?;
        if &*scalar.text == "daily" {
            if std::mem::replace(&mut self.daily, true) {
                reading.error(scalar.span, "\"daily\" stands here twice");
            }
            return Some(());
        }
        if !scalar.text.starts_with(|char: char| char.is_ascii_digit()) {
            let message = format!("{} does not say when to rotate", quoted(shown(scalar)));
            reading.wrong(scalar, message, "daily, a size such as 100MiB, or [daily, 100MiB]");
            return None;
        }
        let size = value::bytes(node, LARGEST_FILE, reading)?;
        if size < SMALLEST_FILE {
            let message = format!("{} holds next to no lines", quoted(shown(scalar)));
            reading.wrong(scalar, message, "at least 1KiB; 100MiB is usual");
        }
        if self.max_size.replace(size).is_some() {
            reading.error(scalar.span, "two sizes to rotate at");
        }
        Some(())
    }
}

/// Beyond what a file system is left to fill with one log, there is a slip of the keyboard.
const LARGEST_FILE: value::Most = value::Most { bytes: 1 << 40, name: "1024GiB", words: "" };

/// A few access lines, in bytes.
const SMALLEST_FILE: u64 = 1 << 10;

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        f.debug_struct("Admin").field("bind", &self.bind).field("token", &token).finish()
    }
}

impl Admin {
    /// Reads `admin:`; the inner `None` is `off`.
    #[expect(clippy::option_option, reason = "outer: whether it could be read; inner: the setting")]
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Option<Self>> {
        let hint = |text: &str| match text.parse::<SocketAddr>() {
            Ok(address) => format!("write {{ bind: \"{address}\" }}"),
            Err(_) => "write \"off\", or { bind: \"127.0.0.1:2019\" }".to_owned(),
        };
        value::map_or_off(node, hint, reading, |map, reading| {
            let mut keys = map.keys(&ADMIN, reading);
            let bind = keys.read("bind", read_address);
            let token = keys.read("token", read_token);
            if let Some((address, span)) = bind
                && !address.ip().is_loopback()
                && keys.span_of("token").is_none()
                && !keys.is_misspelt("token")
            {
                let message = "an admin address beyond loopback needs a token";
                let hint = format!(
                    "add `token: \"${{env:NAME}}\"`, or write \"127.0.0.1:{}\"",
                    address.port()
                );
                keys.reading.error_hint(span, message, hint);
            }
            keys.finish();
            Some(Self { bind: bind?.0, token })
        })
    }
}

/// One address, and where it is written.
fn read_address(node: &Node, reading: &mut Reading) -> Option<(SocketAddr, Span)> {
    match BindAddress::read(node, reading)? {
        BindAddress::Addr(address) => Some((address, node.span())),
        BindAddress::Any { port } => {
            let message = "the admin interface listens on one address";
            let hint = format!("write \"127.0.0.1:{port}\"");
            reading.error_hint(node.span(), message, hint);
            None
        }
    }
}

/// A token that a header field can carry and nobody guesses. It is in no message.
fn read_token(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    if !scalar.text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "this token has a space, a line break or a character beyond ASCII";
        reading.error(scalar.span, message);
        return None;
    }
    if scalar.text.len() < SHORTEST_TOKEN {
        let message = format!("this token is shorter than {SHORTEST_TOKEN} characters");
        reading.error_hint(scalar.span, message, "`openssl rand -hex 16` prints a good one");
        return None;
    }
    Some(scalar.text.to_string())
}

/// 16 random hexadecimal digits are 64 bits, which nobody tries over a network.
const SHORTEST_TOKEN: usize = 16;

impl Shutdown {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&SHUTDOWN, reading);
        let delay = keys.read("delay", value::pause);
        let grace = keys.read("grace", value::pause);
        keys.finish();
        Some(Self { delay: delay?, grace: grace? })
    }
}

impl Runtime {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&RUNTIME, reading);
        let threads = keys.read("threads", |node, reading| match node {
            Node::Scalar(scalar) if &*scalar.text == "auto" => Some(None),
            _ => value::count(node, 1, MAX_THREADS, reading).map(|count| Some(count as usize)),
        });
        keys.finish();
        Some(Self { threads: threads? })
    }
}

/// More threads than any machine has cores are a slip of the keyboard.
pub(super) const MAX_THREADS: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, effective, from_text};

    fn config(section: &str) -> Result<(Config, String), String> {
        let text = format!("{section}\nsites: {{ a.test: {{ upstream: http://b }} }}\n");
        let loaded = from_text("f", &text, Path::new("/etc")).map_err(|f| f.to_string())?;
        let shown = effective::yaml(&loaded);
        Ok((loaded.config, shown))
    }

    #[test]
    fn a_log_file_is_replaced_every_day_at_a_size_or_both() {
        for (written, daily, max_size, keep) in [
            ("", false, None, 14),
            ("rotate: daily", true, None, 14),
            ("rotate: 100MiB, keep: 3", false, Some(100 << 20), 3),
            ("rotate: [2GiB, daily]", true, Some(2 << 30), 14),
        ] {
            let (config, _) =
                config(&format!("log: {{ access: {{ file: a.log, {written} }} }}")).unwrap();
            let path = Path::new("/etc").join("a.log");
            let wanted = LogFile { path, daily, max_size, keep };
            assert_eq!(config.log.access, AccessLog::File(wanted), "{written}");
        }
    }

    #[test]
    fn an_admin_token_opens_other_addresses_and_is_never_shown() {
        let token = "0123456789abcdef";
        let (config, shown) =
            config(&format!("admin: {{ bind: \"0.0.0.0:2019\", token: {token} }}")).unwrap();
        let admin = config.admin.as_ref().unwrap();
        assert_eq!((admin.token.as_deref(), admin.bind.port()), (Some(token), 2019));
        assert!(!shown.contains(token) && shown.contains("token: '***'"), "{shown}");
        assert!(!format!("{config:?}").contains(token));
        for (bind, token) in
            [("127.0.0.1:1", "short"), ("127.0.0.1:1", "with a space in it"), (":2019", token)]
        {
            let faults = self::config(&format!("admin: {{ bind: \"{bind}\", token: {token} }}"));
            assert!(faults.is_err(), "{bind} {token}");
        }
    }
}
