//! The patterns that sites and certificates are filed under.
//!
//! Answers "does this site cover that host?" for configuration, sites and certificates alike.

use std::fmt;
use std::str::FromStr;

use super::{Host, HostError, HostName, HostRef};

/// What a site or a certificate covers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPattern {
    /// This host.
    Exact(Host),
    /// `*.example.com`: exactly one more label; holds `example.com`.
    Wildcard(HostName),
    /// `*`: every host.
    Any,
}

impl HostPattern {
    /// Parses `"*.example.com"`, `"*"`, a name or an address.
    ///
    /// # Errors
    /// [`HostPatternError`], also for a `*` anywhere but as the whole first label.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.contains('*') {
            return Err(HostPatternError::Wildcard);
        }
        if wildcard {
            let parent = HostName::parse(rest).map_err(HostError::Name)?;
            return Ok(Self::Wildcard(parent));
        }
        Ok(Self::Exact(Host::parse(rest)?))
    }

    /// Whether `host` is one of the pattern's.
    #[must_use]
    pub fn covers<'h>(&self, host: impl Into<HostRef<'h>>) -> bool {
        match (self, host.into()) {
            (Self::Any, _) => true,
            (Self::Exact(Host::Address(ours)), HostRef::Address(theirs)) => *ours == theirs,
            (Self::Exact(Host::Name(ours)), HostRef::Name(theirs)) => {
                ours.as_str() == theirs.as_str()
            }
            (Self::Wildcard(ours), HostRef::Name(theirs)) => theirs.parent() == Some(ours.as_str()),
            (Self::Exact(_) | Self::Wildcard(_), _) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.pad("*"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text is no host pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostPatternError {
    /// `w*.example.com`, `www.*`, `*.*.com`.
    #[error("`*` can only stand alone or for the whole first label, as in `*.example.com`")]
    Wildcard,
    /// Not a wildcard, and no host either.
    #[error(transparent)]
    Host(#[from] HostError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_its_hosts_and_no_others() {
        let rows = [
            ("example.com", "example.com", true),
            ("EXAMPLE.com", "example.com", true),
            ("example.com", "www.example.com", false),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.www.example.com", false),
            ("*.example.com", "www.example.org", false),
            ("*", "anything", true),
            ("*", "::1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("[::1]", "::1", true),
            ("*.example.com", "10.0.0.1", false),
            ("*.bücher.example", "www.xn--bcher-kva.example", true),
        ];
        for (pattern, host, covered) in rows {
            let parsed = HostPattern::parse(pattern).unwrap();
            assert_eq!(parsed.covers(&Host::parse(host).unwrap()), covered, "{pattern} {host}");
            assert_eq!(HostPattern::parse(&parsed.to_string()), Ok(parsed), "{pattern}");
        }
    }

    #[test]
    fn a_star_elsewhere_is_no_pattern() {
        for text in ["w*.example.com", "www.*", "*.*.com", "**", "*example.com", "a.*.b"] {
            assert_eq!(HostPattern::parse(text), Err(HostPatternError::Wildcard), "{text}");
        }
        for text in ["", "*.", "*.1.2.3.4", "a b", "example.com:443", "*.example.com/"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
