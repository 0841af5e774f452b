//! Why an order would fail: everything that an authority looks at, looked at before it does.
//!
//! Answers "what is in the way of a certificate for this name?". Called by `wardgate certs check`. Orders
//! nothing, changes nothing, and decides nothing: what it cannot see from here may be fine, and what
//! looks fine from here may not be for an authority on the other side of a firewall.

mod authority;
mod caa;
mod dns;
mod holder;
mod kept;
mod ports;
mod proof;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;

use self::authority::Known;
pub use self::holder::{Holder, holders};
use super::finding::Finding;
use super::storage::CertId;
use crate::config::Config;
use crate::config::acme::Acme;
use crate::config::site::{self, Site, SiteCertificate};
use crate::net::{Host, HostPattern};

/// With what the check is made.
#[derive(Clone, Debug)]
pub struct Means {
    /// Whom to ask for names; empty asks whom the system asks.
    pub dns: Vec<SocketAddr>,
    /// Where HTTP-01 is looked for. 80, but for tests.
    pub http_port: u16,
    /// Where TLS-ALPN-01 is looked for. 443, but for tests.
    pub https_port: u16,
    /// What the running gateway does for it.
    pub gateway: Gateway,
    /// Time for each connection and each question.
    pub patience: Duration,
}

/// What the running gateway does for a check.
#[derive(Clone, Debug)]
pub enum Gateway {
    /// It answers with this where an authority would ask, by name.
    Shows(BTreeMap<String, Shown>),
    /// It cannot be asked, for this reason.
    Silent(String),
}

/// What the running gateway answers for one name, and nobody else can.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Shown {
    /// What HTTP-01 asks for.
    pub token: String,
    /// What it is answered with, and what TLS-ALPN-01 proves.
    pub key_authorization: String,
    /// Whether it is shown for TLS-ALPN-01: not while an order is proven in that way.
    pub tls_alpn: bool,
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What its certificate is kept as.
    pub id: CertId,
    /// The names that are looked at: all of the site, or the one that was named.
    pub names: Vec<HostPattern>,
    /// All names that are in the certificate.
    all: Vec<HostPattern>,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            dns: Vec::new(),
            http_port: 80,
            https_port: 443,
            gateway: Gateway::Silent("it was not asked".to_owned()),
            patience: Duration::from_secs(10),
        }
    }
}

impl Subject {
    /// What `config` says about `text`, a site or one of its names; without a subject where nothing is
    /// ordered for it.
    #[must_use]
    pub fn of(config: &Config, text: &str) -> (Vec<Finding>, Option<Self>) {
        let wanted = HostPattern::parse(text).ok();
        let named = config.sites.iter().find(|site| site.name.eq_ignore_ascii_case(text));
        let site = named.or_else(|| {
            let wanted = wanted.as_ref()?;
            config.sites.iter().find(|site| site.patterns.contains(wanted))
        });
        let (Some(site), Some(acme)) = (site, config.acme.as_ref()) else {
            return (vec![unordered(config, site, wanted.as_ref(), text)], None);
        };
        let SiteCertificate::Acme { all } = site.certificate else {
            return (vec![unordered(config, Some(site), wanted.as_ref(), text)], None);
        };
        let is_public = |pattern: &&HostPattern| all || !site::is_local(pattern);
        let public: Vec<HostPattern> = site.patterns.iter().filter(is_public).cloned().collect();
        let names = match (named, wanted) {
            (None, Some(wanted)) if !public.contains(&wanted) => {
                return (vec![local(text)], None);
            }
            (None, Some(wanted)) => vec![wanted],
            _ => public.clone(),
        };
        let directory = &acme.authority.directory;
        let challenges: Vec<&str> = acme.challenges.iter().map(|kind| kind.as_str()).collect();
        let text = format!(
            "the certificate of site {} is ordered from {directory}, by {}",
            site.name,
            challenges.join(", ")
        );
        let mut findings = vec![Finding::ok(CONFIGURATION, text)];
        findings.extend(names.iter().filter_map(|name| provable(acme, name)));
        (findings, Some(Self { id: CertId::new(&site.name), names, all: public }))
    }

    /// The hosts that the gateway is asked to answer for.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.names.iter().filter_map(|name| match name {
            HostPattern::Exact(host) => Some(host),
            HostPattern::Wildcard(_) | HostPattern::Any => None,
        })
    }
}

const CONFIGURATION: &str = "configuration";

/// Looks at everything. What one look takes is bounded by `means.patience`, and they are made at once.
pub async fn check(config: &Config, subject: &Subject, means: &Means) -> Vec<Finding> {
    let Some(acme) = &config.acme else { return Vec::new() };
    let resolver = match dns::resolver(&means.dns, means.patience) {
        Ok(resolver) => resolver,
        Err(finding) => return vec![*finding],
    };
    let kept = kept::look(&config.storage, subject, acme);
    let authorities = authority::ask_all(acme, means.patience);
    let addresses = stream::iter(subject.names.iter().map(|name| dns::addresses(&resolver, name)));
    let addresses = addresses.buffered(AT_ONCE).collect::<Vec<_>>();
    let proof = proof::look(subject, acme, means.patience);
    let (kept, Known { mut findings, issuers }, addresses, proof) =
        tokio::join!(kept, authorities, addresses, proof);
    findings.extend(kept.findings);
    findings.extend(proof);
    if let Gateway::Silent(reason) = &means.gateway {
        let text = format!("the running gateway cannot be asked: {reason}");
        let hint = "without it nobody can tell whether it is this gateway that answers";
        findings.push(Finding::warning("gateway", text).hint(hint));
    }
    let questions = subject.names.iter().zip(addresses).map(|(name, addresses)| {
        let asked = caa::Asked { issuers: &issuers, account: kept.account.as_deref(), acme };
        let resolver = &resolver;
        async move {
            let caa = caa::look(resolver, name, &asked);
            let ports = ports::look(name, &addresses.found, acme, means);
            let (caa, ports) = tokio::join!(caa, ports);
            // A record in the DNS proves a name that leads nowhere as well.
            let ease = |it: Finding| if acme.has_dns() { it.eased() } else { it };
            let all = addresses.findings.into_iter().map(ease).chain(caa).chain(ports);
            all.map(|finding| finding.of(name.to_string())).collect::<Vec<_>>()
        }
    });
    let about_names = stream::iter(questions).buffered(AT_ONCE).collect::<Vec<_>>().await;
    findings.extend(about_names.into_iter().flatten());
    findings
}

/// Names that are looked at at once.
const AT_ONCE: usize = 8;

/// Why nothing is ordered.
fn unordered(
    config: &Config,
    site: Option<&Site>,
    wanted: Option<&HostPattern>,
    text: &str,
) -> Finding {
    let files = |name: &str| {
        format!("comes from files (`certificates: {name}`): whoever makes them renews it")
    };
    let Some(site) = site else {
        if config.certificates.iter().any(|entry| entry.name == text) {
            return Finding::ok(CONFIGURATION, format!("the certificate {}", files(text)));
        }
        let covering = config.sites.iter().find(|site| {
            let covers = |pattern: &HostPattern| match wanted {
                Some(HostPattern::Exact(host)) => pattern.covers(host),
                _ => false,
            };
            site.patterns.iter().any(covers)
        });
        return match covering {
            Some(site) => Finding::fault(
                CONFIGURATION,
                format!("{text} is no name of its own: site {} answers for it", site.name),
            )
            .hint(format!("check {}, or make {text} a site or an alias", site.name)),
            None => Finding::fault(CONFIGURATION, format!("no site is called {text}"))
                .hint("add it to `sites:`, or to the `aliases` of a site"),
        };
    };
    let name = &site.name;
    match site.certificate {
        SiteCertificate::None => Finding::ok(
            CONFIGURATION,
            format!("site {name} is served without TLS and needs no certificate"),
        ),
        SiteCertificate::Named(index) => {
            let entry = config.certificates.get(index).map_or("?", |entry| &entry.name);
            Finding::ok(CONFIGURATION, format!("the certificate of site {name} {}", files(entry)))
        }
        SiteCertificate::Internal => local(name),
        SiteCertificate::Acme { .. } => Finding::fault(
            CONFIGURATION,
            format!("site {name} wants a certificate, and there is no authority"),
        )
        .hint("add `acme: { email: … }`"),
    }
}

fn local(name: &str) -> Finding {
    Finding::ok(CONFIGURATION, format!("the certificate of {name} comes from the local CA"))
        .hint("`certificate: acme` has an authority of your own issue it")
}

/// Whether there is a way to prove `name` at all.
fn provable(acme: &Acme, name: &HostPattern) -> Option<Finding> {
    let finding = match name {
        HostPattern::Exact(Host::Name(_)) => return None,
        HostPattern::Exact(Host::Address(_))
            if acme.challenges.iter().all(|kind| kind.is_dns()) =>
        {
            Finding::fault(CONFIGURATION, "an address cannot be proven by DNS")
                .hint("add http-01 or tls-alpn-01 to `acme.challenges`")
        }
        HostPattern::Exact(Host::Address(_)) => return None,
        HostPattern::Wildcard(_) if acme.has_dns() => return None,
        HostPattern::Wildcard(_) => {
            Finding::fault(CONFIGURATION, "a wildcard is proven by DNS, which nobody can change")
                .hint("set `acme.dns`, or add dns-persist-01 to `acme.challenges`")
        }
        HostPattern::Any => {
            Finding::fault(CONFIGURATION, "no authority issues a certificate for every name")
        }
    };
    Some(finding.of(name.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::acme::finding::Verdict;

    fn about(name: &str) -> (Verdict, String, usize) {
        let yaml = "sites:\n  \
            app.example.com: { aliases: [www.example.com, box.local], upstream: app }\n  \
            \"*.example.org\": { upstream: app }\n  \
            in.example.com: { certificate: internal, upstream: app }\n  \
            plain.example.com: { listeners: [web], upstream: app }\n\
            listeners: { web: { bind: \":80\", protocol: http }, secure: { bind: \":443\", protocol: https } }\n\
            acme: { email: ops@example.com, dns: { run: [/bin/true] } }\n\
            upstreams: { app: { servers: \"http://localhost:1\" } }\n";
        let loaded = crate::config::from_text("gateway.yaml", yaml, Path::new(""));
        let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
        let (findings, subject) = Subject::of(&config, name);
        let names = subject.map_or(0, |subject| subject.names.len());
        (findings[0].verdict, findings[0].text.clone(), names)
    }

    #[test]
    fn a_name_is_found_in_the_configuration() {
        for (name, verdict, text, names) in [
            (
                "app.example.com",
                Verdict::Ok,
                "the certificate of site app.example.com is ordered",
                2,
            ),
            (
                "WWW.example.com",
                Verdict::Ok,
                "the certificate of site app.example.com is ordered",
                1,
            ),
            ("*.example.org", Verdict::Ok, "the certificate of site *.example.org is ordered", 1),
            ("box.local", Verdict::Ok, "the certificate of box.local comes from the local CA", 0),
            ("in.example.com", Verdict::Ok, "the certificate of in.example.com comes from", 0),
            ("plain.example.com", Verdict::Ok, "site plain.example.com is served without TLS", 0),
            ("a.example.org", Verdict::Fault, "a.example.org is no name of its own", 0),
            ("b.example.net", Verdict::Fault, "no site is called b.example.net", 0),
            ("not a name", Verdict::Fault, "no site is called not a name", 0),
        ] {
            let (found, said, count) = about(name);
            assert!(said.starts_with(text), "{name}: {said}");
            assert_eq!((found, count), (verdict, names), "{name}: {said}");
        }
    }
}
