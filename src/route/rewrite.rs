//! The path and query sent upstream.
//!
//! Answers "what does the backend get instead of what was asked?". Every result is a canonical path
//! again: what a rewrite puts together is checked like what a client sends.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

use super::redirect::{encode_invisible, expand};
use crate::config::route::{Piece, Rewrite};
use crate::net::RequestHead;
use crate::net::path::{self, EncodedSlashes, PathError};

/// A canonical path and the query beside it. Shown as it stands in a request line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    path: Cow<'a, str>,
    query: Option<Cow<'a, str>>,
}

impl<'a> Target<'a> {
    /// The target of a request that nothing rewrites.
    #[must_use]
    pub fn unchanged(head: &RequestHead<'a>) -> Self {
        Self { path: Cow::Borrowed(head.path), query: head.query.map(Cow::Borrowed) }
    }

    /// The canonical path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows the `?`, without it.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Whether it is shown as `text`; spares the caller from writing it down to compare.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let rest = text.strip_prefix(&*self.path);
        rest.is_some_and(|rest| match self.query() {
            Some(query) => rest.strip_prefix('?') == Some(query),
            None => rest.is_empty(),
        })
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

/// A compiled `rewrite:`.
#[derive(Clone, Debug)]
pub struct Rewriter {
    kind: Kind,
    slashes: EncodedSlashes,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Holds the prefix's match key.
    StripPrefix(String),
    Path(Vec<Piece>),
    Regex {
        from: Regex,
        to: String,
    },
}

impl Rewriter {
    /// Compiles `rewrite` for a site with this setting. An encoded slash that the operator wrote
    /// into the replacement is meant, and taken on every site.
    #[must_use]
    pub fn new(rewrite: &Rewrite, slashes: EncodedSlashes) -> Self {
        let (kind, written) = match rewrite {
            Rewrite::StripPrefix(prefix) => {
                let key = path::match_key(prefix.trim_end_matches('/')).into_cow().into_owned();
                (Kind::StripPrefix(key), String::new())
            }
            Rewrite::Path(template) => {
                let literals = template.iter().filter_map(|piece| match piece {
                    Piece::Literal(text) => Some(text.as_str()),
                    _ => None,
                });
                let written = literals.collect::<Vec<_>>().join(" ");
                (Kind::Path(template.iter().map(visible).collect()), written)
            }
            Rewrite::Regex { from, to } => {
                (Kind::Regex { from: from.clone(), to: encode_invisible(to) }, to.clone())
            }
        };
        let written = written.to_ascii_lowercase();
        let has_slash = ["%2f", "%5c", "\\"].iter().any(|slash| written.contains(slash));
        Self { kind, slashes: if has_slash { EncodedSlashes::Pass } else { slashes } }
    }

    /// The target for a request. The query is kept unless the replacement has one; `*` is kept.
    ///
    /// # Errors
    /// [`PathError`] when the new path is none, for instance because a regex cut an escape in two.
    pub fn apply<'h>(&self, head: &RequestHead<'h>) -> Result<Target<'h>, PathError> {
        if head.path == "*" {
            return Ok(Target::unchanged(head));
        }
        let text = match &self.kind {
            Kind::StripPrefix(prefix) => return Ok(strip(prefix, head)),
            Kind::Path(template) => expand(template, head),
            Kind::Regex { from, to } => match replace(from, to, head) {
                Some(text) => text,
                None => return Ok(Target::unchanged(head)),
            },
        };
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text.as_str(), None),
        };
        let rooted = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let path = path::canonical(&rooted, self.slashes)?.into_cow().into_owned();
        let query = match query {
            Some(query) => Some(Cow::Owned(encode_query(query))),
            None => head.query.map(Cow::Borrowed),
        };
        Ok(Target { path: Cow::Owned(path), query })
    }
}

fn strip<'h>(prefix: &str, head: &RequestHead<'h>) -> Target<'h> {
    let path = match path::strip_prefix(head.path, prefix) {
        Some("") => "/",
        Some(rest) => rest,
        None => head.path,
    };
    Target { path: Cow::Borrowed(path), ..Target::unchanged(head) }
}

/// Replaces the first match, in the canonical path or, failing that, in its key, at last without
/// parameters: a route matched `/%40v1` and `/@v1;a` by its rule for `/@v1`, and a rewrite of `/@v1`
/// must then find them too.
fn replace(from: &Regex, to: &str, head: &RequestHead<'_>) -> Option<String> {
    let replaced = |path: &str| match from.replace(path, to) {
        Cow::Owned(replaced) => Some(replaced),
        Cow::Borrowed(_) => None,
    };
    replaced(head.path)
        .or_else(|| replaced(head.match_key))
        .or_else(|| replaced(&path::without_parameters(head.match_key)?))
}

/// Spaces and Unicode in a template stand for their escapes.
fn visible(piece: &Piece) -> Piece {
    match piece {
        Piece::Literal(text) => Piece::Literal(encode_invisible(text)),
        other => other.clone(),
    }
}

/// Encodes what may not stand in a query raw (RFC 3986 §3.4) and is not harmless.
fn encode_query(query: &str) -> String {
    let visible = encode_invisible(query);
    let quoted = visible.replace('"', "%22").replace('#', "%23");
    quoted.replace('<', "%3C").replace('>', "%3E")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::net::Host;

    fn apply(rewriter: &Rewriter, target: &str) -> Result<String, PathError> {
        let (raw, query) = match target.split_once('?') {
            Some((raw, query)) => (raw, Some(query)),
            None => (target, None),
        };
        let host = Host::parse("example.com").unwrap();
        let path = path::canonical(raw, EncodedSlashes::Pass).unwrap();
        let key = path.match_key();
        let head = RequestHead {
            method: &Method::GET,
            host: host.as_ref(),
            path: path.as_str(),
            match_key: key.as_str(),
            query,
            headers: &HeaderMap::new(),
        };
        let target = rewriter.apply(&head)?;
        let text = target.to_string();
        assert!(target.is(&text), "{text}");
        for other in [format!("{text}x"), format!("x{text}"), format!("{text}?"), String::new()] {
            assert!(!target.is(&other), "{text} is not {other}");
        }
        Ok(text)
    }

    fn check(rewrite: &Rewrite, target: &str, expected: Result<&str, PathError>) {
        let rewriter = Rewriter::new(rewrite, EncodedSlashes::Refuse);
        let expected = expected.map(str::to_owned);
        assert_eq!(apply(&rewriter, target), expected, "{rewrite:?} of {target}");
    }

    #[test]
    fn a_prefix_is_stripped_and_leaves_a_slash() {
        let rows = [
            ("/v1", "/v1/a?q=1", "/a?q=1"),
            ("/v1", "/v1/", "/"),
            ("/v1", "/v1", "/"),
            ("/v1", "/v1?", "/?"),
            ("/v1", "/v10", "/v10"),
            ("/v1/", "/v1/a", "/a"),
            ("", "/v1", "/v1"),
            ("/@a", "/%40a/b%3ac", "/b%3Ac"),
            ("/%40a", "/@a/b", "/b"),
            ("/v1", "/v1/..%2Fx", "/..%2Fx"),
            ("/v1", "*", "*"),
            ("/v1", "/v1;a/x;b", "/x;b"),
            ("/v1", "/;a/v1/x", "/x"),
            ("/v1", "/;a/%3Bb/v1;c", "/"),
        ];
        for (prefix, target, expected) in rows {
            check(&Rewrite::StripPrefix(prefix.to_owned()), target, Ok(expected));
        }
    }

    #[test]
    fn a_template_makes_a_canonical_path() {
        let text = |literal: &str| Piece::Literal(literal.to_owned());
        let rows = [
            (vec![text("/api"), Piece::Path], "/a?q=1", Ok("/api/a?q=1")),
            (vec![text("/api/"), Piece::Path], "/a", Ok("/api/a")),
            (vec![text("/api"), Piece::Path, text("?x=1")], "/a?q=1", Ok("/api/a?x=1")),
            (vec![text("/x?a=1"), Piece::Query], "/a?q=1", Ok("/x?a=1&q=1")),
            (vec![text("/x?")], "/a?q=1", Ok("/x?")),
            (vec![text("/by/"), Piece::Host, Piece::Uri], "/a?q", Ok("/by/example.com/a?q")),
            (vec![text("/ü b?c d#\"")], "/a", Ok("/%C3%BC%20b?c%20d%23%22")),
            (vec![text("/x/..")], "/a", Ok("/")),
            (vec![text("/a%2fb")], "/a", Ok("/a%2Fb")),
            (vec![text("x")], "/a", Ok("/x")),
            (vec![], "/a", Ok("/")),
            (vec![text("/x"), Piece::Path], "/a%2Fb", Err(PathError::Slash)),
            (vec![text("/a\r\nb")], "/a", Err(PathError::Control(b'\r'))),
        ];
        for (template, target, expected) in rows {
            check(&Rewrite::Path(template), target, expected);
        }
    }

    #[test]
    fn a_regex_replaces_its_first_match() {
        let rows = [
            ("^/v1/(.*)", "/$1", "/v1/a/v1/b?q=1", Ok("/a/v1/b?q=1")),
            ("^/v1/(?<rest>.*)", "/v2/${rest}", "/v1/a", Ok("/v2/a")),
            ("^/v1/(.*)", "/x?id=$1", "/v1/7?q=1", Ok("/x?id=7")),
            ("^/v1/(.*)", "$1", "/v1/a", Ok("/a")),
            ("^/v1", "", "/v1", Ok("/")),
            ("^/none", "/x", "/v1?q", Ok("/v1?q")),
            ("^/@v1/(.*)", "/$1", "/%40v1/a", Ok("/a")),
            ("^/v1/(.*)", "/$1", "/v1;x/a", Ok("/a")),
            ("^/v1/(.*)", "/$1", "/;x/%761%3By/a;z?q", Ok("/a?q")),
            ("^/v1/(.*)", "/$1", "/v1/a;z", Ok("/a;z")),
            ("^/v1/(.*)", "/$1/b c", "/v1/a", Ok("/a/b%20c")),
            ("^/v1/(.*)", "/$1", "/v1/.a/b", Ok("/.a/b")),
            ("x", ".", "/x./a", Ok("/a")),
            ("^/(.*)x", "/$1..", "/ax/b", Ok("/a../b")),
            ("^/%25(.*)", "/%$1", "/%252Fx", Err(PathError::Slash)),
            ("^/%25(.*)", "/%$1", "/%2500", Err(PathError::Control(0))),
            ("^(/%C3).*", "$1%", "/%C3%BC", Err(PathError::Escape)),
        ];
        for (from, to, target, expected) in rows {
            let rewrite = Rewrite::Regex { from: Regex::new(from).unwrap(), to: to.to_owned() };
            check(&rewrite, target, expected);
        }
    }

    #[test]
    fn whatever_is_rewritten_is_canonical_again() {
        const FROM: [&str; 6] = ["%", "2", "/", "[a-e]+", "(.)(.)", "^.*$"];
        const TO: [&str; 8] = ["", ".", "/", "%", "$2$1", "\\", "?", "\r\n;"];
        const PIECES: [&str; 12] =
            ["/", "/", ".", "..", "%25", "2e", "2f", "a", "%40", ";", "ü", "00"];
        let rewriters: Vec<Rewriter> = (FROM.iter())
            .flat_map(|from| TO.iter().map(move |to| (Regex::new(from).unwrap(), to)))
            .map(|(from, to)| Rewrite::Regex { from, to: (*to).to_owned() })
            .map(|rewrite| Rewriter::new(&rewrite, EncodedSlashes::Refuse))
            .collect();
        let mut random = fastrand::Rng::with_seed(9);
        let mut rewritten = 0;
        for _ in 0..20_000 {
            let pieces = (0..random.usize(0..8)).map(|_| PIECES[random.usize(..PIECES.len())]);
            let target: String = std::iter::once("/").chain(pieces).collect();
            if path::canonical(&target, EncodedSlashes::Pass).is_err() {
                continue;
            }
            let rewriter = &rewriters[random.usize(..rewriters.len())];
            let Ok(result) = apply(rewriter, &target) else { continue };
            rewritten += 1;
            let path = result.split('?').next().unwrap();
            let again = path::canonical(path, EncodedSlashes::Pass);
            assert_eq!(again.as_ref().map(path::Canonical::as_str), Ok(path), "{rewriter:?}");
            assert!(result.bytes().all(|byte| byte.is_ascii_graphic()), "{result:?}");
        }
        assert!(rewritten > 5_000, "most rewrites succeed: {rewritten}");
    }
}
