//! Whether the authorities answer, and what they want.

use std::sync::Arc;
use std::time::Duration;

use crate::acme::finding::{Finding, told};
use crate::acme::http::{Client, Limits};
use crate::acme::session::{Authority, Directory};
use crate::acme::time::{Clock, HOUR, MINUTE};
use crate::config::acme::{Acme, Authority as Settings};
use crate::tls::{SystemRoots, client_config};

/// What is known of the authorities.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) findings: Vec<Finding>,
    /// In the order of preference.
    pub(super) issuers: Vec<Issuer>,
}

/// An authority as CAA records know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Issuer {
    pub(super) directory: String,
    /// Empty when nobody tells.
    pub(super) identities: Vec<String>,
}

const AUTHORITY: &str = "authority";
const CLOCK: &str = "clock";

/// Let's Encrypt's hosts, for when its directory cannot be read.
const LETSENCRYPT_HOSTS: &str = "api.letsencrypt.org/";

/// Asks all of `acme` what they can do.
pub(super) async fn ask_all(acme: &Acme, patience: Duration) -> Known {
    let roots = tokio::task::spawn_blocking(SystemRoots::load).await;
    let roots = roots.unwrap_or_else(|_| SystemRoots::none());
    let mut known = Known::default();
    let asked = acme.authorities().map(|settings| ask(settings, &roots, patience));
    for (index, (findings, issuer)) in
        futures_util::future::join_all(asked).await.into_iter().enumerate()
    {
        // The others are asked only when the first fails.
        let eased = findings.into_iter().map(|it| if index > 0 { it.eased() } else { it });
        known.findings.extend(eased);
        known.issuers.push(issuer);
    }
    known
}

async fn ask(
    settings: &Settings,
    roots: &SystemRoots,
    patience: Duration,
) -> (Vec<Finding>, Issuer) {
    let directory = settings.directory.clone();
    let own = || vec!["letsencrypt.org".to_owned()];
    let guess = if directory.contains(LETSENCRYPT_HOSTS) { own() } else { Vec::new() };
    let silent = Issuer { directory: directory.clone(), identities: guess };
    let tls = match client_config::authority(settings.directory_ca.as_deref(), roots) {
        Ok(tls) => tls,
        Err(error) => return (vec![Finding::fault(AUTHORITY, told(&error))], silent),
    };
    let limits = Limits { connect: patience, request: patience };
    let clock = Clock::default();
    let client = Arc::new(Client::new(tls, limits));
    let authority = Authority::new(directory.as_str(), client).with_clock(&clock);
    match authority.fetch_directory().await {
        Err(error) => {
            let text = format!("{directory}: {}", told(&error));
            let hint = "is it down, is a firewall or a proxy in the way, is the URL right?";
            (vec![Finding::fault(AUTHORITY, text).hint(hint)], silent)
        }
        Ok(found) => {
            let findings = judge(settings, &found, clock.ahead());
            let identities = found.meta.caa_identities;
            let identities = if identities.is_empty() { silent.identities } else { identities };
            (findings, Issuer { directory, identities })
        }
    }
}

/// What a directory means for us, and a clock that is `ahead` seconds ahead of ours.
fn judge(settings: &Settings, found: &Directory, ahead: i64) -> Vec<Finding> {
    let directory = &settings.directory;
    let terms =
        found.meta.terms_of_service.as_deref().map(|terms| format!(", its terms are at {terms}"));
    let mut findings =
        vec![Finding::ok(AUTHORITY, format!("{directory} answers{}", terms.unwrap_or_default()))];
    if found.meta.external_account_required && settings.eab.is_none() {
        let text = format!("{directory} wants accounts to be bound to one that it knows already");
        findings.push(Finding::fault(AUTHORITY, text).hint("set `eab` with what it has given you"));
    }
    if let Some(profile) = &settings.profile
        && !found.meta.profiles.contains_key(profile)
    {
        let known: Vec<&str> = found.meta.profiles.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("{directory} has no profile {profile:?}, it has {known}");
        findings.push(match settings.require_profile {
            true => Finding::fault(AUTHORITY, text).hint("change or remove `profile`"),
            false => Finding::warning(AUTHORITY, text).hint("certificates are ordered without"),
        });
    }
    let (off, way) = (ahead.saturating_abs(), if ahead > 0 { "behind" } else { "ahead of" });
    let text = format!("this machine's clock is {off} s {way} the authority's");
    let hint = "set it, and have it kept (NTP)";
    findings.push(match off {
        off if off > HOUR => Finding::fault(CLOCK, text).hint(hint),
        off if off > MINUTE => Finding::warning(CLOCK, text).hint(hint),
        _ => Finding::ok(CLOCK, "this machine's clock and the authority's agree"),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::finding::Verdict;

    #[test]
    fn what_an_authority_wants_is_told() {
        let mut settings = Settings {
            directory: "https://ca/dir".to_owned(),
            directory_ca: None,
            profile: Some("tiny".to_owned()),
            require_profile: false,
            preferred_chain: None,
            eab: None,
        };
        let mut found = Directory::default();
        let verdicts = |settings: &Settings, found: &Directory, ahead| {
            let findings = judge(settings, found, ahead);
            findings.iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        use Verdict::{Fault, Ok, Warning};
        assert_eq!(verdicts(&settings, &found, 0), [Ok, Warning, Ok]);
        settings.require_profile = true;
        found.meta.external_account_required = true;
        assert_eq!(verdicts(&settings, &found, -61), [Ok, Fault, Fault, Warning]);
        found.meta.profiles.insert("tiny".to_owned(), String::new());
        found.meta.external_account_required = false;
        for (ahead, wanted) in
            [(60, Ok), (61, Warning), (3600, Warning), (3601, Fault), (-9000, Fault)]
        {
            assert_eq!(verdicts(&settings, &found, ahead), [Ok, wanted], "{ahead}");
        }
        let text = |ahead| judge(&settings, &found, ahead)[1].text.clone();
        assert_eq!(text(90), "this machine's clock is 90 s behind the authority's");
        assert_eq!(text(-90), "this machine's clock is 90 s ahead of the authority's");
    }
}
