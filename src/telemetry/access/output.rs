//! Where the writer's thread puts its lines: a stream, or a file that is rotated.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use super::file::RotatingFile;

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
                let written = out.write(bytes)?;
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

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { .. } => f.write_str("Stream"),
            Self::File(file) => file.fmt(f),
        }
    }
}
