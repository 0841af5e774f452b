//! Accounts at a certificate authority (RFC 8555 §7.3).
//!
//! Answers "as whom are orders placed?". The caller stores the credentials, a text that is as secret
//! as a key, and decides when an account may be made: nothing here makes one by itself.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, Key, NewAccount};

use super::problem::Kind;
use super::session::{Answers, Authority, CallError, Recording, Session};

/// What a new account is made with.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Where the authority may write to: mail addresses, without `mailto:`.
    pub contacts: Vec<String>,
    /// The account at the authority that this one is bound to.
    pub external: Option<ExternalAccount>,
}

/// An account that was made elsewhere, in the authority's shop (RFC 8555 §7.3.4).
#[derive(Clone)]
pub struct ExternalAccount {
    /// Its name, `kid`.
    pub id: String,
    /// The key that was handed out with it. Secret.
    pub hmac_key: Vec<u8>,
}

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// What was stored is no account.
    #[error("the stored account cannot be read")]
    Credentials(#[source] serde_json::Error),
    /// Its key cannot be used.
    #[error("the account's key cannot be used")]
    Key(#[source] instant_acme::Error),
    /// The authority did not make or find it.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl AccountError {
    /// What happened at the authority, if that is the reason.
    #[must_use]
    pub fn call(&self) -> Option<&CallError> {
        match self {
            Self::Call(error) => Some(error),
            Self::Credentials(_) | Self::Key(_) => None,
        }
    }

    /// The same, laid to the binding if the account was to be bound: nothing else about a new
    /// account is a matter of authority, and texts differ.
    fn about(self, binding: bool) -> Self {
        match self {
            Self::Call(CallError::Refused(mut problem))
                if binding && problem.kind == Kind::Unauthorized =>
            {
                problem.kind = Kind::ExternalAccount;
                Self::Call(CallError::Refused(problem))
            }
            other => other,
        }
    }
}

impl ExternalAccount {
    /// One whose key is spelt as authorities hand it out: base64, for URLs or not, padded or not.
    ///
    /// # Errors
    /// When it is no base64.
    pub fn parse(id: impl Into<String>, key: &str) -> Result<Self, base64::DecodeError> {
        use base64::Engine;
        let plain: String = key
            .trim()
            .trim_end_matches('=')
            .chars()
            .map(|c| match c {
                '+' => '-',
                '/' => '_',
                c => c,
            })
            .collect();
        let hmac_key = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(plain)?;
        Ok(Self { id: id.into(), hmac_key })
    }
}

impl std::fmt::Debug for ExternalAccount {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalAccount").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    /// Goes on with the account of `credentials`. Asks for the directory and nothing else: whether
    /// the authority still knows the account shows at the first order.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn open(authority: &Authority, credentials: &str) -> Result<Self, AccountError> {
        let mut credentials: serde_json::Value =
            serde_json::from_str(credentials).map_err(AccountError::Credentials)?;
        // The authority may have moved; the account is at its URL all the same.
        if let Some(fields) = credentials.as_object_mut() {
            fields.insert("directory".to_owned(), authority.directory.as_str().into());
        }
        let credentials: AccountCredentials =
            serde_json::from_value(credentials).map_err(AccountError::Credentials)?;
        let (client, answers) = Recording::new(authority);
        let opened =
            Account::builder_with_http(Box::new(client)).from_credentials(credentials).await;
        let account = opened.map_err(|error| failure(&answers, error))?;
        Ok(Self { authority: authority.clone(), account, answers })
    }

    /// Makes an account, agreeing to the authority's terms, and returns what to store.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn register(
        authority: &Authority,
        registration: &Registration,
    ) -> Result<(Self, String), AccountError> {
        let contacts: Vec<String> =
            registration.contacts.iter().map(|mail| format!("mailto:{mail}")).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contacts,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = registration
            .external
            .as_ref()
            .map(|external| ExternalAccountKey::new(external.id.clone(), &external.hmac_key));
        let mut outcome = Self::create(authority, &new, external.as_ref()).await;
        for _ in 1..NONCE_ROUNDS {
            if !outcome.as_ref().is_err_and(is_bad_nonce) {
                break;
            }
            outcome = Self::create(authority, &new, external.as_ref()).await;
        }
        outcome
    }

    async fn create(
        authority: &Authority,
        new: &NewAccount<'_>,
        external: Option<&ExternalAccountKey>,
    ) -> Result<(Self, String), AccountError> {
        let (client, answers) = Recording::new(authority);
        let created = Account::builder_with_http(Box::new(client))
            .create(new, authority.directory.clone(), external)
            .await;
        let (account, credentials) =
            created.map_err(|error| failure(&answers, error).about(external.is_some()))?;
        let session = Self { authority: authority.clone(), account, answers };
        Ok((session, stored(&credentials)?))
    }

    /// Makes the account of `credentials` anew at an authority that has forgotten it, with the same
    /// key, so that what was set up for that key stays good. The account's URL is another one.
    /// Returns what to store.
    ///
    /// Not more than once a day: an authority that loses accounts faster than that is broken, and
    /// more of them would not mend it.
    ///
    /// # Errors
    /// [`AccountError`]. An authority that demands an external account gets one with a new key: the
    /// protocol's library binds only those.
    pub async fn recreate(
        authority: &Authority,
        credentials: &str,
        registration: &Registration,
    ) -> Result<(Self, String), AccountError> {
        if registration.external.is_some() {
            return Self::register(authority, registration).await;
        }
        let old: AccountCredentials =
            serde_json::from_str(credentials).map_err(AccountError::Credentials)?;
        let mut outcome = Self::create_again(authority, &old).await;
        for _ in 1..NONCE_ROUNDS {
            if !outcome.as_ref().is_err_and(is_bad_nonce) {
                break;
            }
            outcome = Self::create_again(authority, &old).await;
        }
        let (session, stored) = outcome?;
        session.set_contacts(&registration.contacts).await?;
        Ok((session, stored))
    }

    async fn create_again(
        authority: &Authority,
        old: &AccountCredentials,
    ) -> Result<(Self, String), AccountError> {
        let private = old.private_key();
        let key = Key::from_pkcs8_der(private.clone_key()).map_err(AccountError::Key)?;
        let (client, answers) = Recording::new(authority);
        let created = Account::builder_with_http(Box::new(client))
            .create_from_key((key, private.clone_key().into()), authority.directory.clone())
            .await;
        let (account, credentials) = created.map_err(|error| failure(&answers, error))?;
        let session = Self { authority: authority.clone(), account, answers };
        Ok((session, stored(&credentials)?))
    }

    /// Ends the account, for good: its key is never accepted again (RFC 8555 §7.3.6).
    ///
    /// # Errors
    /// [`CallError`]; the account is still there.
    pub async fn deactivate(self) -> Result<(), CallError> {
        let sent = self.account.clone().deactivate().await;
        // The library takes every answer for a good one.
        match (sent, self.answers.last().and_then(|answer| answer.problem())) {
            (_, Some(problem)) => Err(CallError::Refused(Box::new(problem))),
            (Err(error), None) => Err(self.explain(error)),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Replaces the addresses that the authority may write to.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn set_contacts(&self, contacts: &[String]) -> Result<(), CallError> {
        if contacts.is_empty() {
            return Ok(());
        }
        let contacts: Vec<String> = contacts.iter().map(|mail| format!("mailto:{mail}")).collect();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        self.account.update_contacts(&contacts).await.map_err(|error| self.explain(error))
    }
}

/// The library tries a nonce three times; this often all of it is done again.
const NONCE_ROUNDS: usize = 5;

fn is_bad_nonce(error: &AccountError) -> bool {
    error.call().is_some_and(|error| error.is(Kind::BadNonce))
}

fn failure(answers: &Answers, error: instant_acme::Error) -> AccountError {
    match error {
        error @ instant_acme::Error::KeyRejected => AccountError::Key(error),
        error => AccountError::Call(answers.explain(error)),
    }
}

fn stored(credentials: &AccountCredentials) -> Result<String, AccountError> {
    serde_json::to_string(credentials).map_err(AccountError::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_external_account_is_read_in_every_spelling() {
        for text in ["-_-_AQ", "+/+/AQ==", " -_-_AQ== \n"] {
            let account = ExternalAccount::parse("kid", text).unwrap();
            assert_eq!(account.hmac_key, [0xfb, 0xff, 0xbf, 1], "{text}");
        }
        assert!(ExternalAccount::parse("kid", "no base64!").is_err());
        let account = ExternalAccount { id: "kid".to_owned(), hmac_key: b"secret".to_vec() };
        assert_eq!(format!("{account:?}"), "ExternalAccount { id: \"kid\", .. }");
    }
}
