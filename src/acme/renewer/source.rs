//! What the configuration in force wants, and where it is had from.

use super::Change;
use crate::acme::event::Events;
use crate::acme::session::Authority;
use crate::acme::state::Target;
use crate::acme::storage::{AuthorityId, CertId, Storage};
use crate::acme::time::Clock;
use crate::config::acme::{self, Acme};

/// What the configuration in force wants.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// How certificates are ordered.
    pub acme: Acme,
    /// Where they are kept.
    pub storage: Storage,
    /// Who issues them, in the order of preference; never empty.
    pub sources: Vec<Source>,
    /// What they are judged by.
    pub clock: Clock,
    /// Which are wanted.
    pub wanted: Vec<Wanted>,
    /// Who is told what becomes of them.
    pub events: Events,
}

/// An authority.
#[derive(Clone, Debug)]
pub struct Source {
    /// What is asked of it.
    pub settings: acme::Authority,
    /// How it is spoken to.
    pub authority: Authority,
    /// A hash of whom its directory is trusted by, where that is a file.
    pub ca_digest: Option<[u8; 32]>,
}

/// A certificate that is to be there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// What it is kept as.
    pub id: CertId,
    /// What names it once it is in service.
    pub name: String,
    /// DNS names in ASCII, `*.` before wildcards, and addresses.
    pub names: Vec<String>,
}

impl Assignment {
    /// The directories of all authorities, in the order of preference.
    pub(super) fn directories(&self) -> Vec<&str> {
        self.sources.iter().map(|source| source.settings.directory.as_str()).collect()
    }

    /// Where the accounts at all authorities are kept.
    #[must_use]
    pub fn accounts(&self) -> Vec<AuthorityId> {
        self.directories().into_iter().map(AuthorityId::new).collect()
    }

    /// The authority with `directory`; `None` when the configuration no longer names it.
    #[must_use]
    pub fn source(&self, directory: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.settings.directory == directory)
    }

    /// What is ordered for `wanted`.
    #[must_use]
    pub fn target(&self, wanted: &Wanted) -> Target {
        target(&self.acme, wanted)
    }

    /// What this one changes about `last`.
    pub(super) fn change(&self, last: Option<&Self>) -> Change {
        let digests = |one: &Self| one.sources.iter().map(|it| it.ca_digest).collect::<Vec<_>>();
        // Who is told of orders has no part in them.
        let settings = |one: &Self| Acme { events: Vec::new(), ..one.acme.clone() };
        match last {
            None => Change::Begun,
            Some(last) if settings(last) != settings(self) || digests(last) != digests(self) => {
                Change::Settings
            }
            Some(_) => Change::None,
        }
    }
}

/// What is ordered for `wanted`.
pub(super) fn target(acme: &Acme, wanted: &Wanted) -> Target {
    let acme::Authority { directory, profile, .. } = &acme.authority;
    Target::new(wanted.names.clone(), directory, profile.as_deref())
}
