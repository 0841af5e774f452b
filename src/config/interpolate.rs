//! `${env:NAME}`, `${file:path}` and `$$` inside values.
//!
//! Answers "what does this value say on this machine?". Runs over the whole tree before any reader
//! sees it. What came from outside is marked, so that it is never shown. Never touches keys.

use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostics, quoted};
use super::tree::{Node, Scalar};

/// Resolves every reference in `node`; relative files are relative to `base`.
pub(super) fn resolve(node: &mut Node, base: &Path, out: &mut Diagnostics) {
    match node {
        Node::Scalar(scalar) => resolve_scalar(scalar, base, out),
        Node::List(list) => {
            for item in &mut list.items {
                resolve(item, base, out);
            }
        }
        Node::Map(map) => {
            for entry in &mut map.entries {
                resolve(&mut entry.value, base, out);
            }
        }
    }
}

/// Adds every file that [`resolve`] would read to `found`.
pub(super) fn files(node: &Node, base: &Path, found: &mut Vec<PathBuf>) {
    match node {
        Node::Scalar(scalar) => {
            let pieces = scalar.text.replace("$$", "");
            let after = pieces.split('$').skip(1).filter_map(reference);
            let named = after.filter(|(source, _)| *source == "file");
            found.extend(named.map(|(_, name)| base.join(name)));
        }
        Node::List(list) => list.items.iter().for_each(|item| files(item, base, found)),
        Node::Map(map) => map.entries.iter().for_each(|entry| files(&entry.value, base, found)),
    }
}

fn resolve_scalar(scalar: &mut Scalar, base: &Path, out: &mut Diagnostics) {
    if !scalar.text.contains('$') {
        return;
    }
    match expand(&scalar.text, base) {
        Ok((text, is_secret)) => {
            scalar.text = text.into();
            scalar.is_secret = is_secret;
            scalar.is_quoted = scalar.is_quoted || is_secret;
        }
        Err((message, hint)) => {
            scalar.is_faulty = true;
            out.error_hint(scalar.span, message, hint);
        }
    }
}

/// The text with every reference replaced, and whether there was one.
fn expand(text: &str, base: &Path) -> Result<(String, bool), (String, String)> {
    let (mut done, mut rest, mut is_secret) = (String::new(), text, false);
    while let Some(index) = rest.find('$') {
        done.push_str(&rest[..index]);
        rest = &rest[index + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            done.push('$');
            rest = after;
            continue;
        }
        let Some((source, name)) = reference(rest) else {
            let is_open = ["{env:", "{file:"].iter().any(|start| rest.starts_with(start));
            if is_open {
                return Err(("this ${ is never closed".to_owned(), String::new()));
            }
            done.push('$');
            continue;
        };
        done.push_str(&look_up(source, name, base)?);
        is_secret = true;
        rest = &rest[source.len() + name.len() + 3..];
    }
    done.push_str(rest);
    Ok((done, is_secret))
}

/// Source and name of the `{source:name}` that `text` starts with; neither has a brace or a dollar.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{')?;
    let end = inner.find(['}', '{', '$', '\n'])?;
    if inner[end..].starts_with('}') { inner[..end].split_once(':') } else { None }
}

fn look_up(source: &str, name: &str, base: &Path) -> Result<String, (String, String)> {
    match source {
        "env" => std::env::var(name).map_err(|error| {
            let reason = match error {
                std::env::VarError::NotPresent => "is not set",
                std::env::VarError::NotUnicode(_) => "is not UTF-8",
            };
            (format!("the environment variable {} {reason}", quoted(name)), String::new())
        }),
        "file" => read_file(&base.join(name)).map_err(|reason| {
            let message = format!("the file {} cannot be read", quoted(name));
            (message, reason)
        }),
        _ => {
            let message = format!("{} is not a source of values", quoted(source));
            Err((message, "${env:NAME} or ${file:path}; $$ is a dollar".to_owned()))
        }
    }
}

/// A secret is a line; what an editor adds at its end is not part of it.
fn read_file(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() > LARGEST {
        return Err("it is larger than 64 KiB".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Secrets are keys and passwords; a larger file is another file.
const LARGEST: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "s3cret\r\n").unwrap();
        for (text, wanted) in [
            ("a$$b", Ok(("a$b", false))),
            ("$1 ${1} ${name} $", Ok(("$1 ${1} ${name} $", false))),
            ("$${env:HOME}", Ok(("${env:HOME}", false))),
            ("<${file:key}>", Ok(("<s3cret>", true))),
            (
                "${env:WARDGATE_NOT_SET}",
                Err("the environment variable \"WARDGATE_NOT_SET\" is not set"),
            ),
            ("${file:absent}", Err("the file \"absent\" cannot be read")),
            ("${vault:x}", Err("\"vault\" is not a source of values")),
            ("${env:X", Err("this ${ is never closed")),
        ] {
            let found = expand(text, dir.path());
            let found = match &found {
                Ok((text, is_secret)) => Ok((text.as_str(), *is_secret)),
                Err((message, _)) => Err(message.as_str()),
            };
            assert_eq!(found, wanted, "{text}");
        }
    }
}
