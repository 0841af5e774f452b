//! What the storage is trusted with: crashes at every step, full disks, damage, links, other
//! processes. Where a process has to die, or its disk to be full, this test program starts itself
//! again for the one test, told by the environment what to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::acme::schedule::Why;
use crate::acme::state::Target;

/// Where a child finds the storage.
const ROOT: &str = "WARDGATE_TEST_STORAGE";
/// At which step a child dies.
const STEP: &str = "WARDGATE_TEST_STEP";

/// A pair for `names`, told apart by when it was "saved".
fn pair(names: &[&str], saved_at: i64) -> Pair {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let meta = Meta {
        target: Target::new(names, "https://ca.test/dir", None),
        saved_at,
        why: Some(Why::Backstop),
        order_url: None,
        issued_by: None,
        revision: 0,
    };
    Pair { key_pem: Secret(made.signing_key.serialize_pem()), chain_pem: made.cert.pem(), meta }
}

fn id() -> CertId {
    CertId::new("a.test")
}

fn lock(storage: &Storage) -> CertLock {
    storage.lock(&id()).unwrap().unwrap()
}

/// Which pair is served, by when it was saved.
fn served(found: &Found) -> Option<i64> {
    found.generation.as_ref().and_then(|good| good.meta.as_ref()).map(|meta| meta.saved_at)
}

/// Every file and directory below `root`, as relative paths.
fn listing(root: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(relative.replace('\\', "/"));
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            }
        }
    }
    all
}

/// What a certificate with these generations has, and nothing besides.
fn clean(numbers: &[u32]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> =
        ["accounts", "challenges", "imported", "live", "locks", "orders", "quarantine"]
            .map(str::to_owned)
            .into();
    all.extend(["locks/a.test.lock".into(), "live/a.test".into()]);
    if !numbers.is_empty() {
        all.insert("live/a.test/current".into());
    }
    for number in numbers {
        let dir = format!("live/a.test/{number:06}");
        all.extend(["key.pem", "chain.pem", "meta.json"].map(|file| format!("{dir}/{file}")));
        all.insert(dir);
    }
    all
}

/// A storage with `count` generations, saved at 1, 2, …
fn with_generations(count: i64) -> (tempfile::TempDir, Storage) {
    let root = tempfile::tempdir().unwrap();
    let storage = Storage::open(root.path()).unwrap();
    let lock = lock(&storage);
    for at in 1..=count {
        storage.save(Place::Live, &lock, &pair(&["a.test"], at)).unwrap();
    }
    (root, storage)
}

/// Starts this test program again for the test `name`, which finds `root` in its environment.
fn child(name: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("acme::storage::trials::{name}"), "--nocapture"]);
    command.env(ROOT, root);
    command
}

#[cfg(unix)]
fn said(output: &std::process::Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn generations_are_numbered_and_the_last_three_kept() {
    let (root, storage) = with_generations(5);
    assert_eq!(storage.generations(Place::Live, &id()).unwrap(), [3, 4, 5]);
    assert_eq!(storage.current(Place::Live, &id()).unwrap(), Some(5));
    assert_eq!(listing(root.path()), clean(&[3, 4, 5]));
    let found = storage.load(Place::Live, &id()).unwrap();
    assert_eq!((served(&found), found.fell_back, found.faults.len()), (Some(5), false, 0));
    let source = found.generation.unwrap().certificate.source.unwrap();
    assert!(source.key.ends_with("live/a.test/000005/key.pem"), "it is reloaded from there");
    assert_eq!(storage.load(Place::Live, &CertId::new("b.test")).unwrap().faults.len(), 0);
    assert!(storage.load(Place::Imported, &id()).unwrap().generation.is_none());
}

#[test]
fn an_older_generation_is_restored_as_a_new_one() {
    let (_root, storage) = with_generations(3);
    let lock = lock(&storage);
    let restored = storage.restore(Place::Live, &lock, 2).unwrap();
    assert_eq!((restored.number, restored.meta.unwrap().saved_at), (4, 2));
    assert_eq!(served(&storage.recover(Place::Live, &lock).unwrap()), Some(2));
    let error = storage.restore(Place::Live, &lock, 1).unwrap_err();
    assert_eq!(error.to_string(), "there is no good generation 1 of a.test");
}

#[test]
fn what_cannot_be_served_is_not_saved() {
    let (root, storage) = with_generations(1);
    let lock = lock(&storage);
    let mut mixed = pair(&["a.test"], 2);
    mixed.key_pem = pair(&["a.test"], 3).key_pem;
    let mut other = pair(&["b.test"], 2);
    other.meta.target.names = vec!["a.test".into(), "*.a.test".into()];
    for bad in [mixed, other] {
        assert!(storage.save(Place::Live, &lock, &bad).is_err());
        assert_eq!(listing(root.path()), clean(&[1]));
    }
}

#[test]
fn a_step_that_fails_leaves_the_old_pair_and_nothing_of_the_new_one() {
    for generations in [0, 1, 3] {
        let mut steps = 0;
        for die_at in 1.. {
            let (root, storage) = with_generations(generations);
            let lock = lock(&storage);
            let before = listing(root.path());
            let mut taken = Vec::new();
            let saved =
                storage.save_stepwise(Place::Live, &lock, &pair(&["a.test"], 9), &mut |step| {
                    taken.push(step);
                    if taken.len() == die_at {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    Ok(())
                });
            let found = storage.load(Place::Live, &id()).unwrap();
            let old = (generations > 0).then_some(generations);
            match saved {
                Ok(_) if taken.len() < die_at => break,
                Ok(_) => assert_eq!(taken.last(), Some(&"remove an old generation")),
                Err(error) => {
                    assert!(error.is_full());
                    let renamed = taken.last() == Some(&"sync the renamed file's directory");
                    assert_eq!(served(&found), if renamed { Some(9) } else { old }, "{taken:?}");
                    let mut now = listing(root.path());
                    now.remove("live/a.test");
                    let kept = before.iter().filter(|path| *path != "live/a.test").cloned();
                    assert!(renamed || now == kept.collect(), "{taken:?}: {now:?}");
                }
            }
            steps = die_at;
        }
        assert!(steps >= 16, "{steps} steps");
    }
}

/// The child of the next test: saves, and is gone at the step it was told.
#[test]
fn child_that_dies_at_a_step() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let die_at: usize = std::env::var(STEP).unwrap().parse().unwrap();
    let storage = Storage::open(Path::new(&root)).unwrap();
    let mut taken = 0;
    let new = pair(&["a.test"], 9);
    let saved = storage.save_stepwise(Place::Live, &lock(&storage), &new, &mut |_| {
        taken += 1;
        if taken == die_at {
            std::process::abort();
        }
        Ok(())
    });
    saved.unwrap();
}

#[test]
fn a_crash_at_any_step_leaves_a_whole_pair_and_no_litter_after_the_next_start() {
    for generations in [0, 1, 3] {
        let mut outcomes = BTreeSet::new();
        for die_at in 1.. {
            let (root, storage) = with_generations(generations);
            let mut child = child("child_that_dies_at_a_step", root.path());
            let status = child.env(STEP, die_at.to_string()).output().unwrap().status;
            let old = (generations > 0).then_some(generations);
            let loaded = served(&storage.load(Place::Live, &id()).unwrap());
            assert!(loaded == old || loaded == Some(9), "at {die_at}: {loaded:?}");

            let started = Storage::open(root.path()).unwrap();
            let lock = lock(&started);
            let found = started.recover(Place::Live, &lock).unwrap();
            assert_eq!(served(&found), loaded, "at {die_at}: the same before and after");
            let mut numbers: Vec<u32> = (1..=u32::try_from(generations).unwrap()).collect();
            if loaded == Some(9) {
                numbers.push(numbers.last().copied().unwrap_or(0) + 1);
            }
            let kept = &numbers[numbers.len().saturating_sub(3)..];
            let mut now = listing(root.path());
            now.insert("live/a.test".into());
            assert_eq!(now, clean(kept), "at {die_at}");
            outcomes.insert(loaded);
            let saved = started.save(Place::Live, &lock, &pair(&["a.test"], 10)).unwrap();
            assert_eq!(saved.number, numbers.last().copied().unwrap_or(0) + 1);
            if status.success() {
                assert!(die_at > 16, "{die_at} steps");
                break;
            }
        }
        let old = (generations > 0).then_some(generations);
        assert_eq!(outcomes, BTreeSet::from([old, Some(9)]), "both were seen");
    }
}

#[test]
fn a_save_cut_short_anywhere_in_a_file_is_litter() {
    let (root, storage) = with_generations(1);
    let lock = lock(&storage);
    let new = pair(&["a.test"], 9);
    let dir = root.path().join("live/a.test/000002");
    let meta = serde_json::to_vec(&new.meta).unwrap();
    let files = [
        ("key.pem", new.key_pem.0.as_bytes()),
        ("chain.pem", new.chain_pem.as_bytes()),
        ("meta.json", &meta),
    ];
    for (torn, (_, bytes)) in files.iter().enumerate() {
        for cut in (0..bytes.len()).step_by(7) {
            fs::create_dir(&dir).unwrap();
            for (file, bytes) in &files[..torn] {
                fs::write(dir.join(file), bytes).unwrap();
            }
            fs::write(dir.join(files[torn].0), &bytes[..cut]).unwrap();
            assert_eq!(served(&storage.load(Place::Live, &id()).unwrap()), Some(1));
            assert_eq!(served(&storage.recover(Place::Live, &lock).unwrap()), Some(1));
            assert_eq!(listing(root.path()), clean(&[1]), "{torn} cut at {cut}");
        }
    }
}

#[test]
fn damage_falls_back_to_the_newest_good_generation_and_is_moved_aside() {
    let other = pair(&["a.test"], 50);
    let foreign = pair(&["b.test"], 51);
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let cut = |dir: &Path, file: &str| {
        let path = dir.join(file);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
    };
    let damages: Vec<Damage<'_>> = vec![
        ("truncated key", Box::new(|dir| cut(dir, "key.pem"))),
        ("truncated chain", Box::new(|dir| cut(dir, "chain.pem"))),
        ("empty key", Box::new(|dir| fs::write(dir.join("key.pem"), "").unwrap())),
        ("no chain", Box::new(|dir| fs::remove_file(dir.join("chain.pem")).unwrap())),
        (
            "another's key",
            Box::new(|dir| fs::write(dir.join("key.pem"), &other.key_pem.0).unwrap()),
        ),
        (
            "a foreign pair",
            Box::new(|dir| {
                fs::write(dir.join("key.pem"), &foreign.key_pem.0).unwrap();
                fs::write(dir.join("chain.pem"), &foreign.chain_pem).unwrap();
            }),
        ),
        (
            "a file for a directory",
            Box::new(|dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::write(dir, "").unwrap();
            }),
        ),
    ];
    for (what, damage) in damages {
        let (root, storage) = with_generations(3);
        let live = root.path().join("live/a.test");
        damage(&live.join("000003"));
        let loaded = storage.load(Place::Live, &id()).unwrap();
        assert_eq!((served(&loaded), loaded.fell_back), (Some(2), true), "{what}");
        assert!(live.join("000003").exists(), "looking changes nothing");
        let lock = lock(&storage);
        let found = storage.recover(Place::Live, &lock).unwrap();
        assert_eq!((served(&found), found.fell_back), (Some(2), true), "{what}");
        let moved = found.faults[0].moved_to.as_ref().unwrap();
        assert_eq!(*moved, root.path().join("quarantine/a.test-000003"), "{what}");
        assert_eq!(storage.current(Place::Live, &id()).unwrap(), Some(2));
        let again = storage.recover(Place::Live, &lock).unwrap();
        assert_eq!((served(&again), again.fell_back, again.faults.len()), (Some(2), false, 0));

        damage(&live.join("000002"));
        damage(&live.join("000001"));
        let found = storage.recover(Place::Live, &lock).unwrap();
        assert_eq!(
            (found.generation.is_none(), found.fell_back, found.faults.len()),
            (true, true, 2)
        );
        let saved = storage.save(Place::Live, &lock, &pair(&["a.test"], 9)).unwrap();
        assert_eq!(saved.number, 3);
        damage(&live.join("000003"));
        let found = storage.recover(Place::Live, &lock).unwrap();
        let moved = found.faults[0].moved_to.as_ref().unwrap();
        assert_eq!(
            *moved,
            root.path().join("quarantine/a.test-000003.1"),
            "nothing is overwritten"
        );
    }
}

#[test]
fn what_cannot_be_put_right_is_served_all_the_same() {
    let (root, storage) = with_generations(2);
    fs::write(root.path().join("live/a.test/000002/key.pem"), "").unwrap();
    fs::remove_dir(root.path().join("quarantine")).unwrap();
    let found = storage.recover(Place::Live, &lock(&storage)).unwrap();
    assert_eq!((served(&found), found.fell_back), (Some(1), true));
    assert!(found.left_undone.is_some());
    fs::create_dir(root.path().join("quarantine")).unwrap();
    let found = storage.recover(Place::Live, &lock(&storage)).unwrap();
    assert_eq!((served(&found), found.left_undone.is_none()), (Some(1), true));
}

#[test]
fn a_pair_whose_pointer_or_meta_is_lost_is_found_all_the_same() {
    for text in [None, Some(""), Some("000007"), Some("../../x"), Some("2"), Some("000002\n")] {
        let (root, storage) = with_generations(3);
        let current = root.path().join("live/a.test/current");
        match text {
            Some(text) => fs::write(&current, text).unwrap(),
            None => fs::remove_file(&current).unwrap(),
        }
        let lock = lock(&storage);
        let found = storage.recover(Place::Live, &lock).unwrap();
        assert_eq!(served(&found), Some(3), "{text:?}");
        assert_eq!(fs::read_to_string(&current).unwrap(), "000003");
    }
    let (root, storage) = with_generations(2);
    fs::write(root.path().join("live/a.test/000002/meta.json"), "{").unwrap();
    let generation = storage.load(Place::Live, &id()).unwrap().generation.unwrap();
    assert_eq!((generation.number, generation.meta), (2, None));
}

#[cfg(unix)]
#[test]
fn everything_is_private_and_what_was_opened_is_closed_again() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (root, storage) = with_generations(2);
    let lock = lock(&storage);
    storage.keep_record(&lock, &crate::acme::state::Record::default()).unwrap();
    storage.keep_challenge(&lock, "token", &"answer").unwrap();
    let authority = AuthorityId::new("https://ca.test/dir");
    let account = storage.lock_account(&authority).unwrap().unwrap();
    storage.keep_account(&account, &"account").unwrap();
    for path in listing(root.path()) {
        let path = root.path().join(path);
        assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    for (path, open) in [("live/a.test/000002/key.pem", 0o644), ("live/a.test/000002", 0o755)] {
        let path = root.path().join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        assert_eq!(served(&storage.load(Place::Live, &id()).unwrap()), Some(2));
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_to_secrets() {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    let elsewhere = tempfile::tempdir().unwrap();
    let away = elsewhere.path().join("away");
    let replace = |path: PathBuf| {
        let _ = fs::remove_dir_all(&away);
        let _ = fs::remove_file(&away);
        fs::rename(&path, &away).unwrap();
        symlink(&away, &path).unwrap();
    };
    for path in ["live/a.test/000002/key.pem", "live/a.test/000002/chain.pem", "live/a.test/000002"]
    {
        let (root, storage) = with_generations(2);
        replace(root.path().join(path));
        let lock = lock(&storage);
        let found = storage.recover(Place::Live, &lock).unwrap();
        assert_eq!((served(&found), found.fell_back), (Some(1), true), "{path}");
        assert!(away.exists(), "{path}: what the link led to stays");
    }
    for path in ["live/a.test", "live"] {
        let (root, storage) = with_generations(2);
        replace(root.path().join(path));
        let fresh = Storage::open(root.path());
        assert!(path == "live/a.test" || fresh.is_err(), "{path}");
        assert!(path == "live" || storage.load(Place::Live, &id()).is_err(), "{path}");
    }
    let (root, storage) = with_generations(0);
    symlink(&away, root.path().join("locks/b.test.lock")).unwrap();
    assert!(storage.lock(&CertId::new("b.test")).is_err());
}

#[test]
fn a_lock_has_one_holder_in_a_process_too() {
    let (root, storage) = with_generations(0);
    let other = Storage::open(root.path()).unwrap();
    let held = lock(&storage);
    assert!(other.lock(&id()).unwrap().is_none());
    assert!(storage.lock(&id()).unwrap().is_none());
    assert!(other.lock(&CertId::new("b.test")).unwrap().is_some());
    drop(held);
    assert!(other.lock(&id()).unwrap().is_some());
}

/// The child of the next test: holds both locks until it is killed.
#[test]
fn child_that_holds_locks() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let storage = Storage::open(Path::new(&root)).unwrap();
    let _certificate = lock(&storage);
    let _account = storage.lock_account(&AuthorityId::new("https://ca/dir")).unwrap().unwrap();
    println!("\nholding");
    let _ = io::stdin().read_line(&mut String::new());
}

#[test]
fn a_process_that_is_killed_frees_its_locks() {
    let (root, storage) = with_generations(0);
    let authority = AuthorityId::new("https://ca/dir");
    let mut holder = child("child_that_holds_locks", root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    assert!(storage.lock(&id()).unwrap().is_none());
    assert!(storage.lock_account(&authority).unwrap().is_none());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(storage.lock(&id()).unwrap().is_some());
    assert!(storage.lock_account(&authority).unwrap().is_some());
}

/// The child of the next test, on a disk of 64 KiB: saves with less and less room.
#[test]
fn child_on_a_small_disk() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = Path::new(&root);
    let storage = Storage::open(root).unwrap();
    let lock = lock(&storage);
    storage.save(Place::Live, &lock, &pair(&["a.test"], 1)).unwrap();
    let (mut refused, mut saved, mut roomy, mut last) = (0, 0, 0, 1);
    for free in (0..=12).rev() {
        let filling = root.join("filling");
        fill(&filling, free);
        let new = pair(&["a.test"], 100 + free);
        let room = storage.has_room(&lock);
        let before = listing(root);
        match storage.save(Place::Live, &lock, &new) {
            Ok(_) => {
                saved += 1;
                last = 100 + free;
            }
            Err(error) => {
                assert!(error.is_full(), "{error:?}");
                assert!(room.is_err(), "room for twice as much was found");
                assert_eq!(listing(root), before, "nothing is left of what failed");
                refused += 1;
            }
        }
        match room {
            Ok(()) => roomy += 1,
            Err(error) => assert!(error.is_full(), "{error:?}"),
        }
        assert_eq!(served(&storage.load(Place::Live, &id()).unwrap()), Some(last));
        assert_eq!(served(&storage.recover(Place::Live, &lock).unwrap()), Some(last));
        fs::remove_file(filling).unwrap();
    }
    println!("\nsmall disk: {saved} saved, {refused} refused");
    assert!(saved > roomy && roomy > 0 && refused > 0);
}

/// Fills the disk up to `free` pages.
fn fill(path: &Path, free: i64) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    let mut pages = 0;
    while file.write_all(&[7; 4096]).is_ok() {
        pages += 1;
        assert!(pages <= 64, "the disk is not small");
    }
    let size = file.metadata().unwrap().len();
    file.set_len(size.saturating_sub(u64::try_from(free).unwrap() * 4096)).unwrap();
}

/// The child of the next test, whose files may have 512 bytes.
#[test]
fn child_with_small_files() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let storage = Storage::open(Path::new(&root)).unwrap();
    let lock = lock(&storage);
    let before = listing(Path::new(&root));
    let new = pair(&["a.test"], 9);
    assert!(storage.has_room(&lock).unwrap_err().is_full());
    assert!(storage.save(Place::Live, &lock, &new).unwrap_err().is_full());
    assert_eq!(listing(Path::new(&root)), before);
    assert_eq!(served(&storage.recover(Place::Live, &lock).unwrap()), Some(1));
    println!("\nsmall files: refused");
}

/// On a real file system of 64 KiB where this process may mount one, in a namespace of its own;
/// and in any case with a limit on the size of files, which every Unix has.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_pair_live_and_no_litter() {
    let (root, _storage) = with_generations(1);
    let exe = std::env::current_exe().unwrap();
    let run = |program: &str, arguments: &[&str], script: &str, test: &str| {
        let mut command = Command::new(program);
        command.args(arguments).args(["sh", "-c", script, "sh"]).arg(&exe);
        command.args(["--exact", &format!("acme::storage::trials::{test}"), "--nocapture"]);
        command.env(ROOT, root.path()).output()
    };
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let output = run("env", &[], limited, "child_with_small_files").unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("small files: refused"), "{}", said(&output));

    let mounted =
        format!("mount -t tmpfs -o size=64k,mode=700 tmpfs \"${ROOT}\" || exit 77; exec \"$@\"");
    for arguments in [&["-m"][..], &["-Urm"][..]] {
        let Ok(output) = run("unshare", arguments, &mounted, "child_on_a_small_disk") else {
            break;
        };
        let text = said(&output);
        if text.contains("small disk:") {
            assert!(output.status.success(), "{text}");
            return;
        }
        assert!(output.status.code() != Some(101), "{text}");
    }
    println!("no file system can be mounted here: only the limit on files was tried");
}
