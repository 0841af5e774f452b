//! Which of two pairs of one certificate is the newer one, wherever they were made.

use std::fmt;
use std::str::FromStr;

/// Tells a certificate's pairs apart and puts them in order. Instances that were cut off from each
/// other may count the same revision twice; all of them then prefer the same one.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// Counts the pairs that were saved.
    pub revision: u64,
    /// When the certificate begins.
    pub not_before: i64,
    /// Names it.
    pub tag: String,
}

/// It is no version.
#[derive(Debug, thiserror::Error)]
#[error("no version of a certificate")]
pub struct NoVersion;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.revision, self.not_before, self.tag)
    }
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or(NoVersion);
        let revision = next()?.parse().map_err(|_| NoVersion)?;
        let not_before = next()?.parse().map_err(|_| NoVersion)?;
        let tag = next()?.to_owned();
        match parts.next() {
            None => Ok(Self { revision, not_before, tag }),
            Some(_) => Err(NoVersion),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_counts_first_and_then_when_it_begins() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        let sorted = ["1 9 b", "2 -3 a", "2 5 a", "2 5 b", "10 1 a"];
        for pair in sorted.windows(2) {
            assert!(parse(pair[0]) < parse(pair[1]), "{pair:?}");
        }
        for text in sorted {
            assert_eq!(parse(text).to_string(), text);
        }
        for text in ["", "1", "1 2", "a 2 b", "1 2 b c"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
