//! The filters that change header fields: `security_headers`, `request_headers`,
//! `response_headers`.

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderName, HeaderValue};

use crate::config::filter::{HeaderEdits, SecurityHeaders as Spec};
use crate::net::Fields;

/// Fields that tell browsers to be careful. Who has set one already knows better.
#[derive(Debug)]
pub(super) struct SecurityHeaders {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl SecurityHeaders {
    pub(super) fn new(spec: &Spec) -> Self {
        Self { fields: spec.fields.clone() }
    }

    /// Sets what is missing. Over plain HTTP `Strict-Transport-Security` says nothing (RFC 6797
    /// §7.2), and is not sent.
    pub(super) fn apply(&self, response: &mut impl Fields, is_https: bool) {
        for (name, value) in &self.fields {
            let is_said = is_https || *name != STRICT_TRANSPORT_SECURITY;
            if is_said && !response.map().contains_key(name) {
                response.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Removes, then sets, then adds.
pub(super) fn edit(fields: &mut impl Fields, edits: &HeaderEdits) {
    for name in &edits.remove {
        fields.remove(name);
    }
    for (name, value) in &edits.set {
        fields.insert(name.clone(), value.clone());
    }
    for (name, value) in &edits.add {
        fields.append(name.clone(), value.clone());
    }
}

/// `request_headers`: the edits, and the names that nobody else may use.
#[derive(Debug)]
pub(super) struct RequestHeaders {
    edits: HeaderEdits,
    /// Names whose look-alikes are forged.
    own: Vec<HeaderName>,
    /// Whether one of them is an unusual spelling itself, so that a usual one looks like it.
    is_unusual: bool,
}

impl RequestHeaders {
    pub(super) fn new(edits: &HeaderEdits) -> Self {
        let set = edits.set.iter().map(|(name, _)| name).filter(|name| !is_framing(name));
        // Who removes an unusual spelling wants the usual one to stay, as far as we know.
        let removed = edits.remove.iter().filter(|name| is_usual(name));
        let mut own: Vec<HeaderName> = set.chain(removed).cloned().collect();
        own.dedup();
        let is_unusual = own.iter().any(|name| !is_usual(name));
        Self { edits: edits.clone(), own, is_unusual }
    }

    /// Takes away what a client sends in the place of a field that is set or removed here.
    ///
    /// CGI, WSGI, PHP and their heirs map everything that is no letter or digit to `_`: `X_User` and
    /// `x.user` reach the program as `X-User` does.
    pub(super) fn drop_forged(&self, fields: &mut impl Fields) {
        let names = fields.map().keys();
        // Without a heap for the usual request.
        let forged: Vec<HeaderName> = names.filter(|name| self.is_forged(name)).cloned().collect();
        for name in &forged {
            fields.remove(name);
        }
    }

    pub(super) fn apply(&self, fields: &mut impl Fields) {
        edit(fields, &self.edits);
    }

    fn is_forged(&self, name: &HeaderName) -> bool {
        (self.is_unusual || !is_usual(name))
            && self.own.iter().any(|own| own != name && looks_like(name.as_str(), own.as_str()))
    }
}

/// Whether a name is nothing but letters, digits and dashes.
fn is_usual(name: &HeaderName) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether two names, in lower case, are the same to who takes letters and digits only.
fn looks_like(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).all(|(one, other)| {
            one == other || !(one.is_ascii_alphanumeric() || other.is_ascii_alphanumeric())
        })
}

/// Whether a name looks like one that a message cannot do without.
fn is_framing(name: &HeaderName) -> bool {
    ["content-length", "transfer-encoding"].iter().any(|framing| looks_like(name.as_str(), framing))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn map(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn pairs(rows: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        rows.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_backends_own_value_stays_and_hsts_is_for_https() {
        let spec = Spec {
            fields: pairs(&[
                ("strict-transport-security", "max-age=1"),
                ("x-frame-options", "DENY"),
                ("x-content-type-options", "nosniff"),
            ]),
        };
        let filter = SecurityHeaders::new(&spec);
        for (is_https, hsts) in [(true, Some("max-age=1")), (false, None)] {
            let mut fields = map(&[("x-frame-options", "SAMEORIGIN")]);
            filter.apply(&mut fields, is_https);
            let value = |name| fields.get(name).map(|value: &HeaderValue| value.to_str().unwrap());
            assert_eq!(value("x-frame-options"), Some("SAMEORIGIN"));
            assert_eq!(value("x-content-type-options"), Some("nosniff"));
            assert_eq!(value("strict-transport-security"), hsts, "https: {is_https}");
        }
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let edits = HeaderEdits {
            remove: vec![HeaderName::from_static("server"), HeaderName::from_static("x-a")],
            set: pairs(&[("x-a", "1"), ("x-b", "2")]),
            add: pairs(&[("x-b", "3"), ("x-c", "4")]),
        };
        let mut fields = map(&[("server", "x"), ("x-b", "old"), ("x-b", "older"), ("x-c", "0")]);
        edit(&mut fields, &edits);
        let values = |name: &str| {
            let values = fields.get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(",")
        };
        assert_eq!(values("server"), "");
        assert_eq!(values("x-a"), "1");
        assert_eq!(values("x-b"), "2,3");
        assert_eq!(values("x-c"), "0,4");
    }

    #[test]
    fn what_looks_like_a_field_that_is_set_or_removed_is_taken_away() {
        let names = |rows: &[&'static str]| rows.iter().map(|name| name.parse().unwrap()).collect();
        let edits = |set: &'static str, remove: &[&'static str]| HeaderEdits {
            set: pairs(&[(set, "ours")]),
            remove: names(remove),
            add: pairs(&[("x-tag", "a")]),
        };
        for (edits, sent, left) in [
            (
                edits("x-user", &["x-debug"]),
                &["x_user", "x.user", "x-user", "x_debug", "x-users", "xuser", "x_tag", "y_user"][..],
                &["x-user", "x-users", "x_tag", "xuser", "y_user"][..],
            ),
            (edits("remote-user", &[]), &["remote_user", "remote"], &["remote"]),
            (edits("x_user", &["x_debug"]), &["x-user", "x.user", "x-debug"], &["x-debug"]),
            (edits("content_length", &[]), &["content-length"], &["content-length"]),
            (edits("x_a", &[]), &["x-a", "content-type"], &["content-type"]),
        ] {
            let sent: Vec<_> = sent.iter().map(|name| (*name, "1")).collect();
            let mut fields = map(&sent);
            RequestHeaders::new(&edits).drop_forged(&mut fields);
            let mut found: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, left, "{edits:?}");
        }
    }
}
