//! What is written down of an order before its certificate exists, so that a crash costs neither the
//! order nor the key.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An order under way (RFC 8555 §7.1.3). On disk, synced, before the authority is asked to finalize:
/// with the key lost, a certificate that was issued would be worth nothing.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Journal {
    /// Where the authority keeps the order.
    pub order_url: String,
    /// The certificate's private key, PKCS #8 as PEM. Secret.
    pub key_pem: String,
    /// What it is ordered for: DNS names in ASCII, `*.` before wildcards, and addresses. Sorted.
    pub names: Vec<String>,
    /// The authority's directory.
    pub directory: String,
    /// The profile that was asked for.
    pub profile: Option<String>,
    /// The certificate it takes the place of, as RFC 9773 §4.1 names it.
    pub replaces: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

impl fmt::Debug for Journal {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("order_url", &self.order_url)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
