//! Another key for an account (RFC 8555 §7.3.5).
//!
//! # Why
//! instant-acme makes the next key by itself and hands it out once the authority has taken it: a
//! process that dies in between has lost the account. So the key is made here, and the caller keeps
//! it before it is sent; whichever counts is found out by asking.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jws::{Signer, encode};
use super::key::KeyType;
use super::session::{Authority, CallError};

/// What is stored of an account, taken apart.
#[derive(Clone)]
pub struct Credentials {
    fields: Value,
}

/// What is stored is no account.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the stored account cannot be read")]
pub struct NoCredentials;

impl Credentials {
    /// Reads what an account was stored as.
    ///
    /// # Errors
    /// [`NoCredentials`].
    pub fn parse(text: &str) -> Result<Self, NoCredentials> {
        let fields: Value = serde_json::from_str(text).map_err(|_| NoCredentials)?;
        let found = Self { fields };
        if found.url().is_empty() {
            return Err(NoCredentials);
        }
        found.signer()?;
        Ok(found)
    }

    /// The account's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.fields["id"].as_str().unwrap_or_default()
    }

    /// What RFC 7638 names its key by; empty when it cannot be read.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        self.signer().map(|signer| signer.thumbprint()).unwrap_or_default()
    }

    /// As it is stored.
    #[must_use]
    pub fn text(&self) -> String {
        self.fields.to_string()
    }

    /// The same account with a new key, which nobody knows yet.
    ///
    /// # Errors
    /// What the cryptography library says.
    pub fn with_new_key(&self) -> Result<Self, rcgen::Error> {
        let key = rcgen::KeyPair::from_pem(&KeyType::P256.generate()?)?;
        let mut next = self.clone();
        next.fields["key_pkcs8"] = encode(&key.serialize_der()).into();
        Ok(next)
    }

    fn signer(&self) -> Result<Signer, NoCredentials> {
        let key = self.fields["key_pkcs8"].as_str().unwrap_or_default();
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).map_err(|_| NoCredentials)?;
        Signer::from_pkcs8(&key).map_err(|_| NoCredentials)
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Has the key of `next` take the place of the one of `present`.
    ///
    /// # Errors
    /// [`CallError::Refused`]: the old key counts. Any other: one of both does.
    pub async fn change_key(
        &self,
        present: &Credentials,
        next: &Credentials,
    ) -> Result<(), CallError> {
        let garbled = |error: &str| CallError::Garbled(error.into());
        let old = present.signer().map_err(|error| garbled(&error.to_string()))?;
        let new = next.signer().map_err(|error| garbled(&error.to_string()))?;
        let resources = self.resources().await?;
        let Some(url) = &resources.key_change else {
            return Err(garbled("its directory has no `keyChange`"));
        };
        let claim = json!({ "account": present.url(), "oldKey": old.jwk() });
        let header = json!({ "jwk": new.jwk(), "url": url });
        let inner = new.sign(header, &claim).map_err(|error| garbled(&error.to_string()))?;
        self.post(&resources, url, (&old, Some(present.url())), &inner).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_stays_and_its_key_is_another() {
        let key = rcgen::KeyPair::generate().unwrap();
        let text = json!({ "id": "https://ca/1", "key_pkcs8": encode(&key.serialize_der()), "directory": "https://ca/dir" });
        let present = Credentials::parse(&text.to_string()).unwrap();
        let next = present.with_new_key().unwrap();
        assert_eq!((present.url(), next.url()), ("https://ca/1", "https://ca/1"));
        assert_ne!(present.thumbprint(), next.thumbprint());
        let again = Credentials::parse(&next.text()).unwrap();
        assert_eq!(again.thumbprint(), next.thumbprint());
        for bad in ["", "{}", "{\"id\":\"x\",\"key_pkcs8\":\"AAAA\"}"] {
            assert!(Credentials::parse(bad).is_err(), "{bad}");
        }
        assert!(!format!("{present:?}").contains("key"));
    }
}
