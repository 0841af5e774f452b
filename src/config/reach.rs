//! Routes that no request reaches, because an earlier one takes everything they match.
//!
//! Answers "can this route ever answer?" as far as that is certain; regular expressions are compared
//! by their text. Never changes anything: it warns.

use super::reading::Reading;
use super::route::{Match, PathPattern, ValuePattern, Written};

/// Warns about every route of a site that an earlier one hides.
pub(super) fn warn(routes: &[Written], reading: &mut Reading) {
    for (index, route) in routes.iter().enumerate().take(COMPARED) {
        let hides = |earlier: &&Written| covers(&earlier.checked.matcher, &route.checked.matcher);
        if let Some(earlier) = routes[..index].iter().find(hides) {
            let line = earlier.checked.line;
            let hint = format!("the route at line {line} takes everything that it matches");
            reading.warning(route.span, "this route is never reached", hint);
        }
    }
}

/// Comparing is quadratic; a site with more routes is generated, and its generator knows.
const COMPARED: usize = 1000;

/// Whether every request that `b` matches is matched by `a`.
fn covers(a: &Match, b: &Match) -> bool {
    let regex =
        |matcher: &Match| matcher.path_regex.as_ref().map(|regex| regex.as_str().to_owned());
    covers_paths(&a.paths, &b.paths)
        && (a.path_regex.is_none() || regex(a) == regex(b))
        && (a.methods.is_empty() || is_subset(&b.methods, &a.methods))
        && a.headers.iter().all(|condition| is_implied(condition, &b.headers))
        && a.query.iter().all(|condition| is_implied(condition, &b.query))
        && a.cookies.iter().all(|condition| is_implied(condition, &b.cookies))
}

fn covers_paths(a: &[PathPattern], b: &[PathPattern]) -> bool {
    let is_covered = |path: &PathPattern| a.iter().any(|wider| covers_path(wider, path));
    a.is_empty() || is_all(a) || (!b.is_empty() && b.iter().all(is_covered))
}

fn is_all(paths: &[PathPattern]) -> bool {
    paths.iter().any(|path| matches!(path, PathPattern::Prefix(prefix) if prefix.is_empty()))
}

fn covers_path(wider: &PathPattern, path: &PathPattern) -> bool {
    match (wider, path) {
        (PathPattern::Exact(wider), PathPattern::Exact(path)) => wider == path,
        (PathPattern::Exact(_), PathPattern::Prefix(_)) => false,
        (PathPattern::Prefix(prefix), PathPattern::Exact(path) | PathPattern::Prefix(path)) => path
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    }
}

fn is_subset<T: PartialEq>(inner: &[T], outer: &[T]) -> bool {
    !inner.is_empty() && inner.iter().all(|item| outer.contains(item))
}

fn is_implied<N: PartialEq>(
    (name, values): &(N, Vec<ValuePattern>),
    conditions: &[(N, Vec<ValuePattern>)],
) -> bool {
    let accepts_any = values.contains(&ValuePattern::Any);
    conditions
        .iter()
        .any(|(other, theirs)| other == name && (accepts_any || is_subset(theirs, values)))
}
