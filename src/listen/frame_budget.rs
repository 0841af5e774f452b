//! How much of a client's HTTP/2 traffic may be frames that only make work.
//!
//! Answers "is this connection a flood?" from the heads of the frames that pass in both directions.
//! Called by the h2 connection's stream wrapper. Never looks at a payload.
//!
//! # Why
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and empty DATA cost their sender nothing and
//! us an answer or a look-up each (CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2025-8671). The h2
//! layer limits some of them and has no eye for the rest. Every client sends them, in a proportion
//! to what it is served: so they are paid from a budget that answers and time fill up again.

use std::time::{Duration, Instant};

use super::frame::{FrameHead, kind};

/// What a connection may spend at once. A browser opening a page spends some tens.
const BURST: i64 = 1_000;

/// What time alone gives back each second.
const PER_SECOND: i64 = 100;

/// Price of a stream that is reset, whoever does it: it was opened, routed and perhaps dialled for.
const RESET: i64 = 5;

/// Price of any other frame that carries no part of a message.
const CONTROL: i64 = 1;

/// What a response's head gives back: less than a reset costs, so that opening and resetting
/// streams runs dry even where the answers come first.
const ANSWER: i64 = 2;

/// What a DATA frame of ours gives back: its receiver may update two windows for it, and some
/// clients ping to measure.
const DATA_SENT: i64 = 4;

/// The account of one connection.
#[derive(Debug)]
pub(super) struct FrameBudget {
    left: i64,
    filled: Instant,
}

impl FrameBudget {
    /// The account of a connection that begins at `now`.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now }
    }

    /// Takes account of a frame from the client.
    pub(super) fn receive(&mut self, head: FrameHead) {
        self.left -= price(head);
    }

    /// Takes account of a frame to the client.
    pub(super) fn send(&mut self, head: FrameHead) {
        self.left = (self.left + worth(head)).min(BURST);
    }

    /// `false` when the client has spent too much; `now` is asked only where time decides.
    #[must_use]
    pub(super) fn settle(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left >= 0 {
            return true;
        }
        let now = now();
        let waited = now.saturating_duration_since(self.filled).min(Duration::from_secs(60));
        let earned = i64::try_from(waited.as_millis()).unwrap_or(i64::MAX) * PER_SECOND / 1_000;
        self.left = (self.left + earned).min(BURST);
        self.filled = now;
        self.left >= 0
    }
}

/// What it costs a client to send a frame.
fn price(head: FrameHead) -> i64 {
    match head.kind {
        kind::DATA if head.payload > 0 || head.ends_stream() => 0,
        kind::HEADERS => 0,
        kind::RST_STREAM => RESET,
        _ => CONTROL,
    }
}

/// What it gives the client when we send a frame.
fn worth(head: FrameHead) -> i64 {
    match head.kind {
        kind::DATA => DATA_SENT,
        kind::HEADERS => ANSWER,
        kind::RST_STREAM => -RESET,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameWatch;
    use super::super::frame::flag;
    use super::super::frame::kind::*;
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        // Were a payload read as heads, this one would cost as PING does.
        frame.resize(9 + payload, PING);
        frame
    }

    fn begun(now: Instant) -> FrameWatch {
        let mut budget = FrameWatch::new(now);
        assert!(budget.receive(PREFACE, || now));
        budget
    }

    /// How many of `frame` a new connection may send at one moment; `limit` if no fewer.
    fn allowed(frame: &[u8], limit: usize) -> usize {
        let now = Instant::now();
        let mut budget = begun(now);
        (0..limit).take_while(|_| budget.receive(frame, || now)).count()
    }

    #[test]
    fn frames_that_only_make_work_are_limited_and_messages_are_not() {
        for (name, frame, wanted) in [
            ("PING", frame(PING, 0, 8), 1_000),
            ("SETTINGS", frame(SETTINGS, 0, 6), 1_000),
            ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 4), 1_000),
            ("PRIORITY", frame(PRIORITY, 0, 5), 1_000),
            ("unknown", frame(99, 0, 0), 1_000),
            ("empty CONTINUATION", frame(CONTINUATION, 0, 0), 1_000),
            ("empty DATA", frame(DATA, 0, 0), 1_000),
            ("RST_STREAM", frame(RST_STREAM, 0, 4), 200),
            ("the end of a body", frame(DATA, flag::END_STREAM, 0), 5_000),
            ("DATA", frame(DATA, 0, 300), 5_000),
            ("HEADERS", frame(HEADERS, 4, 30), 5_000),
        ] {
            assert_eq!(allowed(&frame, 5_000), wanted, "{name}");
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let bytes =
            [PREFACE.to_vec(), frame(DATA, 0, 40), frame(PING, 0, 8), frame(RST_STREAM, 0, 4)]
                .concat();
        for size in [1, 2, 7, 9, 10, 31, bytes.len()] {
            let now = Instant::now();
            let mut budget = FrameWatch::new(now);
            assert!(bytes.chunks(size).all(|part| budget.receive(part, || now)));
            let left =
                (0..2_000).take_while(|_| budget.receive(&frame(PING, 0, 8), || now)).count();
            assert_eq!(left, 1_000 - 6, "{size} bytes at a time");
        }
    }

    #[test]
    fn a_download_pays_for_its_window_updates_and_pings() {
        let now = Instant::now();
        let mut budget = begun(now);
        let client =
            [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4), frame(PING, 1, 8)].concat();
        for _ in 0..100_000 {
            assert!(budget.send(&mut frame(DATA, 0, 50), || now));
            assert!(budget.receive(&client, || now));
        }
    }

    #[test]
    fn streams_that_are_answered_and_reset_all_the_same_run_dry() {
        let now = Instant::now();
        let mut budget = begun(now);
        let is_allowed = |_: &usize| {
            budget.receive(&frame(HEADERS, 5, 30), || now)
                && budget.send(&mut frame(HEADERS, 4, 30), || now)
                && budget.receive(&frame(RST_STREAM, 0, 4), || now)
        };
        assert!((0..1_000).take_while(is_allowed).count() < 400);
    }

    #[test]
    fn a_client_that_makes_us_reset_its_streams_pays_for_it() {
        let now = Instant::now();
        let mut budget = begun(now);
        let sent =
            (0..1_000).take_while(|_| budget.send(&mut frame(RST_STREAM, 0, 4), || now)).count();
        assert_eq!(sent, 200);
    }

    #[test]
    fn time_fills_the_budget_up_again_but_not_beyond_its_burst() {
        let start = Instant::now();
        let mut budget = begun(start);
        let ping = frame(PING, 0, 8);
        let second = |count| start + Duration::from_secs(count);
        let count = |budget: &mut FrameWatch, now| {
            (0..5_000).take_while(|_| budget.receive(&ping, || now)).count()
        };
        assert_eq!(count(&mut budget, start), 1_000);
        assert_eq!(count(&mut budget, second(1)), 99, "a second's worth");
        assert!(count(&mut budget, second(3_600)) <= 1_001, "no more after an hour");
    }
}
