//! The records by which an account proves names for good (dns-persist-01), for whoever is to put them
//! up. Never makes an account, and changes nothing.

use std::time::Duration;

use super::job::{JobError, texts};
use super::{Assignment, Source};
use crate::acme::dns::{Binding, BindingError, Persist, Record, Wanted, covering};

/// A record, and whether it is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lasting {
    /// What has to be put up.
    pub record: Record,
    /// Whether the zone's servers show it, or one that does as well.
    pub look: Look,
}

/// What a look at a zone comes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Look {
    /// Every server shows it.
    Present,
    /// This server does not.
    Missing(String),
    /// The DNS does not answer.
    Unknown,
}

/// Why nobody knows which records an authority wants.
#[derive(Debug, thiserror::Error)]
pub enum LastingError {
    /// There is no account for them to name.
    #[error("there is no account yet: the first order makes one")]
    NoAccount,
    /// The authority does not say.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// For another reason.
    #[error("{0}")]
    Other(String),
}

impl From<JobError> for LastingError {
    fn from(error: JobError) -> Self {
        Self::Other(texts(&error))
    }
}

/// Somebody waits for the answer, with whom the record itself counts.
const PATIENCE: Duration = Duration::from_secs(10);

impl Assignment {
    /// The records by which the account at `source` proves `names`; one is enough for a name and its
    /// wildcard, and addresses have none.
    ///
    /// # Errors
    /// [`LastingError`].
    pub async fn lasting(
        &self,
        source: &Source,
        names: &[String],
    ) -> Result<Vec<Lasting>, LastingError> {
        let kept = self.kept(source).await?.ok_or(LastingError::NoAccount)?;
        let session = self.open(source, &kept).await?;
        let binding = Binding::of(&session).await?;
        let look = async |name: String| {
            let wanted = Wanted { name, binding: binding.clone() };
            let seen = Persist::default();
            let seen = tokio::time::timeout(PATIENCE, seen.look_once(&wanted)).await;
            let look = match seen {
                Ok(Ok(None)) => Look::Present,
                Ok(Ok(Some(server))) => Look::Missing(server),
                Ok(Err(_)) | Err(_) => Look::Unknown,
            };
            Lasting { record: wanted.binding.record(&wanted.name), look }
        };
        Ok(futures_util::future::join_all(covering(names).into_iter().map(look)).await)
    }
}
