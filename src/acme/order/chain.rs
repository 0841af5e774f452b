//! The certificate of an order: fetched, checked, and with the chain that is preferred.

use std::fmt;
use std::time::SystemTime;

use instant_acme::Order;

use super::super::journal::Journal;
use super::placing::patterns;
use super::{Dropped, Issuer, OrderError, Request, again};
use crate::tls::Certificate;
use crate::tls::issued::{self, Checked};

/// As many other chains are looked at; no authority has more roots than that.
const MAX_CHAINS: usize = 8;

/// A certificate as it was issued, and what to know about it.
pub struct Issued {
    /// The chain, leaf first, as PEM.
    pub chain_pem: String,
    /// The key, PKCS #8 as PEM. Secret.
    pub key_pem: String,
    /// The same, ready to be served.
    pub certificate: Certificate,
    /// What RFC 9773 §4.1 names it by; `None` when it has no such name.
    pub renewal_id: Option<String>,
    /// The serial number as hexadecimal digits.
    pub serial: String,
    /// The common name of the root that the chain leads to.
    pub root: String,
    /// The profile that the authority says it has.
    pub profile: Option<String>,
    /// Whether `replaces` was left out because the authority would not have it.
    pub dropped_replaces: bool,
    /// Whether the profile was left out because the authority does not have it.
    pub dropped_profile: bool,
}

impl fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate", &self.certificate)
            .field("root", &self.root)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Fetches the certificate of a valid order.
    pub(super) async fn collect(
        &self,
        order: &mut Order,
        journal: &Journal,
        request: &Request,
        dropped: Dropped,
    ) -> Result<Issued, OrderError> {
        let chain = again!(self, order.certificate())
            .map_err(|error| OrderError::call("fetch the certificate", error))?;
        let alternates = self.session.answers.last().map(|it| it.alternates()).unwrap_or_default();
        let chain_pem = chain.unwrap_or_default();
        let names = patterns(&journal.names)?;
        let check = |chain: &str| issued::check(chain, &journal.key_pem, &names, SystemTime::now());
        let mut best = (check(&chain_pem)?, chain_pem);
        if let Some(root) = &request.preferred_chain
            && best.0.root != *root
        {
            match self.find_chain(root, &alternates, &check).await {
                Some(found) => best = found,
                None => {
                    let instead = &best.0.root;
                    tracing::warn!(names = ?journal.names, root, instead, "no such chain");
                }
            }
        }
        let (checked, chain_pem) = best;
        let profile = order.state().profile.clone();
        if let (Some(ordered), Some(echoed)) = (&journal.profile, &profile)
            && ordered != echoed
        {
            // It has been issued all the same, and may be of use.
            tracing::warn!(names = ?journal.names, ordered, echoed, "got another profile");
        }
        Ok(Issued {
            chain_pem,
            key_pem: journal.key_pem.clone(),
            certificate: checked.certificate,
            renewal_id: checked.renewal_id,
            serial: checked.serial,
            root: checked.root,
            profile,
            dropped_replaces: dropped.replaces,
            dropped_profile: dropped.profile,
        })
    }

    /// The first of the other chains that is good and leads to `root`. One that cannot be had is
    /// passed over: there is a good one already.
    async fn find_chain(
        &self,
        root: &str,
        alternates: &[String],
        check: &impl Fn(&str) -> Result<Checked, issued::IssuedError>,
    ) -> Option<(Checked, String)> {
        for url in alternates.iter().take(MAX_CHAINS) {
            let mut tries = super::Tries::default();
            let body = loop {
                match self.session.fetch(url).await {
                    Ok(body) => break body,
                    Err(error) => {
                        if !tries.is_worth_another(&error, self.limits.pause).await {
                            tracing::debug!(url, %error, "could not fetch another chain");
                            break bytes::Bytes::new();
                        }
                    }
                }
            };
            let text = String::from_utf8_lossy(&body).into_owned();
            if let Ok(checked) = check(&text)
                && checked.root == root
            {
                return Some((checked, text));
            }
        }
        None
    }
}
