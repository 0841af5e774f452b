//! The frames of an HTTP/2 connection (RFC 9113 §4.1), found in bytes that come in any pieces.
//!
//! Used by what watches a connection's bytes before or behind the h2 layer. Keeps a frame's head and
//! none of its payload.

/// Types of frames (RFC 9113 §6).
pub(super) mod kind {
    pub(in crate::listen) const DATA: u8 = 0;
    pub(in crate::listen) const HEADERS: u8 = 1;
    pub(in crate::listen) const PRIORITY: u8 = 2;
    pub(in crate::listen) const RST_STREAM: u8 = 3;
    pub(in crate::listen) const SETTINGS: u8 = 4;
    pub(in crate::listen) const PUSH_PROMISE: u8 = 5;
    pub(in crate::listen) const PING: u8 = 6;
    pub(in crate::listen) const GOAWAY: u8 = 7;
    pub(in crate::listen) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::listen) const CONTINUATION: u8 = 9;
}

/// Flags of frames; which ones a frame has is its type's.
pub(super) mod flag {
    pub(in crate::listen) const END_STREAM: u8 = 0x1;
    pub(in crate::listen) const ACK: u8 = 0x1;
    pub(in crate::listen) const END_HEADERS: u8 = 0x4;
    pub(in crate::listen) const PADDED: u8 = 0x8;
    pub(in crate::listen) const PRIORITY: u8 = 0x20;
}

/// The client's preface (RFC 9113 §3.4), which comes before its first frame.
const PREFACE_BYTES: usize = 24;

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct FrameHeads {
    /// Bytes that come before the next head.
    payload: usize,
    head: [u8; 9],
    /// How much of the head has been seen.
    seen: usize,
}

/// What a stream of bytes goes on with.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A frame begins; with it, those of the bytes at hand that come behind its head.
    Head(FrameHead, &'a [u8]),
    /// Some of the frame's payload, or all of it.
    Payload(&'a [u8]),
}

impl FrameHeads {
    /// Those of a client, which come behind its preface.
    #[must_use]
    pub(super) fn behind_preface() -> Self {
        Self { payload: PREFACE_BYTES, ..Self::default() }
    }

    /// Whether more of a payload is to come.
    #[must_use]
    pub(super) fn is_within_frame(&self) -> bool {
        self.payload > 0
    }

    /// Goes on by `count` bytes if all of them are a frame's payload.
    pub(super) fn skip(&mut self, count: usize) -> bool {
        let is_payload = count <= self.payload;
        if is_payload {
            self.payload -= count;
        }
        is_payload
    }

    /// Goes on by `bytes`.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let (payload, behind) = bytes.split_at(self.payload.min(bytes.len()));
                self.payload -= payload.len();
                bytes = behind;
                each(Piece::Payload(payload));
            }
            let taken = (self.head.len() - self.seen).min(bytes.len());
            self.head[self.seen..self.seen + taken].copy_from_slice(&bytes[..taken]);
            self.seen += taken;
            bytes = &bytes[taken..];
            if self.seen == self.head.len() {
                let head = FrameHead::read(self.head);
                (self.payload, self.seen) = (head.payload, 0);
                each(Piece::Head(head, bytes));
            }
        }
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHead {
    /// Bytes of its payload.
    pub(super) payload: usize,
    /// Its type, one of [`kind`] or unknown.
    pub(super) kind: u8,
    /// Its flags, of [`flag`] or others.
    pub(super) flags: u8,
    /// Its stream; 0 for the connection.
    pub(super) stream: u32,
}

impl FrameHead {
    fn read([high, middle, low, kind, flags, stream @ ..]: [u8; 9]) -> Self {
        let payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        // The highest bit is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Self { payload, kind, flags, stream }
    }

    /// Whether it carries `flag`.
    #[must_use]
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether its sender says no more on its stream.
    #[must_use]
    pub(super) fn ends_stream(self) -> bool {
        match self.kind {
            kind::DATA | kind::HEADERS => self.has(flag::END_STREAM),
            kind::RST_STREAM => true,
            _ => false,
        }
    }
}
