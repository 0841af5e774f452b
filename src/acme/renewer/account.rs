//! The account that orders are placed with: opened, made once, and made anew where it was forgotten.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::job::{JobError, blocking};
use super::{Assignment, Source};
use crate::acme::account::{ExternalAccount, Registration};
use crate::acme::event::{Event, Happening};
use crate::acme::problem::Kind;
use crate::acme::session::Session;
use crate::acme::storage::{AccountLock, AuthorityId};
use crate::acme::time::DAY;
use crate::config::acme_event::EventKind;

/// Pause between two looks at an account that somebody else is making.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is kept of an account.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Kept {
    /// As secret as a key.
    pub(super) credentials: String,
    /// When it was made, in seconds since 1970.
    pub(super) made_at: i64,
    /// When somebody has ended it, here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deactivated_at: Option<i64>,
}

impl Assignment {
    /// The account, which is made where there is none yet.
    pub(super) async fn session(&self, source: &Source) -> Result<Session, JobError> {
        if let Some(kept) = self.kept(source).await? {
            return self.open(source, &kept).await;
        }
        let lock = self.lock_account(source).await?;
        // Whoever had the lock may have made it.
        if let Some(kept) = self.kept(source).await? {
            return self.open(source, &kept).await;
        }
        let registration = self.registration(source)?;
        let (session, credentials) = Session::register(&source.authority, &registration).await?;
        self.keep(lock, credentials).await?;
        tracing::info!(directory = %source.settings.directory, "made an ACME account");
        Ok(session)
    }

    /// The account anew, with the same key, after the authority did not know it any more.
    pub(super) async fn session_again(&self, source: &Source) -> Result<Session, JobError> {
        let before = self.kept(source).await?;
        let lock = self.lock_account(source).await?;
        let Some(kept) = self.kept(source).await? else { return Err(JobError::AccountLost) };
        if before.is_some_and(|before| before.credentials != kept.credentials) {
            // Another instance has made it anew, however long ago.
            return Ok(Session::open(&source.authority, &kept.credentials).await?);
        }
        let now = self.clock.now();
        if kept.made_at > now - DAY {
            // An authority that loses accounts so fast is broken, and more would not mend it; or it
            // was made by somebody else just now.
            return match Session::open(&source.authority, &kept.credentials).await {
                Ok(session) if now - kept.made_at < 60 => Ok(session),
                Ok(_) => Err(JobError::AccountLost),
                Err(error) => Err(error.into()),
            };
        }
        let registration = self.registration(source)?;
        let again = Session::recreate(&source.authority, &kept.credentials, &registration).await;
        let (session, credentials) = again?;
        self.keep(lock, credentials).await?;
        let (event, directory) = (EventKind::AccountRecreated.name(), &source.settings.directory);
        tracing::warn!(event, %directory, "the authority had lost the ACME account, made it again");
        self.events.tell(Event::new(Happening::AccountRecreated).at(directory));
        Ok(session)
    }

    /// What is kept, unless it was ended here.
    pub(super) async fn open(&self, source: &Source, kept: &Kept) -> Result<Session, JobError> {
        if kept.deactivated_at.is_some() {
            let id = AuthorityId::new(&source.settings.directory);
            return Err(JobError::Deactivated(self.storage.account_path(&id)));
        }
        Ok(Session::open(&source.authority, &kept.credentials).await?)
    }

    pub(super) async fn kept(&self, source: &Source) -> Result<Option<Kept>, JobError> {
        let (storage, id) = (self.storage.clone(), AuthorityId::new(&source.settings.directory));
        Ok(blocking(move || storage.account(&id)).await??)
    }

    pub(super) async fn lock_account(&self, source: &Source) -> Result<AccountLock, JobError> {
        loop {
            let (storage, id) =
                (self.storage.clone(), AuthorityId::new(&source.settings.directory));
            if let Some(lock) = blocking(move || storage.lock_account(&id)).await?? {
                return Ok(lock);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn keep(&self, lock: AccountLock, credentials: String) -> Result<(), JobError> {
        let storage = self.storage.clone();
        let kept = Kept { credentials, made_at: self.clock.now(), deactivated_at: None };
        Ok(blocking(move || storage.keep_account(&lock, &kept)).await??)
    }

    fn registration(&self, source: &Source) -> Result<Registration, JobError> {
        let external = source.settings.eab.as_ref().map(|eab| {
            ExternalAccount::parse(eab.kid.as_str(), &eab.hmac_key).map_err(|_| JobError::Binding)
        });
        Ok(Registration {
            contacts: self.acme.email.iter().cloned().collect(),
            external: external.transpose()?,
        })
    }
}

impl JobError {
    /// Whether the authority does not know the account any more.
    pub(super) fn is_account_unknown(&self) -> bool {
        self.problem().is_some_and(|problem| problem.kind == Kind::AccountUnknown)
    }
}
