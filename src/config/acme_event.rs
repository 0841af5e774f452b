//! `acme.events`: who is told what becomes of certificates.

use std::fmt;
use std::time::Duration;

use super::diagnostic::quoted;
use super::grammar_acme::HOOK;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::tree::{Map, Node};
use super::value;

/// One entry of `acme.events`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hook {
    /// What it is told of. Never empty; default all.
    pub on: Vec<EventKind>,
    /// How it is told.
    pub action: Action,
    /// How long it may take. Default 10 s for a webhook, 30 s for a program.
    pub timeout: Duration,
}

/// How a hook is told. The `Debug` form hides the URL, which may hold a secret.
#[derive(Clone, Eq, PartialEq)]
pub enum Action {
    /// By a POST to this URL, of http or https.
    Webhook(String),
    /// By a program and its arguments, never empty, in which [`PLACEHOLDERS`] are replaced.
    Run(Vec<String>),
}

/// What becomes of certificates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EventKind {
    /// A first certificate came from an authority.
    Obtained,
    /// Another took the place of one.
    Renewed,
    /// A try yielded none.
    Failed,
    /// A quarter, an eighth or a twentieth of its lifetime is left.
    Expiring,
    /// It has ended.
    Expired,
    /// It was revoked.
    Revoked,
    /// Somebody else brought one.
    Imported,
    /// The authority wishes it to be renewed at another time.
    AriChanged,
    /// A rate limit was met.
    Limited,
    /// Somebody has to change something.
    Blocked,
    /// The authority had lost the account.
    AccountRecreated,
    /// Something could not be kept.
    StoreError,
    /// What was kept is damaged, and the one before is served.
    StoreFellBack,
}

/// What is replaced in a program's arguments.
pub const PLACEHOLDERS: [&str; 3] = ["event", "id", "certificate"];

const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

impl EventKind {
    pub(super) const WORDS: [(&'static str, Self); 13] = [
        ("obtained", Self::Obtained),
        ("renewed", Self::Renewed),
        ("failed", Self::Failed),
        ("expiring", Self::Expiring),
        ("expired", Self::Expired),
        ("revoked", Self::Revoked),
        ("imported", Self::Imported),
        ("ari_changed", Self::AriChanged),
        ("limited", Self::Limited),
        ("blocked", Self::Blocked),
        ("account_recreated", Self::AccountRecreated),
        ("store_error", Self::StoreError),
        ("store_fell_back", Self::StoreFellBack),
    ];

    /// The event's name, as hooks and the log have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Obtained => "cert.obtained",
            Self::Renewed => "cert.renewed",
            Self::Failed => "cert.failed",
            Self::Expiring => "cert.expiring",
            Self::Expired => "cert.expired",
            Self::Revoked => "cert.revoked",
            Self::Imported => "cert.imported",
            Self::AriChanged => "ari.changed",
            Self::Limited => "acme.limited",
            Self::Blocked => "acme.blocked",
            Self::AccountRecreated => "account.recreated",
            Self::StoreError => "store.error",
            Self::StoreFellBack => "store.fell_back",
        }
    }
}

impl Hook {
    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&HOOK, reading);
        let mut on = keys.choices("event", &EventKind::WORDS);
        let webhook = keys.read("webhook", read_webhook);
        let run = keys.list("run", read_argument);
        let timeout = keys.read("timeout", value::duration);
        let is_on_written = keys.span_of("event").is_some();
        keys.finish();
        if !is_on_written {
            on = EventKind::WORDS.map(|(_, kind)| kind).into();
        }
        on.sort_unstable();
        on.dedup();
        let (action, usual) = match webhook {
            Some(url) => (Action::Webhook(url), WEBHOOK_TIMEOUT),
            None if run.is_empty() => return None,
            None => (Action::Run(run), RUN_TIMEOUT),
        };
        Some(Self { on, action, timeout: timeout.unwrap_or(usual) })
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(_) => f.write_str("Webhook"),
            Self::Run(run) => f.debug_tuple("Run").field(run).finish(),
        }
    }
}

fn read_webhook(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let text = &*scalar.text;
    let uri = text.parse::<http::Uri>().ok();
    let authority = uri.as_ref().and_then(http::Uri::authority);
    let scheme = uri.as_ref().and_then(http::Uri::scheme_str).unwrap_or_default();
    let (message, hint) = match authority {
        Some(found) if found.as_str().contains('@') => (
            "a webhook's URL has no user name or password".to_owned(),
            "remove what stands before the @; a token can stand in the path".to_owned(),
        ),
        Some(found) if matches!(scheme, "http" | "https") && !found.host().is_empty() => {
            return Some(text.to_owned());
        }
        _ => {
            let message = format!("{} is not a webhook's URL", quoted(shown(scalar)));
            let hint = match text.split_once("://") {
                None if !text.is_empty() => format!("write \"https://{text}\""),
                _ => "such as \"https://ops.example.com/hook\"".to_owned(),
            };
            (message, hint)
        }
    };
    reading.wrong(scalar, message, hint);
    None
}

/// An argument; what looks like a placeholder is one.
fn read_argument(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let is_word = |word: &&str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let braced = scalar.text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    let unknown = braced.filter(is_word).find(|word| !PLACEHOLDERS.contains(word));
    let Some(unknown) = unknown else { return Some(scalar.text.to_string()) };
    let message = format!("{} is no placeholder", quoted(&format!("{{{unknown}}}")));
    let hint = match nearest(unknown, PLACEHOLDERS) {
        Some(near) => format!("did you mean {}?", quoted(&format!("{{{near}}}"))),
        None => "{event}, {id} and {certificate} are; the rest is on standard input".to_owned(),
    };
    reading.wrong(scalar, message, hint);
    None
}
