//! What the storage says: whether something can be kept there, and how the certificate stands.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use super::Subject;
use crate::acme::finding::{Finding, told};
use crate::acme::state::{Record, State};
use crate::acme::storage::{AuthorityId, Place, Storage, StoreError};
use crate::config::acme::Acme;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) findings: Vec<Finding>,
    /// The URL of the account at the first authority.
    pub(super) account: Option<String>,
}

/// What is read of `account.json`.
#[derive(Deserialize)]
struct Account {
    credentials: String,
}

#[derive(Deserialize)]
struct Credentials {
    id: String,
}

const STORAGE: &str = "storage";
const RECORD: &str = "record";

/// Looks below `root`.
pub(super) async fn look(root: &Path, subject: &Subject, acme: &Acme) -> Kept {
    let (root, subject) = (root.to_owned(), subject.clone());
    let directory = acme.authority.directory.clone();
    let looked = tokio::task::spawn_blocking(move || look_at(&root, &subject, &directory)).await;
    looked.unwrap_or_default()
}

fn look_at(root: &Path, subject: &Subject, directory: &str) -> Kept {
    let shown = root.display();
    match root.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("{shown} does not exist yet: the gateway makes it");
            return Kept { findings: vec![Finding::ok(STORAGE, text)], account: None };
        }
        Err(error) => {
            let text = format!("{shown} cannot be looked at: {error}");
            let finding = Finding::warning(STORAGE, text).hint(AS_OWNER);
            return Kept { findings: vec![finding], account: None };
        }
        Ok(_) => {}
    }
    // Whatever is made or written by another user is in the gateway's way from then on.
    if let Some(finding) = is_anothers(root) {
        return Kept { findings: vec![finding], account: None };
    }
    if !root.join("live").is_dir() {
        let text = format!("nothing is kept in {shown} yet");
        return Kept { findings: vec![Finding::ok(STORAGE, text)], account: None };
    }
    let mut findings: Vec<Finding> = open_to_others(root).into_iter().collect();
    match Storage::open(root) {
        Err(error) => {
            findings.push(Finding::fault(STORAGE, told(&error)).hint(WRITABLE));
            Kept { findings, account: None }
        }
        Ok(storage) => {
            findings.push(room(&storage, subject, root));
            findings.extend(standing(&storage, subject));
            Kept { findings, account: account(&storage, directory) }
        }
    }
}

const AS_OWNER: &str = "run this as the gateway's user, or as root where that is root";
const WRITABLE: &str = "the gateway's user has to own `storage:` and be able to write there";

/// Whether something can be saved.
fn room(storage: &Storage, subject: &Subject, root: &Path) -> Finding {
    let shown = root.display();
    let lock = match storage.lock(&subject.id) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            let text =
                "the certificate is being ordered right now: whether there is room was not tried";
            return Finding::ok(STORAGE, text);
        }
        Err(error) => return Finding::fault(STORAGE, told(&error)).hint(WRITABLE),
    };
    match storage.has_room(&lock) {
        Ok(()) => Finding::ok(STORAGE, format!("{shown} can be written, and there is room")),
        Err(error) if error.is_full() => {
            Finding::fault(STORAGE, format!("there is no room in {shown}")).hint("make some")
        }
        Err(error) => Finding::fault(STORAGE, told(&error)).hint(WRITABLE),
    }
}

/// How the certificate stands.
fn standing(storage: &Storage, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    match storage.load(Place::Imported, &subject.id) {
        Ok(found) => {
            if let Some(brought) = found.generation {
                findings.push(imported(&brought.certificate.uncovered(&subject.all).is_empty()));
            }
        }
        Err(error) => findings.push(unreadable(&error)),
    }
    match storage.record(&subject.id) {
        Ok(None) => findings.push(Finding::ok(RECORD, "it was not ordered before")),
        Ok(Some(record)) => findings.push(judge(&record)),
        Err(error) => findings.push(unreadable(&error)),
    }
    findings
}

fn unreadable(error: &StoreError) -> Finding {
    Finding::fault(RECORD, told(error)).hint(WRITABLE)
}

fn imported(is_whole: &bool) -> Finding {
    if *is_whole {
        Finding::ok(
            RECORD,
            "a certificate was imported for it: nothing is ordered before that ends",
        )
    } else {
        Finding::warning(RECORD, "the certificate that was imported lacks a name of the site")
            .hint("it is not served; import another, or remove it")
    }
}

/// What the record means.
fn judge(record: &Record) -> Finding {
    let because = |text: String| match &record.last_problem {
        Some(problem) => format!("{text}: {}", problem.detail),
        None => text,
    };
    match &record.state {
        State::Blocked { reason, link } => {
            let hint = match link {
                Some(link) => format!("see {link}, then reload the gateway"),
                None => "change what it says, then reload the gateway".to_owned(),
            };
            Finding::fault(RECORD, format!("ordering has stopped: {reason}")).hint(hint)
        }
        State::Limited { until, .. } => {
            let text = because(format!("a rate limit is in force until {}", moment(*until)));
            Finding::fault(RECORD, text).hint("nothing helps but to wait; it goes on by itself")
        }
        State::Backoff { fails, until, problem } => Finding::warning(
            RECORD,
            format!(
                "it has failed {fails} times, the next try is at {}: {}",
                moment(*until),
                problem.detail
            ),
        ),
        State::Missing => Finding::ok(RECORD, "it was not ordered before"),
        State::Active => Finding::ok(RECORD, "there is one in service"),
        State::Expired => {
            Finding::warning(RECORD, because("the one in service has ended".to_owned()))
        }
        State::Revoked => {
            Finding::warning(RECORD, because("the one in service was revoked".to_owned()))
        }
        State::Due { .. }
        | State::Ordering
        | State::Validating
        | State::Finalizing
        | State::Installing => Finding::ok(RECORD, "it is being ordered"),
    }
}

fn moment(at: i64) -> String {
    let since = Duration::from_secs(u64::try_from(at).unwrap_or_default());
    httpdate::fmt_http_date(UNIX_EPOCH + since)
}

/// The account's URL.
fn account(storage: &Storage, directory: &str) -> Option<String> {
    let kept: Account = storage.account(&AuthorityId::new(directory)).ok()??;
    let credentials: Credentials = serde_json::from_str(&kept.credentials).ok()?;
    Some(credentials.id)
}

/// Whether the directory belongs to another user than this process's.
#[cfg(target_os = "linux")]
fn is_anothers(root: &Path) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt;
    let owner = root.metadata().ok()?.uid();
    let own = Path::new("/proc/self").metadata().ok()?.uid();
    (owner != own).then(|| {
        let text = format!(
            "{} belongs to user {owner}, and this is user {own}: not tried",
            root.display()
        );
        Finding::warning(STORAGE, text).hint(AS_OWNER)
    })
}

/// Elsewhere nobody tells without much ado.
#[cfg(not(target_os = "linux"))]
fn is_anothers(_root: &Path) -> Option<Finding> {
    None
}

/// A directory with keys that others can enter. The gateway closes it.
#[cfg(unix)]
fn open_to_others(root: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let open = ["accounts", "live", "imported"]
        .map(|name| root.join(name))
        .into_iter()
        .find(|path| path.metadata().is_ok_and(|found| found.permissions().mode() & 0o077 != 0))?;
    let text = format!("{} was open to other users", open.display());
    Some(
        Finding::warning(STORAGE, text)
            .hint("it is closed now; were they to see keys, order new ones"),
    )
}

/// Windows answers this with access lists, which std does not read.
#[cfg(not(unix))]
fn open_to_others(_root: &Path) -> Option<Finding> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::backoff::Scope;
    use crate::acme::finding::Verdict;
    use crate::acme::state::{LastProblem, Target};
    use crate::acme::storage::CertId;

    fn subject() -> Subject {
        Subject { id: CertId::new("a.test"), names: Vec::new(), all: Vec::new() }
    }

    #[test]
    fn the_record_tells_what_is_in_the_way() {
        let problem = LastProblem { detail: "no such host".into(), ..LastProblem::default() };
        let blocked = State::Blocked { reason: "paused".into(), link: Some("https://ca/x".into()) };
        let limited =
            State::Limited { until: 86_400, scope: Scope::Authority, directory: String::new() };
        let backoff = State::Backoff { fails: 3, until: 86_400, problem: problem.clone() };
        for (state, verdict, text) in [
            (State::Active, Verdict::Ok, "there is one in service"),
            (State::Missing, Verdict::Ok, "it was not ordered before"),
            (State::Ordering, Verdict::Ok, "it is being ordered"),
            (State::Expired, Verdict::Warning, "the one in service has ended: no such host"),
            (blocked, Verdict::Fault, "ordering has stopped: paused"),
            (limited, Verdict::Fault, "a rate limit is in force until Fri, 02 Jan 1970"),
            (
                backoff,
                Verdict::Warning,
                "it has failed 3 times, the next try is at Fri, 02 Jan 1970 00:00:00 GMT: no such host",
            ),
        ] {
            let last_problem = Some(problem.clone());
            let finding = judge(&Record { state, last_problem, ..Record::default() });
            assert!(finding.verdict == verdict && finding.text.starts_with(text), "{finding:?}");
        }
    }

    #[test]
    fn the_storage_is_looked_at_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let look = |path: &Path| look_at(path, &subject(), "https://ca/dir");
        let first = |kept: &Kept| (kept.findings[0].verdict, kept.findings[0].text.clone());
        let absent = root.path().join("absent");
        assert!(first(&look(&absent)).1.ends_with("does not exist yet: the gateway makes it"));
        assert!(first(&look(root.path())).1.starts_with("nothing is kept in"));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);

        let storage = Storage::open(root.path()).unwrap();
        let authority = AuthorityId::new("https://ca/dir");
        let lock = storage.lock_account(&authority).unwrap().unwrap();
        let credentials = r#"{"id":"https://ca/acct/1","key_pkcs8":"x"}"#;
        let kept = serde_json::json!({ "credentials": credentials, "made_at": 1 });
        storage.keep_account(&lock, &kept).unwrap();
        let good = look(root.path());
        assert!(first(&good).1.ends_with("can be written, and there is room"), "{good:?}");
        assert_eq!(good.account.as_deref(), Some("https://ca/acct/1"));

        let held = storage.lock(&subject().id).unwrap().unwrap();
        let record = Record::new(Target::new(vec!["a.test".into()], "https://ca/dir", None), 5);
        storage.keep_record(&held, &record).unwrap();
        assert!(first(&look(root.path())).1.starts_with("the certificate is being ordered"));
        drop(held);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let live = root.path().join("live");
            std::fs::set_permissions(&live, std::fs::Permissions::from_mode(0o755)).unwrap();
            let open = look(root.path());
            assert_eq!(first(&open).0, Verdict::Warning);
            assert!(first(&open).1.ends_with("live was open to other users"), "{open:?}");
        }
    }
}
