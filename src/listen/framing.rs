//! Where one request's body ends.
//!
//! Answers "how many of these bytes belong to this message?". Called by the connection task with
//! every stretch of bytes that follows a head which passed. Never buffers, changes or decodes: the
//! bytes go on as they came, and the next request begins exactly where this one ends.

use super::BodyFraming;
use super::syntax;
use crate::net::is_forbidden_trailer;

/// Follows the body of one request, however its bytes are cut.
#[derive(Clone, Debug)]
pub struct BodyTracker {
    state: State,
    /// Content bytes announced so far, for the overflow check.
    announced: u64,
    /// Content bytes seen.
    received: u64,
    /// Bytes of chunk extensions seen.
    extensions: usize,
    trailers: Trailers,
}

/// Why a body cannot be followed to its end. The connection must be closed: where the next request
/// begins is not known any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FramingError {
    /// No hexadecimal digits, more than 16 of them, or something else where they belong.
    #[error("chunk size is not 1 to 16 hexadecimal digits")]
    ChunkSize,
    /// The chunks together would have more than 2^64 - 1 bytes.
    #[error("chunk sizes add up to more than 64 bits")]
    TooLarge,
    /// A control character in a chunk extension, or nothing after its last `;`.
    #[error("chunk extension is malformed")]
    ChunkExtension,
    /// More than 4 KiB of chunk extensions.
    #[error("chunk extensions are longer than 4 KiB")]
    ExtensionsTooLong,
    /// A line or a chunk's data does not end in CRLF.
    #[error("expected CRLF in the chunked body")]
    LineEnd,
    /// A trailer line is no field line.
    #[error("trailer field is malformed")]
    Trailer,
    /// A trailer has a name that decides about framing, routing or identity (RFC 9110 §6.5.1).
    #[error("trailer field may not stand in a trailer section")]
    ForbiddenTrailer,
    /// More than 8 KiB or 100 fields of trailers.
    #[error("trailer section is longer than 8 KiB or 100 fields")]
    TrailersTooLong,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Done,
    Length {
        left: u64,
    },
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        size: u64,
        /// Whether the byte before was a `;`: the line may not end there.
        is_empty: bool,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Failed(FramingError),
}

/// What is known of the trailer section.
#[derive(Clone, Debug, Default)]
struct Trailers {
    bytes: usize,
    fields: usize,
    /// The front of the name being read, lower-case and with `-` for `_`.
    name: [u8; NAME_LEN],
    name_len: usize,
}

/// Extensions have no use between a client and a proxy; a chunk of one byte may carry kilobytes of
/// them (CVE-2023-39326). Bytes in one message.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// Bytes of one trailer section.
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// Fields of one trailer section.
const MAX_TRAILER_FIELDS: usize = 100;

/// Longer than every name that no trailer may have.
const NAME_LEN: usize = 24;

impl BodyTracker {
    /// A tracker that stands at the first byte after the head.
    #[must_use]
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(left) => State::Length { left },
            BodyFraming::Chunked => State::Size { digits: 0, size: 0 },
        };
        Self { state, announced: 0, received: 0, extensions: 0, trailers: Trailers::default() }
    }

    /// How many of `bytes`, counted from their front, belong to this message. Fewer than all only
    /// when the message ends within them.
    ///
    /// # Errors
    /// [`FramingError`] says what is wrong, the same however the bytes are cut and again at every
    /// further call. Nothing of `bytes` may then be handed on.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.state {
                State::Done => break,
                State::Failed(error) => return Err(*error),
                State::Length { left } | State::Data { left } => {
                    let span = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= span as u64;
                    self.received += span as u64;
                    at += span;
                    self.end_data();
                }
                _ => {
                    self.state = self.step(byte).inspect_err(|error| {
                        self.state = State::Failed(*error);
                    })?;
                    at += 1;
                }
            }
        }
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(at),
        }
    }

    /// Whether the message is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Content bytes seen so far, without what frames them.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    fn end_data(&mut self) {
        self.state = match self.state {
            State::Length { left: 0 } => State::Done,
            State::Data { left: 0 } => State::DataCr,
            state => state,
        };
    }

    /// The state after one byte of chunked framing (RFC 9112 §7.1). No blank is allowed around a
    /// size: RFC 9112 permits some before an extension, and parsers disagree about them.
    fn step(&mut self, byte: u8) -> Result<State, FramingError> {
        match (self.state, byte) {
            (State::Size { digits, size }, _) => self.step_size(byte, digits, size),
            (State::Extension { size, is_empty }, _) => self.step_extension(byte, size, is_empty),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::TrailerStart),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::SizeLf { .. } | State::DataCr | State::DataLf, _) => Err(FramingError::LineEnd),
            _ => self.step_trailer(byte),
        }
    }

    fn step_size(&mut self, byte: u8, digits: u8, size: u64) -> Result<State, FramingError> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if digits == 16 {
                return Err(FramingError::ChunkSize);
            }
            return Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) });
        }
        if digits == 0 || !matches!(byte, b'\r' | b';') {
            return Err(FramingError::ChunkSize);
        }
        self.announced = self.announced.checked_add(size).ok_or(FramingError::TooLarge)?;
        if byte == b'\r' {
            return Ok(State::SizeLf { size });
        }
        self.step_extension(byte, size, false)
    }

    fn step_extension(
        &mut self,
        byte: u8,
        size: u64,
        is_empty: bool,
    ) -> Result<State, FramingError> {
        match byte {
            b'\r' if !is_empty => return Ok(State::SizeLf { size }),
            _ if !syntax::is_plain(byte) => return Err(FramingError::ChunkExtension),
            _ => {}
        }
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(FramingError::ExtensionsTooLong);
        }
        Ok(State::Extension { size, is_empty: byte == b';' })
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, FramingError> {
        self.trailers.bytes += 1;
        if self.trailers.bytes > MAX_TRAILER_BYTES {
            return Err(FramingError::TrailersTooLong);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::FinalLf),
            (State::TrailerStart, _) if syntax::is_token(byte) => {
                self.trailers.begin(byte)?;
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') if self.trailers.is_forbidden() => {
                Err(FramingError::ForbiddenTrailer)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, _) if syntax::is_token(byte) => {
                self.trailers.push(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if syntax::is_plain(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::FinalLf, b'\n') => Ok(State::Done),
            (State::TrailerLf | State::FinalLf, _) => Err(FramingError::LineEnd),
            _ => Err(FramingError::Trailer),
        }
    }
}

impl FramingError {
    /// A fixed `snake_case` word for `error.type`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ChunkSize => "bad_chunk_size",
            Self::TooLarge => "chunk_sizes_too_large",
            Self::ChunkExtension => "bad_chunk_extension",
            Self::ExtensionsTooLong => "chunk_extensions_too_long",
            Self::LineEnd => "bad_chunk_line_end",
            Self::Trailer => "bad_trailer",
            Self::ForbiddenTrailer => "forbidden_trailer",
            Self::TrailersTooLong => "trailers_too_long",
        }
    }

    /// The answer if none has been sent: 431 for trailers over their limit (RFC 6585 §5), 413 for
    /// sizes over ours, else 400.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::TrailersTooLong => 431,
            Self::TooLarge => 413,
            _ => 400,
        }
    }
}

impl Trailers {
    fn begin(&mut self, byte: u8) -> Result<(), FramingError> {
        self.fields += 1;
        if self.fields > MAX_TRAILER_FIELDS {
            return Err(FramingError::TrailersTooLong);
        }
        self.name_len = 0;
        self.push(byte);
        Ok(())
    }

    /// Bytes beyond the buffer only count, so that a longer name equals none that is forbidden.
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.name.get_mut(self.name_len) {
            *slot = if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        }
        self.name_len += 1;
    }

    fn is_forbidden(&self) -> bool {
        is_forbidden_trailer(self.name.get(..self.name_len).unwrap_or(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body comes to: its length, the need for more, or an error.
    type Outcome = Result<Option<usize>, FramingError>;

    /// Feeds `bytes` in pieces as long as `next_piece` says.
    fn feed(framing: BodyFraming, bytes: &[u8], mut next_piece: impl FnMut() -> usize) -> Outcome {
        let mut tracker = BodyTracker::new(framing);
        let mut total = 0;
        let mut rest = bytes;
        while !rest.is_empty() && !tracker.is_done() {
            let (piece, after) = rest.split_at(next_piece().clamp(1, rest.len()));
            let taken = tracker.advance(piece)?;
            assert!(taken == piece.len() || tracker.is_done(), "stops early only at the end");
            total += taken;
            rest = after;
        }
        Ok(tracker.is_done().then_some(total))
    }

    /// The outcome for chunked `text`, checked to be the same for many ways to cut it.
    fn chunked(text: &[u8]) -> Outcome {
        let whole = feed(BodyFraming::Chunked, text, || usize::MAX);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20 {
            let cut = feed(BodyFraming::Chunked, text, || random.usize(1..9));
            assert_eq!(cut, whole, "{}", text.escape_ascii());
        }
        assert_eq!(feed(BodyFraming::Chunked, text, || 1), whole, "{}", text.escape_ascii());
        whole
    }

    #[test]
    fn a_length_takes_exactly_its_bytes() {
        let mut tracker = BodyTracker::new(BodyFraming::Length(5));
        assert_eq!(tracker.advance(b"abc"), Ok(3));
        assert!(!tracker.is_done());
        assert_eq!(tracker.advance(b""), Ok(0));
        assert_eq!(tracker.advance(b"deGET /"), Ok(2));
        assert!(tracker.is_done());
        assert_eq!(tracker.advance(b"GET /"), Ok(0), "the next request is not ours");
        assert_eq!(tracker.received(), 5);
    }

    #[test]
    fn no_body_and_length_zero_are_done_at_once() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut tracker = BodyTracker::new(framing);
            assert!(tracker.is_done());
            assert_eq!(tracker.advance(b"GET /"), Ok(0));
        }
    }

    #[test]
    fn chunked_bodies_end_with_the_last_empty_line() {
        let cases: &[&[u8]] = &[
            b"0\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"0000000000000003\r\nabc\r\n0000\r\n\r\n",
            b"3;name=value;other=\"quo;ted\"\r\nabc\r\n0;x\r\n\r\n",
            b"3;a;;b\r\nabc\r\n0\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\n\r\n",
            b"0\r\nX-Checksum: \t\xff\r\nEmpty:\r\nhost-of-it: y\r\n\r\n",
        ];
        for text in cases {
            assert_eq!(chunked(text), Ok(Some(text.len())), "{}", text.escape_ascii());
            let followed = [text, b"GET / HTTP/1.1\r\n".as_slice()].concat();
            assert_eq!(chunked(&followed), Ok(Some(text.len())), "with a request behind it");
            assert_eq!(chunked(&text[..text.len() - 1]), Ok(None), "not yet over");
        }
    }

    #[test]
    fn chunked_bodies_that_parsers_read_differently_are_refused() {
        use FramingError::{
            ChunkExtension, ChunkSize, ForbiddenTrailer, LineEnd, TooLarge, Trailer,
        };
        let cases: &[(&[u8], FramingError)] = &[
            (b"\r\n\r\n", ChunkSize),
            (b"0_2e\r\n", ChunkSize),
            (b"0x3\r\n", ChunkSize),
            (b"-3\r\n", ChunkSize),
            (b"+3\r\n", ChunkSize),
            (b" 3\r\n", ChunkSize),
            (b"3 ;x\r\n", ChunkSize),
            (b"3 \r\n", ChunkSize),
            (b"3\t\r\n", ChunkSize),
            (b"3\n", ChunkSize),
            (b"G\r\n", ChunkSize),
            (b";x\r\n", ChunkSize),
            (b"00000000000000003\r\n", ChunkSize),
            (b"1ffffffffffffffff\r\n", ChunkSize),
            (b"3\r\rabc", LineEnd),
            (b"3\rabc", LineEnd),
            (b"3\r\nabcXX0\r\n\r\n", LineEnd),
            (b"3\r\nabc\n0\r\n\r\n", LineEnd),
            (b"3\r\nabc\rX0\r\n\r\n", LineEnd),
            (b"3\r\nabcd\r\n0\r\n\r\n", LineEnd),
            (b"3;\r\nabc", ChunkExtension),
            (b"3;a=b;\r\nabc", ChunkExtension),
            (b"41;a=b\r\rX", LineEnd),
            (b"3;a\nabc", ChunkExtension),
            (b"3;a\0\r\nabc", ChunkExtension),
            (b"3;a\x7f\r\nabc", ChunkExtension),
            (b"1\r\na\r\nffffffffffffffff\r\n", TooLarge),
            (b"0\r\nX:POST / HTTP/1.1\r\n\rX", LineEnd),
            (b"0\r\n\rX", LineEnd),
            (b"0\r\n\n", Trailer),
            (b"0\r\nXX\r\n", Trailer),
            (b"0\r\nX\r\n\r\n", Trailer),
            (b"0\r\nX : y\r\n\r\n", Trailer),
            (b"0\r\n: y\r\n\r\n", Trailer),
            (b"0\r\nX: y\r\n z\r\n\r\n", Trailer),
            (b"0\r\nX: y\nZ: y\r\n\r\n", Trailer),
            (b"0\r\nX: y\0\r\n\r\n", Trailer),
            (b"0\r\nContent-Length: 3\r\n\r\n", ForbiddenTrailer),
            (b"0\r\nX: y\r\nTRANSFER_ENCODING: chunked\r\n\r\n", ForbiddenTrailer),
            (b"0\r\nhost: a\r\n\r\n", ForbiddenTrailer),
            (b"0\r\nProxy-Authorization: x\r\n\r\n", ForbiddenTrailer),
            (b"0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", ForbiddenTrailer),
            (b"0\r\nX_Forwarded_Anything-That-Is-Longer: x\r\n\r\n", ForbiddenTrailer),
        ];
        for (text, error) in cases {
            assert_eq!(chunked(text), Err(*error), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_cannot_grow_without_end() {
        let extension = |bytes: usize| [b"1;".as_slice(), &vec![b'x'; bytes - 1]].concat();
        let end = b"\r\na\r\n0\r\n\r\n".as_slice();
        let fits = [extension(MAX_EXTENSIONS).as_slice(), end].concat();
        assert_eq!(chunked(&fits), Ok(Some(fits.len())));
        let over = [extension(MAX_EXTENSIONS + 1).as_slice(), end].concat();
        assert_eq!(chunked(&over), Err(FramingError::ExtensionsTooLong));
        let many = b"1;xxxxxxxx\r\na\r\n".repeat(MAX_EXTENSIONS / 9 + 1);
        assert_eq!(chunked(&many), Err(FramingError::ExtensionsTooLong), "over the message");

        let trailer =
            |bytes: usize| [b"0\r\nX:".as_slice(), &vec![b'x'; bytes - 6], b"\r\n\r\n"].concat();
        let fits = trailer(MAX_TRAILER_BYTES);
        assert_eq!(chunked(&fits), Ok(Some(fits.len())));
        let over = trailer(MAX_TRAILER_BYTES + 1);
        assert_eq!(chunked(&over), Err(FramingError::TrailersTooLong));

        let fields =
            |count: usize| [b"0\r\n".as_slice(), &b"X:\r\n".repeat(count), b"\r\n"].concat();
        assert!(matches!(chunked(&fields(MAX_TRAILER_FIELDS)), Ok(Some(_))));
        let over = fields(MAX_TRAILER_FIELDS + 1);
        assert_eq!(chunked(&over), Err(FramingError::TrailersTooLong));
    }

    #[test]
    fn an_error_is_final() {
        let mut tracker = BodyTracker::new(BodyFraming::Chunked);
        assert_eq!(tracker.advance(b"x"), Err(FramingError::ChunkSize));
        assert_eq!(tracker.advance(b"0\r\n\r\n"), Err(FramingError::ChunkSize));
        assert_eq!(tracker.advance(b""), Err(FramingError::ChunkSize));
        assert!(!tracker.is_done());
    }

    #[test]
    fn random_bodies_end_where_they_were_built_to_end() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut text = Vec::new();
            let mut content = 0;
            for _ in 0..random.usize(0..6) {
                let size = random.usize(1..300);
                content += size as u64;
                text.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                text.extend((0..size).map(|_| random.u8(..)));
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let end = text.len();
            text.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            assert_eq!(chunked(&text), Ok(Some(end)));
            let mut tracker = BodyTracker::new(BodyFraming::Chunked);
            assert_eq!(tracker.advance(&text), Ok(end));
            assert_eq!(tracker.received(), content);
        }
    }
}
