//! Placing an order: which names can be ordered, and what an authority would not have is left out.

use std::time::SystemTime;

use instant_acme::{CertificateIdentifier, Identifier, NewOrder, Order};

use super::super::dns::DNS_PERSIST_01;
use super::super::journal::Journal;
use super::super::problem::Kind;
use super::super::session::CallError;
use super::{Dropped, Issuer, Method, OrderError, Request, again};
use crate::net::{Host, HostPattern};

impl Issuer {
    /// Places the order, without what the authority would not have.
    pub(super) async fn place(&self, request: &Request) -> Result<(Order, Dropped), OrderError> {
        let mut dropped = Dropped::default();
        if let Some(profile) = &request.profile
            && !self.session.profiles().any(|offered| offered == profile)
        {
            dropped.profile = true;
            self.do_without_profile(request, profile)?;
        }
        loop {
            let error = match again!(self, self.place_once(request, dropped)) {
                Ok(order) => return Ok((order, dropped)),
                Err(error) => error,
            };
            if request.replaces.is_some() && !dropped.replaces && may_be_about_replaces(&error) {
                // An order that is pending for it, or an authority that knows nothing of it.
                tracing::warn!(names = ?request.names, %error, "ordering without `replaces`");
                dropped.replaces = true;
                self.session.authority.metrics.dropped_replaces();
            } else if let Some(profile) = &request.profile
                && !dropped.profile
                && error.is(Kind::InvalidProfile)
            {
                dropped.profile = true;
                self.do_without_profile(request, profile)?;
            } else {
                return Err(OrderError::call("place the order", error));
            }
        }
    }

    fn do_without_profile(&self, request: &Request, profile: &str) -> Result<(), OrderError> {
        if request.require_profile {
            let offered = self.session.profiles().map(str::to_owned).collect();
            return Err(OrderError::NoProfile { wanted: profile.to_owned(), offered });
        }
        tracing::warn!(names = ?request.names, profile, "ordering without the profile");
        Ok(())
    }

    async fn place_once(
        &self,
        request: &Request,
        dropped: Dropped,
    ) -> Result<Order, instant_acme::Error> {
        let identifiers: Vec<Identifier> =
            request.names.iter().map(|name| identifier(name)).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = request.profile.as_deref().filter(|_| !dropped.profile) {
            new = new.profile(profile);
        }
        let replaces = request.replaces.as_deref().filter(|_| !dropped.replaces);
        if let Some((key_id, serial)) = replaces.and_then(|id| id.split_once('.')) {
            new = new.replaces(CertificateIdentifier {
                authority_key_identifier: key_id.into(),
                serial: serial.into(),
            });
        }
        self.session.account.new_order(&new).await
    }

    /// What is written down of the order.
    pub(super) fn journal_of(
        &self,
        request: &Request,
        dropped: Dropped,
        order_url: &str,
        key_pem: String,
    ) -> Journal {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Journal {
            order_url: order_url.to_owned(),
            key_pem,
            names: request.names.clone(),
            directory: self.session.authority.directory.clone(),
            profile: request.profile.clone().filter(|_| !dropped.profile),
            replaces: request.replaces.clone().filter(|_| !dropped.replaces),
            created: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        }
    }
}

/// Refuses what no authority would take, before one is asked.
pub(super) fn check_names(request: &Request) -> Result<(), OrderError> {
    let has_dns = request.methods.iter().any(Method::is_dns);
    for pattern in patterns(&request.names)? {
        match pattern {
            HostPattern::Wildcard(_) if !has_dns => {
                let offered = ["dns-01", DNS_PERSIST_01].map(str::to_owned).into();
                let name = pattern.to_string();
                return Err(OrderError::NoMethod { name, offered });
            }
            HostPattern::Any => return Err(OrderError::Name("*".to_owned())),
            HostPattern::Wildcard(_) | HostPattern::Exact(_) => {}
        }
    }
    Ok(())
}

/// The names as the rest of the gateway knows them.
pub(super) fn patterns(names: &[String]) -> Result<Vec<HostPattern>, OrderError> {
    let parse =
        |name: &String| HostPattern::parse(name).map_err(|_| OrderError::Name(name.clone()));
    names.iter().map(parse).collect()
}

fn identifier(name: &str) -> Identifier {
    match Host::parse(name) {
        Ok(Host::Address(address)) => Identifier::Ip(address),
        Ok(Host::Name(_)) | Err(_) => Identifier::Dns(name.to_owned()),
    }
}

/// Whether an order may have been refused for what it replaces. Authorities differ in what they say
/// of a certificate that is not theirs, or that they do not find, which is the authority's error and would
/// stay so until the certificate has ended; the library refuses by itself where they do not say it back.
fn may_be_about_replaces(error: &CallError) -> bool {
    match error {
        CallError::Garbled(_) => true,
        CallError::Unreachable(_) => false,
        CallError::Refused(problem) => {
            matches!(problem.status, 409 | 500)
                || matches!(
                    problem.kind,
                    Kind::AlreadyReplaced | Kind::Malformed | Kind::NotFound | Kind::Unauthorized
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dns::{Dns, Persist};
    use super::*;

    #[test]
    fn names_are_checked_before_anybody_is_asked() {
        let dns = || Method::Dns01(Dns::run("hook"));
        for (name, methods, wanted) in [
            ("a.test", vec![Method::Http01], None),
            ("192.0.2.1", vec![Method::Http01], None),
            ("2001:db8::1", vec![Method::TlsAlpn01], None),
            ("*.a.test", vec![Method::Http01, dns()], None),
            ("*.a.test", vec![Method::DnsPersist01(Persist::default())], None),
            (
                "*.a.test",
                vec![Method::Http01],
                Some("none of the ways to prove *.a.test is enabled: dns-01, dns-persist-01"),
            ),
            ("*", vec![dns()], Some("\"*\" is no name that a certificate can have")),
            ("a b", vec![dns()], Some("\"a b\" is no name that a certificate can have")),
        ] {
            let request = Request { names: vec![name.to_owned()], methods, ..Request::default() };
            let said = check_names(&request).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), wanted, "{name}");
        }
    }
}
