//! Client certificates: under which policy a handshake asks for one, and what came of it.
//!
//! Answers "may whoever is at the other end be served by this site?". `app` loads the [`Policies`] of a
//! configuration, a handshake goes by the one of the site that the client names, and `proxy` asks
//! the connection's [`ClientProof`] again for each request, since a client may ask for another site
//! than the one it named. Never lets anybody in because a file is missing or broken: then there is
//! no policy, and no configuration.
//!
//! # What is kept apart
//! A session that is resumed skips the certificate (CVE-2025-23419), so every policy has ticket keys
//! of its own, and so has the same rule with other contents of its files. What a resumed session
//! brings is verified once more, because certificates and revocation lists end meanwhile.

mod authorities;
mod certificate;
mod lists;
mod refusal;
mod subject;
mod verifier;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};

pub use self::authorities::{AuthoritiesError, Warning};
pub use self::certificate::ClientCertificate;
pub use self::lists::RevocationList;
pub use self::refusal::Refusal;

use self::authorities::Authorities;
use self::verifier::Verifier;
use crate::config::Config;
use crate::config::client_auth::{ClientAuth, ClientAuthMode, SiteClientAuth};
use crate::tls::ticket::{TicketError, Tickets};

/// A rule about client certificates with what its files said when it was loaded.
#[derive(Debug)]
pub struct Policy {
    rule: ClientAuth,
    contents: [u8; 32],
    verifier: Arc<Verifier>,
    tickets: Tickets,
}

/// The policies of one configuration, each once however many sites have it.
#[derive(Debug, Default)]
pub struct Policies {
    all: Vec<Arc<Policy>>,
    /// By index of the configuration's listeners.
    listeners: Vec<Option<usize>>,
    /// By index of the configuration's sites.
    sites: Vec<OfSite>,
}

#[derive(Clone, Copy, Debug)]
enum OfSite {
    Inherit,
    Off,
    Own(usize),
}

/// A rule about client certificates that cannot be kept, so that nothing is served by it.
#[derive(Debug, thiserror::Error)]
#[error("the client_auth at line {line} of the configuration cannot be used")]
pub struct PolicyError {
    /// Where the rule stands.
    line: u32,
    /// What is wrong.
    source: PolicyFault,
}

/// What is wrong with a rule.
#[derive(Debug, thiserror::Error)]
enum PolicyFault {
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Tickets(#[from] TicketError),
}

/// What a client has shown in a handshake under a policy.
#[derive(Debug)]
pub struct ClientProof {
    certificate: Option<ClientCertificate>,
    /// The policy that it was last found good under.
    policy: ArcSwap<Policy>,
    /// The policy that it was last found bad under, so that a client that goes on asking does not have
    /// signatures verified for each request.
    refused: ArcSwapOption<Policy>,
}

impl Policy {
    /// Whether a client without a certificate is refused.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.rule.mode == ClientAuthMode::Require
    }

    /// What rustls asks.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier) as Arc<dyn ClientCertVerifier>
    }

    /// The keys of its sessions.
    pub(super) fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// Whether a client that has shown `certificate` may be served now.
    fn admit(&self, certificate: Option<&ClientCertificate>) -> Result<(), Error> {
        match certificate.map(|certificate| certificate.chain.split_first()) {
            Some(Some((leaf, rest))) => {
                self.verifier.verify_client_cert(leaf, rest, UnixTime::now()).map(drop)
            }
            _ if self.is_required() => Err(Error::NoCertificatesPresented),
            _ => Ok(()),
        }
    }
}

impl Policies {
    /// Loads what the rules of `config` name. A policy of `previous` whose rule and files are the same
    /// is that very one, with its sessions; others get ticket keys beside `tickets`. Blocks on files.
    ///
    /// # Errors
    /// [`PolicyError`] for the first rule that cannot be kept.
    pub fn load(
        config: &Config,
        previous: Option<&Self>,
        tickets: &Tickets,
        now: SystemTime,
    ) -> Result<Self, PolicyError> {
        let mut loading = Loading { all: Vec::new(), known: HashMap::new() };
        let previous = previous.map_or(&[][..], |previous| &previous.all);
        let mut index = |rule| loading.index(rule, previous, tickets, now);
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            listeners.push(listener.client_auth.as_ref().map(&mut index).transpose()?);
        }
        let mut sites = Vec::with_capacity(config.sites.len());
        for site in &config.sites {
            sites.push(match &site.client_auth {
                SiteClientAuth::Inherit => OfSite::Inherit,
                SiteClientAuth::Off => OfSite::Off,
                SiteClientAuth::Own(rule) => OfSite::Own(index(rule)?),
            });
        }
        Ok(Self { all: loading.all, listeners, sites })
    }

    /// The index of the policy that `site` has at `listener`; without a site, of the listener's own.
    /// `None`: clients are not asked.
    #[must_use]
    pub fn index_of(&self, listener: usize, site: Option<usize>) -> Option<usize> {
        match site.and_then(|site| self.sites.get(site)) {
            Some(OfSite::Own(index)) => Some(*index),
            Some(OfSite::Off) => None,
            Some(OfSite::Inherit) | None => self.listeners.get(listener).copied().flatten(),
        }
    }

    /// The policy that `site` has at `listener`.
    #[must_use]
    pub fn of(&self, listener: usize, site: usize) -> Option<&Arc<Policy>> {
        self.all.get(self.index_of(listener, Some(site))?)
    }

    /// Each of them, by its index.
    #[must_use]
    pub fn all(&self) -> &[Arc<Policy>] {
        &self.all
    }

    /// The revocation lists that count in any of them: each file and CA once, with the list that ends first.
    #[must_use]
    pub fn lists(&self) -> Vec<RevocationList> {
        lists::by_file(self.all.iter().flat_map(|policy| policy.verifier.lists()))
    }
}

/// Policies that are being loaded, by what makes rules the same.
struct Loading<'c> {
    all: Vec<Arc<Policy>>,
    known: HashMap<(ClientAuthMode, &'c Path, &'c [PathBuf]), usize>,
}

impl<'c> Loading<'c> {
    fn index(
        &mut self,
        rule: &'c ClientAuth,
        previous: &[Arc<Policy>],
        tickets: &Tickets,
        now: SystemTime,
    ) -> Result<usize, PolicyError> {
        let key = (rule.mode, &*rule.ca, &*rule.crl);
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        let policy = load(rule, previous, tickets, now)
            .map_err(|source| PolicyError { line: rule.line, source })?;
        self.all.push(policy);
        self.known.insert(key, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }
}

fn load(
    rule: &ClientAuth,
    previous: &[Arc<Policy>],
    tickets: &Tickets,
    now: SystemTime,
) -> Result<Arc<Policy>, PolicyFault> {
    let authorities = Authorities::read(rule, now)?;
    let contents = authorities.contents;
    let is_same = |it: &&Arc<Policy>| it.rule.is_same(rule) && it.contents == contents;
    if let Some(same) = previous.iter().find(is_same) {
        return Ok(Arc::clone(same));
    }
    for warning in &authorities.warnings {
        let path = rule.ca.display();
        tracing::warn!(%path, %warning, "loaded a rule about client certificates");
    }
    let verifier = Arc::new(Verifier::new(authorities, rule.mode, now));
    Ok(Arc::new(Policy { rule: rule.clone(), contents, verifier, tickets: tickets.apart()? }))
}

impl ClientProof {
    /// What a handshake under `policy` has brought: the client's chain, leaf first, which the handshake
    /// has verified unless a session was resumed.
    ///
    /// # Errors
    /// What rustls would have told the client in a full handshake.
    pub(super) fn new(
        policy: Arc<Policy>,
        chain: Option<&[CertificateDer<'_>]>,
        is_resumed: bool,
    ) -> Result<Self, Error> {
        let chain = chain.filter(|chain| !chain.is_empty());
        let certificate = chain.map(ClientCertificate::parse).transpose();
        let certificate =
            certificate.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if is_resumed || certificate.is_none() {
            policy.admit(certificate.as_ref())?;
        }
        Ok(Self { certificate, policy: ArcSwap::new(policy), refused: ArcSwapOption::empty() })
    }

    /// The certificate that was verified; `None` when the client has none.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// Whether a request for a site under `wanted` may be served on this connection: the handshake went
    /// by the same rule. If what its files say has changed since, the certificate is verified anew,
    /// once, whatever comes of it.
    #[must_use]
    pub fn satisfies(&self, wanted: &Arc<Policy>) -> bool {
        let present = self.policy.load();
        if Arc::ptr_eq(&present, wanted) {
            return true;
        }
        if !present.rule.is_same(&wanted.rule)
            || self.refused.load().as_ref().is_some_and(|refused| Arc::ptr_eq(refused, wanted))
        {
            return false;
        }
        let is_good = wanted.admit(self.certificate.as_ref()).is_ok();
        if is_good {
            self.policy.store(Arc::clone(wanted));
        } else {
            self.refused.store(Some(Arc::clone(wanted)));
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rcgen::CertificateParams;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::fixture::{Ca, DAY};

    /// A thousand sites with one rule, one without, one with another, below a listener with a third.
    fn config(directory: &Path) -> Config {
        let mut text = "listeners:\n  web: { bind: \":80\", protocol: http }\n  \
                        secure: { bind: \":443\", protocol: https, tls: { client_auth: { ca: a.pem, mode: request } } }\n\
                        sites:\n"
            .to_owned();
        let site = |name: &str, rule: &str| format!("  {name}: {{ {rule}upstream: http://a }}\n");
        for index in 0..1000 {
            text += &site(&format!("{index}.test"), "client_auth: { ca: a.pem }, ");
        }
        text += &site("off.test", "client_auth: off, ");
        text += &site("other.test", "client_auth: { ca: b.pem }, ");
        text += &site("inherits.test", "");
        crate::config::from_text("gateway.yaml", &text, directory).unwrap().config
    }

    fn load(config: &Config, previous: Option<&Policies>, tickets: &Tickets) -> Policies {
        Policies::load(config, previous, tickets, SystemTime::now()).unwrap()
    }

    #[test]
    fn a_rule_is_loaded_once_and_stays_the_same_while_its_files_do() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            fs::write(directory.path().join(name), Ca::new(name).pem()).unwrap();
        };
        write("a.pem");
        write("b.pem");
        let (config, tickets) = (config(directory.path()), Tickets::new().unwrap());
        let first = load(&config, None, &tickets);
        assert_eq!(first.all().len(), 3);
        let of = |listener, site| first.index_of(listener, site);
        assert_eq!((of(1, Some(0)), of(1, Some(999))), (Some(1), Some(1)));
        assert_eq!((of(0, Some(0)), of(0, None), of(1, None)), (Some(1), None, Some(0)));
        assert_eq!(
            (of(1, Some(1000)), of(1, Some(1001)), of(1, Some(1002))),
            (None, Some(2), Some(0))
        );
        assert!(!first.all()[0].is_required() && first.all()[1].is_required());

        let second = load(&config, Some(&first), &tickets);
        let is_same =
            |index: usize, one: &Policies| Arc::ptr_eq(&one.all()[index], &first.all()[index]);
        assert!((0..3).all(|index| is_same(index, &second)));
        write("b.pem");
        let third = load(&config, Some(&second), &tickets);
        assert_eq!([0, 1, 2].map(|index| is_same(index, &third)), [true, true, false]);
    }

    #[test]
    fn no_policy_opens_the_tickets_of_another_or_of_no_policy() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.pem", "b.pem"] {
            fs::write(directory.path().join(name), Ca::new("same").pem()).unwrap();
        }
        let tickets = Tickets::new().unwrap();
        let policies = load(&config(directory.path()), None, &tickets);
        let mut keys: Vec<_> = policies.all().iter().map(|it| it.tickets().producer()).collect();
        keys.push(tickets.producer());
        for (maker, made) in keys.iter().enumerate() {
            let ticket = made.encrypt(b"session").unwrap();
            for (reader, keys) in keys.iter().enumerate() {
                assert_eq!(keys.decrypt(&ticket).is_some(), maker == reader, "{maker} {reader}");
            }
        }
    }

    /// The policy of a rule for `ca`, and certificates that it has signed.
    fn policy(ca: &str, lines: &str) -> Arc<Policy> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), ca).unwrap();
        let text = format!(
            "sites: {{ a.test: {{ client_auth: {{ ca: ca.pem{lines} }}, upstream: http://a }} }}"
        );
        let config = crate::config::from_text("gateway.yaml", &text, directory.path());
        let policies = load(&config.unwrap().config, None, &Tickets::new().unwrap());
        Arc::clone(&policies.all()[0])
    }

    fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    }

    #[test]
    fn what_a_resumed_session_brings_is_verified_once_more() {
        let ca = Ca::new("clients");
        let policy = policy(&ca.pem(), "");
        let good = chain(&ca.leaf(&[]).chain);
        let ended =
            |it: &mut CertificateParams| it.not_after = (SystemTime::now() - DAY / 2).into();
        let ended = chain(&ca.leaf_with(&[], ended).chain);
        let proof = |chain, is_resumed| ClientProof::new(Arc::clone(&policy), chain, is_resumed);
        assert!(proof(Some(&good), true).unwrap().satisfies(&policy));
        assert!(proof(Some(&ended), false).is_ok(), "the handshake has verified it");
        assert!(matches!(proof(Some(&ended), true), Err(Error::InvalidCertificate(_))));
        assert!(matches!(proof(None, true), Err(Error::NoCertificatesPresented)));
        assert!(matches!(proof(Some(&[]), false), Err(Error::NoCertificatesPresented)));
        let garbage = [CertificateDer::from(vec![0x30, 0x80])];
        assert!(proof(Some(&garbage), false).is_err(), "nobody could say whose it is");
    }

    #[test]
    fn an_open_connection_follows_the_files_of_its_rule_and_no_other_rule() {
        let (ca, other) = (Ca::new("clients"), Ca::new("clients"));
        let leaf = chain(&ca.leaf(&[]).chain);
        let [old, both, gone] =
            [ca.pem(), ca.pem() + &other.pem(), other.pem()].map(|text| policy(&text, ""));
        // The rule is the same by its paths, which differ between directories here.
        let renamed = |policy: &Arc<Policy>| {
            let rule = ClientAuth { ca: "ca.pem".into(), ..policy.rule.clone() };
            let (verifier, tickets) = (Arc::clone(&policy.verifier), policy.tickets.clone());
            Arc::new(Policy { rule, contents: policy.contents, verifier, tickets })
        };
        let [old, both, gone] = [&old, &both, &gone].map(renamed);
        let proof = ClientProof::new(Arc::clone(&old), Some(&leaf), false).unwrap();
        assert!(proof.satisfies(&old) && proof.satisfies(&both));
        assert!(!proof.satisfies(&gone));
        let is_kept = |it: &Arc<Policy>| Arc::ptr_eq(it, &gone);
        assert!(proof.refused.load().as_ref().is_some_and(is_kept), "it is not worked out again");
        assert!(!proof.satisfies(&gone));
        assert!(proof.satisfies(&both));
        let elsewhere = policy(&ca.pem(), "");
        assert!(!proof.satisfies(&elsewhere), "another rule, though it would admit the same");
        let asked = policy(&ca.pem(), ", mode: request");
        let nobody = ClientProof::new(Arc::clone(&asked), None, false).unwrap();
        assert!(nobody.satisfies(&asked) && nobody.certificate().is_none());
    }

    #[test]
    fn a_ca_counts_while_it_is_valid() {
        use rcgen::{BasicConstraints, CertifiedIssuer, IsCa, KeyPair};
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = (now - DAY).into();
        params.not_after = (now + DAY).into();
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.not_before = (now - 10 * DAY).into();
        leaf.not_after = (now + 10 * DAY).into();
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap();
        let other = Ca::new("other");
        for text in [ca.pem(), ca.pem() + &other.pem()] {
            let policy = policy(&text, "");
            let counts = |at: SystemTime| {
                let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                let at = UnixTime::since_unix_epoch(Duration::from_secs(since.as_secs()));
                policy.verifier.verify_client_cert(leaf.der(), &[], at).is_ok()
            };
            for (at, wanted) in [
                (now, true),
                (now + 2 * DAY, false),
                (now, true),
                (now - 2 * DAY, false),
                (now, true),
            ] {
                assert_eq!(counts(at), wanted, "{at:?}");
            }
            assert!(!policy.verifier.root_hint_subjects().is_empty());
        }
    }
}
