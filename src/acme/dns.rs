//! DNS-01 (RFC 8555 §8.4): records that prove a name, who puts them up, and whether they are seen.
//!
//! Answers "does every server of the zone show the record?" before an authority looks, since what it
//! does not find then counts as a failure against the name. A program of the operator's puts records
//! up, or an update at the zone's primary server does (RFC 2136).

mod persist;
mod program;
mod propagation;
mod update;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::config::acme::{DnsProvider, Rfc2136};
pub use persist::{Binding, BindingError, Missing, Persist};
pub(super) use persist::{METHOD as DNS_PERSIST_01, Wanted, covering};
pub use program::Program;
pub(in crate::acme) use program::last_words;
use update::Place;
pub use update::UpdateError;

/// How names are proven by DNS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Who puts records up.
    pub provider: Provider,
    /// Which servers have to show a record; `None` asks DNS for those of the zone.
    pub servers: Option<Vec<SocketAddr>>,
    /// How long to wait until they do. Default 10 min.
    pub patience: Duration,
}

/// Who puts records up and takes them down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Provider {
    /// A program.
    Run(Program),
    /// Dynamic updates of the zone.
    Update(Rfc2136),
}

/// A TXT record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// `_acme-challenge.example.com`, without a dot at the end.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// A record that is up until it is cleaned up. Dropped before that, it starts the clean-up and does
/// not wait for it.
#[derive(Debug)]
pub struct Presented(Option<Up>);

/// What is up, and how it comes down.
#[derive(Debug)]
enum Up {
    Run(Program, Record),
    Update(Box<Place>),
}

/// Why a record proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The program cannot be run.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program says that it failed.
    #[error("{} ended with {status}: {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        said: String,
    },
    /// The program does not end.
    #[error("{} did not end within {patience:?}", program.display())]
    Endless {
        /// The program.
        program: PathBuf,
        /// The time allowed.
        patience: Duration,
    },
    /// The zone cannot be updated.
    #[error("cannot update the zone")]
    Update(#[from] UpdateError),
    /// The record cannot be seen.
    #[error("{server} does not show the TXT record of {name} after {patience:?}")]
    NotSeen {
        /// The record's name.
        name: String,
        /// A server that does not show it.
        server: String,
        /// The time allowed.
        patience: Duration,
    },
    /// Records that have to stay are not there.
    #[error("the DNS does not show what dns-persist-01 takes; put up, to stay: {}", listed(.0))]
    NotPut(Vec<Missing>),
    /// The system's DNS settings cannot be read.
    #[error("the system's DNS settings cannot be used")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Dns {
    /// With a program that puts records up.
    #[must_use]
    pub fn run(program: impl Into<PathBuf>) -> Self {
        Self::with(Provider::Run(Program::new(program)))
    }

    /// With updates of the zone.
    #[must_use]
    pub fn update(server: Rfc2136) -> Self {
        Self::with(Provider::Update(server))
    }

    fn with(provider: Provider) -> Self {
        Self { provider, servers: None, patience: PROPAGATION_PATIENCE }
    }

    /// The same with `arguments` before what the program is to do. Updates have none.
    #[must_use]
    pub fn with_arguments(mut self, arguments: impl IntoIterator<Item: Into<String>>) -> Self {
        if let Provider::Run(program) = &mut self.provider {
            program.arguments = arguments.into_iter().map(Into::into).collect();
        }
        self
    }

    /// Puts `record` up.
    ///
    /// # Errors
    /// [`DnsError`] of the provider.
    pub async fn present(&self, record: Record) -> Result<Presented, DnsError> {
        match &self.provider {
            Provider::Run(program) => {
                let presented = Presented(Some(Up::Run(program.clone(), record.clone())));
                let outcome = program.run("present", &record).await;
                // Whatever a program that fails has done already is taken down with the rest.
                presented.kept_if(outcome, |_| true).await
            }
            Provider::Update(server) => {
                let place = Place::find(server, &record).await?;
                let presented = Presented(Some(Up::Update(Box::new(place.clone()))));
                let outcome = place.put_up().await.map_err(DnsError::Update);
                // What the server refuses is not there; what it leaves open may be.
                let is_open = |error: &DnsError| match error {
                    DnsError::Update(error) => error.is_open(),
                    _ => true,
                };
                presented.kept_if(outcome, is_open).await
            }
        }
    }

    /// Waits until all of `records` are seen.
    ///
    /// # Errors
    /// [`DnsError::NotSeen`] after [`Dns::patience`].
    pub async fn wait_for(&self, records: &[Record]) -> Result<(), DnsError> {
        propagation::wait(records, self.servers.as_deref(), self.patience).await
    }
}

impl From<&DnsProvider> for Dns {
    fn from(provider: &DnsProvider) -> Self {
        match provider {
            DnsProvider::Run(run) => {
                let program = run.first().map(String::as_str).unwrap_or_default();
                Self::run(program).with_arguments(run.iter().skip(1))
            }
            DnsProvider::Rfc2136(server) => Self::update(server.clone()),
        }
    }
}

/// Slow providers take minutes; what takes longer is broken.
const PROPAGATION_PATIENCE: Duration = Duration::from_secs(10 * 60);

impl Record {
    /// The record that proves `name`, which may be a wildcard, by `key_authorization`.
    #[must_use]
    pub fn new(name: &str, key_authorization: &str) -> Self {
        let name = name.strip_prefix("*.").unwrap_or(name);
        let value = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key_authorization.as_bytes()));
        Self { name: format!("_acme-challenge.{name}"), value }
    }
}

impl fmt::Display for Record {
    /// As a line of a zone's file, the text in pieces of at most 255 bytes (RFC 1035 §3.3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN TXT", self.name)?;
        let mut rest = self.value.as_str();
        loop {
            let (piece, more) = rest.split_at(rest.floor_char_boundary(255));
            write!(f, " \"{}\"", piece.replace('\\', "\\\\").replace('"', "\\\""))?;
            if more.is_empty() {
                return Ok(());
            }
            rest = more;
        }
    }
}

fn listed(missing: &[Missing]) -> String {
    let lines = missing.iter().map(|it| format!("{} (missing at {})", it.record, it.server));
    lines.collect::<Vec<_>>().join("; ")
}

impl Presented {
    /// Takes the record down. A failure is logged: the proof is over, whatever is left of it.
    pub async fn clean_up(mut self) {
        let Some(up) = &self.0 else { return };
        let outcome = match up {
            Up::Run(program, record) => program.run("cleanup", record).await,
            Up::Update(place) => place.take_down().await.map_err(DnsError::Update),
        };
        if let Err(error) = outcome {
            tell_left(up.name(), &error);
        }
        self.0 = None;
    }

    /// Itself, where putting it up went well; else it is cleaned up where something `may_be_up`.
    async fn kept_if(
        mut self,
        outcome: Result<(), DnsError>,
        may_be_up: impl Fn(&DnsError) -> bool,
    ) -> Result<Self, DnsError> {
        let Err(error) = outcome else { return Ok(self) };
        if may_be_up(&error) {
            self.clean_up().await;
        } else {
            self.0 = None;
        }
        Err(error)
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        let Some(up) = self.0.take() else { return };
        let started = match &up {
            Up::Run(program, record) => program.start_clean_up(record).map_err(Into::into),
            Up::Update(place) => place.start_take_down(),
        };
        if let Err(error) = started {
            tell_left(up.name(), &*error);
        }
    }
}

impl Up {
    fn name(&self) -> &str {
        match self {
            Self::Run(_, record) => &record.name,
            Self::Update(place) => place.name(),
        }
    }
}

fn tell_left(record: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(record, error, "could not clean up");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_digest_at_the_name_below_the_star() {
        let record = Record::new("*.example.org", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA");
        assert_eq!(record.name, "_acme-challenge.example.org");
        assert_eq!(
            record,
            Record::new("example.org", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA")
        );
        assert_eq!(record.value.len(), 43);
    }

    #[test]
    fn a_long_text_is_written_in_pieces() {
        let record = |value: String| Record { name: "a.test".into(), value }.to_string();
        assert_eq!(record("a \"b\"".into()), "a.test. IN TXT \"a \\\"b\\\"\"");
        let (first, second) = ("x".repeat(255), "y".repeat(3));
        assert_eq!(
            record(format!("{first}{second}")),
            format!("a.test. IN TXT \"{first}\" \"{second}\"")
        );
    }
}
