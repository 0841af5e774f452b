//! The account that orders are placed with: opened, made once, and made anew where it was forgotten.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::job::{JobError, blocking};
use super::{Assignment, now};
use crate::acme::account::{ExternalAccount, Registration};
use crate::acme::problem::Kind;
use crate::acme::session::Session;
use crate::acme::storage::{AccountLock, AuthorityId};
use crate::acme::time::DAY;

/// Pause between two looks at an account that somebody else is making.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is kept of an account.
#[derive(Clone, Deserialize, Serialize)]
struct Kept {
    /// As secret as a key.
    credentials: String,
    /// When it was made, in seconds since 1970.
    made_at: i64,
}

impl Assignment {
    /// The account, which is made where there is none yet.
    pub(super) async fn session(&self) -> Result<Session, JobError> {
        if let Some(kept) = self.kept().await? {
            return Ok(Session::open(&self.authority, &kept.credentials).await?);
        }
        let lock = self.lock_account().await?;
        // Whoever had the lock may have made it.
        if let Some(kept) = self.kept().await? {
            return Ok(Session::open(&self.authority, &kept.credentials).await?);
        }
        let (session, credentials) =
            Session::register(&self.authority, &self.registration()?).await?;
        self.keep(lock, credentials).await?;
        tracing::info!(directory = %self.acme.directory, "made an ACME account");
        Ok(session)
    }

    /// The account anew, with the same key, after the authority did not know it any more.
    pub(super) async fn session_again(&self) -> Result<Session, JobError> {
        let lock = self.lock_account().await?;
        let Some(kept) = self.kept().await? else { return Err(JobError::AccountLost) };
        if kept.made_at > now() - DAY {
            // An authority that loses accounts so fast is broken, and more would not mend it; or it
            // was made by somebody else just now.
            return match Session::open(&self.authority, &kept.credentials).await {
                Ok(session) if now() - kept.made_at < 60 => Ok(session),
                Ok(_) => Err(JobError::AccountLost),
                Err(error) => Err(error.into()),
            };
        }
        let registration = self.registration()?;
        let again = Session::recreate(&self.authority, &kept.credentials, &registration).await;
        let (session, credentials) = again?;
        self.keep(lock, credentials).await?;
        tracing::warn!(directory = %self.acme.directory, "the authority had lost the ACME account, made it again");
        Ok(session)
    }

    async fn kept(&self) -> Result<Option<Kept>, JobError> {
        let (storage, id) = (self.storage.clone(), AuthorityId::new(&self.acme.directory));
        Ok(blocking(move || storage.account(&id)).await??)
    }

    async fn lock_account(&self) -> Result<AccountLock, JobError> {
        loop {
            let (storage, id) = (self.storage.clone(), AuthorityId::new(&self.acme.directory));
            if let Some(lock) = blocking(move || storage.lock_account(&id)).await?? {
                return Ok(lock);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn keep(&self, lock: AccountLock, credentials: String) -> Result<(), JobError> {
        let storage = self.storage.clone();
        let kept = Kept { credentials, made_at: now() };
        Ok(blocking(move || storage.keep_account(&lock, &kept)).await??)
    }

    fn registration(&self) -> Result<Registration, JobError> {
        let external = self.acme.eab.as_ref().map(|eab| {
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
