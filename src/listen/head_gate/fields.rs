//! The header fields that decide about framing, host and connection.
//!
//! Answers "is this field line sound, and what does it say about the message?". Called by the gate
//! with each line after the request line. Never keeps a field it does not need; the rest is only
//! checked for form.

use super::request_line::RequestLine;
use super::{BodyFraming, Fault, HeadLimits, Span, TargetForm};
use crate::listen::syntax;

/// What the fields read so far have said.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    count: usize,
    pub(super) host: Option<Span>,
    content_length: Option<u64>,
    is_chunked: bool,
    /// `Connection: close`.
    pub(super) close: bool,
    /// `Connection: keep-alive`.
    pub(super) keep_alive: bool,
    /// `Expect: 100-continue`.
    pub(super) expect_continue: bool,
    /// `Connection: upgrade`.
    upgrade_option: bool,
    /// An `Upgrade` field.
    upgrade_field: bool,
    /// `Upgrade` names h2c.
    upgrade_to_h2c: bool,
}

impl Fields {
    /// Reads one field line, which holds no control but HTAB.
    pub(super) fn take(
        &mut self,
        buf: &[u8],
        line: Span,
        version_minor: u8,
        limits: &HeadLimits,
    ) -> Result<(), Fault> {
        self.count += 1;
        if self.count > limits.fields {
            return Err(Fault::new(431, "too_many_fields"));
        }
        let text = line.of(buf);
        let name_len = text.iter().position(|&byte| !syntax::is_token(byte)).unwrap_or(text.len());
        let (name, rest) = text.split_at(name_len);
        let value = match rest {
            [b':', value @ ..] if !name.is_empty() => value,
            [b' ' | b'\t', ..] if name.is_empty() => return Err(Fault::bad("obs_fold")),
            _ => return Err(Fault::bad("bad_field_name")),
        };
        let start = line.end - syntax::trim_start(value).len();
        let value = syntax::trim(value);
        match FieldName::of(name) {
            FieldName::Other => Ok(()),
            FieldName::Host => self.take_host(value, start),
            FieldName::ContentLength => self.take_content_length(value),
            FieldName::TransferEncoding => self.take_transfer_encoding(value, version_minor),
            FieldName::Connection => self.take_connection(value),
            FieldName::Expect => self.take_expect(value),
            FieldName::Upgrade => {
                self.take_upgrade(value);
                Ok(())
            }
            FieldName::Lookalike => Err(Fault::bad("framing_field_lookalike")),
        }
    }

    /// The host of the request: RFC 9112 §3.2 wants exactly one `Host` on HTTP/1.1, and the
    /// authority of an absolute target to be the same.
    pub(super) fn host_for(
        &self,
        buf: &[u8],
        request: &RequestLine,
    ) -> Result<Option<Span>, Fault> {
        let authority = match request.form {
            TargetForm::Absolute { authority, .. } => Some(authority),
            TargetForm::Origin | TargetForm::Asterisk => None,
        };
        match (self.host, authority) {
            (None, _) if request.version_minor == 1 => Err(Fault::bad("missing_host")),
            (Some(host), Some(authority))
                if !host.of(buf).eq_ignore_ascii_case(authority.of(buf)) =>
            {
                Err(Fault::bad("target_host_mismatch"))
            }
            (host, authority) => Ok(host.or(authority)),
        }
    }

    /// How the body ends.
    pub(super) fn body(&self) -> BodyFraming {
        match self.content_length {
            _ if self.is_chunked => BodyFraming::Chunked,
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::None,
        }
    }

    /// Whether the client asks to switch to a protocol that a proxy may switch to.
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade_option && self.upgrade_field && !self.upgrade_to_h2c
    }

    fn take_host(&mut self, value: &[u8], start: usize) -> Result<(), Fault> {
        if self.host.is_some() {
            return Err(Fault::bad("duplicate_host"));
        }
        if !syntax::is_authority(value) {
            return Err(Fault::bad(if value.is_empty() { "empty_host" } else { "bad_host" }));
        }
        self.host = Some(Span { start, end: start + value.len() });
        Ok(())
    }

    /// One field, 1 to 19 digits (which always fit), no padding. Equal duplicates and leading zeros
    /// are allowed or tolerated by RFC 9110 §8.6, but sent by nobody except who tries parsers.
    fn take_content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.content_length.is_some() {
            return Err(Fault::bad("duplicate_content_length"));
        }
        if self.is_chunked {
            return Err(Fault::bad("length_and_chunked"));
        }
        let length = match value {
            [b'0', _, ..] => None,
            _ if !matches!(value.len(), 1..=19) || !value.iter().all(u8::is_ascii_digit) => None,
            _ => str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()),
        };
        self.content_length = Some(length.ok_or(Fault::bad("bad_content_length"))?);
        Ok(())
    }

    /// One field and `chunked` alone in it (RFC 9112 §6.1).
    fn take_transfer_encoding(&mut self, value: &[u8], version_minor: u8) -> Result<(), Fault> {
        if self.is_chunked {
            return Err(Fault::bad("duplicate_transfer_encoding"));
        }
        if self.content_length.is_some() {
            return Err(Fault::bad("length_and_chunked"));
        }
        if version_minor == 0 {
            return Err(Fault::bad("transfer_encoding_on_http_1_0"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.is_chunked = true;
            return Ok(());
        }
        Err(if is_compressed_and_chunked(value) {
            Fault::new(501, "transfer_coding_not_supported")
        } else {
            Fault::bad("bad_transfer_encoding")
        })
    }

    /// Options are matched without case (RFC 9110 §7.6.1). One that nominates a framing field would
    /// have the next hop drop what tells it where the body ends.
    fn take_connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        for option in list(value) {
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                14 | 17 if FieldName::of(option).is_framing() => {
                    return Err(Fault::bad("framing_field_nominated"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// RFC 9110 §10.1.1 knows one expectation; 417 is the answer to every other.
    fn take_expect(&mut self, value: &[u8]) -> Result<(), Fault> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Fault::new(417, "expectation_not_supported"));
        }
        self.expect_continue = true;
        Ok(())
    }

    fn take_upgrade(&mut self, value: &[u8]) {
        self.upgrade_field = true;
        self.upgrade_to_h2c |= list(value).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"));
    }
}

/// The fields we read.
#[derive(Clone, Copy)]
enum FieldName {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Upgrade,
    /// A framing field with `_` or another mark for `-`: CGI-like backends turn every mark into `_`
    /// and so see the field itself.
    Lookalike,
    Other,
}

impl FieldName {
    fn of(name: &[u8]) -> Self {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => Self::Host,
            6 if name.eq_ignore_ascii_case(b"expect") => Self::Expect,
            7 if name.eq_ignore_ascii_case(b"upgrade") => Self::Upgrade,
            10 if name.eq_ignore_ascii_case(b"connection") => Self::Connection,
            14 => Self::framing(name, b"content", b"length", Self::ContentLength),
            17 => Self::framing(name, b"transfer", b"encoding", Self::TransferEncoding),
            _ => Self::Other,
        }
    }

    /// `this` if `name` is `front-back`, or its look-alike.
    fn framing(name: &[u8], front: &[u8], back: &[u8], this: Self) -> Self {
        match name.split_at_checked(front.len()) {
            Some((first, [mark, rest @ ..]))
                if first.eq_ignore_ascii_case(front) && rest.eq_ignore_ascii_case(back) =>
            {
                match mark {
                    b'-' => this,
                    _ if mark.is_ascii_alphanumeric() => Self::Other,
                    _ => Self::Lookalike,
                }
            }
            _ => Self::Other,
        }
    }

    fn is_framing(self) -> bool {
        matches!(self, Self::ContentLength | Self::TransferEncoding | Self::Lookalike)
    }
}

/// The members of a comma-separated list, blanks taken off (RFC 9110 §5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(syntax::trim)
}

/// Whether `value` is a sound list of codings we know and do not undo, and `chunked` once at the
/// end: the one wrong value for which RFC 9112 §6.1 asks for 501. What does not end in `chunked`
/// has no end at all and gets 400 (§6.3).
fn is_compressed_and_chunked(value: &[u8]) -> bool {
    let Some(comma) = value.iter().rposition(|&byte| byte == b',') else { return false };
    const KNOWN: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    syntax::trim(&value[comma + 1..]).eq_ignore_ascii_case(b"chunked")
        && list(&value[..comma])
            .all(|coding| KNOWN.iter().any(|known| coding.eq_ignore_ascii_case(known)))
}
