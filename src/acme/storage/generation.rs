//! Generations of a certificate: how a pair is saved so that a crash leaves the old one or the new
//! one, and how the best one is found again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::{at, existing, tighten};
use super::{CertId, CertLock, Storage, StoreError};
use crate::acme::schedule::Why;
use crate::acme::state::Target;
use crate::net::HostPattern;
use crate::tls::certificate::{Certificate, Source};
use crate::tls::pem::{self, LoadError};
use crate::tls::private_dir::{PrivateDir, Step};

/// Whose certificates: the two trees have one shape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Obtained, and renewed by the manager: `live/`.
    Live,
    /// Brought by an operator, and left alone: `imported/`.
    Imported,
}

/// A certificate's files, to be saved.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The private key, PEM. Secret.
    pub key_pem: Secret,
    /// The chain, PEM, leaf first.
    pub chain_pem: String,
    /// What is known of it besides.
    pub meta: Meta,
}

/// A text that debugging does not show.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(pub String);

/// `meta.json`: what a pair does not say about itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Meta {
    /// What was ordered, and where.
    #[serde(flatten)]
    pub target: Target,
    /// The directory of the authority that it came from, where that is another than the first.
    pub issued_by: Option<String>,
    /// When it was saved.
    pub saved_at: i64,
    /// Why it was ordered.
    pub why: Option<Why>,
    /// The order it came from.
    pub order_url: Option<String>,
    /// Counts what was saved, also where instances count generations of their own.
    /// [`Storage::save`] sets it.
    pub revision: u64,
}

/// A pair on disk that can be served.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its number; a later one has a larger number.
    pub number: u32,
    /// The pair.
    pub certificate: Certificate,
    /// What is known of it besides; `None` when that cannot be read.
    pub meta: Option<Meta>,
}

/// What lies on disk for a certificate.
#[derive(Debug, Default)]
pub struct Found {
    /// The best that can be served; `None` when nothing can.
    pub generation: Option<Generation>,
    /// It is older than the one that `current` names, or nothing is left.
    pub fell_back: bool,
    /// It was saved whole by a process that died before it could say so.
    pub was_adopted: bool,
    /// What cannot be served.
    pub faults: Vec<Fault>,
    /// Why [`Storage::recover`] could not put everything right: the disk is full, or cannot be
    /// written. What was found can be served all the same.
    pub left_undone: Option<StoreError>,
}

/// A generation that cannot be served.
#[derive(Debug)]
pub struct Fault {
    /// Its number.
    pub number: u32,
    /// Why not.
    pub error: GenerationError,
    /// Where it was moved; `None` when it was left or removed.
    pub moved_to: Option<PathBuf>,
}

/// Why a generation cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A file is missing, or no file of ours.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said; `None` when there is no such file.
        source: Option<std::io::Error>,
    },
    /// The pair is damaged or does not belong together.
    #[error(transparent)]
    Pair(#[from] LoadError),
    /// It is not for the names that were ordered.
    #[error("it is not valid for {} of the names that were ordered", missing.len())]
    Names {
        /// Those that it lacks.
        missing: Vec<HostPattern>,
    },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Pair {
    /// The pair as it would be served from memory, checked.
    ///
    /// # Errors
    /// [`StoreError::Pair`] when it is damaged or does not belong together, [`StoreError::Names`]
    /// when it is for other names.
    pub fn certificate(&self) -> Result<Certificate, StoreError> {
        let source = Source { chain: CHAIN.into(), key: KEY.into() };
        let (chain, key) = (self.chain_pem.as_bytes(), self.key_pem.0.as_bytes());
        let certificate = pem::from_text(chain, key, source)?;
        let missing = self.meta.uncovered(&certificate);
        if !missing.is_empty() {
            return Err(StoreError::Names { missing });
        }
        Ok(Certificate { source: None, ..certificate })
    }
}

impl Meta {
    /// Those of the ordered names that `certificate` is not valid for.
    fn uncovered(&self, certificate: &Certificate) -> Vec<HostPattern> {
        let parsed = self.target.names.iter().filter_map(|name| HostPattern::parse(name).ok());
        certificate.uncovered(&parsed.collect::<Vec<_>>())
    }
}

impl Storage {
    /// What can be served for a certificate, without changing anything.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its directory cannot be read.
    pub fn load(&self, place: Place, id: &CertId) -> Result<Found, StoreError> {
        let Some(dir) = existing(self.place(place), id.as_str())? else {
            return Ok(Found::default());
        };
        let present = Present::read(&dir)?;
        Ok(present.best(&dir))
    }

    /// What can be served for a certificate, after putting right what a crash or a damage left:
    /// a whole generation that `current` does not name yet is taken, half ones are removed, damaged
    /// ones moved to `quarantine/`, and `current` names what is served.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its directory cannot be read.
    pub fn recover(&self, place: Place, lock: &CertLock) -> Result<Found, StoreError> {
        let id = lock.id();
        let Some(dir) = existing(self.place(place), id.as_str())? else {
            return Ok(Found::default());
        };
        let present = Present::read(&dir)?;
        let mut found = present.best(&dir);
        found.left_undone = self.tidy(&dir, &present, &mut found, lock).err();
        Ok(found)
    }

    /// Saves a pair as the newest generation, after checking that it can be served. On return it is
    /// on the disk; on error the one before is as it was, and nothing is left of the new one.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_full`] when there is no room.
    pub fn save(
        &self,
        place: Place,
        lock: &CertLock,
        pair: &Pair,
    ) -> Result<Generation, StoreError> {
        let mut pair = pair.clone();
        pair.meta.revision = self.next_revision(place, lock.id())?;
        let saved = self.save_stepwise(place, lock, &pair, &mut |_| Ok(()))?;
        self.share_pair(place, lock.id(), &pair, &saved);
        Ok(saved)
    }

    /// Larger than that of any pair before, here or in the fleet.
    fn next_revision(&self, place: Place, id: &CertId) -> Result<u64, StoreError> {
        let mut last = self.shared_revision(place, id);
        if let Some(dir) = existing(self.place(place), id.as_str())? {
            for number in Present::read(&dir)?.numbers {
                let inner = dir.existing(&directory(number)).ok().flatten();
                let kept = inner.as_ref().and_then(meta).map_or(0, |meta| meta.revision);
                last = last.max(kept);
            }
        }
        Ok(last.saturating_add(1))
    }

    /// Puts an older generation in service again, as a new one, so that the newest is always the
    /// one that is meant.
    ///
    /// # Errors
    /// [`StoreError::NoGeneration`] when there is none with this number that can be served; else as
    /// [`save`](Self::save).
    pub fn restore(
        &self,
        place: Place,
        lock: &CertLock,
        number: u32,
    ) -> Result<Generation, StoreError> {
        let pair = self.pair(place, lock.id(), number)?;
        self.save(place, lock, &pair)
    }

    /// The numbers of the generations that are kept, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn generations(&self, place: Place, id: &CertId) -> Result<Vec<u32>, StoreError> {
        match existing(self.place(place), id.as_str())? {
            Some(dir) => Ok(Present::read(&dir)?.numbers),
            None => Ok(Vec::new()),
        }
    }

    /// Which generation is in service, as told by `current`: what other processes look at to see
    /// that a certificate was renewed.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn current(&self, place: Place, id: &CertId) -> Result<Option<u32>, StoreError> {
        match existing(self.place(place), id.as_str())? {
            Some(dir) => current(&dir),
            None => Ok(None),
        }
    }

    /// As [`save`](Self::save), announcing each step to `step`.
    pub(super) fn save_stepwise(
        &self,
        place: Place,
        lock: &CertLock,
        pair: &Pair,
        step: Step<'_>,
    ) -> Result<Generation, StoreError> {
        let certificate = pair.certificate()?;
        let (tree, id) = (self.place(place), lock.id().as_str());
        let dir = match existing(tree, id)? {
            Some(dir) => dir,
            None => {
                let made = step("make the certificate's directory").and_then(|()| tree.make(id));
                let made = made.and_then(|dir| tree.sync().map(|()| dir));
                made.map_err(at(tree, id))?
            }
        };
        let present = Present::read(&dir)?;
        let number = present.next();
        if let Err(error) = write(&dir, number, lock, pair, step) {
            // Once `current` names it, it is whole: only its last sync may have failed.
            if current(&dir).is_ok_and(|named| named != Some(number)) {
                let _ = remove(&dir, number);
            }
            return Err(error);
        }
        prune(&dir, number, step);
        let path = dir.path(&directory(number));
        let source = Source { chain: path.join(CHAIN), key: path.join(KEY) };
        let certificate = Certificate { source: Some(source), ..certificate };
        Ok(Generation { number, certificate, meta: Some(pair.meta.clone()) })
    }

    /// Puts right what [`recover`](Self::recover) says.
    fn tidy(
        &self,
        dir: &PrivateDir,
        present: &Present,
        found: &mut Found,
        lock: &CertLock,
    ) -> Result<(), StoreError> {
        let id = lock.id();
        for litter in [format!(".{id}.json.tmp"), format!(".{id}.room.tmp")] {
            self.orders.remove(&litter).map_err(at(&self.orders, &litter))?;
        }
        dir.sweep(&lock.lock).map_err(at(dir, ""))?;
        for fault in &mut found.faults {
            let name = directory(fault.number);
            // `meta.json` comes last: a save that was cut short has none, and its rest is litter.
            if present.is_committed(fault.number) || has_meta(dir, fault.number) {
                let kept = format!("{id}-{name}");
                let moved = dir.move_to(&name, &self.quarantine, &kept);
                fault.moved_to = Some(moved.map_err(at(dir, &name))?);
            } else {
                remove(dir, fault.number)?;
            }
        }
        let kept = found.generation.as_ref().map(|generation| generation.number);
        if let Some(number) = kept.filter(|number| present.current != Some(*number)) {
            let text = directory(number);
            dir.write(&lock.lock, CURRENT, text.as_bytes()).map_err(at(dir, CURRENT))?;
        }
        prune(dir, kept.unwrap_or(0), &mut |_| Ok(()));
        // They are for people to look at, and nobody may.
        let _ = self.quarantine.bound(QUARANTINED);
        dir.sync().map_err(at(dir, ""))
    }

    pub(super) fn place(&self, place: Place) -> &PrivateDir {
        match place {
            Place::Live => &self.live,
            Place::Imported => &self.imported,
        }
    }
}

/// How many damaged files and directories are kept for people to look at.
const QUARANTINED: usize = 64;

pub(super) const CURRENT: &str = "current";
pub(super) const KEY: &str = "key.pem";
pub(super) const CHAIN: &str = "chain.pem";
const META: &str = "meta.json";

/// Generations that are kept, the one in service among them.
const KEPT: usize = 3;

/// The generations in a certificate's directory.
pub(super) struct Present {
    /// Oldest first.
    pub(super) numbers: Vec<u32>,
    pub(super) current: Option<u32>,
}

impl Present {
    pub(super) fn read(dir: &PrivateDir) -> Result<Self, StoreError> {
        let names = dir.names().map_err(at(dir, ""))?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(Self { numbers, current: current(dir)? })
    }

    fn next(&self) -> u32 {
        self.numbers.last().copied().max(self.current).unwrap_or(0).saturating_add(1)
    }

    /// Whether `current` has named it, now or before.
    fn is_committed(&self, number: u32) -> bool {
        self.current.is_some_and(|current| number <= current)
    }

    /// The best that can be served, and what had to be passed over: what was saved whole after
    /// `current`, then what `current` names, then the newest before.
    fn best(&self, dir: &PrivateDir) -> Found {
        let mut found = Found::default();
        for number in self.numbers.iter().rev().copied() {
            match examine(dir, number) {
                // Without `meta.json` a save may have been cut short, in the chain for example.
                Ok(good) if good.meta.is_some() || self.is_committed(number) => {
                    found.was_adopted = !self.is_committed(number);
                    found.fell_back = self.current.is_some_and(|current| number < current);
                    found.generation = Some(good);
                    break;
                }
                Ok(_) => {
                    let path = dir.path(&directory(number)).join(META);
                    let error = GenerationError::File { path, source: None };
                    found.faults.push(Fault { number, error, moved_to: None });
                }
                Err(error) => found.faults.push(Fault { number, error, moved_to: None }),
            }
        }
        found.fell_back |= found.generation.is_none() && self.current.is_some();
        found
    }
}

/// Reads a generation and checks it.
pub(super) fn examine(dir: &PrivateDir, number: u32) -> Result<Generation, GenerationError> {
    let name = directory(number);
    let file = |path: PathBuf| move |source| GenerationError::File { path, source };
    let failed = |dir: &PrivateDir, name: &str| {
        let fault = file(dir.path(name));
        move |source| fault(Some(source))
    };
    let inner = dir.existing(&name).map_err(failed(dir, &name))?;
    let Some(inner) = inner else { return Err(file(dir.path(&name))(None)) };
    let read = |name: &str| match inner.read_own(name) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(file(inner.path(name))(None)),
        Err(source) => Err(failed(&inner, name)(source)),
    };
    let (chain, key) = (read(CHAIN)?, read(KEY)?);
    tighten(&inner, KEY);
    let source = Source { chain: inner.path(CHAIN), key: inner.path(KEY) };
    let certificate = pem::from_text(&chain, &key, source)?;
    let meta = meta(&inner);
    let missing = meta.as_ref().map(|meta| meta.uncovered(&certificate)).unwrap_or_default();
    if !missing.is_empty() {
        return Err(GenerationError::Names { missing });
    }
    Ok(Generation { number, certificate, meta })
}

/// What `meta.json` says, if it can be read.
fn meta(inner: &PrivateDir) -> Option<Meta> {
    let bytes = inner.read_own(META).ok()??;
    serde_json::from_slice(&bytes).ok()
}

fn has_meta(dir: &PrivateDir, number: u32) -> bool {
    dir.existing(&directory(number)).is_ok_and(|inner| inner.as_ref().and_then(meta).is_some())
}

/// Writes the generation and then says that it is the one.
fn write(
    dir: &PrivateDir,
    number: u32,
    lock: &CertLock,
    pair: &Pair,
    step: Step<'_>,
) -> Result<(), StoreError> {
    let name = directory(number);
    let json = |source| StoreError::Json { path: dir.path(&name).join(META), source };
    let meta = serde_json::to_vec_pretty(&pair.meta).map_err(json)?;
    let made = step("make the generation's directory").and_then(|()| dir.make(&name));
    let inner = made.map_err(at(dir, &name))?;
    let files = [
        (KEY, pair.key_pem.0.as_bytes()),
        (CHAIN, pair.chain_pem.as_bytes()),
        (META, meta.as_slice()),
    ];
    for (file, bytes) in files {
        inner.create(file, bytes, step).map_err(at(&inner, file))?;
    }
    let synced = step("sync the generation's directory").and_then(|()| inner.sync());
    synced.map_err(at(dir, &name))?;
    let synced = step("sync the certificate's directory").and_then(|()| dir.sync());
    synced.map_err(at(dir, &name))?;
    let named = dir.write_stepwise(&lock.lock, CURRENT, name.as_bytes(), step);
    named.map_err(at(dir, CURRENT))
}

/// Removes all but the last [`KEPT`] up to `newest`. What cannot be removed is tried again at the
/// next save.
fn prune(dir: &PrivateDir, newest: u32, step: Step<'_>) {
    let Ok(present) = Present::read(dir) else { return };
    let older: Vec<u32> =
        present.numbers.iter().copied().filter(|number| *number <= newest).collect();
    let surplus = older.len().saturating_sub(KEPT);
    for number in &older[..surplus] {
        let removed = step("remove an old generation").map_err(at(dir, &directory(*number)));
        if let Err(error) = removed.and_then(|()| remove(dir, *number)) {
            tracing::warn!(%error, "old certificate kept");
        }
    }
}

fn remove(dir: &PrivateDir, number: u32) -> Result<(), StoreError> {
    let name = directory(number);
    std::fs::remove_dir_all(dir.path(&name)).map_err(at(dir, &name))
}

/// What `current` names; `None` when there is none, or nothing that can be read.
fn current(dir: &PrivateDir) -> Result<Option<u32>, StoreError> {
    let bytes = dir.read_own(CURRENT).map_err(at(dir, CURRENT))?;
    Ok(bytes.and_then(|bytes| number(std::str::from_utf8(&bytes).ok()?.trim())))
}

pub(super) fn directory(number: u32) -> String {
    format!("{number:06}")
}

/// The number that a directory is called, in the one way [`directory`] writes it.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|number| directory(*number) == name)
}
