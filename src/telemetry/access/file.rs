//! The access log's file, and its replacement by a new one.
//!
//! Answers "into which file does this line go?" Called by the writer's thread alone, so that a
//! request never waits for it. Whatever fails here, lines go on into the file that is open.
//!
//! # Why
//! A rotation is three steps, and the process may end after each: an empty file reserves the old
//! file's new name (two processes cannot have the same, and none that exists is overwritten), the old
//! file is renamed over it, a new one is opened. What a start finds after the first is an empty file
//! too many; after the second, a log file to be made. No line is in two files, and none in none.
//!
//! Own code, since crates for this (`tracing-appender`, `file-rotate`, `rolling-file`) either know no
//! size, shift numbers through all names, remove by a prefix, or give a failed rename back as a
//! failed write.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::AccessLogError;
use super::queue::REPORT_EVERY;
use super::rotation::{Held, Names, Rotation, first_line};
use crate::config::process::LogFile;

/// Shortest time between two attempts to begin a new file. On Windows another program that has the
/// file open, such as a virus scanner, may refuse the first.
const RETRY: Duration = Duration::from_secs(1);

/// Names that are tried for an old file, a millisecond apart.
const NAMES_TRIED: usize = 100_000;

/// Attempts of a start to open a file that is still at its path afterwards. Lines that go into one
/// that was set aside are not lost.
const OPENINGS: usize = 10;

/// Time in which a line that another process or an older log of ours is writing reaches its end.
const LAST_BYTES: Duration = Duration::from_millis(20);

/// A file that lines are appended to, and that is set aside when it is due.
#[derive(Debug)]
pub(in crate::telemetry) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    keep: usize,
    names: Names,
    present: Present,
    /// The time in the newest old file's name, as far as this process has given it.
    named: SystemTime,
    /// When a new file could not be begun, which is still owed.
    failed: Option<SystemTime>,
    /// When trouble was last reported.
    reported: Option<SystemTime>,
    /// It is the log itself, which cannot be told of its own trouble.
    is_log: bool,
}

/// The file that is open.
#[derive(Debug)]
struct Present {
    file: File,
    held: Held,
    /// It ends within a line.
    is_torn: bool,
}

/// What stands in the way of a rotation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
struct Trouble {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl RotatingFile {
    /// Opens the file for appending, and makes it and its directory where they are missing.
    ///
    /// # Errors
    /// [`AccessLogError`] names the path.
    pub(in crate::telemetry) fn open(spec: &LogFile) -> Result<Self, AccessLogError> {
        let path = spec.path.clone();
        make_directory(&path)
            .map_err(|source| AccessLogError::Directory { path: directory_of(&path), source })?;
        let opening = |source| AccessLogError::Open { path: path.clone(), source };
        let mut present = Present::open(&path).map_err(opening)?;
        let rotation = Rotation::of(spec);
        for _ in 0..OPENINGS {
            match fs::symlink_metadata(&path) {
                Ok(found) if rotation.is_on() && !found.is_file() => {
                    return Err(AccessLogError::NoFile { path });
                }
                // The process that this one replaces has just set it aside.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    present = Present::open(&path).map_err(opening)?;
                }
                Ok(_) | Err(_) => break,
            }
        }
        let names = Names::beside(&path);
        let keep = spec.keep;
        Ok(Self {
            path,
            rotation,
            keep,
            names,
            present,
            named: UNIX_EPOCH,
            failed: None,
            reported: None,
            is_log: false,
        })
    }

    /// The same for the log itself: it would wait for itself to say what happens to it.
    pub(in crate::telemetry) fn of_the_log(mut self) -> Self {
        self.is_log = true;
        self
    }

    /// Writes some of `lines`, at `now`, into the present file or a new one, and returns how many
    /// bytes.
    ///
    /// # Errors
    /// What the system says; nothing was written then.
    pub(super) fn write(&mut self, lines: &[u8], now: SystemTime) -> io::Result<usize> {
        // A line stays in one file.
        let is_torn = self.present.is_torn;
        let share = if is_torn { first_line(lines) } else { self.share(lines, now) };
        self.present.write(&lines[..share], now)
    }

    /// How many bytes of `lines` go into the present file, once that is a new one where one is due
    /// and can be had.
    fn share(&mut self, lines: &[u8], now: SystemTime) -> usize {
        let mut share = self.rotation.share(self.present.held, lines, now);
        if share == 0 && self.failed.is_none() {
            self.present.measure();
            share = self.rotation.share(self.present.held, lines, now);
        }
        if share == 0 || self.failed.is_some() {
            self.begin_new(now);
            share = self.rotation.share(self.present.held, lines, now);
        }
        if share == 0 { lines.len() } else { share }
    }

    fn begin_new(&mut self, now: SystemTime) {
        let is_early = |at: SystemTime| now.duration_since(at).is_ok_and(|gap| gap < RETRY);
        if self.failed.is_some_and(is_early) {
            return;
        }
        if let Err(trouble) = self.rotate() {
            self.failed = Some(now);
            self.report(&trouble, now);
            return;
        }
        self.failed = None;
        if let Err(trouble) = self.remove_oldest() {
            self.report(&trouble, now);
        }
    }

    fn rotate(&mut self) -> Result<(), Trouble> {
        // Otherwise somebody has moved it, or the attempt before this one has.
        if self.is_at_its_path() {
            let old = self.reserve_name()?;
            let renamed = fs::rename(&self.path, &old);
            if renamed.is_err() {
                // It was empty, and is nobody else's.
                let _ = fs::remove_file(&old);
            }
            match renamed {
                Ok(()) if self.is_log => {}
                Ok(()) => tracing::debug!(path = %old.display(), "rotated the access log"),
                // Another process was faster.
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(Trouble { step: "rename", path: self.path.clone(), source });
                }
            }
        }
        self.open_again()
    }

    /// Makes an empty file of a name that no other has, and that sorts behind those given before,
    /// removed ones included.
    fn reserve_name(&mut self) -> Result<PathBuf, Trouble> {
        let directory = directory_of(&self.path);
        let mut at = self.present.held.last.max(self.named + Duration::from_millis(1));
        let mut outcome = Err(io::ErrorKind::AlreadyExists.into());
        let mut path = PathBuf::new();
        for _ in 0..NAMES_TRIED {
            path = directory.join(self.names.at(at));
            outcome = restricted(OpenOptions::new().write(true).create_new(true)).open(&path);
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    at += Duration::from_millis(1);
                }
                Ok(_) | Err(_) => break,
            }
        }
        match outcome {
            Ok(_) => {
                self.named = at;
                Ok(path)
            }
            Err(source) => Err(Trouble { step: "create", path, source }),
        }
    }

    fn open_again(&mut self) -> Result<(), Trouble> {
        let opened = make_directory(&self.path).and_then(|()| Present::open(&self.path));
        match opened {
            Ok(present) => self.present = present,
            Err(source) => {
                return Err(Trouble { step: "open", path: self.path.clone(), source });
            }
        }
        Ok(())
    }

    /// Whether the file that is open is the one at the path.
    fn is_at_its_path(&self) -> bool {
        let found = fs::symlink_metadata(&self.path).ok().filter(fs::Metadata::is_file);
        found.is_some_and(|found| self.present.is(&found))
    }

    /// Leaves the newest `keep` of the old files.
    fn remove_oldest(&self) -> Result<(), Trouble> {
        let directory = directory_of(&self.path);
        let mut old = self.old_files(&directory).map_err(|source| Trouble {
            step: "list",
            path: directory.clone(),
            source,
        })?;
        old.sort();
        let mut outcome = Ok(());
        for name in &old[..old.len().saturating_sub(self.keep)] {
            let path = directory.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    outcome = Err(Trouble { step: "remove", path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        outcome
    }

    fn old_files(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let mut old = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if self.names.are_ours(&name) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                old.push(name);
            }
        }
        Ok(old)
    }

    /// Whether the present file ends within a line.
    pub(super) fn is_torn(&self) -> bool {
        self.present.is_torn
    }

    /// Goes on with the file that is at the path now, and makes it where there is none. What is owed
    /// is tried again at once.
    pub(super) fn reopen(&mut self, now: SystemTime) {
        self.failed = self.failed.map(|_| UNIX_EPOCH);
        if let Err(trouble) = self.open_again() {
            self.report(&trouble, now);
        }
    }

    /// Says at most once per [`REPORT_EVERY`] what stands in the way.
    fn report(&mut self, trouble: &Trouble, now: SystemTime) {
        let is_early = |at: SystemTime| now.duration_since(at).is_ok_and(|gap| gap < REPORT_EVERY);
        if !self.is_log && !self.reported.is_some_and(is_early) {
            self.reported = Some(now);
            let error: &dyn Error = trouble;
            tracing::warn!(error, "could not rotate the access log, went on in the file at hand");
        }
    }
}

impl Write for RotatingFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        Self::write(self, lines, SystemTime::now())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Present {
    fn open(path: &Path) -> io::Result<Self> {
        let file = restricted(OpenOptions::new().append(true).create(true)).open(path)?;
        let found = file.metadata()?;
        let last = found.modified().unwrap_or(UNIX_EPOCH);
        let is_torn = ends_within_a_line(path) && {
            std::thread::sleep(LAST_BYTES);
            ends_within_a_line(path)
        };
        Ok(Self { file, held: Held { size: found.len(), last }, is_torn })
    }

    fn write(&mut self, bytes: &[u8], now: SystemTime) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(last) = bytes[..written].last() {
            self.held = Held { size: self.held.size + written as u64, last: now };
            self.is_torn = *last != b'\n';
        }
        Ok(written)
    }

    /// Asks for the size: somebody may have cut the file short, as logrotate's `copytruncate` does.
    fn measure(&mut self) {
        if let Ok(found) = self.file.metadata() {
            self.held.size = found.len();
        }
    }

    #[cfg(unix)]
    fn is(&self, other: &fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt;
        let is_it = |own: &fs::Metadata| (own.dev(), own.ino()) == (other.dev(), other.ino());
        self.file.metadata().is_ok_and(|own| is_it(&own))
    }

    /// What tells files apart on Windows is not to be had from the standard library. A file that
    /// somebody has put in the place of ours is set aside like ours: a name too many, no line lost.
    #[cfg(windows)]
    fn is(&self, _: &fs::Metadata) -> bool {
        true
    }
}

/// Whether the file ends without a line break, after a crash.
fn ends_within_a_line(path: &Path) -> bool {
    let last_byte = || {
        let mut file = File::open(path).ok().filter(is_regular)?;
        file.seek(SeekFrom::End(-1)).ok()?;
        let mut last = [0];
        file.read_exact(&mut last).ok()?;
        Some(last[0])
    };
    last_byte().is_some_and(|last| last != b'\n')
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
}

/// The directory of `path`, for functions that do not take an empty path for the present one.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Makes the directory of `path`, and those above it. Lines tell who visited what: they are for the
/// gateway's user and group.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.create(directory_of(path))
}

/// The same for a file that is made. On Windows it inherits its directory's access list.
fn restricted(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o640);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with `access.log`, and what lines go into it.
    struct Case {
        directory: tempfile::TempDir,
        spec: LogFile,
    }

    impl Case {
        fn new(daily: bool, max_size: Option<u64>, keep: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("access.log");
            Self { directory, spec: LogFile { path, daily, max_size, keep } }
        }

        fn open(&self) -> RotatingFile {
            RotatingFile::open(&self.spec).unwrap()
        }

        /// Every file's name and text, by name: old files from old to new, then the present one.
        fn files(&self) -> Vec<(String, String)> {
            let entries = fs::read_dir(self.directory.path()).unwrap();
            let text = |entry: fs::DirEntry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            };
            let mut files: Vec<_> = entries.map(|entry| text(entry.unwrap())).collect();
            files.sort();
            files
        }

        fn texts(&self) -> Vec<String> {
            self.files().into_iter().map(|(_, text)| text).collect()
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }
    }

    /// Seconds after a midnight.
    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(1_782_864_000.0 + seconds)
    }

    const DAY: f64 = 24.0 * 60.0 * 60.0;

    fn write(file: &mut RotatingFile, lines: &str, now: SystemTime) {
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            let written = file.write(rest, now).unwrap();
            rest = &rest[written..];
        }
    }

    #[test]
    fn a_full_file_is_set_aside_by_the_time_of_its_last_line() {
        let case = Case::new(false, Some(12), 14);
        let mut file = case.open();
        write(&mut file, "one\n", at(1.0));
        write(&mut file, "two\nthree\nfour\nfive\n", at(2.0));
        write(&mut file, "six\n", at(3.5));
        let files = case.files();
        let expected = [
            ("access-2026-07-01T00-00-02.000Z.log", "one\ntwo\n"),
            ("access-2026-07-01T00-00-02.001Z.log", "three\nfour\n"),
            ("access.log", "five\nsix\n"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn the_first_line_of_a_day_begins_a_file() {
        let case = Case::new(true, None, 14);
        let mut file = case.open();
        for (line, seconds) in
            [("a\n", 0.0), ("b\n", DAY - 0.001), ("c\n", DAY), ("d\n", DAY * 4.0)]
        {
            write(&mut file, line, at(seconds));
        }
        let files = case.files();
        let expected = [
            ("access-2026-07-01T23-59-59.999Z.log", "a\nb\n"),
            ("access-2026-07-02T00-00-00.000Z.log", "c\n"),
            ("access.log", "d\n"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn a_file_found_at_the_start_is_of_the_day_and_size_it_has() {
        let by_day = Case::new(true, None, 14);
        by_day.write("access.log", "yesterday\n");
        File::options()
            .append(true)
            .open(&by_day.spec.path)
            .unwrap()
            .set_modified(at(-5.0))
            .unwrap();
        write(&mut by_day.open(), "today\n", at(1.0));
        assert_eq!(by_day.files()[0].0, "access-2026-06-30T23-59-55.000Z.log");
        assert_eq!(by_day.texts(), ["yesterday\n", "today\n"]);

        let by_size = Case::new(false, Some(12), 14);
        by_size.write("access.log", "found\n");
        let mut file = by_size.open();
        write(&mut file, "fits\n", at(0.0));
        write(&mut file, "next\n", at(0.0));
        assert_eq!(by_size.texts(), ["found\nfits\n", "next\n"]);
    }

    #[test]
    fn only_the_oldest_of_our_own_files_are_removed() {
        let case = Case::new(false, Some(2), 2);
        let foreign = ["access-.log", "access-2026-07-01.log", "access.log.1", "notes", "z.log"];
        for name in foreign {
            case.write(name, "foreign");
        }
        let ours = "access-2026-06-01T00-00-00.000Z.log";
        case.write(ours, "old\n");
        case.write(&format!("{ours}.gz"), "foreign");
        let like_ours = case.directory.path().join("access-2026-05-01T00-00-00.000Z.log");
        fs::create_dir(&like_ours).unwrap();
        let mut file = case.open();
        for (number, line) in ["a\n", "b\n", "c\n", "d\n"].into_iter().enumerate() {
            write(&mut file, line, at(number as f64));
        }
        fs::remove_dir(&like_ours).expect("a directory is no log file");
        let texts = case.texts();
        let is = |wanted: &'static str| move |text: &&String| *text == wanted;
        assert_eq!(texts.iter().filter(is("foreign")).count(), foreign.len() + 1);
        let kept: Vec<_> = texts.iter().filter(|text| text.len() == 2).collect();
        assert_eq!(kept, ["b\n", "c\n", "d\n"], "two old ones and the present one");
        assert_eq!(texts.iter().find(is("old\n")), None);
    }

    #[test]
    fn the_newest_files_are_kept_however_fast_they_follow() {
        let case = Case::new(false, Some(2), 2);
        let mut file = case.open();
        for line in ["a", "b", "c", "d", "e", "f", "g"] {
            write(&mut file, &format!("{line}\n"), at(0.0));
        }
        assert_eq!(case.texts(), ["e\n", "f\n", "g\n"]);
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let case = Case::new(false, Some(2), 14);
        case.write("access-2026-07-01T00-00-00.000Z.log", "somebody's");
        case.write("access-2026-07-01T00-00-00.001Z.log", "somebody's");
        let mut file = case.open();
        write(&mut file, "a\nb\n", at(0.0));
        assert_eq!(case.files()[2].0, "access-2026-07-01T00-00-00.002Z.log");
        assert_eq!(case.texts(), ["somebody's", "somebody's", "a\n", "b\n"]);
    }

    #[test]
    fn a_rotation_that_the_end_of_the_process_interrupts_loses_nothing() {
        let reserved = Case::new(false, Some(2), 14);
        reserved.write("access-2026-07-01T00-00-00.000Z.log", "");
        reserved.write("access.log", "a\n");
        let renamed = Case::new(false, Some(2), 14);
        renamed.write("access-2026-07-01T00-00-00.000Z.log", "a\n");
        for case in [reserved, renamed] {
            write(&mut case.open(), "b\n", at(9.0));
            assert_eq!(case.texts().concat(), "a\nb\n");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_cannot_be_set_aside_is_written_on_and_tried_again() {
        let mut case = Case::new(false, Some(4), 14);
        // Short enough for a file, too long with a time in it.
        let long = case.directory.path().join(format!("{}.log", "x".repeat(240)));
        case.spec.path.clone_from(&long);
        let mut file = case.open();
        for line in 0..5 {
            write(&mut file, "abc\n", at(f64::from(line)));
        }
        assert_eq!(case.texts(), ["abc\n".repeat(5)], "one file, all lines, nothing else left");
        assert_eq!(file.failed, Some(at(4.0)), "tried again every second");
        assert_eq!(file.reported, Some(at(1.0)), "reported once");
        file.names = Names::beside(&case.spec.path.with_file_name("access.log"));
        write(&mut file, "def\n", at(4.5));
        assert_eq!(case.texts().len(), 1, "not yet");
        write(&mut file, "ghi\n", at(5.0));
        assert_eq!(case.texts(), ["abc\n".repeat(5) + "def\n", "ghi\n".to_owned()]);
        assert_eq!(file.failed, None);
    }

    #[test]
    #[cfg(unix)]
    fn a_day_that_could_not_end_ends_when_it_can() {
        let mut case = Case::new(true, None, 14);
        case.spec.path = case.directory.path().join("logs/access.log");
        let logs = case.directory.path().join("logs");
        let mut file = case.open();
        write(&mut file, "a\n", at(0.0));
        let moved = case.directory.path().join("moved");
        fs::rename(&logs, &moved).unwrap();
        fs::write(&logs, "no directory").unwrap();
        write(&mut file, "b\n", at(DAY));
        assert_eq!(fs::read_to_string(moved.join("access.log")).unwrap(), "a\nb\n");
        fs::remove_file(&logs).unwrap();
        fs::rename(&moved, &logs).unwrap();
        write(&mut file, "c\n", at(DAY + 1.0));
        let old = logs.join("access-2026-07-02T00-00-00.000Z.log");
        assert_eq!(fs::read_to_string(old).unwrap(), "a\nb\n");
        assert_eq!(fs::read_to_string(&case.spec.path).unwrap(), "c\n");
    }

    #[test]
    fn a_file_that_was_moved_is_made_again() {
        let case = Case::new(false, None, 14);
        let mut file = case.open();
        let moved = case.directory.path().join("a.moved");
        write(&mut file, "a\n", at(0.0));
        fs::rename(&case.spec.path, &moved).unwrap();
        write(&mut file, "b\n", at(0.0));
        file.reopen(at(0.0));
        write(&mut file, "c\n", at(0.0));
        file.reopen(at(0.0));
        write(&mut file, "d\n", at(0.0));
        assert_eq!(case.texts(), ["a\nb\n", "c\nd\n"]);
    }

    /// During an upgrade two processes have the log: the other may set the file aside at any moment.
    #[test]
    #[cfg(unix)]
    fn a_start_beside_a_process_that_rotates_succeeds() {
        use std::sync::atomic::{AtomicBool, Ordering};

        let case = Case::new(false, Some(1 << 20), 14);
        let aside = case.directory.path().join("aside");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = fs::rename(&case.spec.path, &aside);
                }
            });
            let opened: Result<Vec<_>, _> =
                (0..2000).map(|_| RotatingFile::open(&case.spec).map(drop)).collect();
            is_over.store(true, Ordering::Relaxed);
            opened.unwrap();
        });
    }

    /// On Windows a name is not free before the last handle is closed.
    #[test]
    #[cfg(unix)]
    fn a_file_that_was_removed_is_made_again() {
        let case = Case::new(false, None, 14);
        let mut file = case.open();
        write(&mut file, "a\n", at(0.0));
        fs::remove_file(&case.spec.path).unwrap();
        file.reopen(at(0.0));
        write(&mut file, "b\n", at(0.0));
        assert_eq!(case.texts(), ["b\n"]);
    }

    #[test]
    #[cfg(unix)]
    fn what_somebody_else_put_at_the_path_is_not_set_aside() {
        let case = Case::new(false, Some(2), 14);
        let mut file = case.open();
        write(&mut file, "a\n", at(0.0));
        fs::rename(&case.spec.path, case.directory.path().join("a.moved")).unwrap();
        fs::write(&case.spec.path, "").unwrap();
        write(&mut file, "b\n", at(1.0));
        assert_eq!(case.texts(), ["a\n", "b\n"]);
    }

    #[test]
    fn a_file_that_was_cut_short_has_room_again() {
        let case = Case::new(false, Some(4), 14);
        let mut file = case.open();
        write(&mut file, "a\nb\n", at(0.0));
        File::options().write(true).open(&case.spec.path).unwrap().set_len(0).unwrap();
        write(&mut file, "c\n", at(0.0));
        assert_eq!(case.texts(), ["c\n"]);
    }

    #[test]
    fn what_a_crash_tore_stays_apart_from_the_next_line() {
        let case = Case::new(true, Some(100), 14);
        for (found, is_torn) in [("", false), ("whole\n", false), ("whole\nha", true)] {
            case.write("access.log", found);
            assert_eq!(case.open().is_torn(), is_torn, "{found:?}");
        }
        let mut file = case.open();
        write(&mut file, "\n", at(DAY * 9999.0));
        assert_eq!(case.texts(), ["whole\nha\n"], "a line stays in one file");
        assert!(!file.is_torn());
    }

    #[test]
    #[cfg(unix)]
    fn files_are_not_for_everybody_and_links_are_not_rotated() {
        use std::os::unix::fs::PermissionsExt;
        let mut case = Case::new(true, None, 14);
        let logs = case.directory.path().join("new/logs");
        case.spec.path = logs.join("access.log");
        let mut file = case.open();
        write(&mut file, "a\n", at(0.0));
        write(&mut file, "b\n", at(DAY));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&logs) & 0o027, 0, "{:o}", mode(&logs));
        let files: Vec<_> =
            fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2);
        for path in files {
            assert_eq!(mode(&path) & 0o137, 0, "{} {:o}", path.display(), mode(&path));
        }
        let link = logs.join("link.log");
        std::os::unix::fs::symlink(&case.spec.path, &link).unwrap();
        let mut spec = LogFile { path: link, ..case.spec };
        let error = RotatingFile::open(&spec).unwrap_err();
        assert!(error.to_string().contains("link.log, which is no file"), "{error}");
        spec.daily = false;
        assert!(RotatingFile::open(&spec).is_ok(), "it may be written");
    }
}
