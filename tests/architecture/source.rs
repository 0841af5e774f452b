//! A Rust file as its tokens, so that comments and strings cannot be mistaken for code.

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// One file of the crate.
pub(super) struct Source {
    /// Relative to the crate, with slashes.
    pub(super) path: String,
    pub(super) text: String,
    /// Every run of sibling tokens, outermost first, without the code that only tests see.
    pub(super) levels: Vec<Vec<TokenTree>>,
    /// The same with the tests' code.
    all_levels: Vec<Vec<TokenTree>>,
}

/// A function with a body.
pub(super) struct Function {
    pub(super) name: String,
    /// Line of its `fn`, from 1.
    pub(super) first: usize,
    last: usize,
}

impl Function {
    pub(super) fn lines(&self) -> usize {
        self.last - self.first + 1
    }
}

impl Source {
    /// Every `.rs` file below `folder` of the crate.
    pub(super) fn all(folder: &str) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = Vec::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name =
                        path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                    sources.push(Self::parse(name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        hide_test_files(&mut sources);
        sources
    }

    pub(super) fn parse(path: String, text: String) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut levels = Vec::new();
        collect(stream.clone(), true, &mut levels);
        let mut all_levels = Vec::new();
        collect(stream, false, &mut all_levels);
        Self { path, text, levels, all_levels }
    }

    /// The files, without `.rs`, of the modules that are declared here for tests only.
    fn test_files(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => stem,
        };
        let mut files = Vec::new();
        for level in &self.all_levels {
            let starts = (1..level.len()).filter(|at| is_test_only(&level[at - 1..=*at]));
            for at in starts {
                let item: Vec<_> =
                    level[at..].iter().take_while(|token| !is_item_end(token)).collect();
                if let [.., module, TokenTree::Ident(name)] = &item[..]
                    && is_ident(module, "mod")
                {
                    files.push(format!("{folder}/{name}"));
                }
            }
        }
        files
    }

    /// The top-level module that the file belongs to; `None` for the crate's own two files.
    pub(super) fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let module = below.split('/').next()?.trim_end_matches(".rs");
        (!matches!(module, "lib" | "main")).then_some(module)
    }

    pub(super) fn fault(&self, token: &TokenTree, what: &str) -> String {
        format!("{}:{}: {what}", self.path, token.span().start().line)
    }

    /// The top-level modules that the code names: `crate::x`, `crate::{x, y::z}`, and `super::x`
    /// where that reaches the crate's root.
    pub(super) fn crate_uses(&self) -> Vec<(TokenTree, String)> {
        let mut uses = Vec::new();
        for level in &self.levels {
            let mut at = 0;
            while at < level.len() {
                if let Some(after) = self.root_prefix(level, at) {
                    first_names(level.get(after), &mut uses);
                    at = after;
                }
                at += 1;
            }
        }
        uses
    }

    /// Index after `crate::` or enough `super::`, if they stand at `at`.
    fn root_prefix(&self, level: &[TokenTree], at: usize) -> Option<usize> {
        let step = |at: usize, word: &str| {
            let found = is_ident(level.get(at)?, word) && is_punct(level.get(at + 1)?, ':');
            (found && is_punct(level.get(at + 2)?, ':')).then_some(at + 3)
        };
        if let Some(after) = step(at, "crate") {
            return Some(after);
        }
        (0..self.depth()).try_fold(at, |at, _| step(at, "super"))
    }

    /// How many `super` lead from the file's module to the root.
    fn depth(&self) -> usize {
        let parts = self.path.trim_start_matches("src/").split('/');
        parts.filter(|part| *part != "mod.rs").count()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        self.levels.iter().flat_map(|level| functions(level)).collect()
    }

    /// The functions of `impl … name for …` blocks.
    pub(super) fn functions_of_impl(&self, name: &str) -> Vec<Function> {
        let mut found = Vec::new();
        for level in &self.levels {
            for at in (0..level.len()).filter(|at| is_ident(&level[*at], "impl")) {
                let head = level[at..].iter().take_while(|token| !is_braces(token)).count();
                let is_wanted = level[at..at + head]
                    .windows(2)
                    .any(|pair| is_ident(&pair[0], name) && is_ident(&pair[1], "for"));
                if let (true, Some(TokenTree::Group(body))) = (is_wanted, level.get(at + head)) {
                    found.extend(functions(&body.stream().into_iter().collect::<Vec<_>>()));
                }
            }
        }
        found
    }

    /// The brackets of every attribute, tests included.
    pub(super) fn attributes(&self) -> Vec<Group> {
        let pairs = self.all_levels.iter().flat_map(|level| level.windows(2));
        pairs.filter_map(|pair| attribute(pair).cloned()).collect()
    }
}

pub(super) fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

pub(super) fn is_punct(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// Every identifier in the group, in order.
pub(super) fn words(group: &Group) -> Vec<String> {
    let mut levels = Vec::new();
    collect(group.stream(), false, &mut levels);
    levels.sort_by_key(|level| level.first().map(|token| token.span().start().line));
    let idents = levels.iter().flatten().filter(|token| matches!(token, TokenTree::Ident(_)));
    idents.map(ToString::to_string).collect()
}

/// Empties what the rules for code see of the files that only tests are built from.
pub(super) fn hide_test_files(sources: &mut [Source]) {
    let test_files: Vec<String> = sources.iter().flat_map(Source::test_files).collect();
    let is_test = |path: &str| {
        test_files.iter().any(|file| {
            path.strip_prefix(file.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    for source in sources.iter_mut().filter(|source| is_test(&source.path)) {
        source.levels.clear();
        source.text.clear();
    }
}

fn collect(stream: TokenStream, without_tests: bool, levels: &mut Vec<Vec<TokenTree>>) {
    let mut level: Vec<TokenTree> = stream.into_iter().collect();
    if without_tests {
        remove_test_items(&mut level);
    }
    let groups: Vec<TokenStream> = level
        .iter()
        .filter_map(|token| match token {
            TokenTree::Group(group) => Some(group.stream()),
            _ => None,
        })
        .collect();
    levels.push(level);
    for group in groups {
        collect(group, without_tests, levels);
    }
}

/// Takes out each item behind `#[cfg(test)]` or `#[test]`: up to its braces, or its semicolon.
fn remove_test_items(level: &mut Vec<TokenTree>) {
    let mut at = 0;
    while at + 1 < level.len() {
        if is_test_only(&level[at..at + 2]) {
            let item = level[at..].iter().position(is_item_end);
            level.drain(at..item.map_or(level.len(), |end| at + end + 1));
        } else {
            at += 1;
        }
    }
}

fn is_test_only(pair: &[TokenTree]) -> bool {
    attribute(pair).is_some_and(|group| {
        matches!(words(group).join(" ").as_str(), "test" | "cfg test" | "tokio test")
    })
}

fn attribute(pair: &[TokenTree]) -> Option<&Group> {
    match pair {
        [TokenTree::Punct(hash), TokenTree::Group(group)]
            if hash.as_char() == '#' && group.delimiter() == Delimiter::Bracket =>
        {
            Some(group)
        }
        _ => None,
    }
}

fn is_item_end(token: &TokenTree) -> bool {
    is_braces(token) || is_punct(token, ';')
}

fn is_braces(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// The name at `token`, or the first name of each part where it is `{a::b, c}`.
fn first_names(token: Option<&TokenTree>, names: &mut Vec<(TokenTree, String)>) {
    match token {
        Some(TokenTree::Ident(ident)) => {
            names.push((TokenTree::Ident(ident.clone()), ident.to_string()))
        }
        Some(TokenTree::Group(group)) => {
            let mut is_first = true;
            for token in group.stream() {
                if is_first {
                    first_names(Some(&token), names);
                }
                is_first = is_punct(&token, ',');
            }
        }
        _ => {}
    }
}

fn functions(level: &[TokenTree]) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..level.len() {
        let (true, Some(TokenTree::Ident(name))) = (is_ident(&level[at], "fn"), level.get(at + 1))
        else {
            continue;
        };
        let body = level[at..].iter().find(|token| is_braces(token) || is_end(token));
        if let Some(TokenTree::Group(body)) = body {
            found.push(Function {
                name: name.to_string(),
                first: level[at].span().start().line,
                last: body.span_close().end().line,
            });
        }
    }
    found
}

fn is_end(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';' && punct.spacing() == Spacing::Alone)
}
