//! Names of certificates and authorities as they stand in the file system, on every platform.

use std::fmt;

use crate::tls::certificate::sha256;

/// A certificate's name in the file system: lower case, `_wild_.` for `*.`, `_` for the colons of an
/// address, nothing that Windows reserves.
///
/// No two names share one: where the rule would lose something, a hash of the name follows.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CertId(String);

/// An authority's name in the file system, from its directory's URL: host, `+`, path. The `+`
/// keeps it apart from every [`CertId`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AuthorityId(String);

impl CertId {
    /// The id for `name`: a site's first name, or that of a `certificates:` entry. Case does not
    /// count.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name = name.to_lowercase();
        let plain = plain(&name);
        if plain.len() <= LONGEST && read_back(&plain).as_deref() == Some(&name) {
            return Self(plain);
        }
        Self(hashed(&plain, &name))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AuthorityId {
    /// The id of the authority with this directory.
    #[must_use]
    pub fn new(directory: &str) -> Self {
        let url = directory.to_lowercase();
        let (host, path) = match url.strip_prefix("https://").map(|rest| rest.split_once('/')) {
            Some(Some((host, path))) if !path.is_empty() => (host, path),
            _ => ("", url.as_str()),
        };
        let joined = format!("{}+{}", safe(host), safe(path));
        let is_plain = joined.len() <= LONGEST
            && !host.is_empty()
            && url == directory
            && joined == format!("{host}+{path}")
            && !is_device(&joined);
        Self(if is_plain { joined } else { hashed(&joined, directory) })
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `name`, which is in lower case, by the rule; what it loses is found by [`read_back`].
fn plain(name: &str) -> String {
    let (wild, rest) = match name.strip_prefix("*.") {
        Some(rest) if !rest.is_empty() => (WILD, rest),
        _ => ("", name),
    };
    let text = format!("{wild}{}", safe(rest));
    if is_device(&text) { format!("_{text}") } else { text }
}

/// The name that the rule makes `plain` of, if it is the only one.
fn read_back(plain: &str) -> Option<String> {
    if let Some(device) = plain.strip_prefix('_').filter(|rest| is_device(rest)) {
        return Some(device.to_owned());
    }
    if let Some(rest) = plain.strip_prefix(WILD) {
        return Some(format!("*.{rest}"));
    }
    let colons = plain.replace('_', ":");
    if colons.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some(colons);
    }
    (!plain.is_empty()).then(|| plain.to_owned())
}

/// The letters that every file system takes; others become `_`, and so does a dot at either end.
fn safe(text: &str) -> String {
    let last = text.len().saturating_sub(1);
    let letter = |(at, letter): (usize, char)| match letter {
        'a'..='z' | '0'..='9' | '-' | '_' => letter,
        '.' if at != 0 && at != last => letter,
        _ => '_',
    };
    text.char_indices().map(letter).collect()
}

/// The readable beginning and a hash of the whole.
fn hashed(readable: &str, whole: &str) -> String {
    let hash: String =
        sha256(whole.as_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let start: String = readable.chars().take(LONGEST - 20).collect();
    let start = start.trim_end_matches('.');
    let text = format!("{start}-{hash}");
    if is_device(&text) { format!("_{text}") } else { text }
}

/// Whether Windows takes it for a device, whatever follows the first dot (Microsoft, "Naming Files,
/// Paths, and Namespaces").
fn is_device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or(text);
    matches!(stem, "con" | "prn" | "aux" | "nul" | "conin" | "conout" | "clock")
        || matches!(
            stem.as_bytes(),
            [b'c', b'o', b'm', b'0'..=b'9'] | [b'l', b'p', b't', b'0'..=b'9']
        )
}

const WILD: &str = "_wild_.";

/// File systems take 255 bytes; prefixes and endings of ours need some.
const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn ids_read_like_the_names_they_stand_for() {
        for (name, wanted) in [
            ("www.Example.com", "www.example.com"),
            ("*.example.com", "_wild_.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001_db8__1"),
            ("::1", "__1"),
            ("wildcard", "wildcard"),
            ("my_entry", "my_entry"),
            ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
            ("con", "_con"),
            ("nul.example.com", "_nul.example.com"),
            ("com1.example", "_com1.example"),
            ("com10.example", "com10.example"),
            ("console.example", "console.example"),
        ] {
            assert_eq!(CertId::new(name).as_str(), wanted);
        }
    }

    #[test]
    fn whatever_the_name_the_id_is_a_harmless_file_name_and_no_other_names() {
        let long = "a".repeat(300);
        let longer = "a".repeat(301);
        let mut ids: HashMap<CertId, &str> = HashMap::new();
        for name in [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "a/b",
            "a\\b",
            "a:b",
            "a_b",
            "a b",
            "a.",
            ".a",
            "a",
            "con.",
            "con",
            "_con",
            "aux.txt",
            "lpt9",
            "com¹",
            "*.a",
            "_wild_.a",
            "*",
            "*.",
            "::1",
            "__1",
            "münchen.de",
            "mxnchen.de",
            "nul\0",
            "🦀",
            &long,
            &longer,
            "a..b",
            "C:\\x",
            "con:",
            "com1 ",
            "con.*",
            "*.con",
            "conin$",
            "fe80::1%eth0",
            "-rf",
        ] {
            let id = CertId::new(name);
            let text = id.as_str();
            let fine = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
            assert!(text.chars().all(fine), "{name:?}: {text}");
            assert!(!text.is_empty() && text.len() <= LONGEST, "{name:?}: {text}");
            assert!(!text.starts_with('.') && !text.ends_with('.'), "{name:?}: {text}");
            assert!(!is_device(text), "{name:?}: {text}");
            if let Some(other) = ids.insert(id.clone(), name) {
                unreachable!("{name:?} and {other:?} share {id}");
            }
        }
        assert_eq!(CertId::new("A.test"), CertId::new("a.TEST"), "case does not count");
    }

    #[test]
    fn random_names_never_meet() {
        let mut random = fastrand::Rng::with_seed(4);
        let alphabet: Vec<char> = "ab*._:-C/1".chars().collect();
        let mut ids: HashMap<CertId, String> = HashMap::new();
        for _ in 0..20_000 {
            let length = random.usize(0..7);
            let name: String = (0..length).map(|_| random.choice(&alphabet).unwrap()).collect();
            let name = name.to_lowercase();
            let other = ids.entry(CertId::new(&name)).or_insert_with(|| name.clone());
            assert_eq!(*other, name);
        }
    }

    #[test]
    fn authorities_are_named_by_host_and_path() {
        for (directory, wanted) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                "acme-v02.api.letsencrypt.org+directory",
            ),
            ("https://ca.test:14000/dir", "ca.test_14000+dir-"),
            ("https://ca.test/acme/acme/directory", "ca.test+acme_acme_directory-"),
            ("https://ca.test", "+https___ca.test-"),
            ("https://con/x", "con+x"),
        ] {
            let id = AuthorityId::new(directory);
            assert!(id.as_str().starts_with(wanted), "{id}");
            assert!(id.as_str().contains('+'), "{id}: no certificate has this name");
        }
        assert_ne!(AuthorityId::new("https://a/b:c"), AuthorityId::new("https://a/b/c"));
        assert_ne!(AuthorityId::new("https://a/b"), AuthorityId::new("https://a/B"));
    }
}
