//! Who may ask what of the admin listener.
//!
//! Pure: decides from the request's head alone. A browser on the same machine reaches loopback, and
//! any page in it may make it try, so what such a page can cause is refused before anything else is
//! looked at.

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, StatusCode};

use super::certs;
use super::token::{Token, is_same};
use crate::net::{Host, HostRef};

/// What can be asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Question {
    Live,
    Ready,
    Metrics,
    Config,
    Status,
    Reload,
    Upgrade,
    Certs(certs::Question),
    Probe,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: &'static str,
    /// The methods that would do.
    pub(super) allow: Option<&'static str>,
}

/// What the decision depends on besides the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// Whether the listener is on loopback. Elsewhere everything that tells anything needs the
    /// operator's token, which a page under a rebound name does not have: any Host will do.
    pub(super) is_loopback: bool,
    /// `admin.token`.
    pub(super) configured: Option<&'a str>,
    /// The one under `storage:`.
    pub(super) made: Option<&'a Token>,
}

const NO_SUCH_PATH: &str = "there are /live, /ready, /metrics, /config, /status, /reload, /upgrade, /probe, /certs, /renew, /account\n";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The types that a page may send anywhere without asking (Fetch §2.2.2).
const FORMS: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];

impl Question {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/live" => Self::Live,
            "/ready" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/config" => Self::Config,
            "/status" => Self::Status,
            "/reload" => Self::Reload,
            "/upgrade" => Self::Upgrade,
            "/probe" => Self::Probe,
            path => Self::Certs(certs::Question::of(path)?),
        })
    }

    /// Whether it changes something.
    fn is_change(&self) -> bool {
        match self {
            Self::Reload | Self::Upgrade | Self::Probe => true,
            Self::Certs(question) => question.is_change(),
            _ => false,
        }
    }

    fn allows(&self, method: &Method) -> bool {
        if self.is_change() {
            *method == Method::POST
        } else {
            matches!(*method, Method::GET | Method::HEAD)
        }
    }
}

/// What `head` asks for, if it may.
pub(super) fn admit(head: &Parts, rules: Rules<'_>) -> Result<Question, Refusal> {
    if !names_us(head, rules) {
        return Err(refuse(403, "this host name is not the admin listener's\n"));
    }
    if is_foreign(&head.headers) {
        return Err(refuse(403, "pages of other sites may not ask this\n"));
    }
    let Some(question) = Question::of(head.uri.path()) else {
        return Err(refuse(404, NO_SUCH_PATH));
    };
    if !question.allows(&head.method) {
        let (text, allow) = if question.is_change() {
            ("POST only\n", "POST")
        } else {
            ("GET and HEAD only\n", "GET, HEAD")
        };
        return Err(Refusal { allow: Some(allow), ..refuse(405, text) });
    }
    if question.is_change() && is_form(&head.headers) {
        return Err(refuse(403, "forms may not ask this\n"));
    }
    let needs_token = match question {
        Question::Live | Question::Ready => false,
        _ if question.is_change() => true,
        _ => rules.configured.is_some() || !rules.is_loopback,
    };
    if needs_token && !shows_token(&head.headers, rules) {
        return Err(refuse(401, "this needs the admin token\n"));
    }
    Ok(question)
}

fn refuse(status: u16, text: &'static str) -> Refusal {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    Refusal { status, text, allow: None }
}

/// Whether the request names a host of ours, once. DNS rebinding gives a foreign name our address.
fn names_us(head: &Parts, rules: Rules<'_>) -> bool {
    let Some(host) = only(&head.headers, header::HOST) else { return false };
    let target = head.uri.authority().map(|authority| authority.as_str());
    [Some(host), target].into_iter().flatten().all(|host| match HostRef::parse_authority(host) {
        Ok(_) if !rules.is_loopback => true,
        Ok((host, _)) => match host.to_host() {
            Host::Name(name) => name.as_str() == "localhost",
            Host::Address(address) => address.to_canonical().is_loopback(),
        },
        Err(_) => false,
    })
}

/// Whether a browser says that another site's page is behind the request. `same-site` is another
/// port of this machine, and thus somebody else's page.
fn is_foreign(headers: &HeaderMap) -> bool {
    let own = only(headers, header::HOST).map(|host| format!("http://{host}"));
    let is_own = |origin: &header::HeaderValue| {
        let origin = origin.to_str().ok();
        matches!((origin, &own), (Some(origin), Some(own)) if origin.eq_ignore_ascii_case(own))
    };
    let is_here = |site: &header::HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    !headers.get_all(header::ORIGIN).iter().all(is_own)
        || !headers.get_all(FETCH_SITE).iter().all(is_here)
}

fn is_form(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().any(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        FORMS.iter().any(|form| essence.trim_ascii().eq_ignore_ascii_case(form.as_bytes()))
    })
}

fn shows_token(headers: &HeaderMap, rules: Rules<'_>) -> bool {
    let Some((scheme, offered)) =
        only(headers, header::AUTHORIZATION).and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer")
        && match (rules.configured, rules.made) {
            (Some(configured), _) => is_same(configured, offered.trim()),
            (None, Some(made)) => made.is(offered.trim()),
            (None, None) => false,
        }
}

/// The field's value if it is there exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Field<'a> = (&'a str, &'a str);

    fn outcome(line: &str, fields: &[Field<'_>], rules: Rules<'_>) -> Result<Question, u16> {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        admit(&head, rules).map_err(|refusal| refusal.status.as_u16())
    }

    const HOST: Field<'_> = ("host", "localhost:2019");
    fn list() -> Question {
        Question::Certs(certs::Question::List)
    }

    const TOKEN: Field<'_> = ("authorization", "Bearer word");

    #[test]
    fn what_a_page_can_cause_is_refused() {
        let rules = Rules { is_loopback: true, configured: Some("word"), made: None };
        let rows: &[(&[Field<'_>], Result<Question, u16>)] = &[
            (&[HOST, TOKEN], Ok(Question::Reload)),
            (&[HOST, TOKEN, ("origin", "http://localhost:2019")], Ok(Question::Reload)),
            (&[HOST, TOKEN, ("sec-fetch-site", "none")], Ok(Question::Reload)),
            (&[HOST, TOKEN, ("content-type", "application/json")], Ok(Question::Reload)),
            (&[TOKEN], Err(403)),
            (&[HOST, HOST, TOKEN], Err(403)),
            (&[("host", "rebound.example"), TOKEN], Err(403)),
            (&[HOST, TOKEN, ("origin", "null")], Err(403)),
            (&[HOST, TOKEN, ("origin", "http://localhost:3000")], Err(403)),
            (&[HOST, TOKEN, ("origin", "https://localhost:2019")], Err(403)),
            (&[HOST, TOKEN, ("origin", "http://evil.example")], Err(403)),
            (&[HOST, TOKEN, ("sec-fetch-site", "cross-site")], Err(403)),
            (&[HOST, TOKEN, ("sec-fetch-site", "same-site")], Err(403)),
            (&[HOST, TOKEN, ("content-type", "Text/Plain; charset=utf-8")], Err(403)),
            (&[HOST, TOKEN, ("content-type", "application/x-www-form-urlencoded")], Err(403)),
            (&[HOST, TOKEN, ("content-type", "multipart/form-data; boundary=x")], Err(403)),
            (&[HOST], Err(401)),
            (&[HOST, TOKEN, TOKEN], Err(401)),
            (&[HOST, ("authorization", "Bearer words")], Err(401)),
            (&[HOST, ("authorization", "Basic word")], Err(401)),
            (&[HOST, ("authorization", "word")], Err(401)),
        ];
        for (fields, wanted) in rows {
            assert_eq!(outcome("POST /reload", fields, rules), *wanted, "{fields:?}");
        }
        let absolute = outcome("POST http://evil.example/reload", &[HOST, TOKEN], rules);
        assert_eq!(absolute, Err(403), "the target's host counts as well");
    }

    #[test]
    fn who_needs_the_token() {
        let loopback = Rules { is_loopback: true, configured: None, made: None };
        let with_word = Rules { configured: Some("word"), ..loopback };
        let beyond = Rules { is_loopback: false, ..with_word };
        let away = ("host", "gateway.internal:2019");
        for (line, fields, rules, wanted) in [
            ("GET /live", vec![HOST], loopback, Ok(Question::Live)),
            ("HEAD /ready", vec![HOST], loopback, Ok(Question::Ready)),
            ("GET /status", vec![HOST], loopback, Ok(Question::Status)),
            ("GET /config", vec![HOST], loopback, Ok(Question::Config)),
            ("GET /metrics", vec![HOST], loopback, Ok(Question::Metrics)),
            ("POST /reload", vec![HOST, TOKEN], loopback, Err(401)),
            ("GET /reload", vec![HOST, TOKEN], with_word, Err(405)),
            ("POST /status", vec![HOST, TOKEN], with_word, Err(405)),
            ("GET /", vec![HOST], loopback, Err(404)),
            ("GET /live", vec![HOST], with_word, Ok(Question::Live)),
            ("GET /metrics", vec![HOST], with_word, Err(401)),
            ("GET /status", vec![HOST], with_word, Err(401)),
            ("GET /status", vec![away, TOKEN], with_word, Err(403)),
            ("GET /status", vec![away, TOKEN], beyond, Ok(Question::Status)),
            ("GET /status", vec![away], beyond, Err(401)),
            ("GET /ready", vec![away], beyond, Ok(Question::Ready)),
            ("GET /certs", vec![HOST], loopback, Ok(list())),
            ("GET /certs", vec![HOST], with_word, Err(401)),
            ("POST /certs", vec![HOST, TOKEN], with_word, Err(405)),
            ("POST /certs/a/renew", vec![HOST], loopback, Err(401)),
            ("GET /certs/a/renew", vec![HOST, TOKEN], with_word, Err(405)),
            ("GET /account", vec![HOST], loopback, Ok(Question::Certs(certs::Question::Account))),
            ("POST /account/rollover", vec![HOST], loopback, Err(401)),
        ] {
            assert_eq!(outcome(line, &fields, rules), wanted, "{line} {fields:?} {rules:?}");
        }
    }
}
