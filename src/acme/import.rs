//! Certificates that an operator brings for a site whose certificates are managed.
//!
//! Answers "can this be served for the site, and what should its owner know?", and keeps it in the place
//! of what an authority issues. While it is valid nothing is ordered for the site.

use std::time::{Duration, SystemTime};

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::finding::{Finding, told};
use super::state::Target;
use super::storage::{
    CertId, CertLock, Generation, Meta, Pair, Place, Secret, Storage, StoreError,
};
use super::time::unix;
use crate::net::HostPattern;
use crate::tls::{Bundle, Certificate, pfx};

/// What an operator brings.
#[derive(Clone, Copy, Debug)]
pub enum Files<'a> {
    /// Two PEM files, which may be one.
    Pem {
        /// The certificates, in any order.
        chain: &'a [u8],
        /// The key.
        key: &'a [u8],
    },
    /// A PKCS#12 file.
    Pfx {
        /// It.
        file: &'a [u8],
        /// Its password.
        password: &'a str,
    },
}

/// What was found in them.
#[derive(Debug)]
pub struct Examined {
    /// What is good and what is not.
    pub findings: Vec<Finding>,
    /// To be kept; `None` when something is in the way.
    pub pair: Option<Pair>,
    /// The certificate, even where something is in the way.
    pub certificate: Option<Certificate>,
}

/// Why nothing was kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// An order for the certificate is under way, or another process is at its files.
    #[error("{0} is being ordered right now: try again in a minute")]
    Busy(CertId),
    /// The files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long before its end an imported certificate makes way for one that is ordered: a twentieth of
/// its life, a week at most, so that the site is never without.
#[must_use]
pub fn hand_over(certificate: &Certificate) -> SystemTime {
    let leaf = &certificate.leaf;
    let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
    let margin = (life / 20).min(LONGEST_MARGIN);
    leaf.not_after.checked_sub(margin).unwrap_or(leaf.not_before)
}

const LONGEST_MARGIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An end nearer than this is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Looks at what an operator brings for a site with these `names`.
#[must_use]
pub fn examine(files: Files<'_>, names: &[HostPattern], now: SystemTime) -> Examined {
    let bundle = match files {
        Files::Pem { chain, .. } if pfx::is_pfx(chain) => Err(Finding::fault(
            "file",
            "the file of the chain is binary: PKCS#12 (.pfx), or a certificate in DER",
        )
        .hint("bring a .pfx as such; convert DER with `openssl x509 -inform der`")),
        Files::Pem { chain, key } => {
            Bundle::from_pem(chain, key).map_err(|error| Finding::fault("file", told(&error)))
        }
        Files::Pfx { file, password } => {
            pfx::read(file, password).map_err(|error| Finding::fault("file", told(&error)))
        }
    };
    let read = bundle.and_then(|bundle| {
        let certificate = bundle.certificate();
        let certificate = certificate.map_err(|error| Finding::fault("file", told(&error)))?;
        Ok((bundle, certificate))
    });
    let (bundle, certificate) = match read {
        Ok(read) => read,
        Err(finding) => {
            return Examined { findings: vec![finding], pair: None, certificate: None };
        }
    };
    let mut findings = chain(&bundle, &certificate);
    findings.push(dates(&certificate, now));
    findings.extend(coverage(&certificate, names));
    findings.extend(usage(&certificate));
    let pair = (!super::finding::has_fault(&findings)).then(|| Pair {
        key_pem: Secret(bundle.key_pem),
        chain_pem: bundle.chain_pem,
        meta: Meta {
            target: Target::new(names.iter().map(ToString::to_string).collect(), "", None),
            saved_at: unix(now),
            ..Meta::default()
        },
    });
    Examined { findings, pair, certificate: Some(certificate) }
}

/// Keeps it, to be served from the next reload on, which the gateway does by itself. Blocks on files.
///
/// # Errors
/// [`ImportError`].
pub fn keep(storage: &Storage, id: &CertId, pair: &Pair) -> Result<Generation, ImportError> {
    Ok(storage.save(Place::Imported, &lock(storage, id)?, pair)?)
}

/// Takes what was imported away again; whether there was something. Blocks on files.
///
/// # Errors
/// [`ImportError`].
pub fn remove(storage: &Storage, id: &CertId) -> Result<bool, ImportError> {
    Ok(storage.discard(Place::Imported, &lock(storage, id)?)?)
}

fn lock(storage: &Storage, id: &CertId) -> Result<CertLock, ImportError> {
    storage.lock(id)?.ok_or_else(|| ImportError::Busy(id.clone()))
}

fn chain(bundle: &Bundle, certificate: &Certificate) -> Vec<Finding> {
    let count = certificate.key.cert.len();
    let last = certificate.key.cert.last().and_then(|der| X509Certificate::from_der(der).ok());
    let (issuer, is_own) =
        last.map(|(_, last)| (last.issuer().to_string(), is_own(&last))).unwrap_or_default();
    let mut findings = vec![match (count, is_own) {
        (1, true) => Finding::warning("chain", "the certificate has signed itself: no client trusts it")
            .hint("clients need it in their store of trusted certificates"),
        (1, false) => {
            Finding::warning("chain", format!("there is no certificate of its issuer, {issuer}")).hint(
                "unless that is a root, clients cannot tell whether to trust it: add the issuer's \
                 certificate (\"chain\", \"fullchain\", or \"include all certificates in the path\")",
            )
        }
        (count, _) => Finding::ok("chain", format!("{count} certificates, up to {issuer}")),
    }];
    if bundle.was_reordered {
        findings.push(Finding::ok("chain", "its certificates were put in order"));
    }
    if bundle.left_out > 0 {
        let count = bundle.left_out;
        findings.push(Finding::warning(
            "chain",
            format!("left out certificates that do not belong to the chain: {count}"),
        ));
    }
    findings
}

fn is_own(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
        && certificate.verify_signature(None).is_ok()
}

fn dates(certificate: &Certificate, now: SystemTime) -> Finding {
    let leaf = &certificate.leaf;
    let date = httpdate::fmt_http_date;
    if leaf.not_after <= now {
        return Finding::fault("dates", format!("it has ended on {}", date(leaf.not_after)));
    }
    if hand_over(certificate) <= now {
        let text = format!("it ends on {}, too soon to be put into service", date(leaf.not_after));
        return Finding::fault("dates", text);
    }
    if leaf.not_before > now {
        let text = format!("it is not valid before {}", date(leaf.not_before));
        return Finding::warning("dates", text).hint("is the clock right?");
    }
    if leaf.not_after < now + SOON {
        let text = format!("it ends on {} already", date(leaf.not_after));
        return Finding::warning("dates", text).hint("one is ordered from the authority then");
    }
    Finding::ok("dates", format!("valid until {}", date(leaf.not_after)))
}

fn coverage(certificate: &Certificate, names: &[HostPattern]) -> Option<Finding> {
    let list = |names: &[HostPattern]| {
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let own = &certificate.leaf.names;
    if own.is_empty() {
        let text = "it has no subject alternative names, so clients refuse it for every host";
        return Some(Finding::fault("names", text));
    }
    let missing = certificate.uncovered(names);
    if !missing.is_empty() {
        let text = format!("it is not valid for {}: its names are {}", list(&missing), list(own));
        return Some(Finding::fault("names", text).hint("it has to be for all names of the site"));
    }
    Some(Finding::ok("names", format!("valid for {}", list(own))))
}

/// Whether it is meant for servers at all (RFC 5280 §4.2.1.12).
fn usage(certificate: &Certificate) -> Option<Finding> {
    let (_, leaf) = X509Certificate::from_der(certificate.key.cert.first()?).ok()?;
    let is_barred = leaf.iter_extensions().any(|extension| match extension.parsed_extension() {
        ParsedExtension::ExtendedKeyUsage(usage) => !usage.any && !usage.server_auth,
        _ => false,
    });
    is_barred.then(|| {
        Finding::fault(
            "usage",
            "it is not meant for servers (its extended key usage lacks serverAuth)",
        )
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;
    use crate::acme::finding::Verdict;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A leaf of a new CA, valid for ninety days from yesterday after `change`, and the CA's PEM.
    fn leaf(change: impl FnOnce(&mut CertificateParams)) -> (String, String, String) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["a.test".into(), "*.b.test".into()]).unwrap();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + 89 * DAY).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem(), ca.pem())
    }

    fn patterns(names: &[&str]) -> Vec<HostPattern> {
        names.iter().map(|name| HostPattern::parse(name).unwrap()).collect()
    }

    fn examined(chain: &str, key: &str, names: &[&str]) -> Examined {
        let files = Files::Pem { chain: chain.as_bytes(), key: key.as_bytes() };
        examine(files, &patterns(names), SystemTime::now())
    }

    fn worst(examined: &Examined) -> (Verdict, &str) {
        let worst = examined.findings.iter().max_by_key(|finding| finding.verdict).unwrap();
        (worst.verdict, &worst.text)
    }

    #[test]
    fn what_is_good_is_kept_for_its_site_and_can_be_taken_away() {
        crate::tls::install();
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        let (chain, key, _) = leaf(|_| {});
        let examined = examined(&chain, &key, &["a.test", "x.b.test"]);
        assert_eq!(worst(&examined).0, Verdict::Warning, "without its issuer: {examined:?}");
        let pair = examined.pair.unwrap();
        let id = CertId::new("a.test");
        assert_eq!(keep(&storage, &id, &pair).unwrap().number, 1);
        assert_eq!(keep(&storage, &id, &pair).unwrap().number, 2);
        let found = storage.load(Place::Imported, &id).unwrap().generation.unwrap();
        let names = found.meta.unwrap().target.names;
        assert_eq!((found.number, names), (2, vec!["a.test".to_owned(), "x.b.test".to_owned()]));
        assert!(storage.load(Place::Live, &id).unwrap().generation.is_none());
        let held = storage.lock(&id).unwrap().unwrap();
        assert!(matches!(keep(&storage, &id, &pair), Err(ImportError::Busy(_))));
        assert!(matches!(remove(&storage, &id), Err(ImportError::Busy(_))));
        drop(held);
        assert!(remove(&storage, &id).unwrap());
        assert!(!remove(&storage, &id).unwrap());
        assert!(storage.load(Place::Imported, &id).unwrap().generation.is_none());
        assert!(!root.path().join("imported/a.test").exists());
    }

    #[test]
    fn what_is_in_the_way_is_told_and_nothing_is_to_be_kept() {
        crate::tls::install();
        let (chain, key, ca) = leaf(|_| {});
        let past = leaf(|params| params.not_after = (SystemTime::now() - DAY / 2).into());
        let nearly = leaf(|params| params.not_after = (SystemTime::now() + DAY / 48).into());
        let nameless = leaf(|params| params.subject_alt_names.clear());
        let client = leaf(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        for ((chain, key), names, wanted) in [
            ((&chain, &ca), &["a.test"][..], "the key holds no private key in PEM form"),
            ((&chain, &past.1), &["a.test"], "the key belongs to another certificate"),
            (
                (&chain, &key),
                &["c.test"],
                "it is not valid for c.test: its names are a.test, *.b.test",
            ),
            ((&past.0, &past.1), &["a.test"], "it has ended on "),
            ((&nearly.0, &nearly.1), &["a.test"], "it ends on "),
            ((&nameless.0, &nameless.1), &[], "it has no subject alternative names"),
            ((&client.0, &client.1), &["a.test"], "it is not meant for servers"),
        ] {
            let examined = examined(chain, key, names);
            let (verdict, text) = worst(&examined);
            assert!(
                verdict == Verdict::Fault && text.starts_with(wanted),
                "{wanted}: {examined:?}"
            );
            assert!(examined.pair.is_none());
        }
    }

    #[test]
    fn what_its_owner_should_know_is_told_and_it_is_kept_all_the_same() {
        crate::tls::install();
        let good = leaf(|_| {});
        let soon = leaf(|params| params.not_after = (SystemTime::now() + 10 * DAY).into());
        let early = leaf(|params| params.not_before = (SystemTime::now() + DAY).into());
        let own = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (own, own_key) = (own.cert.pem(), own.signing_key.serialize_pem());
        for (chain, key, wanted) in [
            (&good.0, &good.1, "there is no certificate of its issuer"),
            (&soon.0, &soon.1, "it ends on "),
            (&early.0, &early.1, "it is not valid before "),
            (&own, &own_key, "the certificate has signed itself"),
            (
                &(soon.2 + &good.0),
                &good.1,
                "left out certificates that do not belong to the chain: 1",
            ),
        ] {
            let examined = examined(chain, key, &["a.test"]);
            let is_told = |finding: &Finding| {
                finding.verdict == Verdict::Warning && finding.text.starts_with(wanted)
            };
            assert!(examined.findings.iter().any(is_told), "{wanted}: {examined:?}");
            assert!(examined.pair.is_some());
        }
    }

    #[test]
    fn pkcs12_is_as_good_as_pem() {
        crate::tls::install();
        let (chain, key, _) = leaf(|_| {});
        let file = pfx::write(&chain, &key, "secret", "a.test", pfx::Encryption::Modern).unwrap();
        let now = SystemTime::now();
        let examined = examine(Files::Pfx { file: &file, password: "secret" }, &[], now);
        assert_eq!(examined.pair.unwrap().chain_pem.replace('\r', ""), chain.replace('\r', ""));
        let wrong = examine(Files::Pfx { file: &file, password: "wrong" }, &[], now);
        assert_eq!(worst(&wrong), (Verdict::Fault, "the password is wrong"));
        let as_pem = examine(Files::Pem { chain: &file, key: key.as_bytes() }, &[], now);
        assert!(worst(&as_pem).1.starts_with("the file of the chain is binary"));
    }
}
