//! Tables that say which test shows what, held against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::in_repository;

/// How an entry of such a table stands.
pub(crate) enum Shown {
    /// By these tests, unit tests included.
    By(&'static [&'static str]),
    /// Not at all, for this reason.
    Not(&'static str),
}

/// Fails with every test that a table names and the sources do not have.
pub(crate) fn hold_against_sources<'a>(rows: impl IntoIterator<Item = (&'a str, &'a Shown)>) {
    let mut tests = BTreeSet::new();
    for folder in ["tests", "src"] {
        collect(&in_repository(folder), &mut tests);
    }
    let mut missing = Vec::new();
    for (entry, shown) in rows {
        match shown {
            Shown::By(names) => {
                assert!(!names.is_empty(), "{entry}: nothing shows it");
                let absent = names.iter().filter(|name| !tests.contains(**name));
                missing.extend(absent.map(|name| format!("{entry}: there is no test {name}")));
            }
            Shown::Not(reason) => assert!(!reason.is_empty(), "{entry}: without a reason"),
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The names of all test functions below `folder`.
fn collect(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if !line.starts_with("#[") {
                    let line = line.strip_prefix("async ").unwrap_or(line);
                    let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
                    tests.extend(name.filter(|_| is_test).map(str::to_owned));
                    is_test = false;
                }
            }
        }
    }
}
