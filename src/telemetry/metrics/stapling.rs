//! What is counted of OCSP stapling.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Metrics;
use super::family;
use super::render::{read, write_words};
use super::text::Text;

/// What is counted of OCSP stapling.
#[derive(Debug, Default)]
pub struct StaplingMetrics {
    responses: [AtomicU64; RESULTS.len()],
    stapled: AtomicU64,
}

/// What a responder was found to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// The certificate is good.
    Good,
    /// It is revoked.
    Revoked,
    /// Nothing that can be served.
    Nothing,
}

/// The words for [`Said`].
const RESULTS: [&str; 3] = ["good", "revoked", "failed"];

impl StaplingMetrics {
    /// Counts a question to a certificate's responders.
    pub fn asked(&self, said: Said) {
        self.responses[said as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many certificates are served with a staple from here on.
    pub fn set_stapled(&self, count: usize) {
        self.stapled.store(count as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(super) fn write_stapling(&self, text: &mut Text) {
        let StaplingMetrics { responses, stapled } = &self.stapling;
        write_words(text, &family::OCSP_RESPONSES, &[], &RESULTS, responses);
        text.sample(&family::STAPLED, &[], read(stapled));
    }
}
