//! The revocation lists of a rule: which of them count, and until when.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::CertificateRevocationList;

use super::subject;
use crate::tls::certificate::system_time;
use crate::tls::health::{Health, Lifetime};

/// A revocation list that counts. Once it is over, the certificates of its CA are refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevocationList {
    /// The file that it stands in.
    pub path: PathBuf,
    /// The CA whose list it is, a distinguished name by RFC 4514.
    pub issuer: String,
    /// From its making to the moment at which the next one is due.
    pub lifetime: Lifetime,
}

/// A list as it stands in a file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) der: CertificateRevocationListDer<'static>,
    pub(super) about: RevocationList,
    covers: Covers,
}

/// Which certificates a list is about: the CA's name, and which of its certificates, both in DER.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Covers(Vec<u8>, Option<Vec<u8>>);

impl RevocationList {
    /// What its age means at `now`.
    #[must_use]
    pub fn health(&self, now: SystemTime) -> Health {
        self.lifetime.health(now)
    }
}

impl Found {
    /// The list `der`, read as `parsed`, of the file at `path`. `None` when it does not say when the next
    /// one is due.
    pub(super) fn new(
        path: &Path,
        der: CertificateRevocationListDer<'static>,
        parsed: &CertificateRevocationList<'_>,
    ) -> Option<Self> {
        let (begin, end) = (system_time(parsed.last_update()), system_time(parsed.next_update()?));
        let issuer = subject::rfc4514(parsed.issuer());
        let lifetime = Lifetime { begin, end };
        let about = RevocationList { path: path.to_owned(), issuer, lifetime };
        let mut extensions = parsed.extensions().iter();
        let part = extensions.find(|it| it.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
        let covers =
            Covers(parsed.issuer().as_raw().to_vec(), part.map(|part| part.value.to_vec()));
        Some(Self { der, about, covers })
    }
}

/// Puts the newest first, and returns those that count: of several about the same certificates the first.
pub(super) fn counting(lists: &mut [Found]) -> Vec<RevocationList> {
    lists.sort_by_key(|list| std::cmp::Reverse(list.about.lifetime.begin));
    let mut seen = HashSet::new();
    let first = lists.iter().filter(|list| seen.insert(list.covers.clone()));
    first.map(|list| list.about.clone()).collect()
}

/// Each file and CA of `lists` once, in order, with the list that ends first.
pub(super) fn by_file<'l>(lists: impl Iterator<Item = &'l RevocationList>) -> Vec<RevocationList> {
    let mut all: Vec<RevocationList> = lists.cloned().collect();
    let key = |it: &RevocationList| (it.path.clone(), it.issuer.clone(), it.lifetime.end);
    all.sort_by_cached_key(key);
    all.dedup_by(|later, first| later.path == first.path && later.issuer == first.issuer);
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found(path: &str, covers: (u8, Option<u8>), (begin, end): (u64, u64)) -> Found {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let lifetime = Lifetime { begin: at(begin), end: at(end) };
        let issuer = format!("CN={}", covers.0);
        let covers = Covers(vec![covers.0], covers.1.map(|part| vec![part]));
        let about = RevocationList { path: path.into(), issuer, lifetime };
        Found { der: Vec::new().into(), about, covers }
    }

    #[test]
    fn of_lists_about_the_same_certificates_the_newest_counts() {
        let mut lists = [
            found("old", (1, None), (10, 20)),
            found("new", (1, None), (30, 90)),
            found("part", (1, Some(1)), (20, 40)),
            found("other", (2, None), (10, 50)),
        ];
        let counting = counting(&mut lists);
        let names: Vec<_> = counting.iter().map(|it| it.path.to_str().unwrap()).collect();
        assert_eq!(names, ["new", "part", "other"]);
        assert_eq!(lists[0].about.path, Path::new("new"), "the library takes the first");
    }

    #[test]
    fn a_file_has_one_end_for_each_ca() {
        let lists = [
            found("b", (1, Some(1)), (10, 90)),
            found("b", (1, Some(2)), (20, 40)),
            found("b", (2, None), (10, 50)),
            found("a", (1, None), (10, 70)),
            found("a", (1, None), (10, 70)),
        ];
        let seen: Vec<_> = by_file(lists.iter().map(|it| &it.about))
            .into_iter()
            .map(|it| (it.path, it.issuer, it.lifetime.end))
            .collect();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let wanted = [("a", "CN=1", 70), ("b", "CN=1", 40), ("b", "CN=2", 50)];
        let wanted = wanted.map(|(path, ca, end)| (PathBuf::from(path), ca.to_owned(), at(end)));
        assert_eq!(seen, wanted);
    }
}
