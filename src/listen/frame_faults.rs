//! Which error a client's frames are, where the h2 layer only says that they are one.
//!
//! Answers "by what code does RFC 9113 want this connection to end?" from the heads of the client's
//! frames and the values of its settings. Called by the h2 connection's stream wrapper, which changes
//! the code of a GOAWAY that is leaving. Never ends a connection, and never keeps one: that is the h2
//! layer's to decide, and a fault it lets pass is forgotten.
//!
//! # Why
//! The h2 layer says PROTOCOL_ERROR to whatever it cannot read. Whoever looks for the fault in a client
//! learns more from FRAME_SIZE_ERROR, FLOW_CONTROL_ERROR or STREAM_CLOSED, and the text has a MUST for
//! each. COMPRESSION_ERROR would take decoding every head a second time: without that, a bad code of
//! HPACK looks like a name in upper case, which is a PROTOCOL_ERROR.

use h2::Reason;

use super::frame::{FrameHead, flag, kind};

/// The setting whose value has limits of its own (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// What is known of a client's frames. Constant in size.
#[derive(Debug, Default)]
pub(super) struct FrameFaults {
    /// The first fault among the frames that the h2 layer may be looking at.
    found: Option<Reason>,
    /// The fault of the frame that came last.
    last: Option<Reason>,
    /// The highest stream that the client has opened.
    highest: u32,
    /// Which streams up to `highest` the client has ended; each bit is that of two numbers less than
    /// the one below it. Of older ones nothing is known.
    ended: u128,
    /// Whether a block of fields has begun, so that nothing else may come (RFC 9113 §4.3).
    is_in_block: bool,
    /// Whether the payload is settings.
    is_in_settings: bool,
    setting: [u8; 6],
    /// How much of the setting has come.
    seen: usize,
}

impl FrameFaults {
    /// More bytes go to the h2 layer. It asks for them only when it is done with what came whole
    /// before; `is_within_frame` says that the frame that came last did not.
    pub(super) fn begin(&mut self, is_within_frame: bool) {
        self.found = self.last.filter(|_| is_within_frame);
    }

    /// Takes account of a frame.
    pub(super) fn head(&mut self, head: FrameHead) {
        self.last = None;
        if let Some(fault) = self.fault(head) {
            self.note(fault);
        }
        self.is_in_settings = head.kind == kind::SETTINGS && !head.has(flag::ACK);
        self.seen = 0;
        match head.kind {
            kind::HEADERS => {
                self.is_in_block = !head.has(flag::END_HEADERS);
                self.open(head.stream);
            }
            kind::CONTINUATION => self.is_in_block = !head.has(flag::END_HEADERS),
            _ => {}
        }
        if head.ends_stream()
            && let Some(bit) = self.bit(head.stream)
        {
            self.ended |= bit;
        }
    }

    /// Takes account of some of the payload of the frame that came last.
    pub(super) fn payload(&mut self, bytes: &[u8]) {
        if !self.is_in_settings {
            return;
        }
        for byte in bytes {
            self.setting[self.seen] = *byte;
            self.seen += 1;
            if self.seen == self.setting.len() {
                self.seen = 0;
                let [high, low, value @ ..] = self.setting;
                let is_window = u16::from_be_bytes([high, low]) == INITIAL_WINDOW_SIZE;
                if is_window && u32::from_be_bytes(value) > MAX_WINDOW {
                    self.note(Reason::FLOW_CONTROL_ERROR);
                }
            }
        }
    }

    /// Puts the fault that was found into the payload of a GOAWAY, where that says PROTOCOL_ERROR.
    pub(super) fn name_in(&self, goaway: &mut [u8]) {
        let (Some(fault), Some(code)) = (self.found, goaway.get_mut(4..8)) else { return };
        if *code == u32::from(Reason::PROTOCOL_ERROR).to_be_bytes() {
            code.copy_from_slice(&u32::from(fault).to_be_bytes());
        }
    }

    fn note(&mut self, fault: Reason) {
        self.last.get_or_insert(fault);
        self.found.get_or_insert(fault);
    }

    /// What is wrong with a frame. PROTOCOL_ERROR is the h2 layer's word already: it is said where a
    /// later frame's fault would be taken for this one's.
    fn fault(&self, head: FrameHead) -> Option<Reason> {
        let FrameHead { kind, stream, .. } = head;
        let is_misplaced = match kind {
            _ if self.is_in_block && kind != kind::CONTINUATION => true,
            kind::SETTINGS | kind::PING | kind::GOAWAY => stream != 0,
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM => stream == 0,
            kind::CONTINUATION => !self.is_in_block,
            kind::PUSH_PROMISE => true,
            _ => false,
        };
        if is_misplaced {
            return Some(Reason::PROTOCOL_ERROR);
        }
        if !has_its_size(head) {
            return Some(Reason::FRAME_SIZE_ERROR);
        }
        match kind {
            kind::DATA | kind::RST_STREAM | kind::WINDOW_UPDATE if stream > self.highest => {
                Some(Reason::PROTOCOL_ERROR)
            }
            kind::DATA | kind::HEADERS if self.has_ended(stream) => Some(Reason::STREAM_CLOSED),
            _ => None,
        }
    }

    fn open(&mut self, stream: u32) {
        if stream > self.highest {
            let between = (stream - self.highest).div_ceil(2);
            self.ended = self.ended.checked_shl(between).unwrap_or(0);
            self.highest = stream;
        }
    }

    fn has_ended(&self, stream: u32) -> bool {
        self.bit(stream).is_some_and(|bit| self.ended & bit != 0)
    }

    /// The bit of a stream in `ended`, if it has one.
    fn bit(&self, stream: u32) -> Option<u128> {
        let below = self.highest.checked_sub(stream)?;
        1_u128.checked_shl(below / 2).filter(|_| below.is_multiple_of(2))
    }
}

/// Whether a frame is as long as its type says (RFC 9113 §6). Those longer than we take never come
/// this far: the h2 layer has the right word for them.
fn has_its_size(head: FrameHead) -> bool {
    let padding = usize::from(head.has(flag::PADDED));
    let size = head.payload;
    match head.kind {
        kind::DATA => size >= padding,
        kind::HEADERS => size >= padding + if head.has(flag::PRIORITY) { 5 } else { 0 },
        kind::PRIORITY => size == 5,
        kind::RST_STREAM | kind::WINDOW_UPDATE => size == 4,
        kind::SETTINGS if head.has(flag::ACK) => size == 0,
        kind::SETTINGS => size.is_multiple_of(6),
        kind::PING => size == 8,
        kind::GOAWAY => size >= 8,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::kind::*;
    use super::super::frame::{FrameHeads, Piece, flag};
    use super::*;

    const END: u8 = flag::END_STREAM | flag::END_HEADERS;

    #[derive(Default)]
    struct Client {
        heads: FrameHeads,
        faults: FrameFaults,
    }

    impl Client {
        /// What a GOAWAY would say when `bytes` have come on top of what came before.
        fn send(&mut self, bytes: &[u8]) -> Reason {
            self.faults.begin(self.heads.is_within_frame());
            self.heads.follow(bytes, |piece| match piece {
                Piece::Head(head, _) => self.faults.head(head),
                Piece::Payload(payload) => self.faults.payload(payload),
            });
            let mut goaway = [0, 0, 0, 0, 0, 0, 0, 1];
            self.faults.name_in(&mut goaway);
            Reason::from(u32::from_be_bytes(goaway[4..].try_into().unwrap()))
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        [&head[..], &stream.to_be_bytes(), payload].concat()
    }

    fn get(stream: u32) -> Vec<u8> {
        frame(HEADERS, END, stream, &[0x82])
    }

    fn window(value: u32) -> Vec<u8> {
        frame(SETTINGS, 0, 0, &[&[0, 3, 0, 0, 0, 9, 0, 4], &value.to_be_bytes()[..]].concat())
    }

    #[test]
    fn faults_have_the_names_that_the_text_gives_them() {
        let open = frame(HEADERS, flag::END_HEADERS, 1, &[0x82]);
        for (name, frames, wanted) in [
            ("PING", vec![frame(PING, 0, 0, &[0; 6])], Reason::FRAME_SIZE_ERROR),
            ("SETTINGS", vec![frame(SETTINGS, 0, 0, &[0; 5])], Reason::FRAME_SIZE_ERROR),
            ("SETTINGS, ACK", vec![frame(SETTINGS, 1, 0, &[0; 6])], Reason::FRAME_SIZE_ERROR),
            ("PRIORITY", vec![frame(PRIORITY, 0, 1, &[0; 4])], Reason::FRAME_SIZE_ERROR),
            ("GOAWAY", vec![frame(GOAWAY, 0, 0, &[0; 7])], Reason::FRAME_SIZE_ERROR),
            ("WINDOW_UPDATE", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Reason::FRAME_SIZE_ERROR),
            (
                "RST_STREAM",
                vec![open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])],
                Reason::FRAME_SIZE_ERROR,
            ),
            (
                "no length of the padding",
                vec![open.clone(), frame(DATA, flag::PADDED, 1, &[])],
                Reason::FRAME_SIZE_ERROR,
            ),
            (
                "half a priority",
                vec![frame(HEADERS, END | flag::PRIORITY, 1, &[0; 4])],
                Reason::FRAME_SIZE_ERROR,
            ),
            ("a large window", vec![window(1 << 31)], Reason::FLOW_CONTROL_ERROR),
            ("the largest window", vec![window(MAX_WINDOW)], Reason::PROTOCOL_ERROR),
            ("DATA behind the end", vec![get(1), frame(DATA, 0, 1, b"a")], Reason::STREAM_CLOSED),
            ("HEADERS behind the end", vec![get(1), get(1)], Reason::STREAM_CLOSED),
            (
                "DATA behind the last DATA",
                vec![open.clone(), frame(DATA, 1, 1, b"a"), frame(DATA, 1, 1, b"a")],
                Reason::STREAM_CLOSED,
            ),
            (
                "DATA behind RST_STREAM",
                vec![open.clone(), frame(RST_STREAM, 0, 1, &[0; 4]), frame(DATA, 1, 1, b"a")],
                Reason::STREAM_CLOSED,
            ),
            (
                "a stream that is still open",
                vec![open.clone(), get(3), get(5), frame(DATA, 1, 1, b"a")],
                Reason::PROTOCOL_ERROR,
            ),
            (
                "one that ended before others",
                vec![open.clone(), get(3), get(257), frame(DATA, 1, 3, b"a")],
                Reason::STREAM_CLOSED,
            ),
            (
                "one of which nothing is known any more",
                vec![get(3), get(259), frame(DATA, 1, 3, b"a")],
                Reason::PROTOCOL_ERROR,
            ),
            ("a stream that was left out", vec![get(5), get(3)], Reason::PROTOCOL_ERROR),
            ("DATA on an idle stream", vec![frame(DATA, 0, 1, b"a")], Reason::PROTOCOL_ERROR),
            (
                "what comes within a block",
                vec![frame(HEADERS, 1, 1, &[0x82]), frame(PING, 0, 0, &[0; 6])],
                Reason::PROTOCOL_ERROR,
            ),
            (
                "HEADERS within their own block",
                vec![frame(HEADERS, 1, 1, &[0x82]), get(1)],
                Reason::PROTOCOL_ERROR,
            ),
            (
                "no fault",
                vec![open, frame(DATA, 1, 1, b"a"), frame(PING, 0, 0, &[0; 8])],
                Reason::PROTOCOL_ERROR,
            ),
        ] {
            let bytes = frames.concat();
            assert_eq!(Client::default().send(&bytes), wanted, "{name}");
            for size in 1..bytes.len() {
                let mut client = Client::default();
                let said = bytes.chunks(size).map(|part| client.send(part)).last();
                assert_eq!(said, Some(wanted), "{name}, {size} bytes at a time");
            }
        }
    }

    #[test]
    fn the_first_fault_of_two_is_named() {
        let both = [frame(PING, 0, 1, &[0; 8]), frame(PING, 0, 0, &[0; 6])].concat();
        assert_eq!(Client::default().send(&both), Reason::PROTOCOL_ERROR);
        let both = [get(1), get(1), frame(PING, 0, 0, &[0; 6])].concat();
        assert_eq!(Client::default().send(&both), Reason::STREAM_CLOSED);
    }

    #[test]
    fn what_the_h2_layer_lets_pass_is_forgotten() {
        let mut client = Client::default();
        assert_eq!(client.send(&get(1)), Reason::PROTOCOL_ERROR);
        assert_eq!(client.send(&frame(DATA, 1, 1, b"late")), Reason::STREAM_CLOSED);
        assert_eq!(client.send(&get(3)[..4]), Reason::PROTOCOL_ERROR);
        assert_eq!(client.send(&get(3)[4..]), Reason::PROTOCOL_ERROR);
    }

    #[test]
    fn only_a_protocol_error_gets_another_name() {
        let mut client = Client::default();
        client.send(&frame(PING, 0, 0, &[]));
        for code in [0, 2, 11] {
            let mut goaway = [0, 0, 0, 0, 0, 0, 0, code];
            client.faults.name_in(&mut goaway);
            assert_eq!(goaway[7], code);
        }
        client.faults.name_in(&mut [0; 7]);
    }
}
