//! Changed files: noticed, waited for until they are whole, and reported to whoever reloads.
//!
//! What is watched are directories, since files are replaced by renaming others over them: editors
//! do it, and certificate clients, and Kubernetes, which turns a symbolic link to another directory.
//! So every link on the way to a file is watched as well, and the directory that it is in.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::reload::FILE;
use crate::admin::control::Control;

/// Silence after a change before files are read: whoever writes one is then done with it and with
/// those that belong to it, such as the key of a certificate.
const QUIET: Duration = Duration::from_millis(250);

/// Longest wait for that silence.
const LONGEST: Duration = Duration::from_secs(2);

/// Links that are followed on the way to one file; Linux allows 40.
const MAX_LINKS: usize = 40;

/// Asks `control` for a reload whenever one of `files` has changed, until `stop`.
pub(super) async fn watch(
    control: Control,
    mut files: watch::Receiver<Vec<PathBuf>>,
    stop: CancellationToken,
) {
    let mut trouble = String::new();
    let watching = async {
        loop {
            let paths = files.borrow_and_update().clone();
            let (sender, mut changes) = mpsc::channel(1);
            // Watches end with what they watch, so they are made anew each time.
            let watcher = arm(&paths, sender).inspect_err(|error| {
                let text = error.to_string();
                if text != trouble {
                    tracing::warn!(error = %text, "changed files are not noticed");
                    trouble = text;
                }
            });
            // Once nothing is being written any more. Whatever changed before the watch began counts.
            settle(&mut changes).await;
            if control.reload(FILE).await.is_err() {
                return;
            }
            tokio::select! {
                changed = files.changed() => if changed.is_err() { return },
                Some(()) = changes.recv() => {}
            }
            drop(watcher);
        }
    };
    // Nobody asks for the reload that is being waited for: the process ends.
    let _ = stop.run_until_cancelled(watching).await;
}

/// Waits until nothing changes any more.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let end = Instant::now() + LONGEST;
    loop {
        let quiet = end.min(Instant::now() + QUIET);
        match timeout_at(quiet, changes.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Tells `changes` of everything that happens to `paths`, as long as the result lives.
///
/// # Errors
/// When the system refuses to watch at all. A directory that cannot be watched is left out, and
/// logged.
fn arm(paths: &[PathBuf], changes: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let Entries { names, directories } = Entries::of(paths);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events were lost. A full channel has said it already.
        if event.map_or(true, |event| is_change(&event, &names)) {
            let _ = changes.try_send(());
        }
    })?;
    let mut outcome = Ok(());
    let mut watched = 0;
    for directory in &directories {
        match watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => watched += 1,
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "cannot be watched");
                outcome = Err(error);
            }
        }
    }
    if watched == 0 { outcome.map(|()| watcher) } else { Ok(watcher) }
}

/// Whether `event` changes one of `names`. Reading does not, ours least of all.
fn is_change(event: &Event, names: &HashSet<PathBuf>) -> bool {
    let is_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let is_ours = || event.paths.is_empty() || event.paths.iter().any(|path| names.contains(path));
    !is_read && (event.need_rescan() || is_ours())
}

/// What to look out for.
#[derive(Debug, Default, PartialEq)]
struct Entries {
    /// Files, links on the way to them, and their directories.
    names: HashSet<PathBuf>,
    /// Where those are; all of them exist.
    directories: BTreeSet<PathBuf>,
}

impl Entries {
    fn of(paths: &[PathBuf]) -> Self {
        let mut entries = Self::default();
        for path in paths {
            // One without a name or a working directory has none of the others.
            if let Ok(path) = std::path::absolute(path) {
                entries.follow(path);
            }
        }
        entries
    }

    /// Adds `path`, and every link that leads to where it really is.
    fn follow(&mut self, mut path: PathBuf) {
        for _ in 0..MAX_LINKS {
            let Some((link, real)) = first_link(&path) else { break };
            self.add(link);
            path = real;
        }
        if let Some(directory) = path.parent() {
            self.add(directory.to_owned());
        }
        self.add(path);
    }

    /// Adds one name, or the part of it that comes into being first.
    fn add(&mut self, mut name: PathBuf) {
        while let Some(directory) = name.parent().map(Path::to_owned) {
            if directory.is_dir() {
                self.directories.insert(directory);
                self.names.insert(name);
                return;
            }
            name = directory;
        }
    }
}

/// The first component of an absolute path that is a symbolic link, and the path without it.
fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        if component == Component::ParentDir {
            walked.pop();
            continue;
        }
        walked.push(component);
        if let Ok(target) = read_link(&walked) {
            let directory = walked.parent().unwrap_or(&walked);
            let real = directory.join(target).join(components.as_path());
            return Some((walked, real));
        }
    }
    None
}

fn read_link(path: &Path) -> io::Result<PathBuf> {
    std::fs::read_link(path)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    fn set<const N: usize>(paths: [PathBuf; N]) -> HashSet<PathBuf> {
        paths.into()
    }

    #[test]
    fn a_file_is_watched_with_its_directory_or_what_there_is_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(directory.path()).unwrap();
        // Windows writes canonical paths in a form of their own.
        let root = if cfg!(windows) { directory.path().to_owned() } else { root };
        std::fs::create_dir(root.join("here")).unwrap();
        let file = root.join("here").join("gateway.yaml");
        let entries = Entries::of(std::slice::from_ref(&file));
        assert_eq!(entries.names, set([file, root.join("here")]));
        assert_eq!(entries.directories, [root.clone(), root.join("here")].into());
        let away = root.join("away").join("deep").join("a.pem");
        let entries = Entries::of(&[away]);
        assert_eq!(entries.names, set([root.join("away")]), "as soon as that comes");
    }

    #[cfg(unix)]
    #[test]
    fn every_link_to_a_file_is_watched() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(directory.path()).unwrap();
        // As Kubernetes mounts a secret.
        std::fs::create_dir(root.join("..1")).unwrap();
        std::fs::write(root.join("..1/a.pem"), "").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.pem", root.join("a.pem")).unwrap();
        let entries = Entries::of(&[root.join("a.pem")]);
        let paths = ["a.pem", "..data", "..1", "..1/a.pem"].map(|name| root.join(name));
        assert_eq!(entries.names, set(paths));
        symlink("loop", root.join("loop")).unwrap();
        assert!(Entries::of(&[root.join("loop")]).names.contains(&root.join("loop")));
    }

    #[test]
    fn reading_is_no_change() {
        let names = set([PathBuf::from("/etc/a")]);
        for (kind, path, expected) in [
            (EventKind::Create(CreateKind::File), "/etc/a", true),
            (EventKind::Modify(ModifyKind::Any), "/etc/a", true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/etc/a", true),
            (EventKind::Remove(RemoveKind::File), "/etc/a", true),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), "/etc/a", true),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), "/etc/a", false),
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/etc/a", false),
            (EventKind::Modify(ModifyKind::Any), "/etc/b", false),
        ] {
            let event = Event::new(kind).add_path(PathBuf::from(path));
            assert_eq!(is_change(&event, &names), expected, "{kind:?} {path}");
        }
        assert!(is_change(&Event::new(EventKind::Any), &names), "whatever it was");
    }
}
