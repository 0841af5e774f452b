//! What lies on disk of a certificate, for whoever looks at it, takes a copy, or wants an older one.

use std::path::PathBuf;

use super::files::{ACCOUNT, at, existing};
use super::generation::{CHAIN, KEY, Present, directory, examine};
use super::{
    AuthorityId, CertId, Generation, GenerationError, Meta, Pair, Place, Secret, Storage,
    StoreError,
};

/// A generation that is kept.
#[derive(Debug)]
pub struct Kept {
    /// Its number.
    pub number: u32,
    /// `current` names it.
    pub is_current: bool,
    /// What it holds, or why it cannot be served.
    pub generation: Result<Generation, GenerationError>,
}

impl Storage {
    /// The generations that are kept, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn kept(&self, place: Place, id: &CertId) -> Result<Vec<Kept>, StoreError> {
        let Some(dir) = existing(self.place(place), id.as_str())? else { return Ok(Vec::new()) };
        let present = Present::read(&dir)?;
        let kept = present.numbers.iter().map(|number| Kept {
            number: *number,
            is_current: present.current == Some(*number),
            generation: examine(&dir, *number),
        });
        Ok(kept.collect())
    }

    /// The files of a generation that can be served.
    ///
    /// # Errors
    /// [`StoreError::NoGeneration`] when there is none with this number that can be served.
    pub fn pair(&self, place: Place, id: &CertId, number: u32) -> Result<Pair, StoreError> {
        let none = || StoreError::NoGeneration { id: id.clone(), number };
        let dir = existing(self.place(place), id.as_str())?.ok_or_else(none)?;
        let meta: Option<Meta> = examine(&dir, number).map_err(|_| none())?.meta;
        let inner = existing(&dir, &directory(number))?.ok_or_else(none)?;
        let text = |name: &str| -> Result<String, StoreError> {
            let bytes = inner.read_own(name).map_err(at(&inner, name))?.ok_or_else(none)?;
            String::from_utf8(bytes).map_err(|_| none())
        };
        let (key_pem, chain_pem) = (Secret(text(KEY)?), text(CHAIN)?);
        Ok(Pair { key_pem, chain_pem, meta: meta.unwrap_or_default() })
    }

    /// Where the account at an authority lies.
    #[must_use]
    pub fn account_path(&self, authority: &AuthorityId) -> PathBuf {
        self.accounts.path(authority.as_str()).join(ACCOUNT)
    }

    /// Where a certificate's generations lie.
    #[must_use]
    pub fn directory_of(&self, place: Place, id: &CertId) -> PathBuf {
        self.place(place).path(id.as_str())
    }
}
