//! What stands in a problem's text and nowhere else. Written after the texts of Boulder, which is
//! Let's Encrypt's, and of pebble.

use std::time::{Duration, SystemTime};

use time::PrimitiveDateTime;
use time::macros::format_description;

use super::Scope;

/// The moment in "retry after 2026-11-25 14:00:00 UTC".
pub(super) fn retry_after(detail: &str) -> Option<SystemTime> {
    let (_, rest) = detail.split_once("retry after ")?;
    let moment = rest.get(..19)?;
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = PrimitiveDateTime::parse(moment, format).ok()?.assume_utc();
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Whom a limit stops.
pub(super) fn limited_scope(detail: &str) -> Scope {
    let says = |words: &str| detail.contains(words);
    if says("exact set of") {
        Scope::ExactSet
    } else if says("from this IP") || says("Service busy") || says("new registrations") {
        Scope::Authority
    } else if let Some(name) = quoted(detail) {
        Scope::Names(vec![name])
    } else {
        // The next narrower one would let the same limit be met with every other certificate.
        Scope::Account
    }
}

/// Whether the account is paused for a name, after some thousand failures in a row.
pub(super) fn says_paused(detail: &str) -> bool {
    detail.contains("temporarily prevented from requesting certificates")
        || (detail.contains("paused") && link(detail).is_some())
}

/// The name in "prevented from requesting certificates for example.com and possibly others".
pub(super) fn paused_name(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once("requesting certificates for ")?;
    let name = rest.split_ascii_whitespace().next()?.trim_end_matches(['.', ',']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether the account is none any more.
pub(super) fn says_deactivated(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    detail.contains("account") && (detail.contains("deactivated") || detail.contains("revoked"))
}

/// Whether it is about the binding to an external account.
pub(super) fn says_external_account(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    detail.contains("external account") || detail.contains("externalaccount")
}

/// The first URL.
pub(super) fn link(detail: &str) -> Option<&str> {
    let at = detail.find("https://")?;
    let url = detail[at..].split(|c: char| c.is_whitespace() || "\"'<>()".contains(c)).next()?;
    Some(url.trim_end_matches(['.', ',', ';']))
}

/// The beginning of what is no problem document, as one line without markup.
pub(super) fn first_words(body: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(body);
    let mut words = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                words.push(' ');
            }
            _ if in_tag => {}
            c if c.is_control() => words.push(' '),
            c => words.push(c),
        }
    }
    let words = words.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(LONGEST).collect()
}

/// A text that fits into a line for people, whatever an authority sends.
pub(super) fn cut(mut detail: String) -> String {
    const LONGEST: usize = 2000;
    detail.truncate(detail.floor_char_boundary(LONGEST));
    detail
}

/// What stands in the first pair of quotes.
fn quoted(detail: &str) -> Option<String> {
    let name = detail.split('"').nth(1)?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// What is mostly the cause of a problem of this type, with this text.
pub(super) fn hint(r#type: &str, detail: &str) -> Option<&'static str> {
    let detail = detail.to_ascii_lowercase();
    if detail.contains("secondary validation") || detail.contains("multi-perspective") {
        return Some(
            "the authority looks from several places of the world, and some do not get through: a firewall that bars countries or networks, or name servers that differ",
        );
    }
    if detail.contains("contact information") || r#type.ends_with("Contact") {
        return Some("the authority wants an address that it takes in `acme.email`");
    }
    Some(match r#type {
        "connection" => {
            "the authority has to reach the name from the internet on port 443 or 80: a firewall, a port that is not forwarded, or a name that leads elsewhere"
        }
        "dns" => "the name has no address in the DNS, or its name servers do not answer properly",
        "tls" => "something else ends TLS at this name, or stands in front of the gateway",
        "incorrectResponse" | "unauthorized" => {
            "something else answers at this name: another server, a proxy in front, or an old AAAA record"
        }
        "caa" => "a CAA record of the name or of a domain above it lets others issue only",
        _ => return None,
    })
}
