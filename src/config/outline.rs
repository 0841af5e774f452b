//! What can still be read of a file that has faults: where a gateway run with it keeps its state and
//! takes questions.
//!
//! Answers "how do I reach the gateway whose file this was?". Called by `cli`, for which a broken
//! file is the ordinary case: the gateway runs on with what it had. Never reports a fault.

use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostics;
use super::interpolate;
use super::load::read_text;
use super::process::Admin;
use super::reading::Reading;
use super::storage::{self, Storage};
use super::tree::{self, Entry, Map, Node};

/// How to reach the gateway of a file.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The directory of `storage:`, or its default.
    pub storage: PathBuf,
    /// `admin:`, or its default; `None` when it is `off`.
    pub admin: Option<Admin>,
}

/// Reads what can be read of the file at `path`; the rest is as if it were not written.
#[must_use]
pub fn outline(path: &Path) -> Outline {
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let text = read_text(path).ok().and_then(Result::ok).unwrap_or_default();
    from_text(&text, base)
}

fn from_text(text: &str, base: &Path) -> Outline {
    let silent = || Diagnostics::new("", "");
    let tree = tree::parse(text, &mut silent());
    // A file that is no YAML is mostly YAML: each section is tried by itself.
    let part = |name: &str| {
        let mut entry = match &tree {
            Some(Node::Map(map)) => value_of(map.entry(name)),
            _ => match tree::parse(&section(text, name), &mut silent()) {
                Some(Node::Map(map)) => value_of(map.entry(name)),
                _ => None,
            },
        }?;
        interpolate::resolve(&mut entry, base, &mut silent());
        Some(entry)
    };
    let mut reading = Reading::new(silent(), base.to_owned());
    let storage = part("storage").and_then(|node| storage::read(&node, &mut reading));
    let admin = part("admin").and_then(|node| Admin::read(&node, &mut reading));
    Outline {
        storage: storage.unwrap_or_else(|| Storage::standard(base)).directory,
        admin: admin
            .or_else(|| Admin::read(&Node::Map(Map::default()), &mut reading))
            .unwrap_or_default(),
    }
}

fn value_of(entry: Option<&Entry>) -> Option<Node> {
    entry.map(|entry| entry.value.clone())
}

/// The lines of the top-level key `name`.
fn section(text: &str, name: &str) -> String {
    let begins = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let belongs = |line: &&str| line.is_empty() || line.starts_with([' ', '#', '-', '\r']);
    let mut lines = text.lines().skip_while(|line| !begins(line));
    let first = lines.next().into_iter();
    first.chain(lines.take_while(belongs)).fold(String::new(), |all, line| all + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_found_through_whatever_is_wrong_with_its_file() {
        let sound = "storage: state\nadmin: { bind: \"127.0.0.1:2100\" }\n";
        let split = "admin:\n  # ours\n  bind: \"127.0.0.1:2100\"\nsites: [}\nstorage: state\n";
        for (text, storage, bind) in [
            (sound.to_owned(), "state", Some("127.0.0.1:2100")),
            (
                format!("{sound}sites: {{ a.test: {{ upstraem: b }} }}\n"),
                "state",
                Some("127.0.0.1:2100"),
            ),
            (format!("{sound}sites: [\n"), "state", Some("127.0.0.1:2100")),
            (format!("sites: {{ a: \"\n{sound}"), "state", Some("127.0.0.1:2100")),
            (split.to_owned(), "state", Some("127.0.0.1:2100")),
            ("admin: off\n".to_owned(), "certs", None),
            ("admin: { bnid: 1 }\n".to_owned(), "certs", Some("127.0.0.1:2019")),
            (
                "admin: { bind: nonsense }\nstorage: [a]\n".to_owned(),
                "certs",
                Some("127.0.0.1:2019"),
            ),
            (String::new(), "certs", Some("127.0.0.1:2019")),
            ("\t\u{0}:::".to_owned(), "certs", Some("127.0.0.1:2019")),
        ] {
            let outline = from_text(&text, Path::new("base"));
            assert_eq!(outline.storage, Path::new("base").join(storage), "{text}");
            let found = outline.admin.map(|admin| admin.bind.to_string());
            assert_eq!(found.as_deref(), bind, "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_has_the_defaults() {
        let outline = outline(Path::new("no-such-directory/gateway.yaml"));
        assert_eq!(outline.storage, Path::new("no-such-directory").join("certs"));
        assert!(outline.admin.is_some());
    }
}
