//! Who has signed something, by the same algorithms that handshakes are verified with.

use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::SubjectPublicKeyInfo;

use super::der::{Fields, Malformed};
use crate::tls::provider;

/// Whether `signed` is signed with `key`. It is a sequence of what was signed, the algorithm, the
/// signature, and perhaps more, as certificates and OCSP responses are (RFC 5280 §4.1.1, RFC 6960
/// §4.2.1).
pub(super) fn is_signed(signed: &[u8], key: &SubjectPublicKeyInfo<'_>) -> bool {
    check(signed, key).unwrap_or(false)
}

fn check(signed: &[u8], key: &SubjectPublicKeyInfo<'_>) -> Result<bool, Malformed> {
    let mut fields = Fields::of(signed)?;
    let (_, data) = fields.next()?;
    let algorithm = fields.universal(Tag::Sequence)?;
    let [0, signature @ ..] = fields.universal(Tag::BitString)? else { return Err(Malformed) };
    let key_kind = Fields::of(key.raw)?.universal(Tag::Sequence)?;
    let known = provider::provider().signature_verification_algorithms.all;
    Ok(known
        .iter()
        .filter(|one| one.signature_alg_id().as_ref() == algorithm)
        .filter(|one| one.public_key_alg_id().as_ref() == key_kind)
        .any(|one| one.verify_signature(&key.subject_public_key.data, data, signature).is_ok()))
}
