//! What is asked about certificates and accounts, and how that is spelt.
//!
//! `app` answers. A request that changes something may have a JSON object as its body; an answer is
//! JSON, and one that is a refusal has `error`.

use futures_util::future::BoxFuture;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value, json};

/// What is asked about certificates. Names are of sites, their hosts, or entries of `certificates:`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Question {
    /// `GET /certs`: all of them, in short.
    List,
    /// `GET /certs/NAME`: all that is known of one.
    Show(String),
    /// `GET /certs/NAME/dns-persist`: the records that have to stay in the DNS for it.
    DnsPersist(String),
    /// `POST /certs/NAME/renew`, or `POST /renew` for all.
    Renew(Option<String>),
    /// `POST /certs/NAME/revoke`.
    Revoke(String),
    /// `POST /certs/NAME/restore`.
    Restore(String),
    /// `GET /account`.
    Account,
    /// `POST /account/rollover`: a new key.
    Rollover,
    /// `POST /account/deactivate`: its end.
    Deactivate,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How it went.
    pub status: StatusCode,
    /// What there is to say.
    pub body: Value,
}

/// Whoever answers.
pub type Answer = dyn Fn(Question, Value) -> BoxFuture<'static, Reply> + Send + Sync;

impl Question {
    /// What `path` asks for.
    pub(super) fn of(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let name = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        Some(match segments.as_slice() {
            ["certs"] => Self::List,
            ["certs", one] if !one.is_empty() => Self::Show(name(one)?),
            ["certs", one, "dns-persist"] => Self::DnsPersist(name(one)?),
            ["renew"] => Self::Renew(None),
            ["certs", one, "renew"] => Self::Renew(Some(name(one)?)),
            ["certs", one, "revoke"] => Self::Revoke(name(one)?),
            ["certs", one, "restore"] => Self::Restore(name(one)?),
            ["account"] => Self::Account,
            ["account", "rollover"] => Self::Rollover,
            ["account", "deactivate"] => Self::Deactivate,
            _ => return None,
        })
    }

    /// The path that asks it.
    #[must_use]
    pub fn path(&self) -> String {
        let of = |name: &str, deed: &str| {
            format!("/certs/{}{deed}", utf8_percent_encode(name, NON_ALPHANUMERIC))
        };
        match self {
            Self::List => "/certs".to_owned(),
            Self::Show(name) => of(name, ""),
            Self::DnsPersist(name) => of(name, "/dns-persist"),
            Self::Renew(None) => "/renew".to_owned(),
            Self::Renew(Some(name)) => of(name, "/renew"),
            Self::Revoke(name) => of(name, "/revoke"),
            Self::Restore(name) => of(name, "/restore"),
            Self::Account => "/account".to_owned(),
            Self::Rollover => "/account/rollover".to_owned(),
            Self::Deactivate => "/account/deactivate".to_owned(),
        }
    }

    /// Whether it changes something.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::List | Self::Show(_) | Self::DnsPersist(_) | Self::Account)
    }
}

impl Reply {
    /// 200 with `body`.
    #[must_use]
    pub fn fine(body: Value) -> Self {
        Self { status: StatusCode::OK, body }
    }

    /// A refusal with its reason.
    #[must_use]
    pub fn error(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, body: json!({ "error": text.into() }) }
    }
}

/// What stands in a body: an object, or nothing.
pub(super) fn arguments(body: &[u8]) -> Result<Value, Reply> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        _ => Err(Reply::error(StatusCode::BAD_REQUEST, "the body is no JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_certificates_and_what_is_to_be_done() {
        let name = || "*.bücher.test".to_owned();
        for (path, wanted) in [
            ("/certs", Some(Question::List)),
            ("/certs/renew", Some(Question::Show("renew".to_owned()))),
            ("/renew", Some(Question::Renew(None))),
            ("/certs/a.test", Some(Question::Show("a.test".to_owned()))),
            ("/certs/*.b%C3%BCcher.test/renew", Some(Question::Renew(Some(name())))),
            ("/certs/%2A.b%C3%BCcher.test/restore", Some(Question::Restore(name()))),
            ("/certs/a.test/dns-persist", Some(Question::DnsPersist("a.test".to_owned()))),
            ("/certs/", None),
            ("/certs/a/b", None),
            ("/certs/%FF", None),
            ("/certs/a/renew/", None),
            ("/account/rollover", Some(Question::Rollover)),
            ("/account/x", None),
        ] {
            assert_eq!(Question::of(path), wanted, "{path}");
            if let Some(question) = wanted {
                assert_eq!(Question::of(&question.path()), Some(question), "{path}");
            }
        }
    }

    #[test]
    fn a_body_is_an_object_or_nothing() {
        assert_eq!(arguments(b" \n").unwrap(), json!({}));
        assert_eq!(arguments(b"{\"force\":true}").unwrap(), json!({ "force": true }));
        for bad in ["[]", "1", "{", "force=true"] {
            assert_eq!(arguments(bad.as_bytes()).unwrap_err().status, 400, "{bad}");
        }
    }
}
