//! The time at the head of a line: RFC 3339, UTC, milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Bytes of `2026-07-01T12:00:00.123Z`.
const LENGTH: usize = 24;
/// The last second that RFC 3339's four-digit years can spell: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Spells instants, and remembers the last second: within one only the milliseconds are new.
#[derive(Debug)]
pub(super) struct Timestamp {
    second: u64,
    text: [u8; LENGTH],
}

impl Timestamp {
    /// Knows the Unix epoch.
    pub(super) const fn new() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }

    /// The spelling of `at`. What lies before 1970 or after 9999 is spelled as the nearest instant
    /// that has a spelling: a broken clock must not cost the line.
    pub(super) fn spell(&mut self, at: SystemTime) -> &[u8; LENGTH] {
        let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs().min(LAST_SECOND);
        if second != self.second {
            self.respell(second);
        }
        digits(&mut self.text[20..23], since_epoch.subsec_millis());
        &self.text
    }

    fn respell(&mut self, second: u64) {
        let Ok(at) = OffsetDateTime::from_unix_timestamp(second.cast_signed()) else { return };
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, of_minute) = at.to_hms();
        digits(&mut self.text[0..4], year.unsigned_abs());
        digits(&mut self.text[5..7], u32::from(u8::from(month)));
        digits(&mut self.text[8..10], u32::from(day));
        digits(&mut self.text[11..13], u32::from(hour));
        digits(&mut self.text[14..16], u32::from(minute));
        digits(&mut self.text[17..19], u32::from(of_minute));
        self.second = second;
    }
}

/// Fills `out` with the last digits of `value`, zeros in front.
fn digits(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn instants_are_spelled_in_utc_with_milliseconds() {
        let mut stamp = Timestamp::new();
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_782_907_200_123, "2026-07-01T12:00:00.123Z"),
            (1_782_907_200_999, "2026-07-01T12:00:00.999Z"),
            (1_709_164_799_001, "2024-02-28T23:59:59.001Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "9999-12-31T23:59:59.000Z"),
            (5, "1970-01-01T00:00:00.005Z"),
        ];
        for (millis, expected) in table {
            let text = *stamp.spell(UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
        }
    }

    #[test]
    fn a_clock_before_1970_reads_as_1970() {
        let mut stamp = Timestamp::new();
        stamp.spell(UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let text = *stamp.spell(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(&text, b"1970-01-01T00:00:00.000Z");
    }
}
