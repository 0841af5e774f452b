//! Revoking certificates (RFC 8555 §7.6).
//!
//! An authority takes it from the account that has ordered the certificate, and from whoever has its
//! key. Nothing here decides what is served afterwards.

use serde_json::{Value, json};

use super::jws::{Signer, encode};
use super::problem::Problem;
use super::session::{Authority, CallError, Session};
use crate::tls::Certificate;

/// Why a certificate is revoked (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reason(u8);

/// The names of RFC 5280 and their numbers.
const REASONS: [(&str, u8); 10] = [
    ("unspecified", 0),
    ("keyCompromise", 1),
    ("cACompromise", 2),
    ("affiliationChanged", 3),
    ("superseded", 4),
    ("cessationOfOperation", 5),
    ("certificateHold", 6),
    ("removeFromCRL", 8),
    ("privilegeWithdrawn", 9),
    ("aACompromise", 10),
];

impl Reason {
    /// The reason that RFC 5280 calls `name`; case does not count.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let found = REASONS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, number)| Self(*number))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        REASONS.iter().find(|(_, number)| *number == self.0).map_or("unspecified", |(name, _)| name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        REASONS.iter().map(|(name, _)| *name)
    }

    /// Whether somebody else has the key.
    #[must_use]
    pub fn is_key_compromise(self) -> bool {
        self.0 == 1
    }
}

impl Session {
    /// Revokes `certificate`, which this account has ordered. One that is revoked already is as good.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn revoke(&self, certificate: &Certificate, reason: Reason) -> Result<(), CallError> {
        use instant_acme::RevocationReason as Known;
        let Some(leaf) = certificate.key.cert.first() else { return Ok(()) };
        let reason = match reason.0 {
            1 => Known::KeyCompromise,
            2 => Known::CaCompromise,
            3 => Known::AffiliationChanged,
            4 => Known::Superseded,
            5 => Known::CessationOfOperation,
            6 => Known::CertificateHold,
            8 => Known::RemoveFromCrl,
            9 => Known::PrivilegeWithdrawn,
            10 => Known::AaCompromise,
            _ => Known::Unspecified,
        };
        let request = instant_acme::RevocationRequest { certificate: leaf, reason: Some(reason) };
        let revoked = self.account.revoke(&request).await.map_err(|error| self.explain(error));
        unless_revoked(revoked)
    }
}

impl Authority {
    /// Revokes `certificate` with its own key, in PEM: no account is needed.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn revoke_with_key(
        &self,
        certificate: &Certificate,
        key_pem: &str,
        reason: Reason,
    ) -> Result<(), CallError> {
        let garbled = |error| CallError::Garbled(error);
        let Some(leaf) = certificate.key.cert.first() else { return Ok(()) };
        let signer = Signer::from_pem(key_pem).map_err(|error| garbled(error.into()))?;
        let resources = self.resources().await?;
        let Some(url) = &resources.revoke_cert else {
            return Err(garbled("its directory has no `revokeCert`".into()));
        };
        let payload: Value = json!({ "certificate": encode(leaf.as_ref()), "reason": reason.0 });
        unless_revoked(self.post(&resources, url, (&signer, None), &payload).await)
    }
}

fn unless_revoked(revoked: Result<(), CallError>) -> Result<(), CallError> {
    let is_done = |problem: &Problem| problem.r#type == "alreadyRevoked";
    match revoked {
        Err(error) if error.problem().is_some_and(is_done) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_known_by_name() {
        assert_eq!(Reason::parse("keycompromise"), Some(Reason(1)));
        assert!(Reason::parse("keyCompromise").unwrap().is_key_compromise());
        assert_eq!(Reason::parse("7"), None);
        assert!(Reason::names().all(|name| Reason::parse(name).is_some()));
    }
}
