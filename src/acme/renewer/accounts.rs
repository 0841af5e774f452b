//! What operators do with the account at an authority: look at it, give it another key, end it.

use std::path::PathBuf;

use serde_json::Value;

use super::account::Kept;
use super::job::{JobError, blocking, texts};
use super::{Assignment, Source};
use crate::acme::problem::Kind;
use crate::acme::rollover::Credentials;
use crate::acme::session::{CallError, Session};
use crate::acme::storage::{AccountLock, AuthorityId, Storage, StoreError};

/// What is kept of the account at an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccountStanding {
    /// The authority's directory.
    pub directory: String,
    /// What the authority knows it by.
    pub url: String,
    /// What its key is named by (RFC 7638).
    pub thumbprint: String,
    /// When it was made.
    pub made_at: i64,
    /// When it was ended here.
    pub deactivated_at: Option<i64>,
    /// Its file.
    pub path: PathBuf,
}

/// Why an account is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum AccountProblem {
    /// There is none.
    #[error("there is no account yet: the first order makes one")]
    None,
    /// It was ended here.
    #[error("the account was deactivated")]
    Deactivated,
    /// Which key counts could not be found out; the next order finds out.
    #[error("no answer to the new key: the next order finds out which key counts")]
    Undecided(#[source] CallError),
    /// For another reason.
    #[error("{0}")]
    Other(String),
}

impl From<JobError> for AccountProblem {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Deactivated(_) => Self::Deactivated,
            other => Self::Other(texts(&other)),
        }
    }
}

impl AccountStanding {
    /// What is kept of the account at the authority with `directory`; `None` when there is none.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its file cannot be read.
    pub fn read(storage: &Storage, directory: &str) -> Result<Option<Self>, StoreError> {
        let id = AuthorityId::new(directory);
        let Some(kept) = storage.account::<Kept>(&id)? else { return Ok(None) };
        let credentials = Credentials::parse(&kept.credentials).ok();
        let of = |read: fn(&Credentials) -> String| credentials.as_ref().map(read);
        Ok(Some(Self {
            directory: directory.to_owned(),
            url: of(|it| it.url().to_owned()).unwrap_or_default(),
            thumbprint: of(Credentials::thumbprint).unwrap_or_default(),
            made_at: kept.made_at,
            deactivated_at: kept.deactivated_at,
            path: storage.account_path(&id),
        }))
    }
}

impl Assignment {
    /// What the authority says of the account, in one word: `valid`, `deactivated`, `revoked`.
    ///
    /// # Errors
    /// [`AccountProblem`].
    pub async fn account_status(&self, source: &Source) -> Result<String, AccountProblem> {
        let kept = self.kept(source).await?.ok_or(AccountProblem::None)?;
        match ask(source, &kept).await {
            Ok(status) => Ok(status),
            Err(error) if problem_is(&error, Kind::AccountDeactivated) => {
                Ok("deactivated".to_owned())
            }
            Err(error) if problem_is(&error, Kind::AccountUnknown) => Ok("unknown".to_owned()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the account another key. It is on the disk before the authority hears of it, and the old
    /// one beside it (`account.json.prev`), so that whichever counts is there. Returns the name of
    /// the key that counts now (RFC 7638).
    ///
    /// # Errors
    /// [`AccountProblem`].
    pub async fn roll_over(&self, source: &Source) -> Result<String, AccountProblem> {
        let lock = self.lock_account(source).await?;
        let kept = self.kept(source).await?.ok_or(AccountProblem::None)?;
        if kept.deactivated_at.is_some() {
            return Err(AccountProblem::Deactivated);
        }
        // One that stopped half-way is put right first.
        let (kept, lock) = match ask(source, &kept).await {
            Err(error) if error.is_key_refused() => match self.go_back(source, lock).await? {
                (Some(before), lock) => (before, lock),
                (None, _) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
            Ok(_) => (kept, lock),
        };
        let read =
            |error: crate::acme::rollover::NoCredentials| AccountProblem::Other(error.to_string());
        let present = Credentials::parse(&kept.credentials).map_err(read)?;
        let next =
            present.with_new_key().map_err(|error| AccountProblem::Other(error.to_string()))?;
        let lock = self.write(lock, Kept { credentials: next.text(), ..kept.clone() }).await?;
        match source.authority.change_key(&present, &next).await {
            Ok(()) => {}
            Err(error @ CallError::Refused(_)) => {
                self.write(lock, kept).await?;
                return Err(AccountProblem::Other(texts(&error)));
            }
            Err(error) => return Err(AccountProblem::Undecided(error)),
        }
        tracing::info!(directory = %source.settings.directory, "gave the ACME account a new key");
        Ok(next.thumbprint())
    }

    /// Ends the account, for good. What it has ordered stays valid; nothing is ordered any more until
    /// somebody takes its file away.
    ///
    /// # Errors
    /// [`AccountProblem`]; the account is still there.
    pub async fn deactivate(&self, source: &Source) -> Result<PathBuf, AccountProblem> {
        let lock = self.lock_account(source).await?;
        let kept = self.kept(source).await?.ok_or(AccountProblem::None)?;
        let session = Session::open(&source.authority, &kept.credentials).await;
        match session.map_err(JobError::from)?.deactivate().await {
            Err(error) if !error.is(Kind::AccountDeactivated) => {
                return Err(AccountProblem::Other(texts(&error)));
            }
            _ => {}
        }
        let deactivated_at = Some(self.clock.now());
        self.write(lock, Kept { deactivated_at, ..kept }).await?;
        tracing::warn!(directory = %source.settings.directory, "deactivated the ACME account");
        Ok(self.storage.account_path(&AuthorityId::new(&source.settings.directory)))
    }

    /// The account with the key before, after the authority has refused its present one: a change of
    /// keys stopped half-way. `None` when that one does not count either.
    pub(super) async fn session_before(
        &self,
        source: &Source,
    ) -> Result<Option<Session>, JobError> {
        let lock = self.lock_account(source).await?;
        let (Some(kept), _) = self.go_back(source, lock).await? else { return Ok(None) };
        tracing::warn!(directory = %source.settings.directory, "took the ACME account's key before, the new one was never taken");
        Ok(Some(Session::open(&source.authority, &kept.credentials).await?))
    }

    /// Puts the key before in the place of the present one, if it is the one that counts.
    async fn go_back(
        &self,
        source: &Source,
        lock: AccountLock,
    ) -> Result<(Option<Kept>, AccountLock), JobError> {
        let (storage, id) = (self.storage.clone(), AuthorityId::new(&source.settings.directory));
        let before: Option<Kept> = blocking(move || storage.account_before(&id)).await??;
        let (Some(present), Some(before)) = (self.kept(source).await?, before) else {
            return Ok((None, lock));
        };
        let read = |kept: &Kept| Credentials::parse(&kept.credentials).ok();
        let is_same = match (read(&present), read(&before)) {
            (Some(one), Some(other)) => {
                one.url() == other.url() && one.thumbprint() != other.thumbprint()
            }
            _ => false,
        };
        if !is_same || ask(source, &before).await.is_err() {
            return Ok((None, lock));
        }
        let lock = self.write(lock, before.clone()).await?;
        Ok((Some(before), lock))
    }

    async fn write(&self, lock: AccountLock, kept: Kept) -> Result<AccountLock, JobError> {
        let storage = self.storage.clone();
        let written = blocking(move || storage.keep_account(&lock, &kept).map(|()| lock));
        Ok(written.await??)
    }
}

/// What the authority says of the account, asked with the key of `kept`.
async fn ask(source: &Source, kept: &Kept) -> Result<String, JobError> {
    let session = Session::open(&source.authority, &kept.credentials).await?;
    let answer = session.fetch(session.account_url()).await;
    let answer = answer.map_err(crate::acme::account::AccountError::Call)?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    Ok(answer["status"].as_str().unwrap_or("unknown").to_owned())
}

fn problem_is(error: &JobError, kind: Kind) -> bool {
    error.problem().is_some_and(|problem| problem.kind == kind)
}

impl JobError {
    /// Whether the authority may have refused the account's key. Other refusals look the same.
    pub(super) fn is_key_refused(&self) -> bool {
        self.problem().is_some_and(|problem| {
            problem.status != 0 && matches!(problem.kind, Kind::Malformed | Kind::Unauthorized)
        })
    }
}
