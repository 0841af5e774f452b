//! When an authority wants a certificate renewed (RFC 9773).

use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::session::{Authority, CallError};

/// What an authority says about one certificate. Nothing in it is checked: a window may be inverted,
/// long past or in the far future, and what that means is for the scheduler to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenewalInfo {
    /// Start of the window, in seconds since 1970.
    pub start: i64,
    /// End of the window, in seconds since 1970.
    pub end: i64,
    /// A page that says why, for people.
    pub explanation_url: Option<String>,
    /// When to ask again, if it says so.
    pub retry_after: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    suggested_window: Window,
    #[serde(rename = "explanationURL")]
    explanation_url: Option<String>,
}

#[derive(Deserialize)]
struct Window {
    start: String,
    end: String,
}

impl Authority {
    /// Asks about the certificate with this id. `resource` is [`Directory::renewal_info`].
    ///
    /// [`Directory::renewal_info`]: super::session::Directory::renewal_info
    ///
    /// # Errors
    /// [`CallError`], also for moments that are none.
    pub async fn renewal_info(&self, resource: &str, id: &str) -> Result<RenewalInfo, CallError> {
        let url = format!("{}/{id}", resource.trim_end_matches('/'));
        let (document, answer) = self.get::<Document>(&url).await?;
        let moment = |text: &str| {
            let moment = OffsetDateTime::parse(text, &Rfc3339);
            moment
                .map(OffsetDateTime::unix_timestamp)
                .map_err(|error| CallError::Garbled(error.into()))
        };
        Ok(RenewalInfo {
            start: moment(&document.suggested_window.start)?,
            end: moment(&document.suggested_window.end)?,
            explanation_url: document.explanation_url,
            retry_after: answer.retry_after(),
        })
    }
}
