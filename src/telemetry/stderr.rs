//! Standard error, whose reader nobody waits for.
//!
//! Called by `log` for each line. Lines that find no room are lost and counted, and the next one that
//! finds some is preceded by a line that says how many.
//!
//! # Why
//! A pipe whose reader has stopped (a pager, a collector on a full disk) takes 64 KiB, and then holds
//! whoever writes, under the log's lock: in the end every thread that has something to say.

use std::io::{self, Write};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::line::Fields;
use super::timestamp::Timestamp;
use crate::config::process::LogFormat;

/// How much may be written to a pipe that takes anything (`PIPE_BUF` of Linux, `pipe(7)`).
const PIECE: usize = 4096;

/// How long a reader may take to make room. Once: afterwards it is not waited for until it has.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Standard error, or in tests another place.
#[derive(Debug)]
pub(super) struct PatientStderr<W = io::Stderr> {
    out: W,
    format: LogFormat,
    is_stuck: bool,
    /// Whether a line was cut.
    is_torn: bool,
    lost: u64,
}

impl PatientStderr {
    /// Standard error; `format` is that of its lines.
    pub(super) fn new(format: LogFormat) -> Self {
        Self::over(io::stderr(), format)
    }
}

impl<W: Write + rustix::fd::AsFd> PatientStderr<W> {
    fn over(out: W, format: LogFormat) -> Self {
        Self { out, format, is_stuck: false, is_torn: false, lost: 0 }
    }

    /// Whether [`PIECE`] bytes can be written without waiting, or after [`PATIENCE`].
    fn has_room(&mut self) -> bool {
        let mut asked = [PollFd::new(&self.out, PollFlags::OUT)];
        let wait = if self.is_stuck { Timespec::default() } else { PATIENCE };
        // Where that cannot be known, writing tells.
        let has_room = poll(&mut asked, Some(&wait)).map_or(true, |ready| ready > 0);
        self.is_stuck = !has_room;
        has_room
    }

    /// Writes `bytes` as far as there is room.
    fn put(&mut self, bytes: &[u8]) -> io::Result<bool> {
        for (at, piece) in bytes.chunks(PIECE).enumerate() {
            if !self.has_room() {
                self.is_torn |= at > 0;
                return Ok(false);
            }
            self.out.write_all(piece)?;
        }
        Ok(true)
    }

    /// What has to be said first, once there is room.
    fn apology(&self) -> Vec<u8> {
        let mut out = if self.is_torn { b"\n".to_vec() } else { Vec::new() };
        let mut stamp = Timestamp::new();
        let stamp = stamp.spell(SystemTime::now());
        if self.format == LogFormat::Text {
            out.extend_from_slice(stamp);
            out.extend_from_slice(b"  WARN wardgate::telemetry: log lines were lost");
        }
        let mut fields = Fields::begin(&mut out, self.format);
        if self.format == LogFormat::Json {
            fields.named("timestamp").text(stamp);
            fields.named("level").text(b"warn");
            fields.named("target").text(b"wardgate::telemetry");
            fields.named("message").text(b"log lines were lost");
        }
        fields.named("count").number(self.lost);
        fields.end();
        out
    }
}

impl<W: Write + rustix::fd::AsFd> Write for PatientStderr<W> {
    /// Takes one line, written or lost.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 {
            let apology = self.apology();
            if !self.put(&apology)? {
                self.lost += 1;
                return Ok(line.len());
            }
            (self.lost, self.is_torn) = (0, false);
        }
        if !self.put(line)? {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use super::*;

    #[test]
    fn lines_are_lost_and_counted_while_nobody_reads() {
        let (mut reader, writer) = pipe().unwrap();
        let mut log = PatientStderr::over(writer, LogFormat::Json);
        let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(10_000));
        for _ in 0..100 {
            assert_eq!(log.write(line.as_bytes()).unwrap(), line.len());
        }
        let mut held = vec![0; 128 << 10];
        let count = reader.read(&mut held).unwrap();
        assert!(count <= 64 << 10, "{count}");
        log.write_all(b"{\"text\":\"last\"}\n").unwrap();
        drop(log);
        let mut text = String::from_utf8(held[..count].to_vec()).unwrap();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text.lines().map(serde_json::from_str::<serde_json::Value>).collect();
        let whole =
            lines.iter().flatten().filter(|line| line["text"] == "x".repeat(10_000)).count();
        let [.., lost, last] = &lines[..] else { panic!("{text}") };
        assert_eq!(last.as_ref().unwrap()["text"], "last");
        let lost = lost.as_ref().unwrap();
        assert_eq!(lost["message"], "log lines were lost");
        assert_eq!(lost["count"], 100 - whole, "{whole} whole ones");
    }

    #[test]
    fn the_loss_is_told_in_the_form_of_the_other_lines() {
        let mut log = PatientStderr::over(io::stderr(), LogFormat::Text);
        log.lost = 3;
        let text = String::from_utf8(log.apology()).unwrap();
        assert!(
            text.ends_with("  WARN wardgate::telemetry: log lines were lost count=3\n"),
            "{text}"
        );
    }
}
