//! Whether the owner of a name lets this authority issue for it (CAA, RFC 8659, and RFC 8657).

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::authority::Issuer;
use super::dns::{Trouble, lookup};
use crate::acme::finding::Finding;
use crate::config::acme::Acme;
use crate::net::{Host, HostPattern};

/// What the records are held against.
pub(super) struct Asked<'a> {
    /// The authorities, in the order of preference.
    pub(super) issuers: &'a [Issuer],
    /// The URL of the account at the first.
    pub(super) account: Option<&'a str>,
    pub(super) acme: &'a Acme,
}

/// A record.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Record {
    is_critical: bool,
    tag: String,
    value: String,
}

const CAA: &str = "caa";

/// Looks for the records that count for `name`.
pub(super) async fn look(
    resolver: &TokioResolver,
    name: &HostPattern,
    asked: &Asked<'_>,
) -> Vec<Finding> {
    let (host, is_wildcard) = match name {
        HostPattern::Exact(Host::Name(name)) => (name, false),
        HostPattern::Wildcard(name) => (name, true),
        // Addresses have none.
        HostPattern::Exact(Host::Address(_)) | HostPattern::Any => return Vec::new(),
    };
    let (at, records) = match climb(resolver, host.as_str()).await {
        Ok(Some(found)) => found,
        Ok(None) => return vec![Finding::ok(CAA, "no records: every authority may issue")],
        Err((at, trouble)) => return vec![unanswered(&at, &trouble)],
    };
    let mut methods: Vec<&str> = asked.acme.challenges.iter().map(|kind| kind.as_str()).collect();
    if is_wildcard {
        methods.retain(|method| method.starts_with("dns-"));
    }
    let judged = asked.issuers.iter().enumerate().map(|(index, issuer)| {
        let account = asked.account.filter(|_| index == 0);
        let finding = judge(&records, &at, is_wildcard, issuer, account, &methods);
        // The others are asked only when the first fails.
        if index > 0 { finding.eased() } else { finding }
    });
    judged.collect()
}

/// The records of `name`, or of the nearest name above it that has some (RFC 8659 §3), and whose they
/// are.
async fn climb(
    resolver: &TokioResolver,
    name: &str,
) -> Result<Option<(String, Vec<Record>)>, (String, Trouble)> {
    let mut at = name;
    loop {
        match lookup(resolver, at, RecordType::CAA).await {
            Ok(found) => {
                return Ok(Some((at.to_owned(), found.iter().filter_map(record).collect())));
            }
            Err(Trouble::NoName | Trouble::NoRecords) => {}
            Err(trouble) => return Err((at.to_owned(), trouble)),
        }
        let Some((_, parent)) = at.split_once('.') else { return Ok(None) };
        at = parent;
    }
}

fn record(data: &RData) -> Option<Record> {
    let RData::CAA(caa) = data else { return None };
    Some(Record {
        is_critical: caa.issuer_critical,
        tag: caa.tag.to_ascii_lowercase(),
        value: String::from_utf8_lossy(&caa.value).into_owned(),
    })
}

fn unanswered(at: &str, trouble: &Trouble) -> Finding {
    let what = match trouble {
        Trouble::Failed(code) => format!("an error: {code}"),
        _ => "no answer".to_owned(),
    };
    Finding::fault(CAA, format!("the question for CAA records of {at} gets {what}"))
        .hint("authorities do not issue then (RFC 8659 §5.6); the zone's servers have to answer it, if with nothing")
}

/// Properties that are known, of which those for mail and logos concern nobody here.
const KNOWN: [&str; 7] =
    ["issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"];

/// What `records`, which are those of `at`, mean for `issuer`.
fn judge(
    records: &[Record],
    at: &str,
    is_wildcard: bool,
    issuer: &Issuer,
    account: Option<&str>,
    methods: &[&str],
) -> Finding {
    let is_unknown = |record: &&Record| record.is_critical && !KNOWN.contains(&&*record.tag);
    if let Some(Record { tag, .. }) = records.iter().find(is_unknown) {
        let text = format!("{at} has a critical record \"{tag}\" that authorities may not know");
        return Finding::warning(CAA, text)
            .hint("an authority that does not know it does not issue");
    }
    let (tag, permissions) = permissions(records, is_wildcard);
    if permissions.is_empty() {
        return Finding::ok(CAA, format!("the records of {at} restrict nothing"));
    }
    let Some(identity) = issuer.identities.first() else {
        let list: Vec<&str> = permissions.iter().map(|one| &*one.issuer).collect();
        let (list, directory) = (list.join("\", \""), &issuer.directory);
        let text = format!("{at} lets \"{list}\" issue; whether that is {directory} is not known");
        return Finding::warning(CAA, text)
            .hint("ask the authority what it is called in CAA records");
    };
    let is_own = |one: &&Permission| {
        issuer.identities.iter().any(|own| own.eq_ignore_ascii_case(&one.issuer))
    };
    let mut text = format!("the records of {at} do not let {identity} issue");
    for permission in permissions.iter().filter(is_own) {
        let allowed = format!("{at} lets {} issue", permission.issuer);
        match permission.obstacle(account, methods) {
            Some(obstacle) => text = format!("{allowed}, but {obstacle}"),
            None if permission.account().is_some() && account.is_none() => {
                let text = format!("{allowed} to one account; there is none here yet to compare");
                return Finding::warning(CAA, text);
            }
            None => return Finding::ok(CAA, allowed),
        }
    }
    Finding::fault(CAA, text).hint(format!("add the record: {at}. CAA 0 {tag} \"{identity}\""))
}

/// The records that say who may issue, and what they are called: for wildcards `issuewild` counts alone,
/// where there is one (RFC 8659 §4.3).
fn permissions(records: &[Record], is_wildcard: bool) -> (&'static str, Vec<Permission>) {
    let tagged = |tag: &str| -> Vec<Permission> {
        let found = records.iter().filter(|record| record.tag == tag);
        found.map(|record| Permission::parse(&record.value)).collect()
    };
    match tagged("issuewild") {
        wild if is_wildcard && !wild.is_empty() => ("issuewild", wild),
        _ => ("issue", tagged("issue")),
    }
}

/// The value of an `issue` or `issuewild` record: `ca.example; accounturi=…; validationmethods=…`.
struct Permission {
    /// Empty lets nobody issue.
    issuer: String,
    parameters: Vec<(String, String)>,
}

impl Permission {
    fn parse(value: &str) -> Self {
        let mut parts = value.split(';').map(str::trim);
        let issuer = parts.next().unwrap_or_default().trim_end_matches('.').to_owned();
        let parameter = |part: &str| {
            let (key, value) = part.split_once('=')?;
            Some((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self { issuer, parameters: parts.filter_map(parameter).collect() }
    }

    fn of(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == key).map(|(_, value)| &**value)
    }

    fn account(&self) -> Option<&str> {
        self.of("accounturi")
    }

    /// Why it is not for us.
    fn obstacle(&self, account: Option<&str>, methods: &[&str]) -> Option<String> {
        if let (Some(wanted), Some(own)) = (self.account(), account)
            && wanted != own
        {
            return Some(format!("to the account {wanted} only, and ours is {own}"));
        }
        let allowed = self.of("validationmethods")?;
        let is_allowed = |method: &&str| allowed.split(',').any(|one| *one.trim() == **method);
        let is_none = !methods.iter().any(is_allowed);
        is_none.then(|| format!("by {allowed} only, and ours are {}", methods.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::finding::Verdict;

    fn records(texts: &[&str]) -> Vec<Record> {
        let record = |text: &&str| {
            let (tag, value) = text.split_once(' ').unwrap();
            Record {
                is_critical: tag.ends_with('!'),
                tag: tag.trim_end_matches('!').to_owned(),
                value: value.to_owned(),
            }
        };
        texts.iter().map(record).collect()
    }

    #[test]
    fn records_are_read_as_authorities_read_them() {
        let known = Issuer {
            directory: "https://ca/dir".to_owned(),
            identities: vec!["ca.example".to_owned(), "ca.example.net".to_owned()],
        };
        let own = "https://ca/acct/1";
        for (texts, is_wildcard, account, wanted, text) in [
            (
                &["iodef mailto:a@b.test"][..],
                false,
                None,
                Verdict::Ok,
                "the records of a.test restrict nothing",
            ),
            (&["issue ca.example"], false, None, Verdict::Ok, "a.test lets ca.example issue"),
            (
                &["issue CA.example.net. ;"],
                false,
                None,
                Verdict::Ok,
                "a.test lets CA.example.net issue",
            ),
            (&["issue other.example", "issue ca.example"], false, None, Verdict::Ok, "a.test lets"),
            (
                &["issue other.example"],
                false,
                None,
                Verdict::Fault,
                "the records of a.test do not let ca.example issue",
            ),
            (&["issue ;"], false, None, Verdict::Fault, "the records of a.test do not let"),
            (
                &["issue ca.example", "issuewild other.example"],
                false,
                None,
                Verdict::Ok,
                "a.test lets",
            ),
            (
                &["issue ca.example", "issuewild other.example"],
                true,
                None,
                Verdict::Fault,
                "the records",
            ),
            (
                &["issue other.example", "issuewild ca.example"],
                true,
                None,
                Verdict::Ok,
                "a.test lets",
            ),
            (
                &["issuewild ca.example"],
                false,
                None,
                Verdict::Ok,
                "the records of a.test restrict nothing",
            ),
            (&["issue ca.example"], true, None, Verdict::Ok, "a.test lets"),
            (
                &["issue ca.example; accounturi=https://ca/acct/1"],
                false,
                Some(own),
                Verdict::Ok,
                "a.test lets ca.example issue",
            ),
            (
                &["issue ca.example; accounturi=https://ca/acct/2"],
                false,
                Some(own),
                Verdict::Fault,
                "a.test lets ca.example issue, but to the account https://ca/acct/2 only",
            ),
            (
                &["issue ca.example; accounturi=https://ca/acct/2"],
                false,
                None,
                Verdict::Warning,
                "a.test lets ca.example issue to one account",
            ),
            (
                &["issue ca.example; validationmethods=dns-01,http-01"],
                false,
                None,
                Verdict::Ok,
                "a.test lets",
            ),
            (
                &["issue ca.example;validationmethods=dns-01"],
                false,
                None,
                Verdict::Fault,
                "a.test lets ca.example issue, but by dns-01 only, and ours are http-01",
            ),
            (
                &["tbs! Unknown", "issue ca.example"],
                false,
                None,
                Verdict::Warning,
                "a.test has a critical record \"tbs\"",
            ),
            (&["tbs Unknown", "issue ca.example"], false, None, Verdict::Ok, "a.test lets"),
        ] {
            let finding =
                judge(&records(texts), "a.test", is_wildcard, &known, account, &["http-01"]);
            assert!(
                finding.verdict == wanted && finding.text.starts_with(text),
                "{texts:?}: {finding:?}"
            );
        }
        let nameless = Issuer { directory: "https://ca/dir".to_owned(), identities: Vec::new() };
        let finding = judge(&records(&["issue x.example"]), "a.test", false, &nameless, None, &[]);
        assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
    }
}
