//! Whether records can be put into the DNS, for the names that are proven by them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;

use super::Subject;
use super::dns::{Trouble, lookup, resolver as asking};
use crate::acme::finding::Finding;
use crate::config::acme::{Acme, ChallengeKind, DnsProvider, Rfc2136};
use crate::net::{Host, HostPattern};

const DNS_01: &str = "dns-01";
const DNS_PERSIST_01: &str = "dns-persist-01";

/// Looks at whoever is to put records up. Changes no zone.
pub(super) async fn look(subject: &Subject, acme: &Acme, patience: Duration) -> Vec<Finding> {
    let is_wild = |name: &HostPattern| matches!(name, HostPattern::Wildcard(_));
    let is_only_way =
        acme.challenges.iter().all(|kind| kind.is_dns()) || subject.names.iter().any(is_wild);
    let mut findings = Vec::new();
    if acme.challenges.contains(&ChallengeKind::Dns01) {
        let finding = match &acme.dns {
            Some(DnsProvider::Run(words)) => words.first().map(|program| runs(program)),
            Some(DnsProvider::Rfc2136(server)) => Some(answers(server, subject, patience).await),
            None => None,
        };
        findings.extend(finding.map(|it| if is_only_way { it } else { it.eased() }));
    }
    if acme.challenges.contains(&ChallengeKind::DnsPersist01) {
        let text = "whether the records that stay are there is not looked at here";
        findings.push(
            Finding::ok(DNS_PERSIST_01, text)
                .hint("`wardgate certs dns-persist NAME` tells which they are"),
        );
    }
    findings
}

/// Whether there is such a program.
fn runs(program: &str) -> Finding {
    let found = candidates(program).into_iter().find(|path| path.is_file());
    let Some(path) = found else {
        return Finding::fault(DNS_01, format!("there is no program {program}"))
            .hint("correct `acme.dns.run`; the gateway's user has to be able to reach it");
    };
    if !is_executable(&path) {
        return Finding::fault(DNS_01, format!("{} cannot be executed", path.display()))
            .hint("`chmod +x` it");
    }
    Finding::ok(DNS_01, format!("records are put up by {}", path.display()))
}

/// Where a program may be.
fn candidates(program: &str) -> Vec<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return vec![path.to_owned()];
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories).map(|directory| directory.join(path)).collect()
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}

/// Windows tells by the name's ending, and by trying.
#[cfg(not(unix))]
fn is_executable(_path: &Path) -> bool {
    true
}

/// Whether the server of dynamic updates answers. Whether it takes them shows only by one.
async fn answers(update: &Rfc2136, subject: &Subject, patience: Duration) -> Finding {
    let shown = format!("{}:{}", update.server, update.port);
    let address = match &update.server {
        Host::Address(address) => Some(*address),
        // As the update itself has it: the hosts file and both kinds of addresses count.
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), update.port))
            .await
            .ok()
            .and_then(|mut found| found.next())
            .map(|address| address.ip()),
    };
    let Some(address) = address else {
        return Finding::fault(DNS_01, format!("{shown}, which takes the records, has no address"));
    };
    let direct = match asking(&[SocketAddr::new(address, update.port)], patience) {
        Ok(direct) => direct,
        Err(finding) => return *finding,
    };
    let zone = match (&update.zone, subject.names.first()) {
        (Some(zone), _) => zone.to_string(),
        (None, Some(HostPattern::Exact(Host::Name(name)) | HostPattern::Wildcard(name))) => {
            name.as_str().to_owned()
        }
        (None, _) => return Finding::ok(DNS_01, format!("records are put up at {shown}")),
    };
    match lookup(&direct, &zone, RecordType::SOA).await {
        Ok(_) | Err(Trouble::NoName | Trouble::NoRecords) => {
            Finding::ok(DNS_01, format!("{shown}, which takes the records, answers"))
        }
        Err(Trouble::Silent) => {
            Finding::fault(DNS_01, format!("{shown}, which takes the records, does not answer"))
                .hint("is it down, or is a firewall in the way?")
        }
        Err(Trouble::Failed(code)) => Finding::warning(
            DNS_01,
            format!("{shown}, which takes the records, says {code} about {zone}"),
        )
        .hint("is it the primary server of that zone?"),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::acme::finding::Verdict;

    #[test]
    fn the_program_has_to_be_there_and_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hook");
        let program = path.to_str().unwrap();
        assert_eq!(runs(program).text, format!("there is no program {program}"));
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(runs(program).text, format!("{program} cannot be executed"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(runs(program).verdict, Verdict::Ok);
        assert_eq!(runs("sh").verdict, Verdict::Ok, "by the path");
        assert_eq!(runs("no-such-program-here").verdict, Verdict::Fault);
    }
}
