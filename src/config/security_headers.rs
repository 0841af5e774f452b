//! `security_headers:`: the header fields that make browsers careful, and their defaults.
//!
//! Answers "which fields does a response get?". The defaults, which are in the table, hold for any
//! site. Never guesses a content security policy: only the site's author knows what it loads.
//!
//! # Why
//! `includeSubDomains` and `preload` of Strict-Transport-Security concern hosts that this gateway may
//! not serve, and browsers do not forget them, so only the operator can ask for them.

use http::{HeaderName, HeaderValue, header};

use super::diagnostic::quoted;
use super::header::read_value;
use super::keys::Keys;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::tree::{Node, Scalar};
use super::value;

/// Reads every key but `mode`. `None` if one of them is faulty.
pub(super) fn read(keys: &mut Keys<'_, '_>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let faults = keys.reading.faults.error_count();
    let frames = [("SAMEORIGIN", "SAMEORIGIN"), ("DENY", "DENY"), ("off", "off")];
    let openers = [
        ("same-origin", "same-origin"),
        ("same-origin-allow-popups", "same-origin-allow-popups"),
        ("unsafe-none", "unsafe-none"),
        ("off", "off"),
    ];
    let sniffing = [("nosniff", "nosniff"), ("off", "off")];
    let word = |word: Option<&'static str>| {
        word.filter(|word| *word != "off").map(HeaderValue::from_static)
    };
    let fields = [
        (
            header::STRICT_TRANSPORT_SECURITY,
            keys.read("hsts", |node, out| text(node, check_hsts, out)),
        ),
        (header::X_CONTENT_TYPE_OPTIONS, word(keys.choice("content_type_options", &sniffing))),
        (header::X_FRAME_OPTIONS, word(keys.choice("frame_options", &frames))),
        (
            header::REFERRER_POLICY,
            keys.read("referrer_policy", |node, out| text(node, check_referrer_policy, out)),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            keys.read("content_security_policy", |node, out| text(node, |_, _| (), out)),
        ),
        (
            HeaderName::from_static("permissions-policy"),
            keys.read("permissions_policy", |node, out| text(node, |_, _| (), out)),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            word(keys.choice("cross_origin_opener_policy", &openers)),
        ),
    ];
    let is_sound = keys.reading.faults.error_count() == faults;
    is_sound.then(|| fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// A field's value; nothing for `off`.
fn text(
    node: &Node,
    check: fn(&Scalar, &mut Reading),
    reading: &mut Reading,
) -> Option<HeaderValue> {
    let scalar = value::scalar(node, reading)?;
    if &*scalar.text == "off" {
        return None;
    }
    if scalar.text.is_empty() {
        reading.error_hint(
            scalar.span,
            "this field would be empty",
            "write \"off\" to leave it out",
        );
        return None;
    }
    check(scalar, reading);
    read_value(node, reading)
}

/// Strict-Transport-Security has one `max-age` (RFC 6797 §6.1); without it browsers ignore the field.
fn check_hsts(scalar: &Scalar, reading: &mut Reading) {
    let directives = scalar.text.split(';').map(str::trim);
    let ages: Vec<&str> = directives
        .filter_map(|directive| directive.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"))
        .map(|(_, age)| age.trim().trim_matches('"'))
        .collect();
    if let [age] = ages.as_slice()
        && !age.is_empty()
        && age.bytes().all(|byte| byte.is_ascii_digit())
    {
        return;
    }
    let message = format!("{} is not a Strict-Transport-Security policy", quoted(shown(scalar)));
    let hint = "such as \"max-age=31536000; includeSubDomains\", or off";
    reading.wrong(scalar, message, hint);
}

/// A browser takes the last policy of the list that it knows, and ignores a word that it does not.
fn check_referrer_policy(scalar: &Scalar, reading: &mut Reading) {
    const POLICIES: [&str; 8] = [
        "no-referrer",
        "no-referrer-when-downgrade",
        "origin",
        "origin-when-cross-origin",
        "same-origin",
        "strict-origin",
        "strict-origin-when-cross-origin",
        "unsafe-url",
    ];
    let unknown = scalar.text.split(',').map(str::trim).find(|word| !POLICIES.contains(word));
    let Some(unknown) = unknown else { return };
    let message = format!("{} is not a referrer policy", quoted(shown(scalar)));
    let hint = match nearest(unknown, POLICIES) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("{}, or off", POLICIES.join(", ")),
    };
    reading.wrong(scalar, message, hint);
}
