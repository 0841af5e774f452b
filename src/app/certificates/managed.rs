//! Certificates that an authority issues, and those that an operator has put in their place.

use std::collections::{BTreeMap, btree_map};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::internal_id;
use crate::acme::import;
use crate::acme::renewer::{Assignment, Standing, Wanted};
use crate::acme::storage::{CertId, Place, Storage};
use crate::acme::time::unix;
use crate::config::Config;
use crate::config::site::{self, Site, SiteCertificate};
use crate::net::HostPattern;
use crate::tls::{Certificate, Entry, Origin};

/// A certificate that an authority issues.
#[derive(Clone, Debug)]
pub(in crate::app) struct Managed {
    pub(super) id: CertId,
    /// As an [`Entry`].
    pub(super) name: String,
    pub(super) patterns: Vec<HostPattern>,
    /// `None` until there is one: the local CA's is served, or none.
    pub(super) obtained: Option<Certificate>,
    /// What an operator has brought: it is served, and nothing is ordered, until it makes way.
    imported: Option<Imported>,
}

/// What an operator has brought.
#[derive(Clone, Debug)]
struct Imported {
    certificate: Certificate,
    makes_way_at: SystemTime,
}

impl Managed {
    /// What it is kept as.
    pub(in crate::app) fn id(&self) -> &CertId {
        &self.id
    }

    /// The names that the authority certifies.
    pub(in crate::app) fn patterns(&self) -> &[HostPattern] {
        &self.patterns
    }

    /// Whether it is the one of `site`.
    pub(in crate::app) fn is_of(&self, site: &Site) -> bool {
        self.id == CertId::new(&site.name)
    }

    fn new(site: &Site, patterns: Vec<HostPattern>) -> Self {
        let (id, name) = (CertId::new(&site.name), format!("acme:{}", site.name));
        Self { id, name, patterns, obtained: None, imported: None }
    }

    /// Is for `patterns` as well.
    fn share(&mut self, patterns: Vec<HostPattern>) {
        for pattern in patterns {
            if !self.patterns.contains(&pattern) {
                self.patterns.push(pattern);
            }
        }
    }

    /// Finds what was obtained and imported before. Blocks on files.
    pub(super) fn find(&mut self, storage: &Storage, now: SystemTime) {
        self.find_obtained(storage);
        let certificate = &self.id;
        let found = match storage.load(Place::Imported, certificate) {
            Ok(found) => found,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(%certificate, error, "could not read the imported certificate");
                return;
            }
        };
        for fault in &found.faults {
            let error: &dyn std::error::Error = &fault.error;
            tracing::error!(%certificate, error, "an imported certificate is damaged");
        }
        let Some(brought) = found.generation.map(|generation| generation.certificate) else {
            return;
        };
        let missing = brought.uncovered(&self.patterns);
        if !missing.is_empty() {
            let names = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(%certificate, names, "the imported certificate is not for all names of its site, it is ordered");
            return;
        }
        let makes_way_at = import::hand_over(&brought);
        if makes_way_at <= now {
            tracing::warn!(%certificate, "the imported certificate ends, its successor is ordered");
        }
        self.imported = Some(Imported { certificate: brought, makes_way_at });
    }

    /// Finds what was obtained before. Blocks on files.
    pub(super) fn find_obtained(&mut self, storage: &Storage) {
        // What cannot be read is obtained anew, and says so there.
        let found = storage.load(Place::Live, &self.id).ok().and_then(|found| found.generation);
        self.obtained = found.map(|generation| generation.certificate);
    }

    /// What is served at `now`.
    pub(super) fn served(&self, now: SystemTime) -> Option<&Certificate> {
        let (imported, obtained) = (self.imported.as_ref(), self.obtained.as_ref());
        let (Some(imported), Some(obtained)) = (imported, obtained) else {
            return imported.map(|imported| &imported.certificate).or(obtained);
        };
        let ends = |certificate: &Certificate| certificate.leaf.not_after;
        let is_over = imported.makes_way_at <= now;
        let is_better = ends(obtained) > now || ends(obtained) > ends(&imported.certificate);
        Some(if is_over && is_better { obtained } else { &imported.certificate })
    }

    /// Whether something can be served.
    pub(super) fn has_certificate(&self) -> bool {
        self.obtained.is_some() || self.imported.is_some()
    }

    /// When what was imported makes way; `None` where nothing was, or it has.
    pub(super) fn makes_way_at(&self, now: SystemTime) -> Option<SystemTime> {
        self.imported.as_ref().map(|it| it.makes_way_at).filter(|at| *at > now)
    }

    /// Where `certificate`, which is served, comes from.
    pub(super) fn origin(&self, certificate: &Certificate) -> Origin {
        let is_it = |it: &Imported| it.certificate.leaf.fingerprint == certificate.leaf.fingerprint;
        if self.imported.as_ref().is_some_and(is_it) { Origin::Files } else { Origin::Authority }
    }

    pub(super) fn entry(&self, certificate: Certificate) -> Entry {
        Entry::new(self.name.as_str(), self.patterns.clone(), certificate)
    }

    fn standing(&self, now: SystemTime) -> Option<Standing> {
        let makes_way_at = self.makes_way_at(now)?;
        Some(Standing {
            id: self.id.clone(),
            is_unsaved: false,
            state: "imported",
            fails: 0,
            problem: None,
            next_at: Some(unix(makes_way_at)),
            why: "import_ends",
        })
    }
}

/// What the renewer is to keep at `now`: all but what was imported.
pub(super) fn wanted(managed: &[Managed], now: SystemTime) -> Vec<Wanted> {
    let kept = managed.iter().filter(|one| one.makes_way_at(now).is_none());
    let wanted = kept.map(|one| Wanted {
        id: one.id.clone(),
        name: one.name.clone(),
        names: one.patterns.iter().map(ToString::to_string).collect(),
    });
    wanted.collect()
}

/// `present` with what the renewer is to keep at `now`; `None` where that is the same.
pub(super) fn next_assignment(
    present: &Assignment,
    managed: &[Managed],
    now: SystemTime,
) -> Option<Arc<Assignment>> {
    let wanted = wanted(managed, now);
    let is_other = wanted != present.wanted;
    is_other.then(|| Arc::new(Assignment { wanted, ..present.clone() }))
}

/// How those stand that the renewer has no part in.
pub(super) fn standings(managed: &[Managed], now: SystemTime) -> Vec<Standing> {
    managed.iter().filter_map(|one| one.standing(now)).collect()
}

/// What sites want of an authority, and which of their names only the local CA certifies.
pub(in crate::app) fn managed(config: &Config) -> (Vec<Managed>, Vec<(String, Vec<HostPattern>)>) {
    let (mut managed, mut local) = (Vec::<Managed>::new(), Vec::new());
    let mut places = BTreeMap::new();
    for site in &config.sites {
        let SiteCertificate::Acme { all } = site.certificate else { continue };
        let (own, public): (Vec<_>, Vec<_>) =
            site.patterns.iter().cloned().partition(|pattern| !all && site::is_local(pattern));
        if !own.is_empty() {
            local.push((internal_id(site), own));
        }
        let one = Managed::new(site, public);
        // Sites on different listeners whose names differ in case only share one.
        match places.entry(one.id.clone()) {
            btree_map::Entry::Vacant(place) => {
                place.insert(managed.len());
                managed.push(one);
            }
            btree_map::Entry::Occupied(place) => managed[*place.get()].share(one.patterns),
        }
    }
    (managed, local)
}

/// The files that tell which imported certificates there are.
pub(in crate::app) fn markers(config: &Config) -> impl Iterator<Item = PathBuf> {
    let storage: &Path = &config.storage;
    let is_managed = |site: &&Site| matches!(site.certificate, SiteCertificate::Acme { .. });
    config
        .sites
        .iter()
        .filter(is_managed)
        .map(|site| Place::Imported.marker(storage, &CertId::new(&site.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_whose_names_differ_in_case_share_a_certificate() {
        let text = "listeners:\n  one: { bind: \":8441\", protocol: https }\n  \
                    two: { bind: \":8442\", protocol: https }\nsites:\n  \
                    a.example.com: { listeners: one, aliases: b.example.com, upstream: \"http://b\" }\n  \
                    A.example.com: { listeners: two, aliases: c.example.com, upstream: \"http://b\" }\n\
                    acme: {}\n";
        let loaded = crate::config::from_text("gateway.yaml", text, Path::new("")).unwrap();
        let (managed, local) = managed(&loaded.config);
        assert!(local.is_empty());
        let names: Vec<Vec<String>> = managed
            .iter()
            .map(|one| one.patterns.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(names, [["a.example.com", "b.example.com", "c.example.com"]]);
    }
}
