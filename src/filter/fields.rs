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
}
