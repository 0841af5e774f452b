//! Where the writer's thread puts its lines: a stream, or a file that is rotated.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use super::file::RotatingFile;
use super::rotation::first_line;

/// Where lines go.
pub(super) enum Output {
    /// As they come.
    Stream {
        /// The stream.
        out: Box<dyn Write + Send>,
        /// What was written last did not end its line.
        is_torn: bool,
    },
    /// Appended to a file.
    File(RotatingFile),
}

impl Output {
    /// A stream to which nothing is written yet.
    pub(super) fn stream(out: Box<dyn Write + Send>) -> Self {
        Self::Stream { out, is_torn: false }
    }

    /// Writes some of `bytes`, at `now`, and returns how many.
    ///
    /// # Errors
    /// What the system says; nothing was written then.
    pub(super) fn write(&mut self, bytes: &[u8], now: SystemTime) -> io::Result<usize> {
        match self {
            Self::Stream { out, is_torn } => {
                let share = if *is_torn { first_line(bytes) } else { whole_lines(bytes) };
                let written = out.write(&bytes[..share])?;
                if let Some(last) = bytes[..written].last() {
                    *is_torn = *last != b'\n';
                }
                Ok(written)
            }
            Self::File(file) => file.write(bytes, now),
        }
    }

    /// Passes on what is buffered.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream { out, .. } => out.flush(),
            Self::File(_) => Ok(()),
        }
    }

    /// Whether the next line would be glued to a piece of another.
    pub(super) fn is_torn(&self) -> bool {
        match self {
            Self::Stream { is_torn, .. } => *is_torn,
            Self::File(file) => file.is_torn(),
        }
    }

    /// Goes on with the file that is at its path now, and makes it where there is none.
    pub(super) fn reopen(&mut self, now: SystemTime) {
        if let Self::File(file) = self {
            file.reopen(now);
        }
    }
}

/// Bytes that a pipe takes in one piece (`PIPE_BUF` on Linux, and less than elsewhere): during an
/// upgrade two processes write to the same one.
const ONE_PIECE: usize = 4096;

/// How many of `bytes` are whole lines that are written in one piece; the first in any case.
fn whole_lines(bytes: &[u8]) -> usize {
    let piece = &bytes[..bytes.len().min(ONE_PIECE)];
    let end = piece.iter().rposition(|byte| *byte == b'\n');
    end.map_or_else(|| first_line(bytes), |end| end + 1)
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { .. } => f.write_str("Stream"),
            Self::File(file) => file.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gets_whole_lines_in_pieces_that_do_not_mix() {
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        for (lines, wanted) in [
            (vec![line(10)], 10),
            (vec![line(4096)], 4096),
            (vec![line(5000), line(10)], 5000),
            (vec![line(4000), line(96), line(1)], 4096),
            (vec![line(4000), line(97)], 4000),
            (vec![b"torn".to_vec()], 4),
        ] {
            assert_eq!(whole_lines(&lines.concat()), wanted);
        }
    }
}
