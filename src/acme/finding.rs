//! What was looked at and how it stands, for people and for programs.

use std::error::Error;
use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What, in a word or two: `dns`, `port 80`.
    pub what: &'static str,
    /// The name that it is about, where it is about one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, one sentence without a period.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a thing stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It may be in the way, or nobody can tell from here.
    Warning,
    /// It is in the way.
    Fault,
}

impl Finding {
    /// One that is as it should be.
    pub fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, name: None, verdict: Verdict::Ok, text: text.into(), hint: None }
    }

    /// One that may be in the way.
    pub fn warning(what: &'static str, text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::ok(what, text) }
    }

    /// One that is in the way.
    pub fn fault(what: &'static str, text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fault, ..Self::ok(what, text) }
    }

    /// The same about one of several names.
    #[must_use]
    pub fn of(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same where another way is open: in the way of nothing.
    #[must_use]
    pub(super) fn eased(self) -> Self {
        Self { verdict: self.verdict.min(Verdict::Warning), ..self }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether one of them is in the way.
#[must_use]
pub fn has_fault(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Fault)
}

/// An error with everything behind it.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
