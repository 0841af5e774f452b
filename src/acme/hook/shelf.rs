//! Events on disk: `events/<id>.json` under `storage:`, so that a process that dies tells them later.
//!
//! Several processes may share the directory. All put events in; the one that holds `deliver.lock`
//! tells the hooks of all of them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::queue::Waiting;
use crate::acme::event::Once;
use crate::acme::time::MINUTE;
use crate::tls::private_dir::{Lock, PrivateDir};

/// The directory. Blocks on it.
#[derive(Clone, Debug)]
pub(super) struct Shelf(PrivateDir);

/// What was told already and is told once only, by series.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
struct ToldOnce(BTreeMap<String, Rank>);

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Rank {
    fingerprint: String,
    rank: u8,
    /// When, in seconds since 1970.
    at: i64,
}

/// What was told is remembered for longer than any certificate lives, and a year.
const LONGEST_MEMORY: i64 = 2 * 365 * 24 * 60 * 60;

const TOLD: &str = "told.json";

impl Shelf {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            PrivateDir::open(root)?;
        }
        Ok(Self(PrivateDir::open_own(root, "events")?))
    }

    /// The right to tell the hooks; `None` while another process has it.
    pub(super) fn try_deliver(&self) -> io::Result<Option<Lock>> {
        self.0.try_lock("deliver.lock")
    }

    /// Puts an event in that is told once; false when it was told before. It is there before it
    /// counts as told, so that a crash in between loses nothing.
    pub(super) fn put_once(
        &self,
        id: &str,
        waiting: &Waiting,
        once: &Once,
        now: i64,
    ) -> io::Result<bool> {
        let lock = self.0.lock()?;
        let bytes = self.0.read_own(TOLD)?.unwrap_or_default();
        // What cannot be read is forgotten: things are told again, and not never.
        let mut told: ToldOnce = serde_json::from_slice(&bytes).unwrap_or_default();
        // What a clock that was ahead has told was not so.
        let is_known = |known: &Rank| {
            known.fingerprint == once.fingerprint
                && known.rank >= once.rank
                && known.at <= now + MINUTE
        };
        if told.0.get(&once.series).is_some_and(is_known) {
            return Ok(false);
        }
        self.write(&lock, id, waiting)?;
        told.0.retain(|_, rank| rank.at > now - LONGEST_MEMORY);
        let rank = Rank { fingerprint: once.fingerprint.clone(), rank: once.rank, at: now };
        told.0.insert(once.series.clone(), rank);
        self.0.write(&lock, TOLD, &serde_json::to_vec_pretty(&told)?)?;
        Ok(true)
    }

    pub(super) fn put(&self, id: &str, waiting: &Waiting) -> io::Result<()> {
        self.write(&self.0.lock()?, id, waiting)
    }

    fn write(&self, lock: &Lock, id: &str, waiting: &Waiting) -> io::Result<()> {
        self.0.write(lock, &file(id), &serde_json::to_vec_pretty(waiting)?)
    }

    pub(super) fn drop(&self, id: &str) -> io::Result<()> {
        self.0.remove(&file(id))
    }

    /// The ids of what is there.
    pub(super) fn ids(&self) -> io::Result<Vec<String>> {
        let names = self.0.names()?;
        Ok(names.iter().filter_map(|name| id(name)).map(str::to_owned).collect())
    }

    /// One of them; `None` when it is gone. What cannot be read is taken away.
    pub(super) fn get(&self, id: &str) -> io::Result<Option<Waiting>> {
        let Some(bytes) = self.0.read_own(&file(id))? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(waiting) => Ok(Some(waiting)),
            Err(error) => {
                tracing::warn!(%error, path = %self.0.path(&file(id)).display(), "dropped a damaged event");
                self.drop(id)?;
                Ok(None)
            }
        }
    }
}

fn file(id: &str) -> String {
    format!("{id}.json")
}

/// The id that a file's name is of.
fn id(name: &str) -> Option<&str> {
    let id = name.strip_suffix(".json")?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::super::queue::Tries;
    use super::*;

    #[test]
    fn an_event_is_kept_until_it_is_dropped_and_a_damaged_one_goes() {
        let root = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(root.path()).unwrap();
        let waiting = Waiting {
            order: 7,
            at: 5,
            payload: serde_json::Map::new(),
            hooks: [("a".to_owned(), Tries { fails: 2, next_at: 9 })].into(),
        };
        let (one, other) = ("0".repeat(32), "f".repeat(32));
        shelf.put(&one, &waiting).unwrap();
        std::fs::write(root.path().join("events").join(file(&other)), "{").unwrap();
        assert_eq!(shelf.ids().unwrap(), [one.clone(), other.clone()]);
        assert_eq!(shelf.get(&one).unwrap(), Some(waiting));
        assert_eq!(shelf.get(&other).unwrap(), None);
        shelf.drop(&one).unwrap();
        assert_eq!(shelf.ids().unwrap(), Vec::<String>::new());
        let held = shelf.try_deliver().unwrap();
        assert!(held.is_some());
        assert!(shelf.try_deliver().unwrap().is_none(), "one tells at a time");
    }

    #[test]
    fn what_is_told_once_is_news_once_for_all_processes() {
        let root = tempfile::tempdir().unwrap();
        let once = |fingerprint: &str, rank| Once {
            series: "ending a".into(),
            fingerprint: fingerprint.into(),
            rank,
        };
        for (once, is_news) in [
            (once("AB", 1), true),
            (once("AB", 1), false),
            (once("AB", 3), true),
            (once("AB", 2), false),
            (once("CD", 1), true),
        ] {
            let shelf = Shelf::open(root.path()).unwrap();
            let waiting = Waiting {
                order: 7,
                at: 5,
                payload: serde_json::Map::new(),
                hooks: BTreeMap::new(),
            };
            let id = "0".repeat(32);
            assert_eq!(shelf.put_once(&id, &waiting, &once, 1_000).unwrap(), is_news, "{once:?}");
            assert_eq!(shelf.get(&id).unwrap().is_some(), is_news, "{once:?}");
            shelf.drop(&id).unwrap();
        }
    }
}
