//! A directory of secrets: readable by its owner alone, written so that a crash or a second
//! process leaves whole files only.
//!
//! Who holds a [`Lock`] is the only writer; the kernel frees it when a process dies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A directory that only its owner can enter.
#[derive(Clone, Debug)]
pub(crate) struct PrivateDir(PathBuf);

/// The right to write into a [`PrivateDir`], until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl PrivateDir {
    /// Opens the directory, closed to others, making it and its parents if need be.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            create_private(path)?;
        }
        close_to_others(path, 0o700)?;
        Ok(Self(path.to_owned()))
    }

    /// The directory `name` inside.
    pub(crate) fn inside(&self, name: &str) -> io::Result<Self> {
        Self::open(&self.0.join(name))
    }

    /// Where `name` is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Waits until no other process or thread holds the lock.
    pub(crate) fn lock(&self) -> io::Result<Lock> {
        let path = self.path(".lock");
        let file = private_options().create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                tracing::info!(path = %path.display(), "waiting for another process to finish with the files");
                file.lock()?;
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(Lock { _file: file })
    }

    /// The file's bytes, `None` when there is no such file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file: temporary name, fsync, rename, fsync of the directory.
    pub(crate) fn write(&self, _lock: &Lock, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path(&format!(".{name}.tmp"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private_options().create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        rename(&temporary, &self.path(name))?;
        sync_dir(&self.0)
    }

    /// Moves the file aside, to a name that tells when, and returns it.
    pub(crate) fn quarantine(&self, _lock: &Lock, name: &str) -> io::Result<PathBuf> {
        let (mut target, mut attempt) = (self.path(&format!("{name}.bad")), 1);
        while target.exists() {
            target = self.path(&format!("{name}.bad{attempt}"));
            attempt += 1;
        }
        rename(&self.path(name), &target)?;
        Ok(target)
    }

    /// Takes the file from other users if they can read it; whether that was needed.
    pub(crate) fn tighten(&self, name: &str) -> io::Result<bool> {
        close_to_others(&self.path(name), 0o600)
    }
}

#[cfg(unix)]
fn close_to_others(path: &Path, wanted: u32) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
    Ok(true)
}

/// Files inherit the directory's access list, which [`create_private`] set.
#[cfg(not(unix))]
fn close_to_others(_path: &Path, _wanted: u32) -> io::Result<bool> {
    Ok(false)
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// `%ProgramData%` lets every user read, so inheritance is cut and only SYSTEM, Administrators
/// and the owner (the service's account) stay. std cannot write access lists; `icacls` is part
/// of every Windows.
#[cfg(windows)]
fn create_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    let status = std::process::Command::new(Path::new(&root).join(r"System32\icacls.exe"))
        .arg(path)
        .args(["/inheritance:r", "/grant:r"])
        .args(["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F", "*S-1-3-4:(OI)(CI)F"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        tracing::warn!(path = %path.display(), "directory with keys kept the access list of its parent");
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn create_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Options for a file that is private from its first moment.
fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(not(windows))]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Virus scanners and indexers hold new files open for moments, which fails a rename; nothing
/// announces that they are done.
#[cfg(windows)]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            other => return other,
        }
    }
    fs::rename(from, to)
}

/// Makes the rename itself survive a power cut.
#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Windows has no such call; NTFS journals renames.
#[cfg(not(unix))]
fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_whole_and_sweeps_what_a_crash_left() {
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(&root.path().join("a/b")).unwrap();
        let lock = dir.lock().unwrap();
        fs::write(dir.path(".x.tmp"), "half").unwrap();
        for text in ["one", "two"] {
            dir.write(&lock, "x", text.as_bytes()).unwrap();
            assert_eq!(dir.read("x").unwrap().unwrap(), text.as_bytes());
        }
        assert!(!dir.path(".x.tmp").exists());
        assert_eq!(dir.read("y").unwrap(), None);
    }

    #[test]
    fn the_lock_has_one_holder() {
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(root.path()).unwrap();
        let lock = dir.lock().unwrap();
        let other = private_options().open(dir.path(".lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }

    #[test]
    fn what_is_moved_aside_overwrites_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(root.path()).unwrap();
        let lock = dir.lock().unwrap();
        for (text, wanted) in [("1", "x.bad"), ("2", "x.bad1"), ("3", "x.bad2")] {
            dir.write(&lock, "x", text.as_bytes()).unwrap();
            assert_eq!(dir.quarantine(&lock, "x").unwrap(), dir.path(wanted));
            assert_eq!(fs::read_to_string(dir.path(wanted)).unwrap(), text);
        }
    }
}
