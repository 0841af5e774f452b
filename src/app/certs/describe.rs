//! How a certificate stands, as JSON: in a line, and with all that is known.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::subject::{Origin, Subject};
use crate::acme::renewer::Known;
use crate::acme::schedule::{Ari, Guard, Life};
use crate::acme::storage::{CertId, Kept, Place, Storage, StoreError};
use crate::acme::time::unix;
use crate::admin::timestamp;
use crate::config::Config;
use crate::config::acme::{LETSENCRYPT, LETSENCRYPT_STAGING};
use crate::net::unicode_form;
use crate::tls::{Certificate, Leaf};

/// A certificate and what is known of it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) subject: Subject,
    /// The one in service that its issuer has issued; no stand-in.
    pub(super) certificate: Option<Certificate>,
    /// Of one that an authority issues.
    pub(super) known: Option<Known>,
    /// Until when the one in service is one that an operator has brought, in seconds since 1970.
    pub(super) imported_until: Option<i64>,
    /// Why nothing is known.
    pub(super) problem: Option<String>,
}

impl Case {
    /// A line of a list.
    pub(super) fn in_short(&self, now: SystemTime) -> Value {
        let leaf = self.certificate.as_ref().map(|certificate| &certificate.leaf);
        let life = leaf.map(Life::of);
        let known = self.known.as_ref();
        let names = self.names();
        let unicode: Vec<_> =
            names.iter().map(|name| unicode_form(name).unwrap_or_else(|| name.clone())).collect();
        let source = match self.subject.origin {
            Origin::Acme(_) if self.imported_until.is_some() => "imported",
            Origin::Acme(_) => "acme",
            Origin::Files(_) => "files",
            Origin::Local(_) => "local_ca",
        };
        let target = known.map(|known| &known.record.target);
        let issuer = known.map(|known| {
            let record = &known.record;
            record.issued_by.as_deref().unwrap_or(&record.target.directory)
        });
        let next_at = match &self.subject.origin {
            Origin::Acme(_) if self.imported_until.is_some() => self.imported_until.map(moment),
            Origin::Acme(_) => known.and_then(|known| known.standing.next_at).map(moment),
            Origin::Files(_) => None,
            Origin::Local(_) => leaf.map(|leaf| timestamp(leaf.renew_at())),
        };
        let problem = known.and_then(|known| known.standing.problem.clone());
        json!({
            "name": self.subject.name,
            "source": source,
            "names": names,
            "names_unicode": unicode,
            "authority": issuer.map(authority),
            "directory": issuer,
            "profile": target.and_then(|target| target.profile.as_ref()),
            "not_before": leaf.map(|leaf| timestamp(leaf.not_before)),
            "not_after": leaf.map(|leaf| timestamp(leaf.not_after)),
            "percent_left": life.map(|life| (life.left_ppm(unix(now)) + 5_000) / 10_000),
            "state": self.state(now),
            "fails": known.map_or(0, |known| known.standing.fails),
            "problem": problem.or_else(|| self.problem.clone()),
            "next_at": next_at,
            "why": match self.imported_until {
                Some(_) => Some("import_ends"),
                None => known.map(|known| known.standing.why),
            },
        })
    }

    /// The names of the certificate, else those that it is to have.
    fn names(&self) -> Vec<String> {
        match (&self.subject.origin, &self.certificate) {
            (Origin::Files(_), Some(certificate)) if self.subject.names.is_empty() => {
                certificate.leaf.names.iter().map(ToString::to_string).collect()
            }
            _ => self.subject.names.clone(),
        }
    }

    fn state(&self, now: SystemTime) -> &'static str {
        match (&self.known, &self.certificate) {
            _ if self.imported_until.is_some() => "imported",
            (Some(known), _) => known.standing.state,
            (None, Some(certificate)) if certificate.leaf.not_after <= now => "expired",
            (None, Some(_)) => "active",
            (None, None) => "missing",
        }
    }

    /// All that is known; `kept` is what lies on disk.
    pub(super) fn in_full(&self, config: &Config, kept: Option<&OnDisk>, now: SystemTime) -> Value {
        let mut value = self.in_short(now);
        if let Some(certificate) = &self.certificate {
            value["certificate"] = leaf(&certificate.leaf);
            let paths = certificate.source.as_ref();
            value["chain"] = paths.map(|source| source.chain.display().to_string()).into();
            value["key"] = paths.map(|source| source.key.display().to_string()).into();
        }
        if let Origin::Files(index) = self.subject.origin
            && let Some(entry) = config.certificates.get(index)
        {
            value["chain"] = entry.chain.display().to_string().into();
            value["key"] = entry.key.display().to_string().into();
        }
        if let Some(known) = &self.known {
            value["since"] = moment(known.record.since);
            value["last_problem"] = known.record.last_problem.as_ref().map_or(
                Value::Null,
                |problem| json!({ "at": moment(problem.at), "kind": problem.kind, "detail": problem.detail, "names": problem.names }),
            );
            value["guard"] = known.plan.guard.map(guard).into();
            value["limited_until"] = known.limited_until.map(moment).into();
            value["renewal_info"] = known.record.ari.as_ref().map_or(Value::Null, renewal_info);
            let history = known.record.history.issuances().iter();
            let history = history.map(|past| json!({ "at": moment(past.at), "why": past.why }));
            value["history"] = history.collect::<Vec<_>>().into();
        }
        if let Some(kept) = kept {
            value["directory_path"] = kept.directory.display().to_string().into();
            if let (None, Some(number)) = (self.imported_until, kept.current()) {
                let path = kept.directory.join(format!("{number:06}"));
                value["chain"] = path.join("chain.pem").display().to_string().into();
                value["key"] = path.join("key.pem").display().to_string().into();
            }
            value["generations"] = kept.generations.iter().map(generation).collect();
        }
        value
    }
}

/// What lies on disk of a certificate.
#[derive(Debug)]
pub(super) struct OnDisk {
    directory: PathBuf,
    generations: Vec<Kept>,
}

impl OnDisk {
    /// Blocks on it.
    pub(super) fn read(storage: &Storage, id: &CertId) -> Result<Self, StoreError> {
        let directory = storage.directory_of(Place::Live, id);
        Ok(Self { directory, generations: storage.kept(Place::Live, id)? })
    }

    fn current(&self) -> Option<u32> {
        self.generations.iter().find(|kept| kept.is_current).map(|kept| kept.number)
    }
}

fn leaf(leaf: &Leaf) -> Value {
    let names: Vec<String> = leaf.names.iter().map(ToString::to_string).collect();
    let serial: String = leaf.serial.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "names": names,
        "issuer": leaf.issuer,
        "serial": serial,
        "fingerprint": leaf.fingerprint.to_string(),
    })
}

fn generation(kept: &Kept) -> Value {
    let mut value = json!({ "number": kept.number, "current": kept.is_current });
    match &kept.generation {
        Ok(found) => {
            let leaf = &found.certificate.leaf;
            value["not_before"] = timestamp(leaf.not_before);
            value["not_after"] = timestamp(leaf.not_after);
            value["fingerprint"] = leaf.fingerprint.to_string().into();
            let meta = found.meta.as_ref();
            value["saved_at"] = meta.map(|meta| moment(meta.saved_at)).into();
            value["why"] = meta.and_then(|meta| meta.why).map(|why| why.as_str()).into();
            value["directory"] = meta.map(|meta| meta.target.directory.as_str()).into();
        }
        Err(error) => value["error"] = error.to_string().into(),
    }
    value
}

fn renewal_info(ari: &Ari) -> Value {
    json!({
        "start": ari.window.map(|window| moment(window.start)),
        "end": ari.window.map(|window| moment(window.end)),
        "selected": ari.selected.map(moment),
        "explanation_url": ari.explanation_url,
        "heard_at": ari.heard_at.map(moment),
        "next_poll": moment(ari.next_poll),
        "errors": ari.errors,
    })
}

/// The word for what speaks against an order.
pub(super) fn guard(guard: Guard) -> &'static str {
    match guard {
        Guard::Young => "young",
        Guard::Weekly => "weekly",
    }
}

/// What people call an authority: the configuration's word for it, or its host.
pub(super) fn authority(directory: &str) -> &str {
    match directory {
        LETSENCRYPT => "letsencrypt",
        LETSENCRYPT_STAGING => "letsencrypt-staging",
        url => {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            rest.split('/').next().unwrap_or(rest)
        }
    }
}

/// A moment in seconds since 1970 as RFC 3339.
pub(super) fn moment(seconds: i64) -> Value {
    timestamp(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
