//! `acme.dns`: who puts records into the DNS.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::config::diagnostic::quoted;
use crate::config::grammar_acme::{DNS, RFC2136, TSIG_KEY};
use crate::config::reading::{Reading, shown};
use crate::config::tree::{Map, Node};
use crate::config::value;
use crate::net::{Host, HostName};

/// Who puts records into the DNS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DnsProvider {
    /// A program and its arguments, never empty.
    Run(Vec<String>),
    /// The zone's primary server.
    Rfc2136(Rfc2136),
}

/// A server that takes dynamic updates (RFC 2136).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rfc2136 {
    /// The zone's primary server.
    pub server: Host,
    /// Where it answers. Default 53.
    pub port: u16,
    /// The zone; `None` asks the server.
    pub zone: Option<HostName>,
    /// What signs updates.
    pub key: TsigKey,
    /// How long resolvers may keep a record: whole seconds, at most a day. Default 60 s.
    pub ttl: Duration,
}

/// A key that this side and the server share (RFC 8945). Its `Debug` form hides the secret.
#[derive(Clone, Eq, PartialEq)]
pub struct TsigKey {
    /// What the server calls it.
    pub name: HostName,
    /// What it signs with. Default HMAC-SHA256.
    pub algorithm: TsigAlgorithm,
    /// Never empty.
    pub secret: Vec<u8>,
}

/// What a key signs with (RFC 8945 §6).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TsigAlgorithm {
    /// HMAC-SHA256.
    #[default]
    HmacSha256,
    /// HMAC-SHA384.
    HmacSha384,
    /// HMAC-SHA512.
    HmacSha512,
}

/// Where name servers answer (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// What lives longer is no record of a minute's proof.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// As key generators print it, and as it looks once a shell or a form has eaten the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl DnsProvider {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&DNS, reading);
        let run = keys.list("run", value::text);
        let rfc2136 = keys.section("rfc2136", Rfc2136::read);
        keys.finish();
        match rfc2136 {
            Some(rfc2136) => Some(Self::Rfc2136(rfc2136)),
            None => (!run.is_empty()).then_some(Self::Run(run)),
        }
    }
}

impl Rfc2136 {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&RFC2136, reading);
        let server = keys.read("server", read_server);
        let zone = keys.read("zone", read_name);
        let is_misread = zone.is_none() && keys.span_of("zone").is_some();
        let key = keys.section("key", TsigKey::read);
        let ttl = keys.read("ttl", read_ttl);
        keys.finish();
        let (server, port) = server?;
        (!is_misread).then_some(Self { server, port, zone, key: key?, ttl: ttl? })
    }
}

impl TsigKey {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&TSIG_KEY, reading);
        let name = keys.read("name", read_name);
        let algorithm = keys.choice("algorithm", &TsigAlgorithm::WORDS);
        let secret = keys.read("secret", read_secret);
        keys.finish();
        Some(Self { name: name?, algorithm: algorithm?, secret: secret? })
    }
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, algorithm) = (&self.name, &self.algorithm);
        let mut shown = f.debug_struct("TsigKey");
        shown.field("name", name).field("algorithm", algorithm).finish_non_exhaustive()
    }
}

impl TsigAlgorithm {
    const WORDS: [(&'static str, Self); 3] = [
        ("hmac-sha256", Self::HmacSha256),
        ("hmac-sha384", Self::HmacSha384),
        ("hmac-sha512", Self::HmacSha512),
    ];

    /// The word of the configuration, which is the protocol's too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }
}

/// `ns1.example.com`, `192.0.2.53:5353` or `[2001:db8::53]:53`.
fn read_server(node: &Node, reading: &mut Reading) -> Option<(Host, u16)> {
    let scalar = value::scalar(node, reading)?;
    // An IPv6 address may stand without brackets where no port follows.
    let parsed = match Host::parse(&scalar.text) {
        Ok(host) => Ok((host, None)),
        Err(_) => Host::parse_authority(&scalar.text),
    };
    let (message, hint) = match parsed {
        Ok((_, Some(0))) => ("a server's port is 1 to 65535".to_owned(), String::new()),
        Ok((host, port)) => return Some((host, port.unwrap_or(DNS_PORT))),
        Err(_) => (
            format!("{} is not a name server", quoted(shown(scalar))),
            "a name or an address, such as ns1.example.com or 192.0.2.53:5353".to_owned(),
        ),
    };
    reading.wrong(scalar, message, hint);
    None
}

fn read_name(node: &Node, reading: &mut Reading) -> Option<HostName> {
    let scalar = value::scalar(node, reading)?;
    match HostName::parse(&scalar.text) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} is not a name of the DNS", quoted(shown(scalar)));
            let hint = if scalar.is_secret { String::new() } else { error.to_string() };
            reading.wrong(scalar, message, hint);
            None
        }
    }
}

fn read_ttl(node: &Node, reading: &mut Reading) -> Option<Duration> {
    let ttl = value::duration(node, reading)?;
    if ttl.subsec_nanos() == 0 && ttl <= LONGEST_TTL {
        return Some(ttl);
    }
    reading.error(node.span(), "a time to live is whole seconds, from 1s to 1d");
    None
}

fn read_secret(node: &Node, reading: &mut Reading) -> Option<Vec<u8>> {
    let scalar = value::scalar(node, reading)?;
    if let Ok(secret) = BASE64.decode(scalar.text.trim())
        && !secret.is_empty()
    {
        return Some(secret);
    }
    // Never shown, not even where it is wrong.
    let hint = "as in `secret` of the server's key, such as tsig-keygen prints it";
    reading.error_hint(scalar.span, "the secret is not base64", hint);
    None
}
