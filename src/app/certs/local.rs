//! The same questions where no gateway runs: answered by what lies under `storage:`.

use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};

use super::describe::{Case, OnDisk};
use super::subject::{self, Origin, Subject};
use super::verdict::Told;
use super::{Restore, account, find, managed, no_authority, read};
use crate::acme::finding::Finding;
use crate::acme::import::{self, Files, ImportError};
use crate::acme::renewer::{Known, Verdict, Wanted, restore, texts};
use crate::acme::storage::{CertId, Place, Storage, StoreError};
use crate::acme::time::{Clock, unix};
use crate::admin::certs::{Question, Reply};
use crate::config::Config;
use crate::net::HostPattern;
use crate::tls::{Certificate, pem};

/// What lies under `storage:` of the certificates of one configuration.
#[derive(Debug)]
pub struct Local<'c> {
    config: &'c Config,
    storage: Storage,
}

/// A certificate that leaves the storage. It has no `Debug` form, for its key is secret.
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Exported {
    /// What it is called here.
    pub name: String,
    /// The chain, PEM.
    pub chain_pem: String,
    /// The key, PEM. Secret.
    pub key_pem: String,
}

/// What became of what an operator has brought.
#[derive(Debug)]
pub struct Imported {
    /// The site.
    pub name: String,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What it is kept as; `None` when something is in the way.
    pub number: Option<u32>,
    /// Until when it is served.
    pub until: Option<SystemTime>,
}

/// Why nothing was imported or taken away.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// It cannot be for that name.
    #[error("{0}")]
    Name(String),
    /// It cannot be kept.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl From<String> for BringError {
    fn from(text: String) -> Self {
        Self::Name(text)
    }
}

impl<'c> Local<'c> {
    /// Opens `storage:`.
    ///
    /// # Errors
    /// [`StoreError::Io`] names what cannot be read.
    pub fn open(config: &'c Config) -> Result<Self, StoreError> {
        Ok(Self { config, storage: Storage::open(&config.storage)? })
    }

    /// The answer to `question`, asked with `arguments`; `None` where only a running gateway has one.
    #[must_use]
    pub fn answer(&self, question: &Question, arguments: Value) -> Option<Reply> {
        let outcome = match question {
            Question::List => Ok(self.list()),
            Question::Show(name) => self.show(name),
            Question::Restore(name) => self.restore(name, arguments),
            Question::Account => self.account(),
            _ => return None,
        };
        Some(outcome.unwrap_or_else(|refusal| refusal))
    }

    /// The certificate in service for `name`, or generation `number` of it, to be taken elsewhere.
    ///
    /// # Errors
    /// What to tell whoever wants it.
    pub fn export(&self, name: &str, number: Option<u32>) -> Result<Exported, String> {
        let subject = subject::find(self.config, name)?;
        let id = match &subject.origin {
            Origin::Acme(id) => id,
            Origin::Files(index) => {
                let entry = self.config.certificates.get(*index);
                let files =
                    entry.map(|it| format!("{} and {}", it.chain.display(), it.key.display()));
                return Err(format!("{name} is in files already: {}", files.unwrap_or_default()));
            }
            Origin::Local(_) => {
                return Err(format!(
                    "the certificate of {name} comes from the local CA, and nobody else would trust it"
                ));
            }
        };
        let current = |place| {
            let found = self.storage.load(place, id).map_err(|error| texts(&error))?;
            Ok::<_, String>(found.generation.map(|generation| generation.number))
        };
        let is_imported = || self.imported(&subject, id, SystemTime::now()).is_some();
        let place = match number {
            None if is_imported() => Place::Imported,
            _ => Place::Live,
        };
        let Some(number) = number.map_or_else(|| current(place), |number| Ok(Some(number)))? else {
            return Err(format!("there is no certificate for {name} yet"));
        };
        let pair = self.storage.pair(place, id, number).map_err(|error| texts(&error))?;
        Ok(Exported { name: subject.name, chain_pem: pair.chain_pem, key_pem: pair.key_pem.0 })
    }

    fn list(&self) -> Reply {
        let now = SystemTime::now();
        // What the local CA has issued, it issues again at the next start.
        let is_shown = |subject: &Subject| !matches!(subject.origin, Origin::Local(_));
        let subjects = subject::all(self.config).into_iter().filter(is_shown);
        let cases = subjects.map(|subject| self.case(subject, now).in_short(now));
        Reply::fine(json!({ "certificates": cases.collect::<Vec<_>>() }))
    }

    fn show(&self, name: &str) -> Result<Reply, Reply> {
        let now = SystemTime::now();
        let case = self.case(find(self.config, name)?, now);
        let kept = match &case.subject.origin {
            Origin::Acme(id) => OnDisk::read(&self.storage, id).ok(),
            _ => None,
        };
        Ok(Reply::fine(case.in_full(self.config, kept.as_ref(), now)))
    }

    fn restore(&self, name: &str, arguments: Value) -> Result<Reply, Reply> {
        let Restore { generation } = read(arguments)?;
        let subject = find(self.config, name)?;
        let names = subject.names.clone();
        let (name, id) = managed(subject)?;
        let Some(acme) = &self.config.acme else {
            return Err(no_authority());
        };
        let wanted = Wanted { id: id.clone(), name: format!("acme:{name}"), names };
        let known = || Known::read(&self.storage, acme, &wanted).map_err(|error| unusable(&error));
        let Some(lock) = self.storage.lock(&id).map_err(|error| unusable(&error))? else {
            return Ok(Told::of(&name, "restored", Verdict::Busy, None).reply());
        };
        let now = Clock::default().now();
        let verdict = match restore(&self.storage, &lock, known()?.record, generation, now) {
            Ok(_) => Verdict::Done,
            Err(error) => Verdict::Failed { problem: texts(&error), next_at: None },
        };
        Ok(Told::of(&name, "restored", verdict, Some(&known()?)).reply())
    }

    /// What was imported and is served at `now`, and until when.
    fn imported(
        &self,
        subject: &Subject,
        id: &CertId,
        now: SystemTime,
    ) -> Option<(Certificate, i64)> {
        let found = self.storage.load(Place::Imported, id).ok()?.generation?.certificate;
        let is_good = found.uncovered(&patterns(subject)).is_empty();
        let until = import::hand_over(&found);
        (is_good && until > now).then(|| (found, unix(until)))
    }

    /// What an operator brings in `files` for `name`: what was found, and whether it is kept now.
    ///
    /// # Errors
    /// What to tell whoever brings it.
    pub fn import(&self, name: &str, files: Files<'_>) -> Result<Imported, BringError> {
        let subject = subject::find(self.config, name)?;
        let id = managed_id(&subject)?;
        let examined = import::examine(files, &patterns(&subject), SystemTime::now());
        let number = match &examined.pair {
            Some(pair) => Some(import::keep(&self.storage, &id, pair)?.number),
            None => None,
        };
        let until = examined.certificate.as_ref().map(import::hand_over);
        Ok(Imported { name: subject.name, findings: examined.findings, number, until })
    }

    /// Takes away what was imported for `name`; whether there was something.
    ///
    /// # Errors
    /// What to tell whoever wants it.
    pub fn remove_import(&self, name: &str) -> Result<bool, BringError> {
        let id = managed_id(&subject::find(self.config, name)?)?;
        Ok(import::remove(&self.storage, &id)?)
    }

    fn account(&self) -> Result<Reply, Reply> {
        let Some(acme) = &self.config.acme else { return Err(no_authority()) };
        let kept = account::kept(&self.storage, acme).map_err(|error| unusable(&error))?;
        Ok(Reply::fine(json!({ "accounts": kept })))
    }

    fn case(&self, subject: Subject, now: SystemTime) -> Case {
        let mut case =
            Case { subject, certificate: None, known: None, imported_until: None, problem: None };
        match &case.subject.origin {
            Origin::Acme(id) => {
                let Some(acme) = &self.config.acme else { return case };
                let Subject { name, names, .. } = &case.subject;
                let name = format!("acme:{name}");
                let wanted = Wanted { id: id.clone(), name, names: names.clone() };
                match Known::read(&self.storage, acme, &wanted) {
                    Ok(known) => case.known = Some(known),
                    Err(error) => case.problem = Some(texts(&error)),
                }
                let found = self.storage.load(Place::Live, id).ok();
                let generation = found.and_then(|found| found.generation);
                case.certificate = generation.map(|generation| generation.certificate);
                if let Some((imported, until)) = self.imported(&case.subject, id, now) {
                    (case.certificate, case.imported_until) = (Some(imported), Some(until));
                    case.known = None;
                }
            }
            Origin::Files(index) => {
                let Some(entry) = self.config.certificates.get(*index) else { return case };
                match pem::load(&entry.chain, &entry.key, &entry.names, now) {
                    Ok(loaded) => case.certificate = Some(loaded.certificate),
                    Err(error) => case.problem = Some(texts(&error)),
                }
            }
            Origin::Local(_) => {}
        }
        case
    }
}

fn patterns(subject: &Subject) -> Vec<HostPattern> {
    subject.names.iter().filter_map(|name| HostPattern::parse(name).ok()).collect()
}

/// The id of one that an authority issues, which another can take the place of.
fn managed_id(subject: &Subject) -> Result<CertId, String> {
    match &subject.origin {
        Origin::Acme(id) => Ok(id.clone()),
        Origin::Files(_) => {
            Err(format!("{} is in files: put the new ones in their place", subject.name))
        }
        Origin::Local(_) => Err(format!(
            "the certificate of {} comes from the local CA: name one under `certificates:` instead",
            subject.name
        )),
    }
}

fn unusable(error: &StoreError) -> Reply {
    Reply::error(StatusCode::INTERNAL_SERVER_ERROR, texts(error))
}
