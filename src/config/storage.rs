//! `storage:`: where the gateway keeps what it must not lose, and with whom it shares that.
//!
//! Answers "which directory, and which Redis above it?". Never connects, and never shows a password.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::diagnostic::quoted;
use super::keys::Keys;
use super::load::default_storage;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::tree::{Node, Scalar};
use super::value;
use crate::net::Host;

/// A Redis that a fleet of gateways shares. Its `Debug` and `Display` forms hide the password.
#[derive(Clone, Eq, PartialEq)]
pub struct Redis {
    /// Whether it is spoken to over TLS.
    pub is_tls: bool,
    /// Where it is.
    pub host: Host,
    /// Default 6379.
    pub port: u16,
    /// Whom it knows us as; `None` for its default user.
    pub user: Option<String>,
    /// What it wants to hear.
    pub password: Option<String>,
    /// Its database. Default 0.
    pub database: u32,
    /// What every key begins with. Default [`PREFIX`].
    pub prefix: String,
    /// PEM file of a CA that is trusted for it, beside the system's.
    pub ca: Option<PathBuf>,
}

/// What keys begin with unless the URL says otherwise.
pub const PREFIX: &str = "wardgate:";

/// `storage:` as it is meant.
#[derive(Debug)]
pub(super) struct Storage {
    /// For what is kept on this machine.
    pub(super) directory: PathBuf,
    /// What is shared.
    pub(super) redis: Option<Redis>,
}

impl Storage {
    /// Reads `storage:`, or what holds without it.
    pub(super) fn read_or_standard(keys: &mut Keys<'_, '_>) -> Self {
        let read = keys.read("storage", read);
        read.unwrap_or_else(|| Self::standard(&keys.reading.base))
    }

    /// What holds where the file does not say.
    pub(super) fn standard(base: &Path) -> Self {
        Self { directory: default_storage(base), redis: None }
    }
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}:{}/{}", self.host, self.port, self.database)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({self}, {})", self.prefix)
    }
}

/// Reads a directory, or the URL of a Redis above the directory of the default.
pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Storage> {
    let scalar = value::scalar(node, reading)?;
    let Some((scheme, rest)) = scalar.text.split_once("://") else {
        return value::path(node, reading).map(|directory| Storage { directory, redis: None });
    };
    if let Some(password) = password(rest) {
        reading.faults.hide(scalar.span.line, password);
    }
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "redis" => false,
        "rediss" => true,
        _ => {
            unknown_scheme(scheme, scalar, reading);
            return None;
        }
    };
    match parse(is_tls, rest) {
        Ok(mut redis) => {
            redis.ca = redis.ca.map(|ca| reading.base.join(ca));
            if !reading.has_acme {
                let hint = "add `acme:`, whose certificates a fleet shares";
                reading.warning(scalar.span, "nothing is shared through this Redis", hint);
            }
            Some(Storage { redis: Some(redis), ..Storage::standard(&reading.base) })
        }
        // Not a word of the value itself: what is written wrong may be part of a password.
        Err(fault) => {
            let (message, hint) = fault.texts();
            reading.error_hint(scalar.span, message, hint);
            None
        }
    }
}

fn unknown_scheme(scheme: &str, scalar: &Scalar, reading: &mut Reading) {
    let scheme = if scalar.is_secret { shown(scalar) } else { scheme };
    let message = format!("{} is not a place where a gateway can keep things", quoted(scheme));
    let hint = match nearest(scheme, ["redis", "rediss"]) {
        Some(near) => format!("did you mean \"{near}://\"?"),
        None => "write the path of a directory, redis:// or rediss://".to_owned(),
    };
    reading.wrong(scalar, message, hint);
}

/// The URL as `wardgate config` shows it.
pub(super) fn masked(text: &str) -> String {
    let whole = || text.to_owned();
    let Some((scheme, rest)) = text.split_once("://") else { return whole() };
    let Some((user, place)) = rest.rsplit_once('@') else { return whole() };
    match user.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{place}"),
        None => whole(),
    }
}

/// The password as it is written, and as far as it can be told where one that is written wrong ends.
fn password(rest: &str) -> Option<&str> {
    Some(rest.rsplit_once('@')?.0.split_once(':')?.1)
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    Host,
    UserAlone,
    Encoding,
    Database,
    UnknownOption,
    Prefix,
    PlainCa,
    Fragment,
}

impl Fault {
    /// A message and a hint.
    fn texts(self) -> (&'static str, &'static str) {
        const SHAPE: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]; / ? # @ : and % in a password are written %2F %3F %23 %40 %3A %25";
        match self {
            Self::Host => ("this URL names no host, or no port, that a Redis can be at", SHAPE),
            Self::UserAlone => {
                ("this URL has a user without a password", "write USER:PASSWORD@, or :PASSWORD@")
            }
            Self::Encoding => ("a % in this URL is followed by no two hexadecimal digits", SHAPE),
            Self::Database => ("the database of a Redis is a number, such as /0", SHAPE),
            Self::UnknownOption => ("a Redis takes the options \"prefix\" and \"ca\" alone", ""),
            Self::Prefix => {
                ("a prefix is 1 to 64 letters, digits and : . _ -", "such as ?prefix=edge:")
            }
            Self::PlainCa => ("\"ca\" has a meaning over TLS alone", "write rediss://"),
            Self::Fragment => ("this URL has a #, which means nothing here", SHAPE),
        }
    }
}

/// The authority, and what follows it.
fn split(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

fn parse(is_tls: bool, rest: &str) -> Result<Redis, Fault> {
    let (authority, after) = split(rest);
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    let (user, password) = match user.map(|user| user.split_once(':')) {
        None => (None, None),
        Some(None) => return Err(Fault::UserAlone),
        Some(Some((user, password))) => (text(user)?, text(password)?),
    };
    if user.is_some() && password.is_none() {
        return Err(Fault::UserAlone);
    }
    let (host, port) = match Host::parse_authority(place) {
        Ok((_, Some(0))) | Err(_) => return Err(Fault::Host),
        Ok((host, port)) => (host, port.unwrap_or(6379)),
    };
    if after.contains('#') {
        return Err(Fault::Fragment);
    }
    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    let database = match path.strip_prefix('/').unwrap_or(path) {
        "" => 0,
        number => number.parse().map_err(|_| Fault::Database)?,
    };
    let mut redis =
        Redis { is_tls, host, port, user, password, database, prefix: PREFIX.to_owned(), ca: None };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "prefix" if is_prefix(&value) => redis.prefix = value.into_owned(),
            "prefix" => return Err(Fault::Prefix),
            "ca" if !is_tls => return Err(Fault::PlainCa),
            "ca" if !value.is_empty() => redis.ca = Some(PathBuf::from(&*value)),
            _ => return Err(Fault::UnknownOption),
        }
    }
    Ok(redis)
}

/// A part of the URL without its percent signs; `None` where it is empty.
fn text(part: &str) -> Result<Option<String>, Fault> {
    let is_sound =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !part.split('%').skip(1).all(is_sound) {
        return Err(Fault::Encoding);
    }
    let text = percent_decode_str(part).decode_utf8().map_err(|_| Fault::Encoding)?;
    Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
}

fn is_prefix(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Redis, Fault> {
        let (scheme, rest) = url.split_once("://").unwrap();
        parse(scheme == "rediss", rest)
    }

    #[test]
    fn a_url_says_where_as_whom_and_under_which_names() {
        for (url, place, user, password, prefix) in [
            ("redis://localhost", "redis://localhost:6379/0", None, None, PREFIX),
            ("redis://:p@10.0.0.5:1/", "redis://10.0.0.5:1/0", None, Some("p"), PREFIX),
            ("redis://u:p%40%2Fs@[::1]/7", "redis://[::1]:6379/7", Some("u"), Some("p@/s"), PREFIX),
            ("rediss://r.test?prefix=edge:", "rediss://r.test:6379/0", None, None, "edge:"),
            ("redis://u:a@b@r.test", "redis://r.test:6379/0", Some("u"), Some("a@b"), PREFIX),
        ] {
            let redis = parsed(url).unwrap();
            assert_eq!(redis.to_string(), place);
            assert_eq!((redis.user.as_deref(), redis.password.as_deref()), (user, password));
            assert_eq!(redis.prefix, prefix);
        }
        let redis = parsed("rediss://r.test/1?ca=ca.pem&prefix=a").unwrap();
        assert_eq!(
            (redis.ca, redis.prefix, redis.database),
            (Some("ca.pem".into()), "a".into(), 1)
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for (url, fault) in [
            ("redis://", Fault::Host),
            ("redis://:secret/part@host", Fault::Host),
            ("redis://host:0", Fault::Host),
            ("redis://host:99999", Fault::Host),
            ("redis://user@host", Fault::UserAlone),
            ("redis://user:@host", Fault::UserAlone),
            ("redis://:%zz@host", Fault::Encoding),
            ("redis://:%4@host", Fault::Encoding),
            ("redis://host/one", Fault::Database),
            ("redis://host/0/1", Fault::Database),
            ("redis://host?db=1", Fault::UnknownOption),
            ("redis://host?prefix=", Fault::Prefix),
            ("redis://host?prefix=a*", Fault::Prefix),
            ("redis://host?ca=a.pem", Fault::PlainCa),
            ("redis://host#1", Fault::Fragment),
        ] {
            assert_eq!(parsed(url).err(), Some(fault), "{url}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let redis = parsed("redis://user:hush@r.test/1").unwrap();
        assert!(!format!("{redis:?} {redis}").contains("hush"));
        for (text, shown) in [
            ("redis://user:hu@sh@r.test/1", "redis://user:***@r.test/1"),
            ("redis://:hush@r.test?prefix=a", "redis://:***@r.test?prefix=a"),
            ("redis://r.test", "redis://r.test"),
            ("certs", "certs"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
