//! `acme:`: which authority certificates come from, and how names are proven to it.

mod dns;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::acme_event::Hook;
use super::diagnostic::{Span, quoted};
use super::grammar_acme::{ACME, EAB, FALLBACK};
use super::keys::Keys;
use super::reading::{Reading, shown};
use super::tree::{Map, Node};
use super::value;

pub use dns::{DnsProvider, Rfc2136, TsigAlgorithm, TsigKey};

/// The directory of Let's Encrypt.
pub const LETSENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The directory of its staging authority, whose certificates nobody trusts.
pub const LETSENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// `acme:`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acme {
    /// Where the authority writes to.
    pub email: Option<String>,
    /// Where certificates come from.
    pub authority: Authority,
    /// Where else, in this order, when they do not come from there. Each directory once, and not that
    /// of `authority`.
    pub fallback: Vec<Authority>,
    /// Never empty; [`ChallengeKind::Dns01`] only with `dns`.
    pub challenges: Vec<ChallengeKind>,
    /// Who puts records into the DNS.
    pub dns: Option<DnsProvider>,
    /// How long before its end a certificate is renewed. Default 30 d, or a third of its lifetime where
    /// that is shorter.
    pub renew_before: Option<Duration>,
    /// What keys are made. Default P-256.
    pub key_type: KeyType,
    /// What a name without a certificate yet is served with. Default the local CA's.
    pub until_issued: UntilIssued,
    /// Who is told what becomes of certificates.
    pub events: Vec<Hook>,
}

/// A certificate authority, and what is asked of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// The https URL of its directory. Default [`LETSENCRYPT`].
    pub directory: String,
    /// PEM file of a CA that is trusted for the directory, beside the system's.
    pub directory_ca: Option<PathBuf>,
    /// The authority's profile to ask for.
    pub profile: Option<String>,
    /// Whether an authority without that profile is refused. Default false.
    pub require_profile: bool,
    /// The common name of the topmost issuer of the chain to take.
    pub preferred_chain: Option<String>,
    /// The account at the authority that this one belongs to.
    pub eab: Option<ExternalAccount>,
}

/// How a name is proven.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ChallengeKind {
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By an answer on port 80 (RFC 8555 §8.3).
    Http01,
    /// By a record in the DNS (RFC 8555 §8.4).
    Dns01,
    /// By a record that stays in the DNS (draft-ietf-acme-dns-persist).
    DnsPersist01,
}

/// What keys are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2,048 bits.
    Rsa2048,
}

/// An account that the authority knows already (RFC 8555 §7.3.4). Its `Debug` form hides the key.
#[derive(Clone, Eq, PartialEq)]
pub struct ExternalAccount {
    /// What the authority calls it.
    pub kid: String,
    /// Its key, in base64url without padding.
    pub hmac_key: String,
}

/// What a name without a certificate yet is served with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UntilIssued {
    /// A certificate of the local CA.
    Internal,
    /// None: the handshake fails.
    Refuse,
}

impl Acme {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&ACME, reading);
        let email = keys.read("email", read_email);
        let authority = Authority::read(&mut keys);
        let fallback = keys.list("fallback", |node, reading| {
            value::map(node, reading, |map, reading| {
                let mut keys = map.keys(&FALLBACK, reading);
                let authority = Authority::read(&mut keys);
                keys.finish();
                authority
            })
        });
        let dns = keys.section("dns", DnsProvider::read);
        let challenges = read_challenges(&mut keys, dns.is_some());
        let renew_before = keys.read("renew_before", value::duration);
        let key_type = keys.choice("key_type", &KeyType::WORDS);
        let until_issued = keys.choice("until_issued", &UntilIssued::WORDS);
        let events = keys
            .list("events", |node, reading| value::map_with(node, "webhook", reading, Hook::read));
        if let (Some(first), Some(span)) = (&authority, keys.span_of("fallback")) {
            refuse_twice(first, &fallback, span, keys.reading);
        }
        keys.finish();
        Some(Self {
            email,
            authority: authority?,
            fallback,
            challenges,
            dns,
            renew_before,
            key_type: key_type?,
            until_issued: until_issued?,
            events,
        })
    }

    /// Where certificates come from, the first first.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.authority).chain(&self.fallback)
    }

    /// Whether names are proven by records in the DNS, as wildcards must be.
    #[must_use]
    pub fn has_dns(&self) -> bool {
        self.challenges.iter().any(|kind| kind.is_dns())
    }
}

impl Authority {
    /// From the keys that `acme` and an entry of `acme.fallback` have in common.
    fn read(keys: &mut Keys<'_, '_>) -> Option<Self> {
        let directory = keys.read("directory", read_directory);
        let directory_ca = keys.read("directory_ca", value::path);
        let profile = keys.read("profile", value::text);
        let require_profile = keys.read("require_profile", value::boolean);
        if let (Some(true), Some(span)) = (require_profile, keys.span_of("require_profile"))
            && keys.span_of("profile").is_none()
            && !keys.is_misspelt("profile")
        {
            keys.reading.error(span, "\"require_profile\" has no meaning without \"profile\"");
        }
        let preferred_chain = keys.read("preferred_chain", value::text);
        let eab = keys.section("eab", ExternalAccount::read);
        Some(Self {
            directory: directory?,
            directory_ca,
            profile,
            require_profile: require_profile?,
            preferred_chain,
            eab,
        })
    }
}

/// An authority that has failed is not asked again under another name.
fn refuse_twice(first: &Authority, fallback: &[Authority], span: Span, reading: &mut Reading) {
    let mut seen = vec![first.directory.as_str()];
    for authority in fallback {
        if seen.contains(&authority.directory.as_str()) {
            let message = format!("{} is asked already", quoted(&authority.directory));
            reading.error_hint(span, message, "each authority once; `acme.directory` is the first");
        }
        seen.push(&authority.directory);
    }
}

impl ChallengeKind {
    const WORDS: [(&'static str, Self); 4] = [
        ("tls-alpn-01", Self::TlsAlpn01),
        ("http-01", Self::Http01),
        ("dns-01", Self::Dns01),
        ("dns-persist-01", Self::DnsPersist01),
    ];

    /// The word of the configuration, which is the authority's too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }

    /// Whether it takes records in the DNS, and so is good for wildcards.
    #[must_use]
    pub fn is_dns(self) -> bool {
        matches!(self, Self::Dns01 | Self::DnsPersist01)
    }
}

impl KeyType {
    const WORDS: [(&'static str, Self); 3] =
        [("p256", Self::P256), ("p384", Self::P384), ("rsa2048", Self::Rsa2048)];
}

impl UntilIssued {
    const WORDS: [(&'static str, Self); 2] =
        [("internal", Self::Internal), ("refuse", Self::Refuse)];
}

impl ExternalAccount {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&EAB, reading);
        let kid = keys.read("kid", value::text);
        let hmac_key = keys.read("hmac_key", read_hmac_key);
        keys.finish();
        Some(Self { kid: kid?, hmac_key: hmac_key? })
    }
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn read_email(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let text = &*scalar.text;
    let is_address = |text: &str| {
        let parts = text.split_once('@');
        parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            && !text.contains([' ', ',', ':'])
    };
    if is_address(text) {
        return Some(text.to_owned());
    }
    let message = format!("{} is not an email address", quoted(shown(scalar)));
    let bare = text.strip_prefix("mailto:").filter(|bare| is_address(bare));
    let hint = bare.map_or_else(
        || "one address, such as ops@example.com".to_owned(),
        |bare| format!("write {}", quoted(bare)),
    );
    reading.wrong(scalar, message, hint);
    None
}

fn read_directory(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let text = &*scalar.text;
    match text {
        "letsencrypt" => return Some(LETSENCRYPT.to_owned()),
        "letsencrypt-staging" => return Some(LETSENCRYPT_STAGING.to_owned()),
        _ => {}
    }
    let uri = text.parse::<http::Uri>().ok();
    let has_host = uri.as_ref().and_then(http::Uri::host).is_some_and(|host| !host.is_empty());
    if has_host && text.starts_with("https://") {
        return Some(text.to_owned());
    }
    let message = format!("{} is not an ACME directory", quoted(shown(scalar)));
    let near = super::nearest::nearest(text, ["letsencrypt", "letsencrypt-staging"]);
    let hint = match near {
        _ if text.starts_with("http://") => "an authority is asked over https only".to_owned(),
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => "letsencrypt, letsencrypt-staging, or an https URL".to_owned(),
    };
    reading.wrong(scalar, message, hint);
    None
}

/// `challenges`, or those that can be met.
fn read_challenges(keys: &mut Keys<'_, '_>, has_dns: bool) -> Vec<ChallengeKind> {
    let mut kinds = keys.choices("challenges", &ChallengeKind::WORDS);
    let Some(span) = keys.span_of("challenges") else {
        let mut kinds = vec![ChallengeKind::TlsAlpn01, ChallengeKind::Http01];
        // A record that stays is somebody's decision, so that it is never tried unasked.
        kinds.extend(has_dns.then_some(ChallengeKind::Dns01));
        return kinds;
    };
    let names_dns = kinds.contains(&ChallengeKind::Dns01);
    let is_misread = keys.span_of("dns").is_some() && !has_dns;
    if names_dns && !has_dns && !is_misread && !keys.is_misspelt("dns") {
        let hint = "add `dns: { run: [\"/path/to/program\"] }` or `dns: { rfc2136: … }`";
        keys.reading.error_hint(span, "\"dns-01\" needs \"dns\"", hint);
    }
    if let (Some(span), false) = (keys.span_of("dns"), names_dns) {
        keys.reading.warning(span, "\"dns\" is not used", "add \"dns-01\" to `challenges`");
    }
    let mut seen = Vec::new();
    kinds.retain(|kind| {
        let is_new = !seen.contains(kind);
        seen.push(*kind);
        is_new
    });
    kinds
}

fn read_hmac_key(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let key = scalar.text.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.len() % 4 != 1 && key.bytes().all(is_digit) {
        return Some(key.to_owned());
    }
    // Never shown, not even where it is wrong.
    let hint = "letters, digits, - and _, as the authority gave it";
    reading.error_hint(scalar.span, "the key is not base64url", hint);
    None
}
