//! One look for what is said about a certificate: on the disk, then at its responders.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;

use super::fetch::{Client, FetchError, ways};
use super::shelf::Shelf;
use crate::tls::ocsp::{QuestionError, ResponseError, Staple, Subject};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// One certificate that is to be asked about.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) subject: Arc<Subject>,
    /// What is known.
    pub(super) known: Option<Arc<Staple>>,
    pub(super) shelf: Shelf,
    pub(super) client: Arc<Client>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) staple: Arc<Staple>,
    /// Whether a responder was asked, and has not been before by another process.
    pub(super) is_asked: bool,
    /// Why it could not be kept.
    pub(super) unsaved: Option<std::io::Error>,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the answer of {responder} cannot be served")]
    Response { responder: String, source: ResponseError },
    #[error("the answer of {responder} is older than what it said before")]
    Older { responder: String },
    #[error("the certificate's issuer is not in its chain, and cannot be had from {url}")]
    Issuer { url: String, source: Cause },
    #[error("it panicked")]
    Panicked,
}

impl Job {
    pub(super) async fn run(self) -> Result<Found, AskError> {
        if let Some(staple) = self.look().await? {
            return Ok(Found { staple: Arc::new(staple), is_asked: false, unsaved: None });
        }
        if self.subject.needs_issuer() {
            self.find_issuer().await?;
        }
        let staple = Arc::new(self.ask().await?);
        let kept = Arc::clone(&staple);
        let kept = blocking(move || self.shelf.keep(&self.subject, &kept)).await?;
        Ok(Found { staple, is_asked: true, unsaved: kept.err() })
    }

    /// What another process has learnt.
    async fn look(&self) -> Result<Option<Staple>, AskError> {
        let (shelf, subject) = (self.shelf.clone(), Arc::clone(&self.subject));
        let now = SystemTime::now();
        let found = blocking(move || shelf.find(&subject, now)).await?;
        let known = self.known.as_ref().map(|known| known.this_update);
        // Past half of its time there may be a newer one.
        let is_news = |found: &Staple| Some(found.this_update) > known && found.half_time() > now;
        Ok(found.filter(is_news))
    }

    /// Has the issuer's certificate from where the certificate says that it is (RFC 5280 §4.2.2.1).
    async fn find_issuer(&self) -> Result<(), AskError> {
        let mut last = AskError::Panicked; // there is an address, or no subject
        for url in &self.subject.revocation.issuers {
            let found = match self.client.fetch((Method::GET, url.clone(), Bytes::new())).await {
                Ok(bytes) => self.subject.take_issuer(&bytes).map_err(Cause::from),
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(()) => return Ok(()),
                Err(source) => last = AskError::Issuer { url: url.clone(), source },
            }
        }
        Err(last)
    }

    /// Whether more is known already than `staple` says.
    fn is_older(&self, staple: &Staple) -> bool {
        self.known.as_ref().is_some_and(|known| staple.this_update < known.this_update)
    }

    /// The first answer that is to be believed.
    async fn ask(&self) -> Result<Staple, AskError> {
        let question = self.subject.question()?;
        let mut last = AskError::Panicked; // there is a responder, or no subject
        for responder in &self.subject.revocation.responders {
            for way in ways(responder, &question) {
                match self.client.fetch(way).await {
                    Ok(answer) => match self.subject.verify(&answer, SystemTime::now()) {
                        // A cache that lags, or somebody on the way who plays it again.
                        Ok(staple) if self.is_older(&staple) => {
                            last = AskError::Older { responder: responder.clone() };
                        }
                        Ok(staple) => return Ok(staple),
                        Err(source) => {
                            let responder = responder.clone();
                            last = AskError::Response { responder, source };
                        }
                    },
                    Err(error) => {
                        let is_answer = error.is_answer();
                        last = error.into();
                        if !is_answer {
                            break;
                        }
                    }
                }
            }
        }
        Err(last)
    }
}

/// Does `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AskError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AskError::Panicked)
}
