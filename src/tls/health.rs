//! How near its end a certificate or a revocation list is, and what that means for whoever watches it.
//!
//! Measured in shares of its lifetime: a certificate of six days and one of a year are renewed at
//! other moments, and have the same trouble at the same share.

use std::time::{Duration, SystemTime};

use crate::tls::Leaf;

/// From when until when something counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetime {
    /// Its first moment.
    pub begin: SystemTime,
    /// The first moment after it.
    pub end: SystemTime,
}

/// How near its end something is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ending {
    /// A quarter of its lifetime is left: it should have been renewed.
    Quarter,
    /// An eighth is left.
    Eighth,
    /// A twentieth is left.
    Twentieth,
    /// It has ended.
    Over,
}

/// What the age of a certificate or of a revocation list means. A certificate is served whatever this is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    /// More than an eighth of its lifetime is left.
    Good,
    /// An eighth is left or less; or there is none yet that clients trust.
    Degraded,
    /// A twentieth is left or less, or it has ended.
    Failing,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Quarter, Self::Eighth, Self::Twentieth, Self::Over];

    /// The share that is left, for people.
    #[must_use]
    pub fn share(self) -> &'static str {
        match self {
            Self::Quarter => "1/4",
            Self::Eighth => "1/8",
            Self::Twentieth => "1/20",
            Self::Over => "0",
        }
    }

    /// What it means.
    #[must_use]
    pub fn health(self) -> Health {
        match self {
            Self::Quarter => Health::Good,
            Self::Eighth => Health::Degraded,
            Self::Twentieth | Self::Over => Health::Failing,
        }
    }

    fn begins(self, life: Lifetime) -> SystemTime {
        let length = life.end.duration_since(life.begin).unwrap_or_default();
        let left = match self {
            Self::Quarter => length / 4,
            Self::Eighth => length / 8,
            Self::Twentieth => length / 20,
            Self::Over => Duration::ZERO,
        };
        life.end.checked_sub(left).unwrap_or(life.end)
    }
}

impl Health {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

impl Lifetime {
    /// How near its end it is at `now`; `None` while more than a quarter of it is left.
    #[must_use]
    pub fn ending(self, now: SystemTime) -> Option<Ending> {
        Ending::ALL.into_iter().rev().find(|ending| ending.begins(self) <= now)
    }

    /// When that changes next; `None` once it is over.
    #[must_use]
    pub fn next_ending(self, now: SystemTime) -> Option<SystemTime> {
        Ending::ALL.into_iter().map(|ending| ending.begins(self)).find(|begins| *begins > now)
    }

    /// What its age means at `now`.
    #[must_use]
    pub fn health(self, now: SystemTime) -> Health {
        self.ending(now).map_or(Health::Good, Ending::health)
    }
}

impl Leaf {
    /// While it is valid.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        // The last second is valid (RFC 5280 §4.1.2.5).
        let end = self.not_after.checked_add(Duration::from_secs(1)).unwrap_or(self.not_after);
        Lifetime { begin: self.not_before, end }
    }

    /// What its age means at `now`.
    #[must_use]
    pub fn health(&self, now: SystemTime) -> Health {
        self.lifetime().health(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Fingerprint;

    #[test]
    fn shares_are_of_the_whole_lifetime_and_the_last_second_counts() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let leaf = Leaf {
            names: Vec::new(),
            not_before: at(1000),
            not_after: at(1000 + 8000 - 1),
            issuer: String::new(),
            subject: String::new(),
            serial: Box::default(),
            fingerprint: Fingerprint::of(&[]),
        };
        for (now, ending, health, next) in [
            (1000, None, Health::Good, Some(7000)),
            (6999, None, Health::Good, Some(7000)),
            (7000, Some(Ending::Quarter), Health::Good, Some(8000)),
            (8000, Some(Ending::Eighth), Health::Degraded, Some(8600)),
            (8600, Some(Ending::Twentieth), Health::Failing, Some(9000)),
            (8999, Some(Ending::Twentieth), Health::Failing, Some(9000)),
            (9000, Some(Ending::Over), Health::Failing, None),
        ] {
            assert_eq!(leaf.lifetime().ending(at(now)), ending, "{now}");
            assert_eq!(leaf.health(at(now)), health, "{now}");
            assert_eq!(leaf.lifetime().next_ending(at(now)), next.map(at), "{now}");
        }
    }
}
