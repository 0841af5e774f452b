//! Watches the frames of an HTTP/2 connection, in both directions.
//!
//! Called by the h2 connection's stream wrapper with the plain bytes that pass. Has an eye for floods
//! ([`FrameBudget`]), for the client's errors ([`FrameFaults`]) and for heads that take their time.

use std::time::{Duration, Instant};

use super::frame::{FrameHead, FrameHeads, Piece, flag, kind};
use super::frame_budget::FrameBudget;
use super::frame_faults::FrameFaults;

/// What is kept of one connection. Constant in size.
#[derive(Debug)]
pub struct FrameWatch {
    received: FrameHeads,
    sent: FrameHeads,
    budget: FrameBudget,
    faults: FrameFaults,
    block: Block,
}

/// A block of fields, which HEADERS begins and the last CONTINUATION ends (RFC 9113 §4.3).
#[derive(Debug, Default)]
struct Block {
    /// Whether some of it is to come.
    is_open: bool,
    /// Whether no further frame belongs to it.
    is_last: bool,
    since: Option<Instant>,
}

impl FrameWatch {
    /// Of a connection that begins at `now` with the client's preface.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            received: FrameHeads::behind_preface(),
            sent: FrameHeads::default(),
            budget: FrameBudget::new(now),
            faults: FrameFaults::default(),
            block: Block::default(),
        }
    }

    /// When the block of fields began of which more is to come.
    #[must_use]
    pub fn block_since(&self) -> Option<Instant> {
        self.block.since
    }

    /// So much of the time that the block of fields takes was not the client's doing.
    pub fn excuse(&mut self, time: Duration, now: Instant) {
        if let Some(since) = &mut self.block.since {
            *since = (*since + time).min(now);
        }
    }

    /// Takes account of bytes from the client. `false` when it has spent its budget; `now` is asked
    /// only where time decides.
    #[must_use]
    pub fn receive(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let Self { received, budget, faults, block, .. } = self;
        faults.begin(received.is_within_frame());
        received.follow(bytes, |piece| match piece {
            Piece::Head(head, _) => {
                budget.receive(head);
                faults.head(head);
                block.head(head);
            }
            Piece::Payload(payload) => faults.payload(payload),
        });
        block.settle(received.is_within_frame(), &now);
        budget.settle(now)
    }

    /// Takes account of so many bytes to the client if they are nothing but payload, which is all that
    /// [`send`](Self::send) would do about them.
    #[must_use]
    pub fn pass_payload(&mut self, count: usize) -> bool {
        self.sent.skip(count)
    }

    /// Takes account of bytes to the client, and puts the right code into a GOAWAY that is whole
    /// among them. `false` when the client has spent its budget.
    #[must_use]
    pub fn send(&mut self, bytes: &mut [u8], now: impl FnOnce() -> Instant) -> bool {
        let Self { sent, budget, .. } = self;
        let mut goaway = None;
        sent.follow(bytes, |piece| {
            if let Piece::Head(head, behind) = piece {
                budget.send(head);
                if head.kind == kind::GOAWAY {
                    goaway = Some(behind.len());
                }
            }
        });
        if let Some(behind) = goaway {
            let payload = bytes.len() - behind;
            self.faults.name_in(&mut bytes[payload..]);
        }
        self.budget.settle(now)
    }
}

impl Block {
    fn head(&mut self, head: FrameHead) {
        match head.kind {
            kind::HEADERS => *self = Self { is_open: true, ..Self::default() },
            kind::CONTINUATION => {}
            // Within a block that is an error, which ends the connection.
            _ => *self = Self::default(),
        }
        self.is_last = head.has(flag::END_HEADERS);
    }

    /// Notes whether the frame that came last came whole.
    fn settle(&mut self, is_within_frame: bool, now: impl FnOnce() -> Instant) {
        if self.is_open && self.is_last && !is_within_frame {
            self.is_open = false;
        }
        self.since = if self.is_open { self.since.or_else(|| Some(now())) } else { None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], payload].concat()
    }

    #[test]
    fn a_block_of_fields_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut watch = FrameWatch::new(start);
        let whole = frame(kind::HEADERS, flag::END_HEADERS, &[0x82; 9]);
        let begun = frame(kind::HEADERS, 0, &[0x82; 9]);
        let end = frame(kind::CONTINUATION, flag::END_HEADERS, &[0x84]);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for (second, bytes, expected) in [
            (0, &preface[..], None),
            (1, &whole, None),
            (2, &whole[..8], None),
            (3, &whole[8..10], Some(3)),
            (4, &whole[10..17], Some(3)),
            (5, &whole[17..], None),
            (6, &begun, Some(6)),
            (7, &frame(kind::CONTINUATION, 0, &[]), Some(6)),
            (8, &end[..9], Some(6)),
            (9, &[&end[9..], &begun[..12]].concat(), Some(9)),
            (10, &[&begun[12..], &end[..], &frame(kind::PING, 0, &[0; 8])].concat(), None),
            (11, &frame(kind::HEADERS, flag::END_HEADERS, &[]), None),
            (12, &[&whole[..], &whole, &whole[..12]].concat(), Some(12)),
        ] {
            assert!(watch.receive(bytes, || at(second)));
            assert_eq!(watch.block_since(), expected.map(at), "at {second}");
        }
        watch.excuse(Duration::from_secs(3), at(20));
        assert_eq!(watch.block_since(), Some(at(15)));
        watch.excuse(Duration::from_secs(30), at(20));
        assert_eq!(watch.block_since(), Some(at(20)));
    }
}
