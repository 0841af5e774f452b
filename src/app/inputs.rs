//! The files that a configuration is made of, and whether they say what they said.
//!
//! Answers "has anything changed since it was applied?" by contents, since times and sizes miss what
//! a tool puts back or writes twice within a second.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::certificates;
use crate::config::Loaded;
use crate::config::client_auth::ClientAuth;
use crate::config::upstream::UpstreamTls;

/// More of a file than that is not looked at; certificates and configurations are smaller.
const LARGEST: u64 = 64 << 20;

/// What files said at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs(BTreeMap<PathBuf, Print>);

/// Stands for a file's contents; `None` for one that cannot be read.
type Print = Option<u64>;

impl Inputs {
    /// What `file` and all files that `loaded` names say. What `before` knows counts as it was then:
    /// it was read before the configuration was, so that whatever changed since shows as a change.
    pub(super) fn of(file: Option<&Path>, loaded: &Loaded, before: &Self) -> Self {
        let imported: Vec<PathBuf> = certificates::markers(&loaded.config).collect();
        let pools = loaded.config.upstreams.iter().flat_map(|pool| pool_files(&pool.tls));
        let certificates =
            loaded.config.certificates.iter().flat_map(|one| [&*one.chain, &*one.key]);
        let values = loaded.files.iter().map(PathBuf::as_path);
        let authorities = loaded.config.acme.iter().flat_map(|acme| acme.authorities());
        let authority = authorities.filter_map(|authority| authority.directory_ca.as_deref());
        let fleet = loaded.config.fleet.iter().filter_map(|redis| redis.ca.as_deref());
        let authority = authority.chain(fleet);
        let of_listeners = loaded.config.listeners.iter().filter_map(|it| it.client_auth.as_ref());
        let of_sites = loaded.config.sites.iter().filter_map(|it| it.client_auth.own());
        let clients = of_listeners.chain(of_sites).flat_map(ClientAuth::files);
        let named = file.into_iter().chain(authority).chain(certificates).chain(pools);
        let named = named
            .chain(values)
            .chain(clients.map(PathBuf::as_path))
            .chain(imported.iter().map(PathBuf::as_path));
        // Thousands of sites may name the same file: it is read once.
        let named: BTreeSet<&Path> = named.collect();
        let known = |path: &Path| before.0.get(path).copied();
        let print = |path: &Path| (path.to_owned(), known(path).unwrap_or_else(|| print(path)));
        Self(named.into_iter().map(print).collect())
    }

    /// The same files as they are now.
    pub(super) fn again(&self) -> Self {
        Self(self.0.keys().map(|path| (path.clone(), print(path))).collect())
    }

    /// Whether all files say the same in both.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// Whether the files of a pool's `tls:` say the same in both.
    pub(super) fn is_same_for(&self, tls: &UpstreamTls, other: &Self) -> bool {
        pool_files(tls).all(|path| self.0.get(path) == other.0.get(path))
    }

    /// The files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

fn pool_files(tls: &UpstreamTls) -> impl Iterator<Item = &Path> {
    let client = tls.client.iter().flat_map(|client| [&*client.chain, &*client.key]);
    tls.ca.iter().map(PathBuf::as_path).chain(client)
}

fn print(path: &Path) -> Print {
    // A pipe would be waited for, and would give to us what is another's.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut contents = Vec::new();
    std::fs::File::open(path).ok()?.take(LARGEST).read_to_end(&mut contents).ok()?;
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_by_what_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = path("gateway.yaml");
        for (name, text) in [("a.pem", "a"), ("a.key", "k"), ("ca.pem", "c"), ("secret", "s")] {
            std::fs::write(path(name), text).unwrap();
        }
        let text = "sites: { a.test: { certificate: own, upstream: app } }\n\
                    certificates: { own: { chain: a.pem, key: a.key } }\n\
                    upstreams:\n  app: { servers: \"https://localhost:1\", tls: { ca: ca.pem } }\n\
                    storage: \"${file:secret}\"\n";
        std::fs::write(&file, text).unwrap();
        let loaded = crate::config::load(&file).unwrap();
        let inputs = Inputs::of(Some(&file), &loaded, &Inputs::default());
        let names = ["a.key", "a.pem", "ca.pem", "gateway.yaml", "secret"];
        assert_eq!(inputs.paths(), names.map(path));
        assert!(inputs.is_same(&inputs.again()));
        std::fs::write(path("a.pem"), "a").unwrap();
        assert!(inputs.is_same(&inputs.again()), "written again, and the same");
        let tls = &loaded.config.upstreams[0].tls;
        for name in names {
            let before = std::fs::read(path(name)).unwrap();
            std::fs::remove_file(path(name)).unwrap();
            assert!(!inputs.is_same(&inputs.again()), "{name} is gone");
            std::fs::write(path(name), "another").unwrap();
            let after = inputs.again();
            assert!(!inputs.is_same(&after), "{name} has changed");
            assert_eq!(inputs.is_same_for(tls, &after), name != "ca.pem", "{name}");
            let kept = Inputs::of(Some(&file), &loaded, &inputs);
            assert!(kept.is_same(&inputs), "what was known before counts");
            std::fs::write(path(name), before).unwrap();
        }
    }
}
