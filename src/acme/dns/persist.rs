//! dns-persist-01 (draft-ietf-acme-dns-persist): a record that stays, by which the owner of a zone lets
//! one account at one authority prove a name whenever it wants to.
//!
//! Answers "which record is that, and is it there?" before the authority looks. Whoever owns the zone
//! puts it up, once; nothing here ever changes a zone.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde::Deserialize;

use super::super::session::{CallError, Meta, Session};
use super::super::time::unix;
use super::propagation::blind_at_the_end;
use super::{DnsError, Record};

/// How names are proven by records that stay.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Persist {
    /// Which servers have to show a record; `None` asks DNS for those of the zone.
    pub servers: Option<Vec<SocketAddr>>,
}

/// Whom a record that stays speaks for: an account at an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// What the authority is called in records, in order of its preference; never empty.
    issuers: Vec<String>,
    account: Account,
}

/// How a record names an account.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Account {
    /// By its URL, as up to the draft's version 01.
    Url(String),
    /// By a digest of its URL, its key and the name, as since version 02.
    Hashed { prefix: String, thumbprint: String, url: String },
}

/// A record that is missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// What has to be put up.
    pub record: Record,
    /// A server that does not show it.
    pub server: String,
}

/// A name that is to be proven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::acme) struct Wanted {
    /// As it is ordered, `*.` before a wildcard.
    pub(in crate::acme) name: String,
    pub(in crate::acme) binding: Binding,
}

/// Why nobody knows which record to put up.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The authority cannot be asked.
    #[error("cannot ask the certificate authority for its name in the DNS")]
    Call(#[from] CallError),
    /// The authority does not say.
    #[error("the certificate authority does not say what it is called in the DNS")]
    NoIssuer,
}

/// Nothing has to spread: what stays was put up long ago, or is missing. Long enough for a server that
/// has to be asked twice.
const PATIENCE: Duration = Duration::from_secs(5);

/// As many names as an authority may have (§3.1).
const MAX_ISSUERS: usize = 10;

/// The way's name in the protocol.
pub(in crate::acme) const METHOD: &str = "dns-persist-01";

impl Persist {
    /// Looks whether the records for all of `wanted` are there.
    pub(in crate::acme) async fn check(&self, wanted: &[Wanted]) -> Result<(), DnsError> {
        let looks = wanted.iter().map(async |wanted| {
            let server = self.look(wanted, PATIENCE).await?;
            let record = wanted.binding.record(&wanted.name);
            Ok::<_, DnsError>(server.map(|server| Missing { record, server }))
        });
        let mut missing: Vec<Missing> = Vec::new();
        for found in join_all(looks).await {
            let found = found?;
            // A name and its wildcard share a record.
            missing.extend(found.filter(|it| missing.iter().all(|told| told.record != it.record)));
        }
        // Authorities list names in an order of their own.
        missing.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        if missing.is_empty() { Ok(()) } else { Err(DnsError::NotPut(missing)) }
    }

    /// A server that does not show the record for `wanted` now.
    pub(in crate::acme) async fn look_once(
        &self,
        wanted: &Wanted,
    ) -> Result<Option<String>, DnsError> {
        self.look(wanted, Duration::ZERO).await
    }

    async fn look(&self, wanted: &Wanted, patience: Duration) -> Result<Option<String>, DnsError> {
        let record = wanted.binding.record(&wanted.name);
        let now = unix(SystemTime::now());
        let is_fit = |text: &[u8]| wanted.binding.is_met_by(&wanted.name, text, now);
        blind_at_the_end(&record.name, &is_fit, self.servers.as_deref(), patience).await
    }
}

/// The names that records are put up for, so that all of `names` are proven.
pub(in crate::acme) fn covering(names: &[String]) -> Vec<String> {
    let is_left = |name: &&String| {
        let is_covered = !name.starts_with("*.") && names.contains(&format!("*.{name}"));
        !is_covered && name.parse::<IpAddr>().is_err()
    };
    names.iter().filter(is_left).cloned().collect()
}

impl Binding {
    /// Whom records speak for that this account is to use, by what the authority says of itself.
    ///
    /// # Errors
    /// [`BindingError`].
    pub async fn of(session: &Session) -> Result<Self, BindingError> {
        let meta = session.authority.fetch_directory().await?.meta;
        let issuers = match meta.issuer_domain_names.is_empty() {
            true => meta.caa_identities.clone(),
            false => meta.issuer_domain_names.clone(),
        };
        Self::new(issuers, account(session, &meta)).ok_or(BindingError::NoIssuer)
    }

    /// The same as a challenge has it. `authorization` is the object that the challenge is in, and
    /// `meta` the directory's.
    pub(in crate::acme) fn of_challenge(
        session: &Session,
        meta: &Meta,
        authorization: &[u8],
    ) -> Result<Self, CallError> {
        let garbled = |why: &str| CallError::Garbled(format!("{METHOD}: {why}").into());
        let found: Authorization = serde_json::from_slice(authorization)
            .map_err(|error| CallError::Garbled(error.into()))?;
        let challenge = found.challenges.into_iter().find(|it| it.kind == METHOD);
        let challenge = challenge.ok_or_else(|| garbled("there is no such challenge any more"))?;
        let account = challenge.account.map_or_else(|| account(session, meta), Account::Url);
        Self::new(challenge.issuers, account)
            .ok_or_else(|| garbled("the challenge has no or too many names of the authority"))
    }

    fn new(issuers: Vec<String>, account: Account) -> Option<Self> {
        let issuers: Vec<String> = issuers.iter().map(|issuer| normal(issuer)).collect();
        let is_sound = (1..=MAX_ISSUERS).contains(&issuers.len());
        is_sound.then_some(Self { issuers, account })
    }

    /// The record to put up for `name`; `*.` before it has the record cover the name and its wildcard.
    /// It has no end.
    #[must_use]
    pub fn record(&self, name: &str) -> Record {
        let (base, is_wildcard) = parts(name);
        let issuer = self.issuers.first().map(String::as_str).unwrap_or_default();
        let policy = if is_wildcard { "; policy=wildcard" } else { "" };
        let value = format!("{issuer}; accounturi={}{policy}", self.account.uri(&base));
        Record { name: format!("_validation-persist.{base}"), value }
    }

    /// Whether a record's text, at the right place, proves `name` at `now`.
    fn is_met_by(&self, name: &str, text: &[u8], now: i64) -> bool {
        let (base, is_wildcard) = parts(name);
        let text = std::str::from_utf8(text).ok();
        let Some(value) = text.and_then(IssueValue::parse) else { return false };
        // In the form that we show: not every authority folds case.
        self.issuers.iter().any(|issuer| issuer == value.issuer)
            && self.account.is(value.account, &base)
            && (!is_wildcard || value.is_for_wildcards)
            && value.until.is_none_or(|until| now <= until)
    }
}

impl Account {
    /// What a record for `base` names the account by.
    fn uri(&self, base: &str) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Hashed { prefix, thumbprint, url } => {
                let mut digest = Context::new(&SHA256);
                // A name has at most 253 bytes.
                digest.update(&[u8::try_from(base.len()).unwrap_or(u8::MAX)]);
                for part in [base, thumbprint, url] {
                    digest.update(part.as_bytes());
                }
                format!("{prefix}sha-256/{}", BASE64_URL_SAFE_NO_PAD.encode(digest.finish()))
            }
        }
    }

    /// Whether `uri` is this account, in a record for `base` or in one for any name (§4.1). One with a
    /// digest of an earlier key is not known to be.
    fn is(&self, uri: &str, base: &str) -> bool {
        self.uri(base) == uri || self.uri("*") == uri
    }
}

/// An authorization, as far as it concerns us.
#[derive(Deserialize)]
struct Authorization {
    challenges: Vec<Challenge>,
}

#[derive(Deserialize)]
struct Challenge {
    #[serde(rename = "type")]
    kind: String,
    /// Spelt anew in the draft's version 02.
    #[serde(default, rename = "issuerDomainNames", alias = "issuer-domain-names")]
    issuers: Vec<String>,
    /// In the draft's version 01.
    #[serde(rename = "accounturi")]
    account: Option<String>,
}

/// A record's text (RFC 8659 §4.2).
#[derive(Debug, Eq, PartialEq)]
struct IssueValue<'t> {
    issuer: &'t str,
    account: &'t str,
    is_for_wildcards: bool,
    until: Option<i64>,
}

impl<'t> IssueValue<'t> {
    /// As authorities read it: what they do not know they skip, what is malformed or said twice they
    /// refuse.
    fn parse(text: &'t str) -> Option<Self> {
        const SPACE: [char; 2] = [' ', '\t'];
        let mut parts = text.split(';').map(|part| part.trim_matches(SPACE));
        let issuer = parts.next().filter(|issuer| !issuer.is_empty())?;
        let (mut account, mut policy, mut until) = (None, None, None);
        for part in parts {
            let (tag, value) = part.split_once('=')?;
            let (tag, value) = (tag.trim_matches(SPACE), value.trim_matches(SPACE));
            if tag.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return None;
            }
            let known = match tag.to_ascii_lowercase().as_str() {
                "accounturi" => &mut account,
                "policy" => &mut policy,
                "persistuntil" => &mut until,
                _ => continue,
            };
            if known.replace(value).is_some() {
                return None;
            }
        }
        Some(Self {
            issuer,
            account: account.filter(|account| !account.is_empty())?,
            is_for_wildcards: policy.is_some_and(|it| it.eq_ignore_ascii_case("wildcard")),
            until: until.map(str::parse).transpose().ok()?,
        })
    }
}

fn account(session: &Session, meta: &Meta) -> Account {
    let url = session.account_url().to_owned();
    match meta.account_hash_prefix.clone() {
        None => Account::Url(url),
        Some(prefix) => {
            Account::Hashed { prefix, thumbprint: session.account.key_thumbprint().to_owned(), url }
        }
    }
}

/// A name without the star, as records have it, and whether there was one.
fn parts(name: &str) -> (String, bool) {
    let base = name.strip_prefix("*.");
    (normal(base.unwrap_or(name)), base.is_some())
}

/// A name in the one form that is compared.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://ca.example/acct/123";

    fn binding(account: Account) -> Binding {
        Binding::new(vec!["Authority.example.".into(), "ca.example.net".into()], account).unwrap()
    }

    fn by_url() -> Binding {
        binding(Account::Url(URL.into()))
    }

    fn hashed() -> Binding {
        binding(Account::Hashed {
            prefix: "https://ca.example/account-hash/".into(),
            thumbprint: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".into(),
            url: URL.into(),
        })
    }

    #[test]
    fn a_record_names_the_authority_and_the_account() {
        let record = by_url().record("WWW.Example.com");
        assert_eq!(record.name, "_validation-persist.www.example.com");
        assert_eq!(record.value, format!("authority.example; accounturi={URL}"));
        let record = by_url().record("*.example.com");
        assert_eq!(
            record.to_string(),
            format!(
                "_validation-persist.example.com. IN TXT \
                 \"authority.example; accounturi={URL}; policy=wildcard\""
            )
        );
    }

    #[test]
    fn a_digest_is_that_of_the_drafts_example() {
        let prefix = "https://ca.example/account-hash/sha-256/";
        let wanted = format!("{prefix}5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw");
        let record = hashed().record("example.com");
        assert_eq!(record.value, format!("authority.example; accounturi={wanted}"));
        let any = format!("{prefix}NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug");
        for (name, account, is_met) in [
            ("example.com", &wanted, true),
            ("example.com", &any, true),
            ("other.example.com", &any, true),
            ("other.example.com", &wanted, false),
            ("example.com", &URL.to_owned(), false),
        ] {
            let text = format!("ca.example.net;accounturi={account}");
            assert_eq!(hashed().is_met_by(name, text.as_bytes(), 0), is_met, "{name} {account}");
        }
    }

    #[test]
    fn a_record_is_read_as_authorities_read_it() {
        let accepts = |name: &str, text: &str| by_url().is_met_by(name, text.as_bytes(), 1000);
        for text in [
            "authority.example;accounturi=https://ca.example/acct/123",
            " ca.example.net ;\taccounturi = https://ca.example/acct/123 ",
            "authority.example; ACCOUNTURI=https://ca.example/acct/123; Policy=WILDCARD",
            "authority.example; accounturi=https://ca.example/acct/123; persistUntil=1000",
            "authority.example; new=a; new=b; accounturi=https://ca.example/acct/123; policy=x",
        ] {
            assert!(accepts("example.com", text), "{text}");
        }
        for text in [
            "",
            "authority.example",
            "other.example; accounturi=https://ca.example/acct/123",
            "AUTHORITY.example; accounturi=https://ca.example/acct/123",
            "authority.example; accounturi=https://ca.example/acct/124",
            "authority.example; accounturi=HTTPS://ca.example/acct/123",
            "authority.example; accounturi=https://ca.example/acct/123;",
            "authority.example; accounturi=https://ca.example/acct/123; policy",
            "authority.example; accounturi=https://ca.example/acct/123; =x",
            "authority.example; accounturi=https://ca.example/acct/123; new=a b",
            "authority.example; accounturi=https://ca.example/acct/123; persistUntil=999",
            "authority.example; accounturi=https://ca.example/acct/123; persistUntil=",
            "authority.example; accounturi=https://ca.example/acct/123; policy=a; policy=wildcard",
        ] {
            assert!(!accepts("example.com", text), "{text}");
        }
        let bare = "authority.example; accounturi=https://ca.example/acct/123";
        assert!(!accepts("*.example.com", bare));
        assert!(!accepts("*.example.com", &format!("{bare}; policy=wild")));
        assert!(accepts("*.example.com", &format!("{bare}; policy=wildcard")));
    }

    #[test]
    fn an_authority_without_a_name_or_with_eleven_is_refused() {
        let names = |count| vec!["ca.example".to_owned(); count];
        for (count, is_sound) in [(0, false), (1, true), (10, true), (11, false)] {
            let made = Binding::new(names(count), Account::Url(URL.into()));
            assert_eq!(made.is_some(), is_sound, "{count}");
        }
    }

    #[test]
    fn one_record_is_for_a_name_and_its_wildcard() {
        let names = ["*.a.test", "a.test", "b.test", "192.0.2.1", "x.a.test", "::1"];
        let names = names.map(str::to_owned);
        assert_eq!(covering(&names), ["*.a.test", "b.test", "x.a.test"]);
    }

    #[test]
    fn a_challenge_is_read_in_each_spelling() {
        for (spelt, account) in [
            (r#""issuer-domain-names": ["ca.example"]"#, None),
            (r#""issuerDomainNames": ["ca.example"]"#, None),
            (r#""issuer-domain-names": ["ca.example"], "accounturi": "a:b""#, Some("a:b")),
        ] {
            let text = format!(
                r#"{{"status": "pending", "challenges": [{{"type": "http-01", "token": "t"}},
                    {{"type": "dns-persist-01", {spelt}}}]}}"#
            );
            let found: Authorization = serde_json::from_str(&text).unwrap();
            assert_eq!(found.challenges[1].kind, METHOD);
            assert_eq!(found.challenges[1].issuers, ["ca.example"]);
            assert_eq!(found.challenges[1].account.as_deref(), account);
        }
    }
}
