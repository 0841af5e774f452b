//! From a request to its route.
//!
//! Answers "which of this site's routes is the first that matches?". Many routes cost little: they
//! are filed by the first segment of their paths, and what is left is compared cheapest first.

use std::collections::{BTreeSet, HashMap};

use http::{HeaderName, Method};
use regex::Regex;

use crate::config::route::{Match, PathPattern, ValuePattern};
use crate::net::RequestHead;
use crate::net::path;

/// With fewer routes than this, trying each is as fast as the look-up.
const INDEXED_FROM: usize = 12;

/// The routes of one site. A route is its index in the order written.
#[derive(Clone, Debug)]
pub struct Matcher {
    routes: Vec<Conditions>,
    index: Option<Index>,
}

impl Matcher {
    /// Compiles the conditions of a site's routes.
    #[must_use]
    pub fn new<'c>(routes: impl IntoIterator<Item = &'c Match>) -> Self {
        let routes: Vec<Conditions> = routes.into_iter().map(Conditions::new).collect();
        let index = (routes.len() >= INDEXED_FROM).then(|| Index::new(&routes));
        Self { routes, index }
    }

    /// Whether the first route matches whatever comes.
    #[must_use]
    pub fn ends_at_first(&self) -> bool {
        self.routes.first().is_some_and(Conditions::are_none)
    }

    /// The first route that matches, in the order written. The parameters of a path's segments are
    /// no way around a route whose own path has none.
    #[must_use]
    pub fn find(&self, head: &RequestHead<'_>) -> Option<usize> {
        let key = head.match_key;
        if let Some(bare) = path::without_parameters(key) {
            let holds = |route: &Conditions| route.hold(head, key) || route.hold(head, &bare);
            return match &self.index {
                Some(index) => {
                    let mut candidates = merged(index.candidates(key), index.candidates(&bare));
                    candidates.find(|&route| holds(&self.routes[route]))
                }
                None => self.routes.iter().position(holds),
            };
        }
        match &self.index {
            Some(index) => {
                let mut candidates = index.candidates(key);
                candidates.find(|&route| self.routes[route].hold(head, key))
            }
            None => self.routes.iter().position(|route| route.hold(head, key)),
        }
    }
}

/// Routes by the first segment that all of their paths share with the request.
#[derive(Clone, Debug)]
struct Index {
    by_segment: HashMap<Box<str>, Vec<usize>>,
    /// Routes that no single segment rules out.
    open: Vec<usize>,
}

impl Index {
    fn new(routes: &[Conditions]) -> Self {
        let mut index = Self { by_segment: HashMap::new(), open: Vec::new() };
        for (route, conditions) in routes.iter().enumerate() {
            if conditions.paths.is_empty() {
                index.open.push(route);
                continue;
            }
            let segments = conditions.paths.iter().map(|path| match path {
                PathPattern::Exact(path) | PathPattern::Prefix(path) => first_segment(path),
            });
            for segment in segments.collect::<BTreeSet<_>>() {
                index.by_segment.entry(segment.into()).or_default().push(route);
            }
        }
        index
    }

    /// In the order written.
    fn candidates(&self, match_key: &str) -> impl Iterator<Item = usize> {
        let filed = self.by_segment.get(first_segment(match_key)).into_iter().flatten();
        merged(filed.copied(), self.open.iter().copied())
    }
}

/// What is in either of two lists that ascend, once and ascending.
fn merged(
    left: impl Iterator<Item = usize>,
    right: impl Iterator<Item = usize>,
) -> impl Iterator<Item = usize> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if a == b => {
            left.next();
            right.next()
        }
        (Some(a), Some(b)) if a < b => left.next(),
        (Some(_), None) => left.next(),
        _ => right.next(),
    })
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(first, _)| first)
}

fn is_catch_all(path: &PathPattern) -> bool {
    matches!(path, PathPattern::Prefix(prefix) if prefix.is_empty())
}

/// One route's conditions; all must hold, and an empty list holds.
#[derive(Clone, Debug)]
struct Conditions {
    methods: Vec<Method>,
    paths: Vec<PathPattern>,
    headers: Vec<(HeaderName, Vec<ValuePattern>)>,
    cookies: Vec<(String, Vec<ValuePattern>)>,
    query: Vec<(String, Vec<ValuePattern>)>,
    path_regex: Option<Regex>,
}

impl Conditions {
    fn new(matcher: &Match) -> Self {
        let Match { paths, path_regex, methods, headers, query, cookies } = matcher.clone();
        let is_everything = paths.iter().any(is_catch_all);
        let paths = if is_everything { Vec::new() } else { paths };
        Self { methods, paths, headers, cookies, query, path_regex }
    }

    fn are_none(&self) -> bool {
        let Self { methods, paths, headers, cookies, query, path_regex } = self;
        let has_lists = !(methods.is_empty() && paths.is_empty() && headers.is_empty());
        !has_lists && cookies.is_empty() && query.is_empty() && path_regex.is_none()
    }

    /// Cheapest first; a regex over the key, so that no escaping of a path escapes it.
    fn hold(&self, head: &RequestHead<'_>, match_key: &str) -> bool {
        (self.paths.is_empty() || self.paths.iter().any(|path| covers(path, match_key)))
            && (self.methods.is_empty() || self.methods.contains(head.method))
            && self.headers.iter().all(|(name, values)| has_header(head, name, values))
            && self.cookies.iter().all(|(name, values)| {
                head.cookies().any(|(found, value)| found == name && is_one(values, value))
            })
            && self.query.iter().all(|(name, values)| {
                head.query_pairs().any(|(found, value)| found == *name && is_one(values, &value))
            })
            && self.path_regex.as_ref().is_none_or(|regex| regex.is_match(match_key))
    }
}

/// `/v1/*` covers `/v1`, `/v1/` and what is below, not `/v10`.
fn covers(path: &PathPattern, match_key: &str) -> bool {
    match path {
        PathPattern::Exact(path) => path == match_key,
        PathPattern::Prefix(prefix) => {
            let rest = match_key.strip_prefix(prefix.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn has_header(head: &RequestHead<'_>, name: &HeaderName, values: &[ValuePattern]) -> bool {
    head.headers.get_all(name).iter().any(|found| {
        values.iter().any(|value| match value {
            ValuePattern::Any => true,
            ValuePattern::Is(text) => found.as_bytes() == text.as_bytes(),
        })
    })
}

fn is_one(values: &[ValuePattern], found: &str) -> bool {
    values.iter().any(|value| match value {
        ValuePattern::Any => true,
        ValuePattern::Is(text) => found == text,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::COOKIE;

    use super::*;
    use crate::net::Host;
    use crate::net::path::{EncodedSlashes, canonical, match_key_of_pattern};

    fn pattern(pattern: &str) -> PathPattern {
        match pattern.strip_suffix("/*") {
            Some("") => PathPattern::Prefix(String::new()),
            Some(prefix) => PathPattern::Prefix(match_key_of_pattern(prefix).unwrap()),
            None => PathPattern::Exact(match_key_of_pattern(pattern).unwrap()),
        }
    }

    fn paths(patterns: &[&str]) -> Match {
        Match { paths: patterns.iter().map(|text| pattern(text)).collect(), ..Match::default() }
    }

    fn values(values: &[&str]) -> Vec<ValuePattern> {
        let pattern = |value: &&str| match *value {
            "*" => ValuePattern::Any,
            text => ValuePattern::Is(text.to_owned()),
        };
        values.iter().map(pattern).collect()
    }

    /// What a client sends: method, target, header fields.
    type Request<'r> = (&'r str, &'r str, &'r [(&'static str, &'static str)]);

    fn find(matcher: &Matcher, (method, target, fields): Request<'_>) -> Option<usize> {
        let (raw, query) = match target.split_once('?') {
            Some((raw, query)) => (raw, Some(query)),
            None => (target, None),
        };
        let host = Host::parse("example.com").unwrap();
        let path = canonical(raw, EncodedSlashes::Refuse).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        matcher.find(&RequestHead {
            method: &method.parse().unwrap(),
            host: host.as_ref(),
            path: path.as_str(),
            match_key: path.match_key().as_str(),
            query,
            headers: &headers,
        })
    }

    #[test]
    fn a_path_pattern_covers_whole_segments() {
        let rows = [
            ("/v1/*", "/v1", true),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1/a/b", true),
            ("/v1/*", "/v10", false),
            ("/v1/*", "/V1", false),
            ("/v1/*", "/", false),
            ("/v1", "/v1", true),
            ("/v1", "/v1/", false),
            ("/v1/", "/v1/", true),
            ("/v1/", "/v1", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/*", "/", true),
            ("/*", "/a/b", true),
            ("/*", "*", true),
            ("/@admin/*", "/%40admin/x", true),
            ("/%40admin", "/@admin", true),
            ("/bücher/*", "/b%c3%bccher/1", true),
            ("/a b", "/a%20b", true),
            ("/admin/*", "//admin", true),
            ("/admin/*", "/./admin", true),
            ("/admin/*", "/x/../admin", true),
            ("/admin/*", "/%61dmin", true),
            ("/admin/*", "/x/%2e%2e/admin/y", true),
            ("/admin/*", "/admin;a=b", true),
            ("/admin/*", "/;a/admin;b/users;c", true),
            ("/admin/*", "/admin%3bx/y", true),
            ("/admin/*", "/administrator;x", false),
            ("/admin", "/admin;x", true),
            ("/admin", "/admin/;x", false),
            ("/admin;v=1", "/admin;v=1", true),
            ("/admin;v=1", "/admin", false),
            ("/admin;v=1", "/admin;v=2", false),
        ];
        for (pattern, target, expected) in rows {
            let matcher = Matcher::new([&paths(&[pattern])]);
            let found = find(&matcher, ("GET", target, &[])).is_some();
            assert_eq!(found, expected, "{pattern} {target}");
        }
    }

    #[test]
    fn conditions_are_anded_and_their_values_ored() {
        let matcher = Matcher::new([&Match {
            paths: vec![pattern("/v1/*"), pattern("/v2/*")],
            path_regex: Some(Regex::new("[0-9]$").unwrap()),
            methods: vec![Method::GET, Method::POST],
            headers: vec![(HeaderName::from_static("x-api"), values(&["2", "3"]))],
            query: vec![("debug".to_owned(), values(&["*"])), ("q".to_owned(), values(&["a b"]))],
            cookies: vec![("beta".to_owned(), values(&["1"]))],
        }]);
        let cookie = (COOKIE.as_str(), "a=2; beta=1");
        let rows: [(Request<'_>, bool); 12] = [
            (("GET", "/v1/7?debug&q=a+b", &[("x-api", "2"), cookie]), true),
            (("POST", "/v2/7?q=a%20b&debug=1", &[("x-api", "3"), cookie]), true),
            (("GET", "/v1/7?q=x&q=a+b&debug=", &[("x-api", "9"), ("x-api", "2"), cookie]), true),
            (("PUT", "/v1/7?debug&q=a+b", &[("x-api", "2"), cookie]), false),
            (("GET", "/v3/7?debug&q=a+b", &[("x-api", "2"), cookie]), false),
            (("GET", "/v1/x?debug&q=a+b", &[("x-api", "2"), cookie]), false),
            (("GET", "/v1/7?q=a+b", &[("x-api", "2"), cookie]), false),
            (("GET", "/v1/7?debug&q=A+b", &[("x-api", "2"), cookie]), false),
            (("GET", "/v1/7", &[("x-api", "2"), cookie]), false),
            (("GET", "/v1/7?debug&q=a+b", &[("x-api", "2, 3"), cookie]), false),
            (("GET", "/v1/7?debug&q=a+b", &[cookie]), false),
            (("GET", "/v1/7?debug&q=a+b", &[("x-api", "2"), ("cookie", "Beta=1")]), false),
        ];
        for (request, expected) in rows {
            assert_eq!(find(&matcher, request).is_some(), expected, "{request:?}");
        }
    }

    #[test]
    fn the_first_match_in_the_order_written_wins() {
        let routes = [paths(&["/a/b"]), paths(&["/a/*", "/c"]), paths(&[]), paths(&["/d"])];
        let matcher = Matcher::new(&routes);
        for (target, route) in [("/a/b", 0), ("/a", 1), ("/c", 1), ("/d", 2), ("/", 2)] {
            assert_eq!(find(&matcher, ("GET", target, &[])), Some(route), "{target}");
        }
        assert_eq!(find(&Matcher::new(&routes[..2]), ("GET", "/d", &[])), None);
    }

    #[test]
    fn a_regex_sees_the_path_however_it_is_spelled() {
        let regex = Some(Regex::new("^/@admin(/|$)").unwrap());
        let matcher = Matcher::new([&Match { path_regex: regex, ..Match::default() }]);
        for target in ["/@admin", "/%40admin", "//%40%61dmin/x", "/x/../@admin"] {
            assert_eq!(find(&matcher, ("GET", target, &[])), Some(0), "{target}");
        }
    }

    #[test]
    fn the_index_finds_what_a_walk_finds() {
        const PATTERNS: [&str; 12] = [
            "/a", "/a/*", "/a/b", "/a/b/*", "/b", "/b/c/*", "/", "/*", "/@x/*", "/c/", "/abc",
            "/c/*",
        ];
        const TARGETS: [&str; 18] = [
            "/",
            "*",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/c",
            "/b",
            "/b/c",
            "/%40x",
            "/c",
            "/c/",
            "/abc",
            "/ab",
            "/b/c/d;e",
            "/a;x/b",
            "/;y/a",
            "/b;x/;y/c",
            "/;",
        ];
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..300 {
            let routes: Vec<Match> = (0..random.usize(INDEXED_FROM..40))
                .map(|_| {
                    let count = if random.u8(..10) == 0 { 0 } else { random.usize(1..4) };
                    let patterns: Vec<_> =
                        (0..count).map(|_| PATTERNS[random.usize(..PATTERNS.len())]).collect();
                    let methods = if random.bool() { vec![Method::POST] } else { Vec::new() };
                    Match { methods, ..paths(&patterns) }
                })
                .collect();
            let indexed = Matcher::new(&routes);
            let walked = Matcher { index: None, ..indexed.clone() };
            assert!(indexed.index.is_some());
            for target in TARGETS {
                let request = ("GET", target, [].as_slice());
                assert_eq!(find(&indexed, request), find(&walked, request), "{target} {routes:?}");
            }
        }
    }
}
