//! The design's rules that a machine can check: who may name pingora and rustls, which module may
//! use which, and how long files, functions and hooks may be.
//!
//! Each rule is a function from one source to its faults, and has a test with a sample that breaks
//! it, so that no rule can pass because it stopped looking.

mod event;
mod source;

use std::collections::BTreeSet;

use proc_macro2::TokenTree;
use source::{Function, Source, hide_test_files, is_ident, is_punct};

/// Where pingora may be named; a trailing slash means the whole folder. Everything else works on
/// plain `http` types and our own.
const MAY_NAME_PINGORA: &[&str] = &[
    "src/proxy/",
    "src/upstream/peer.rs",
    "src/listen/connection.rs",
    "src/listen/http1.rs",
    "src/listen/h2_transport.rs",
    "src/listen/http2.rs",
    "src/listen/loan.rs",
];

/// Where rustls may be named.
const MAY_NAME_RUSTLS: &[&str] = &["src/tls/", "src/listen/connection.rs"];

/// Every top-level module and what it builds on; what those build on is allowed as well. A module
/// may name only modules of earlier rows, which is what keeps the graph free of cycles.
const LAYERS: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("demo", &[]),
    ("welcome", &[]),
    ("service", &[]),
    ("task", &[]),
    ("config", &["net"]),
    ("telemetry", &["config"]),
    ("tls", &["telemetry"]),
    ("acme", &["tls"]),
    ("route", &["config"]),
    ("upstream", &["tls"]),
    ("filter", &["config"]),
    ("proxy", &["filter", "route", "tls", "upstream", "welcome"]),
    ("listen", &["proxy", "task"]),
    ("admin", &["proxy"]),
    ("app", &["acme", "admin", "listen", "service"]),
    ("cli", &["app", "demo"]),
];

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 60;
const HOOK_LINES: usize = 15;

#[test]
fn pingora_is_named_only_where_the_engine_is_wrapped() {
    assert_none(Source::all("src"), |source| names_outside(source, MAY_NAME_PINGORA, "pingora"));
}

#[test]
fn naming_pingora_elsewhere_is_a_fault() {
    let named = "fn f() { tracing::info!(x = ?pingora_core::Error); }";
    let only_talked_of =
        "//! pingora\n/* pingora */ fn f() { g(\"pingora\", r#\"pingora\"#, 'p'); }";
    assert_eq!(
        names_outside(&sample("src/route/a.rs", named), MAY_NAME_PINGORA, "pingora").len(),
        1
    );
    assert_eq!(
        names_outside(&sample("src/proxy/a.rs", named), MAY_NAME_PINGORA, "pingora").len(),
        0
    );
    assert_eq!(
        names_outside(&sample("src/route/a.rs", only_talked_of), MAY_NAME_PINGORA, "pingora").len(),
        0
    );
}

#[test]
fn rustls_is_named_only_in_tls_and_in_the_connection() {
    assert_none(Source::all("src"), |source| names_outside(source, MAY_NAME_RUSTLS, "rustls"));
}

#[test]
fn naming_rustls_elsewhere_is_a_fault() {
    for named in
        ["use rustls::ServerConfig;", "type A = tokio_rustls::TlsAcceptor;", "use rustls as x;"]
    {
        assert_eq!(
            names_outside(&sample("src/app/mod.rs", named), MAY_NAME_RUSTLS, "rustls").len(),
            1,
            "{named}"
        );
        assert_eq!(
            names_outside(&sample("src/tls/pem.rs", named), MAY_NAME_RUSTLS, "rustls").len(),
            0,
            "{named}"
        );
    }
}

#[test]
fn modules_use_only_what_lies_below_them() {
    assert_none(Source::all("src"), upward_uses);
}

#[test]
fn using_an_upper_module_is_a_fault() {
    for upward in [
        "use crate::proxy::Context;",
        "use crate::{net::Host, proxy::{self, Context}};",
        "use crate::proxy;",
        "fn f() -> crate::proxy::Context { m!(1) }",
        "fn f() { debug!(\"{}\", crate::proxy::NAME) }",
        "use super::super::proxy;",
    ] {
        assert_eq!(upward_uses(&sample("src/route/host.rs", upward)).len(), 1, "{upward}");
    }
    for downward in [
        "use crate::net::Host; use crate::config::Config; use crate::route::path; use super::matcher;",
        "/// See [`crate::proxy`].\nfn f() { g(\"crate::proxy\") }",
        "#[cfg(test)] mod tests { use crate::proxy::Context; }",
    ] {
        assert_eq!(
            upward_uses(&sample("src/route/host.rs", downward)),
            Vec::<String>::new(),
            "{downward}"
        );
    }
    assert_eq!(upward_uses(&sample("src/util/mod.rs", "")).len(), 1, "a module without a layer");
}

#[test]
fn layers_build_only_on_earlier_rows() {
    for (row, (module, below)) in LAYERS.iter().enumerate() {
        for name in *below {
            let earlier = LAYERS[..row].iter().any(|(other, _)| other == name);
            assert!(earlier, "{module} builds on {name}, which is no earlier row");
        }
    }
    assert!(reach("proxy").contains("net"), "what a layer builds on is reached through it");
    assert!(!reach("route").contains("telemetry"), "and nothing else");
}

#[test]
fn files_functions_and_hooks_stay_short() {
    assert_none(Source::all("src"), |source| {
        let mut faults = long_file(source);
        faults.extend(long_functions(source));
        faults.extend(long_hooks(source));
        faults
    });
}

#[test]
fn a_long_file_is_a_fault() {
    let lines = "const A: u8 = 1;\n".repeat(FILE_LINES);
    let tests = format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    assert_eq!(long_file(&sample("src/net/a.rs", &lines)).len(), 0);
    assert_eq!(long_file(&sample("src/net/a.rs", &tests)).len(), 0, "tests are not counted");
    assert_eq!(long_file(&sample("src/net/a.rs", &format!("{lines}\n"))).len(), 1);
}

#[test]
fn a_long_function_is_a_fault() {
    let body = "    g();\n".repeat(FUNCTION_LINES - 2);
    let method = |body: &str| {
        format!("impl A {{\nasync fn f<const N: usize>(&self)\nwhere u8: Sized {{\n{body}}}\n}}")
    };
    assert_eq!(long_functions(&sample("src/net/a.rs", &format!("fn f() {{\n{body}}}\n"))).len(), 0);
    assert_eq!(long_functions(&sample("src/net/a.rs", &method(&body))).len(), 1);
    let test = format!("#[cfg(test)]\nmod tests {{ {} }}", method(&body));
    assert_eq!(long_functions(&sample("src/net/a.rs", &test)).len(), 0, "tests are not counted");
}

#[test]
fn a_long_hook_is_a_fault() {
    let body = "        g();\n".repeat(HOOK_LINES - 1);
    let hooks = |name| {
        format!(
            "impl {name} for Gateway {{\n    type CTX = ();\n    fn f(&self) {{\n{body}    }}\n}}"
        )
    };
    assert_eq!(long_hooks(&sample("src/proxy/mod.rs", &hooks("ProxyHttp"))).len(), 1);
    assert_eq!(
        long_hooks(&sample("src/proxy/mod.rs", &hooks("pingora_proxy::ProxyHttp"))).len(),
        1
    );
    assert_eq!(long_hooks(&sample("src/proxy/mod.rs", &hooks("Display"))).len(), 0);
}

#[test]
fn nothing_is_left_undone_or_left_to_a_panic() {
    assert_none(Source::all("src"), unfinished);
}

#[test]
fn leaving_something_undone_is_a_fault() {
    for undone in
        ["fn f() { g().unwrap(); }", "fn f() { todo!() }", "fn f() { std::unimplemented!(\"x\") }"]
    {
        assert_eq!(unfinished(&sample("src/net/a.rs", undone)).len(), 1, "{undone}");
        let test = format!("#[cfg(test)]\nmod tests {{ {undone} }}\n#[test]\n{undone}");
        assert_eq!(unfinished(&sample("src/net/a.rs", &test)).len(), 0, "{test}");
        let after = format!("#[cfg(test)]\nuse crate::net::Host;\n{undone}");
        assert_eq!(unfinished(&sample("src/net/a.rs", &after)).len(), 1, "{after}");
    }
    for undone in ["fn f() { m!(dbg!(1)) }", "// TODO: later\nfn f() {}"] {
        assert_eq!(unfinished(&sample("src/net/a.rs", undone)).len(), 1, "{undone}");
    }
    let fine =
        "/// Never `x.unwrap()` nor `todo!()`.\nfn f() { g(\"x.unwrap() dbg!()\").unwrap_or(1); }";
    assert_eq!(unfinished(&sample("src/net/a.rs", fine)).len(), 0);
}

#[test]
fn files_that_only_tests_are_built_from_are_left_out() {
    let undone = "fn f() { g().unwrap(); }";
    let declare = |text: &str| {
        let mut sources = vec![
            sample("src/tls/mod.rs", text),
            sample("src/tls/fixture.rs", undone),
            sample("src/tls/fixture/deep.rs", undone),
            sample("src/tls/fixtures.rs", undone),
        ];
        hide_test_files(&mut sources);
        sources.iter().filter(|source| !unfinished(source).is_empty()).count()
    };
    assert_eq!(
        declare("#[cfg(test)]\nmod fixture;"),
        1,
        "only the one that is not declared for tests"
    );
    assert_eq!(declare("#[cfg(test)]\npub(crate) mod fixture;"), 1);
    assert_eq!(declare("#[cfg(test)]\nmod tests { mod fixture; }"), 3, "not this one's file");
    assert_eq!(declare("mod fixture; // #[cfg(test)]"), 3);
}

#[test]
fn no_test_is_ignored() {
    let mut sources = Source::all("src");
    sources.extend(Source::all("tests"));
    assert_none(sources, ignored_tests);
}

#[test]
fn ignoring_a_test_is_a_fault() {
    for ignored in [
        "#[test]\n#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"] fn f() {}",
        "#[cfg_attr(a, ignore)] fn f() {}",
    ] {
        let source = sample("src/net/a.rs", &format!("#[cfg(test)]\nmod tests {{ {ignored} }}"));
        assert_eq!(ignored_tests(&source).len(), 1, "{ignored}");
    }
    assert_eq!(
        ignored_tests(&sample("src/net/a.rs", "// #[ignore]\nfn f() { g(\"#[ignore]\", ignore) }"))
            .len(),
        0
    );
}

fn names_outside(source: &Source, allowed: &[&str], crate_word: &str) -> Vec<String> {
    let may = |entry: &&str| {
        source.path == **entry || (entry.ends_with('/') && source.path.starts_with(*entry))
    };
    if allowed.iter().any(may) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for token in source.levels.iter().flatten() {
        if let TokenTree::Ident(ident) = token
            && ident.to_string().split('_').any(|word| word == crate_word)
        {
            faults.push(
                source.fault(token, &format!("names {ident}; only {} may", allowed.join(", "))),
            );
        }
    }
    faults
}

fn upward_uses(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    if !LAYERS.iter().any(|(name, _)| *name == module) {
        return vec![format!("{}: {module} has no row in LAYERS", source.path)];
    }
    let below = reach(module);
    let mut faults = Vec::new();
    for (token, name) in source.crate_uses() {
        if name != module && !below.contains(name.as_str()) {
            faults.push(
                source.fault(&token, &format!("{module} uses {name}, which does not lie below it")),
            );
        }
    }
    faults
}

/// What `module` may use: what its row names, and what those may use.
fn reach(module: &str) -> BTreeSet<&'static str> {
    let below = LAYERS.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, below)| below);
    below.iter().flat_map(|name| reach(name).into_iter().chain([*name])).collect()
}

fn long_file(source: &Source) -> Vec<String> {
    let lines = source.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines without its tests, {FILE_LINES} at most", source.path)]
}

fn long_functions(source: &Source) -> Vec<String> {
    longer_than(FUNCTION_LINES, source, &source.functions())
}

fn long_hooks(source: &Source) -> Vec<String> {
    longer_than(HOOK_LINES, source, &source.functions_of_impl("ProxyHttp"))
}

fn longer_than(limit: usize, source: &Source, functions: &[Function]) -> Vec<String> {
    let long = functions.iter().filter(|function| function.lines() > limit);
    long.map(|function| {
        format!(
            "{}:{}: {} has {} lines, {limit} at most",
            source.path,
            function.first,
            function.name,
            function.lines()
        )
    })
    .collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for level in &source.levels {
        for at in 0..level.len() {
            let next = |offset: usize| level.get(at + offset);
            let is_unwrap = is_punct(&level[at], '.')
                && next(1).is_some_and(|token| is_ident(token, "unwrap"))
                && matches!(next(2), Some(TokenTree::Group(group)) if group.stream().is_empty());
            let is_macro =
                ["todo", "unimplemented", "dbg"].iter().any(|name| is_ident(&level[at], name))
                    && next(1).is_some_and(|token| is_punct(token, '!'));
            if is_unwrap || is_macro {
                faults.push(source.fault(&level[at], "left to a panic"));
            }
        }
    }
    for (line, text) in source.text.lines().enumerate() {
        if text.contains("TODO") || text.contains("FIXME") {
            faults.push(format!("{}:{}: left undone", source.path, line + 1));
        }
    }
    faults
}

fn ignored_tests(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for attribute in source.attributes() {
        let words: Vec<String> = source::words(&attribute);
        let is_ignore = words.first().is_some_and(|word| word == "ignore");
        if is_ignore
            || (words[..].starts_with(&["cfg_attr".to_owned()])
                && words.iter().any(|word| word == "ignore"))
        {
            faults.push(source.fault(&TokenTree::Group(attribute), "an ignored test"));
        }
    }
    faults
}

fn assert_none(sources: Vec<Source>, check: impl Fn(&Source) -> Vec<String>) {
    assert!(!sources.is_empty(), "no source was found");
    let faults: Vec<String> = sources.iter().flat_map(check).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn sample(path: &str, text: &str) -> Source {
    Source::parse(path.to_owned(), text.to_owned())
}
