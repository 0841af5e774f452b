//! Watches the frames of an HTTP/2 connection, in both directions.
//!
//! Called by the h2 connection's stream wrapper with the plain bytes that pass. Has an eye for floods
//! ([`FrameBudget`]) and for the client's errors ([`FrameFaults`]).

use std::time::Instant;

use super::frame::{FrameHeads, Piece, kind};
use super::frame_budget::FrameBudget;
use super::frame_faults::FrameFaults;

/// What is kept of one connection. Constant in size.
#[derive(Debug)]
pub struct FrameWatch {
    received: FrameHeads,
    sent: FrameHeads,
    budget: FrameBudget,
    faults: FrameFaults,
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
        }
    }

    /// Takes account of bytes from the client. `false` when it has spent its budget; `now` is asked
    /// only where time decides.
    #[must_use]
    pub fn receive(&mut self, bytes: &[u8], now: impl FnOnce() -> Instant) -> bool {
        let Self { received, budget, faults, .. } = self;
        faults.begin(received.is_within_frame());
        received.follow(bytes, |piece| match piece {
            Piece::Head(head, _) => {
                budget.receive(head);
                faults.head(head);
            }
            Piece::Payload(payload) => faults.payload(payload),
        });
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
