//! When a new file is begun, and what the old one is called.
//!
//! Answers "do these lines still belong here?" and "is that file one of ours?". Called by the file,
//! which brings the clock and the disk.
//!
//! # Why
//! An old file is called after the time of its last line, to the millisecond: sorted by name they are
//! sorted by age, none is ever renamed again, and no name comes back, so that neither a file here nor
//! a copy elsewhere is overwritten. Days are those of UTC, as in the lines' own timestamps: local
//! time has days of 23 and 25 hours, and a process with threads cannot soundly ask for it.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::timestamp::Timestamp;
use crate::config::process::LogFile;

/// When a new file is begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rotation {
    /// With the first line of a day, UTC.
    daily: bool,
    /// Before the line that would make the file larger than this.
    max_size: Option<u64>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// In bytes.
    pub(super) size: u64,
    /// When the last line was written.
    pub(super) last: SystemTime,
}

impl Rotation {
    /// As `file` is configured.
    pub(super) fn of(file: &LogFile) -> Self {
        Self { daily: file.daily, max_size: file.max_size }
    }

    /// Whether a new file is ever begun.
    pub(super) fn is_on(self) -> bool {
        self.daily || self.max_size.is_some()
    }

    /// How many bytes of `lines`, always whole lines, belong into the file that holds `held` at `now`.
    /// None when a new file is to be begun before them. A line that is larger than a file may be has
    /// a file of its own.
    pub(super) fn share(self, held: Held, lines: &[u8], now: SystemTime) -> usize {
        let is_empty = held.size == 0;
        if self.daily && !is_empty && day(now) > day(held.last) {
            return 0;
        }
        let Some(max_size) = self.max_size else { return lines.len() };
        let room = usize::try_from(max_size.saturating_sub(held.size)).unwrap_or(usize::MAX);
        let Some(fitting) = lines.get(..room).filter(|_| room < lines.len()) else {
            return lines.len();
        };
        match fitting.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if is_empty => first_line(lines),
            None => 0,
        }
    }
}

/// Bytes up to the first line break, which is included.
pub(super) fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

/// Days since 1970 in UTC; what lies before is the first.
fn day(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / (24 * 60 * 60)
}

/// What old files are called: `access-2026-11-25T23-59-58.120Z.log` for `access.log`.
#[derive(Debug)]
pub(super) struct Names {
    before: OsString,
    after: OsString,
}

/// The shape of the time in a name: `0` stands for a digit. No colons, which Windows does not take.
const SHAPE: &[u8; 24] = b"0000-00-00T00-00-00.000Z";

impl Names {
    /// Beside `path`.
    pub(super) fn beside(path: &Path) -> Self {
        let mut before = path.file_stem().unwrap_or_default().to_owned();
        before.push("-");
        let mut after = OsString::new();
        if let Some(extension) = path.extension() {
            after.push(".");
            after.push(extension);
        }
        Self { before, after }
    }

    /// The name of a file whose last line was written at `at`.
    pub(super) fn at(&self, at: SystemTime) -> OsString {
        let mut stamp = Timestamp::new();
        let stamp = String::from_utf8_lossy(stamp.spell(at)).replace(':', "-");
        let mut name = self.before.clone();
        name.push(stamp);
        name.push(&self.after);
        name
    }

    /// Whether [`Self::at`] spells this name at some time. No other file is ever removed.
    pub(super) fn are_ours(&self, name: &OsStr) -> bool {
        let stamp = name
            .as_encoded_bytes()
            .strip_prefix(self.before.as_encoded_bytes())
            .and_then(|rest| rest.strip_suffix(self.after.as_encoded_bytes()));
        let fits = |(byte, shape): (&u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        };
        stamp.is_some_and(|stamp| stamp.len() == SHAPE.len() && stamp.iter().zip(SHAPE).all(fits))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: u64 = 60 * 60;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hours * HOUR)
    }

    #[test]
    fn lines_belong_to_the_file_until_it_is_full() {
        let rotation = Rotation { daily: false, max_size: Some(10) };
        let table: [(u64, &[u8], usize, &str); 9] = [
            (0, b"aaaa\nbbbb\n", 10, "all, to the last byte"),
            (0, b"aaaa\nbbbbb\n", 5, "what fits"),
            (5, b"bbbb\n", 5, "to the last byte"),
            (5, b"bbbbb\n", 0, "one byte too many"),
            (10, b"\n", 0, "full"),
            (99, b"\n", 0, "found larger than it may be"),
            (0, b"aaaaaaaaaaaa\nb\n", 13, "a line larger than a file has one of its own"),
            (13, b"b\n", 0, "and no other beside it"),
            (1, b"aaaaaaaaaaaa\nb\n", 0, "nor before it"),
        ];
        for (size, lines, share, why) in table {
            assert_eq!(rotation.share(Held { size, last: at(0) }, lines, at(0)), share, "{why}");
        }
    }

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let rotation = Rotation { daily: true, max_size: None };
        let table = [
            (0, 0, true, "the same moment"),
            (0, 23, true, "the same day"),
            (23, 24, false, "midnight"),
            (24, 47, true, "the next day"),
            (24, 24 * 400, false, "idle for a year"),
            (24, 23, true, "a clock that was set back"),
        ];
        for (last, now, is_same, why) in table {
            let share = |size| rotation.share(Held { size, last: at(last) }, b"line\n", at(now));
            assert_eq!(share(5), if is_same { 5 } else { 0 }, "{why}");
            assert_eq!(share(0), 5, "an empty file is of any day: {why}");
        }
        let both = Rotation { daily: true, max_size: Some(10) };
        assert_eq!(both.share(Held { size: 2, last: at(23) }, b"line\n", at(24)), 0, "by day");
        assert_eq!(both.share(Held { size: 8, last: at(24) }, b"line\n", at(24)), 0, "by size");
        let never = Rotation { daily: false, max_size: None };
        assert_eq!(never.share(Held { size: 1 << 50, last: at(0) }, b"line\n", at(9999)), 5);
    }

    #[test]
    fn names_say_when_and_are_known_again() {
        let moment = UNIX_EPOCH + Duration::from_millis(1_782_907_200_120);
        for (path, name) in [
            ("logs/access.log", "access-2026-07-01T12-00-00.120Z.log"),
            ("a.b.c", "a.b-2026-07-01T12-00-00.120Z.c"),
            ("access", "access-2026-07-01T12-00-00.120Z"),
            (".hidden", ".hidden-2026-07-01T12-00-00.120Z"),
        ] {
            let names = Names::beside(Path::new(path));
            assert_eq!(names.at(moment), name);
            assert!(names.are_ours(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn no_other_name_is_taken_for_ours() {
        let names = Names::beside(Path::new("logs/access.log"));
        for name in [
            "access.log",
            "access-.log",
            "access.log.1",
            "access-2026-07-01.log",
            "access-2026-07-01T12-00-00.120Z.log.gz",
            "access-2026-07-01T12-00-00.120Z",
            "access-2026-07-01T12:00:00.120Z.log",
            "access-2026-07-01T12-00-00.12xZ.log",
            "xaccess-2026-07-01T12-00-00.120Z.log",
            "other-2026-07-01T12-00-00.120Z.log",
            "access-b-2026-07-01T12-00-00.120Z.log",
        ] {
            assert!(!names.are_ours(OsStr::new(name)), "{name}");
        }
    }
}
