//! What is asked about certificates, by the admin API or on the command line.
//!
//! Answers "which one is meant, how does it stand, and what became of what was asked?". `CertDesk`
//! answers for a running gateway, whose renewer does the work; [`Local`] answers by what lies under
//! `storage:`, where no gateway runs. Both say the same in the same words.

mod account;
mod describe;
mod lasting;
mod local;
mod subject;
mod verdict;

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::describe::{Case, OnDisk};
pub use self::local::{BringError, Exported, Imported, Local};
use self::subject::{Origin, Subject};
use self::verdict::Told;
use super::certificates::Certificates;
use crate::acme::renewer::{Assignment, Commands, Deed, Ended, Known, Taken, Verdict, Work};
use crate::acme::revocation::Reason;
use crate::acme::storage::CertId;
use crate::admin::certs::{Question, Reply};
use crate::config::Config;
use crate::config::acme::{LETSENCRYPT, LETSENCRYPT_STAGING};
use crate::proxy::gateway::Shared;
use crate::proxy::generation::Generation;

/// Answers for a running gateway.
#[derive(Clone, Debug)]
pub(super) struct CertDesk {
    pub(super) shared: Arc<Shared>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) commands: Commands,
}

/// What `renew` may be told.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Renew {
    force: bool,
    wait: bool,
    staging: bool,
}

/// What `revoke` has to be told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    reason: String,
    #[serde(default)]
    reissue: bool,
}

/// What `restore` has to be told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    generation: u32,
}

impl CertDesk {
    /// The answer to `question`, asked with `arguments`.
    pub(super) async fn answer(self, question: Question, arguments: Value) -> Reply {
        let outcome = match question {
            Question::List => self.list().await,
            Question::DnsPersist(name) => self.dns_persist(&name).await,
            Question::Show(name) => self.show(&name).await,
            Question::Renew(name) => self.renew(name.as_deref(), arguments).await,
            Question::Restore(name) => self.restore(&name, arguments).await,
            Question::Revoke(name) => self.revoke(&name, arguments).await,
            Question::Account => self.account(account::show).await,
            Question::Rollover => self.account(|it| account::roll_over(it, arguments)).await,
            Question::Deactivate => self.account(|it| account::deactivate(it, arguments)).await,
        };
        outcome.unwrap_or_else(|refusal| refusal)
    }

    async fn list(&self) -> Result<Reply, Reply> {
        let generation = self.generation();
        let config = &generation.config;
        let known = self.commands.look(None).await.map_err(ended)?;
        let now = SystemTime::now();
        let cases = subject::all(config).into_iter().map(|subject| {
            let known = match &subject.origin {
                Origin::Acme(id) => known.iter().find(|known| known.standing.id == *id).cloned(),
                _ => None,
            };
            self.case(subject, known).in_short(now)
        });
        Ok(Reply::fine(json!({ "certificates": cases.collect::<Vec<_>>() })))
    }

    async fn show(&self, name: &str) -> Result<Reply, Reply> {
        let generation = self.generation();
        let config = &generation.config;
        let subject = find(config, name)?;
        let Origin::Acme(id) = subject.origin.clone() else {
            return Ok(Reply::fine(self.case(subject, None).in_full(config, None, now())));
        };
        let known = self.known(&id).await?;
        let kept = match self.certificates.assignment() {
            Some(assignment) => on_disk(assignment, id).await,
            None => None,
        };
        Ok(Reply::fine(self.case(subject, known).in_full(config, kept.as_ref(), now())))
    }

    async fn dns_persist(&self, name: &str) -> Result<Reply, Reply> {
        let subject = find(&self.generation().config, name)?;
        managed(subject.clone())?;
        lasting::show(self.certificates.assignment(), subject).await
    }

    async fn renew(&self, name: Option<&str>, arguments: Value) -> Result<Reply, Reply> {
        let Renew { force, wait, staging } = read(arguments)?;
        if staging {
            let text = "a rehearsal is of one certificate";
            let name = name.ok_or_else(|| Reply::error(StatusCode::BAD_REQUEST, text))?;
            return self.rehearse(name).await;
        }
        let generation = self.generation();
        let config = &generation.config;
        let subjects: Vec<(String, CertId)> = match name {
            Some(name) => vec![managed(find(config, name)?)?],
            None => {
                let all = subject::all(config).into_iter().filter_map(|one| managed(one).ok());
                all.filter(|(_, id)| self.imported_until(id).is_none()).collect()
            }
        };
        let mut begun = Vec::new();
        for (name, id) in subjects {
            let taken = self.commands.act(id.clone(), Deed::Renew { force }).await;
            begun.push((name, id, taken.map_err(ended)?));
        }
        let mut told = Vec::new();
        for (name, id, taken) in begun {
            told.push(match taken {
                Taken::Decided(verdict) => self.tell(&name, &id, "renewed", verdict).await?,
                Taken::Begun(_) if !wait => Told::begun(&name),
                Taken::Begun(pending) => {
                    let verdict = pending.verdict().await;
                    self.tell(&name, &id, "renewed", verdict).await?
                }
            });
        }
        match (name, told.pop()) {
            (Some(_), Some(one)) => Ok(one.reply()),
            (_, last) => {
                told.extend(last);
                let results: Vec<Value> = told.into_iter().map(|one| one.body).collect();
                Ok(Reply::fine(json!({ "results": results })))
            }
        }
    }

    async fn restore(&self, name: &str, arguments: Value) -> Result<Reply, Reply> {
        let Restore { generation } = read(arguments)?;
        let (name, id) = managed(find(&self.generation().config, name)?)?;
        let work = Work::Restore { number: generation };
        let verdict = self.work(&id, Deed::Work(work)).await?;
        Ok(self.tell(&name, &id, "restored", verdict).await?.reply())
    }

    /// One order at the staging authority, which is forgotten.
    async fn rehearse(&self, name: &str) -> Result<Reply, Reply> {
        let generation = self.generation();
        let (name, id) = managed(find(&generation.config, name)?)?;
        let acme = generation.config.acme.as_ref().ok_or_else(no_authority)?;
        let is_theirs = |directory: &&str| [LETSENCRYPT, LETSENCRYPT_STAGING].contains(directory);
        let of = acme.authorities().map(|it| it.directory.as_str()).find(is_theirs);
        let Some(of) = of else {
            let text = "`--staging` is for certificates of Let's Encrypt: of no other authority is a \
                        staging one known";
            return Err(Reply::error(StatusCode::CONFLICT, text));
        };
        let (of, directory) = (of.to_owned(), LETSENCRYPT_STAGING.to_owned());
        let verdict = self.work(&id, Deed::Work(Work::Rehearse { of, directory })).await?;
        Ok(self.tell(&name, &id, "would be issued", verdict).await?.reply())
    }

    async fn revoke(&self, name: &str, arguments: Value) -> Result<Reply, Reply> {
        let Revoke { reason, reissue } = read(arguments)?;
        let Some(reason) = Reason::parse(&reason) else {
            let all = Reason::names().collect::<Vec<_>>().join(", ");
            let text = format!("{reason:?} is no reason; there are {all}");
            return Err(Reply::error(StatusCode::BAD_REQUEST, text));
        };
        let (name, id) = managed(find(&self.generation().config, name)?)?;
        let deed = if reissue {
            Deed::Reissue { reason }
        } else {
            Deed::Work(Work::Revoke { reason, tag: None })
        };
        let done = if reissue { "renewed, and the old one revoked" } else { "revoked" };
        let verdict = self.work(&id, deed).await?;
        Ok(self.tell(&name, &id, done, verdict).await?.reply())
    }

    /// Has something done to an account.
    async fn account<F: Future<Output = Result<Reply, Reply>>>(
        &self,
        deed: impl FnOnce(Arc<Assignment>) -> F,
    ) -> Result<Reply, Reply> {
        deed(self.certificates.assignment().ok_or_else(no_authority)?).await
    }

    /// Has `deed` done, and waits for its end.
    async fn work(&self, id: &CertId, deed: Deed) -> Result<Verdict, Reply> {
        let taken = self.commands.act(id.clone(), deed).await;
        Ok(match taken.map_err(ended)? {
            Taken::Decided(verdict) => verdict,
            Taken::Begun(pending) => pending.verdict().await,
        })
    }

    /// What is said about `verdict`, and what happens next.
    async fn tell(
        &self,
        name: &str,
        id: &CertId,
        done: &'static str,
        verdict: Verdict,
    ) -> Result<Told, Reply> {
        if verdict == Verdict::Unwanted && self.imported_until(id).is_some() {
            let text = format!(
                "an imported certificate is served for {name}; `wardgate certs import {name} --remove` \
                 takes it away"
            );
            return Err(Reply::error(StatusCode::CONFLICT, text));
        }
        let known = self.known(id).await?;
        Ok(Told::of(name, done, verdict, known.as_ref()))
    }

    async fn known(&self, id: &CertId) -> Result<Option<Known>, Reply> {
        Ok(self.commands.look(Some(id.clone())).await.map_err(ended)?.pop())
    }

    /// `subject` with what is served.
    fn case(&self, subject: Subject, known: Option<Known>) -> Case {
        let generation = self.generation();
        let config = &generation.config;
        let certificate = match &subject.origin {
            Origin::Acme(id) => self.certificates.obtained(id),
            Origin::Local(id) => self.certificates.served(id),
            Origin::Files(index) => {
                config.certificates.get(*index).and_then(|it| self.certificates.served(&it.name))
            }
        };
        let imported_until = match &subject.origin {
            Origin::Acme(id) => self.imported_until(id),
            _ => None,
        };
        Case { subject, certificate, known, imported_until, problem: None }
    }

    /// Until when a certificate is served for `id` that an operator has brought.
    fn imported_until(&self, id: &CertId) -> Option<i64> {
        self.certificates.imported().iter().find(|one| one.id == *id)?.next_at
    }

    fn generation(&self) -> Arc<Generation> {
        self.shared.current.load_full()
    }
}

/// What lies on disk of `id`; `None` where it cannot be read.
async fn on_disk(assignment: Arc<Assignment>, id: CertId) -> Option<OnDisk> {
    let read = tokio::task::spawn_blocking(move || OnDisk::read(&assignment.storage, &id));
    read.await.ok()?.ok()
}

fn find(config: &Config, name: &str) -> Result<Subject, Reply> {
    subject::find(config, name).map_err(|text| Reply::error(StatusCode::NOT_FOUND, text))
}

/// The name and id of one that an authority issues.
fn managed(subject: Subject) -> Result<(String, CertId), Reply> {
    let whose = match subject.origin {
        Origin::Acme(id) => return Ok((subject.name, id)),
        Origin::Files(_) => "comes from files of yours: whoever makes them renews it",
        Origin::Local(_) => "comes from the local CA, which renews it by itself",
    };
    let text = format!("the certificate of {} {whose}", subject.name);
    Err(Reply::error(StatusCode::CONFLICT, text))
}

fn no_authority() -> Reply {
    let text = "no authority issues any certificate of this configuration";
    Reply::error(StatusCode::CONFLICT, text)
}

fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, Reply> {
    let read = serde_json::from_value(arguments);
    read.map_err(|error| Reply::error(StatusCode::BAD_REQUEST, error.to_string()))
}

fn ended(ended: Ended) -> Reply {
    Reply::error(StatusCode::SERVICE_UNAVAILABLE, ended.to_string())
}

fn now() -> SystemTime {
    SystemTime::now()
}
