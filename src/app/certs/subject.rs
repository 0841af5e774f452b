//! Which certificates a configuration has, and which one a name means.

use super::super::certificates::{self, internal_id};
use crate::acme::storage::CertId;
use crate::config::site::SiteCertificate;
use crate::config::{Config, nearest};
use crate::net::{HostPattern, unicode_form};

/// A certificate that a configuration has.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// Its site, or its entry under `certificates:`.
    pub(super) name: String,
    /// What it is for. Of one from files, as far as the configuration says.
    pub(super) names: Vec<String>,
    pub(super) origin: Origin,
}

/// Who issues it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// An authority.
    Acme(CertId),
    /// Somebody else: by index of `certificates:`.
    Files(usize),
    /// The local CA; what it is called among those in service.
    Local(String),
}

/// All that `config` has, in the order written.
pub(super) fn all(config: &Config) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let (managed, local) = certificates::managed(config);
    let of = |name: &str, patterns: &[HostPattern], origin| Subject {
        name: name.to_owned(),
        names: patterns.iter().map(ToString::to_string).collect(),
        origin,
    };
    for site in &config.sites {
        let id = internal_id(site);
        if site.certificate == SiteCertificate::Internal {
            subjects.push(of(&site.name, &site.patterns, Origin::Local(id)));
            continue;
        }
        let managed = managed.iter().find(|one| one.is_of(site));
        if let Some(one) = managed.filter(|one| !one.patterns().is_empty()) {
            subjects.push(of(&site.name, one.patterns(), Origin::Acme(one.id().clone())));
        }
        if let Some((_, patterns)) = local.iter().find(|(other, _)| *other == id) {
            let name = patterns.first().map(ToString::to_string).unwrap_or_default();
            subjects.push(of(&name, patterns, Origin::Local(id)));
        }
    }
    for (index, certificate) in config.certificates.iter().enumerate() {
        subjects.push(of(&certificate.name, &certificate.names, Origin::Files(index)));
    }
    subjects
}

/// The one that `name` means: a site, one of its hosts in any spelling, or an entry under
/// `certificates:`.
///
/// # Errors
/// What to tell somebody who has asked for none of them.
pub(super) fn find(config: &Config, name: &str) -> Result<Subject, String> {
    let subjects = all(config);
    let is_called = |subject: &&Subject| subject.name.eq_ignore_ascii_case(name);
    if let Some(found) = subjects.iter().find(is_called) {
        return Ok(found.clone());
    }
    let pattern = HostPattern::parse(name).ok();
    let spelt = pattern.as_ref().map(ToString::to_string);
    let has_name = |subject: &&Subject| {
        !matches!(subject.origin, Origin::Files(_))
            && subject.names.iter().any(|name| Some(name) == spelt.as_ref())
    };
    if let Some(found) = subjects.iter().find(has_name) {
        return Ok(found.clone());
    }
    let site = config.sites.iter().find(|site| {
        site.name.eq_ignore_ascii_case(name)
            || pattern.as_ref().is_some_and(|pattern| site.patterns.contains(pattern))
    });
    match site.map(|site| (&site.certificate, &site.name)) {
        Some((SiteCertificate::Named(index), _)) => {
            let is_it = |subject: &&Subject| subject.origin == Origin::Files(*index);
            subjects.iter().find(is_it).cloned().ok_or_else(|| unknown(config, &subjects, name))
        }
        Some((_, site)) => Err(format!("{site:?} has no https listener, so it has no certificate")),
        None => Err(unknown(config, &subjects, name)),
    }
}

fn unknown(config: &Config, subjects: &[Subject], name: &str) -> String {
    let hosts = config.sites.iter().flat_map(|site| site.patterns.iter().map(ToString::to_string));
    let mut words: Vec<String> = subjects.iter().map(|subject| subject.name.clone()).collect();
    words.extend(hosts);
    words.extend(words.iter().filter_map(|word| unicode_form(word)).collect::<Vec<_>>());
    match nearest(name, words.iter().map(String::as_str)) {
        Some(near) => format!("no site or certificate is called {name:?}; did you mean {near:?}?"),
        None => format!(
            "no site or certificate is called {name:?}; `wardgate certs list` shows those there are"
        ),
    }
}
