//! The header fields of a message that is being changed on its way.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header fields of a message that is being forwarded.
///
/// A trait because an engine may keep more than a `HeaderMap`, such as the spelling of names, and
/// has to see every change.
pub trait Fields {
    /// The fields as they stand.
    fn map(&self) -> &HeaderMap;
    /// Removes every field of that name.
    fn remove(&mut self, name: &HeaderName);
    /// Replaces every field of that name by one.
    fn insert(&mut self, name: HeaderName, value: HeaderValue);
    /// Adds a field beside those of that name.
    fn append(&mut self, name: HeaderName, value: HeaderValue);
}

impl Fields for HeaderMap {
    fn map(&self) -> &HeaderMap {
        self
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }

    fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        Self::insert(self, name, value);
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        Self::append(self, name, value);
    }
}
