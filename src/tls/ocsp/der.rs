//! Reading DER field by field, for structures that no library at hand knows.

use x509_parser::asn1_rs::{Any, Class, FromDer, Integer, Tag};

/// The bytes do not have the structure that they should have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the answer is no OCSP response")]
pub(super) struct Malformed;

/// The fields of a structure that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those of the one sequence that `bytes` are.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut whole = Self(bytes);
        let fields = whole.sequence()?;
        if whole.is_empty() { Ok(fields) } else { Err(Malformed) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field, and its bytes with tag and length.
    pub(super) fn next(&mut self) -> Result<(Any<'a>, &'a [u8]), Malformed> {
        let (rest, any) = Any::from_der(self.0).map_err(|_| Malformed)?;
        let raw = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok((any, raw))
    }

    /// The bytes of the next field, which has this universal tag.
    pub(super) fn universal(&mut self, tag: Tag) -> Result<&'a [u8], Malformed> {
        let (any, _) = self.next()?;
        let is_it = any.class() == Class::Universal && any.tag() == tag;
        if is_it { Ok(any.data) } else { Err(Malformed) }
    }

    pub(super) fn sequence(&mut self) -> Result<Self, Malformed> {
        self.universal(Tag::Sequence).map(Self)
    }

    /// What the next field holds, if that has the context's tag `number`.
    pub(super) fn optional(&mut self, number: u32) -> Result<Option<Self>, Malformed> {
        if self.is_empty() {
            return Ok(None);
        }
        let before = *self;
        let (any, _) = self.next()?;
        if any.class() == Class::ContextSpecific && any.tag() == Tag(number) {
            return Ok(Some(Self(any.data)));
        }
        *self = before;
        Ok(None)
    }
}

/// The integers of a sequence, as far as they are readable.
pub(super) fn integers(bytes: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let Ok(mut fields) = Fields::of(bytes) else { return found };
    while let Ok((any, _)) = fields.next() {
        found.extend(Integer::try_from(any).ok().and_then(|integer| integer.as_u64().ok()));
    }
    found
}
