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
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Closing the file would free it as well, but not while a process that another thread is just
    /// starting holds a copy, from its fork to its exec.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Called before each step that changes the disk; a test fails or dies there.
pub(crate) type Step<'a> = &'a mut dyn FnMut(&'static str) -> io::Result<()>;

impl PrivateDir {
    /// Opens the directory, closed to others, making it and its parents if need be.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            create_private(path)?;
            hand_over(path)?;
        }
        close_to_others(path, 0o700)?;
        Ok(Self(path.to_owned()))
    }

    /// The directory `name` inside `parent`, which need not be private itself; as
    /// [`inside`](Self::inside).
    pub(crate) fn open_own(parent: &Path, name: &str) -> io::Result<Self> {
        Self(parent.to_owned()).inside(name)
    }

    /// The directory `name` inside, made if need be; never one that a link leads to.
    pub(crate) fn inside(&self, name: &str) -> io::Result<Self> {
        match self.existing(name)? {
            Some(found) => Ok(found),
            None => Self::open(&self.0.join(name)),
        }
    }

    /// The directory `name` inside, `None` when there is no such; never one that a link leads to.
    pub(crate) fn existing(&self, name: &str) -> io::Result<Option<Self>> {
        let path = self.0.join(name);
        match own_metadata(&path)? {
            None => Ok(None),
            Some(found) if found.is_dir() => {
                close_to_others(&path, 0o700)?;
                Ok(Some(Self(path)))
            }
            Some(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Makes the directory `name` inside, which must not exist. It has this one's access list.
    pub(crate) fn make(&self, name: &str) -> io::Result<Self> {
        let path = self.0.join(name);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(false);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        hand_over(&path)?;
        Ok(Self(path))
    }

    /// What lies inside, sorted.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Where `name` is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Waits until no other process or thread holds the lock.
    pub(crate) fn lock(&self) -> io::Result<Lock> {
        let path = self.path(".lock");
        let file = private_options().create(true).truncate(false).open(&path)?;
        hand_over(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                tracing::info!(path = %path.display(), "waiting for another process to finish with the files");
                file.lock()?;
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(Lock(file))
    }

    /// The lock file `name`, `None` while another process or thread holds it.
    pub(crate) fn try_lock(&self, name: &str) -> io::Result<Option<Lock>> {
        let path = self.path(name);
        own_metadata(&path)?;
        let file = private_options().create(true).truncate(false).open(&path)?;
        hand_over(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The file's bytes, `None` when there is no such file; never those of one that a link leads to.
    pub(crate) fn read_own(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        if own_metadata(&self.path(name))?.is_none() {
            return Ok(None);
        }
        self.read(name)
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
    pub(crate) fn write(&self, lock: &Lock, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_stepwise(lock, name, bytes, &mut |_| Ok(()))
    }

    /// As [`write`](Self::write). What fails before the rename leaves nothing behind.
    pub(crate) fn write_stepwise(
        &self,
        _lock: &Lock,
        name: &str,
        bytes: &[u8],
        step: Step<'_>,
    ) -> io::Result<()> {
        let temporary = format!(".{name}{TEMPORARY}");
        self.remove(&temporary)?;
        let renamed = self.create(&temporary, bytes, step).and_then(|()| {
            step("rename")?;
            rename(&self.path(&temporary), &self.path(name))
        });
        if let Err(error) = renamed {
            // The disk may be full: what was written so far makes it no better.
            let _ = self.remove(&temporary);
            return Err(error);
        }
        step("sync the renamed file's directory")?;
        self.sync()
    }

    /// Writes the file, which must not exist, and syncs it; its directory is left to
    /// [`sync`](Self::sync).
    pub(crate) fn create(&self, name: &str, bytes: &[u8], step: Step<'_>) -> io::Result<()> {
        step("create a file")?;
        let mut file = private_options().create_new(true).open(self.path(name))?;
        hand_over(&self.path(name))?;
        step("write a file")?;
        file.write_all(bytes)?;
        step("sync a file")?;
        file.sync_all()
    }

    /// Makes what was created, renamed and removed inside survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_dir(&self.0)
    }

    /// Removes the file, if there is one.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes the temporary files that a crash left.
    pub(crate) fn sweep(&self, _lock: &Lock) -> io::Result<()> {
        let is_litter = |name: &String| name.starts_with('.') && name.ends_with(TEMPORARY);
        self.names()?.iter().filter(|name| is_litter(name)).try_for_each(|name| self.remove(name))
    }

    /// Moves `name`, a file or a directory, to `other` as `new_name`.
    pub(crate) fn move_to(&self, name: &str, other: &Self, new_name: &str) -> io::Result<PathBuf> {
        let (mut target, mut attempt) = (other.path(new_name), 1);
        while fs::symlink_metadata(&target).is_ok() {
            target = other.path(&format!("{new_name}.{attempt}"));
            attempt += 1;
        }
        rename(&self.path(name), &target)?;
        Ok(target)
    }

    /// Removes the entries that have not been changed for longest, where there are more than `most`.
    pub(crate) fn bound(&self, most: usize) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(&self.0)?.collect::<io::Result<_>>()?;
        let surplus = entries.len().saturating_sub(most);
        if surplus == 0 {
            return Ok(());
        }
        entries.sort_by_cached_key(|entry| entry.metadata().and_then(|it| it.modified()).ok());
        for entry in &entries[..surplus] {
            let is_directory = entry.file_type()?.is_dir();
            let path = entry.path();
            if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }?;
        }
        Ok(())
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

/// What temporary files end in.
const TEMPORARY: &str = ".tmp";

/// What lies at `path` itself, `None` when nothing does. A link is an error: it would let a
/// directory that others can write stand for one of ours.
fn own_metadata(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            Err(io::Error::other("it is a symbolic link, which is not followed to secrets"))
        }
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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

/// Gives what root has just made to whom the directory around it belongs: an operator's command, run as
/// root, must not lock the gateway out of its own files.
#[cfg(unix)]
fn hand_over(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, lchown};
    let here = Path::new(".");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(here);
    let (own, around) = (fs::symlink_metadata(path)?, fs::metadata(parent)?);
    if own.uid() == 0 && around.uid() != 0 {
        lchown(path, Some(around.uid()), Some(around.gid()))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn hand_over(_path: &Path) -> io::Result<()> {
    Ok(())
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

/// Virus scanners and indexers hold new files open for moments, which fails a rename (as denied, a
/// sharing violation or a lock violation); nothing announces that they are done.
#[cfg(windows)]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match fs::rename(from, to) {
            Err(error) if matches!(error.raw_os_error(), Some(5 | 32 | 33)) => {
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
    fn a_lock_that_was_dropped_is_free_whoever_holds_a_copy_of_its_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(root.path()).unwrap();
        let lock = dir.try_lock("a.lock").unwrap().unwrap();
        assert!(dir.try_lock("a.lock").unwrap().is_none());
        let _copy = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(dir.try_lock("a.lock").unwrap().is_some());
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

    /// Windows opens no directories as files, to be made older.
    #[cfg(unix)]
    #[test]
    fn of_what_was_moved_aside_the_newest_stay() {
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(root.path()).unwrap();
        let now = std::time::SystemTime::now();
        for age in 0..5_u32 {
            let path = dir.path(&format!("{age}.bad"));
            if age % 2 == 0 {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("inside"), "x").unwrap();
            } else {
                fs::write(&path, "x").unwrap();
            }
            let made = now - std::time::Duration::from_secs(60) * age;
            File::open(&path).unwrap().set_modified(made).unwrap();
        }
        dir.bound(9).unwrap();
        assert_eq!(dir.names().unwrap().len(), 5);
        dir.bound(2).unwrap();
        let mut left = dir.names().unwrap();
        left.sort();
        assert_eq!(left, ["0.bad", "1.bad"]);
    }

    /// Only root can give files away.
    #[cfg(unix)]
    #[test]
    fn what_root_makes_belongs_to_whom_the_directory_does() {
        use std::os::unix::fs::{MetadataExt, chown};
        let root = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(root.path()).unwrap();
        if chown(root.path(), Some(12_345), Some(12_345)).is_err() {
            return println!("not tested: this is not root");
        }
        let lock = dir.try_lock("a.lock").unwrap().unwrap();
        dir.write(&lock, "file", b"x").unwrap();
        let inner = dir.inside("inner").unwrap();
        inner.make("made").unwrap();
        for name in ["a.lock", "file", "inner", "inner/made"] {
            assert_eq!(fs::metadata(dir.path(name)).unwrap().uid(), 12_345, "{name}");
        }
    }
}
