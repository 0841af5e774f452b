//! The small files: what is known of a certificate, orders under way, accounts, challenges.
//!
//! All are JSON, replaced whole. One that cannot be read is moved to `quarantine/` by whoever holds
//! the lock, and counts as missing: everything but an account's key can be found out again.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AccountLock, AuthorityId, CertId, CertLock, Storage, StoreError};
use crate::acme::journal::Journal;
use crate::acme::state::Record;
use crate::acme::time::unix;
use crate::tls::certificate::sha256;
use crate::tls::private_dir::{Lock, PrivateDir};

impl Storage {
    /// What is known of a certificate; `None` when nothing is, or nothing that can be read.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be read.
    pub fn record(&self, id: &CertId) -> Result<Option<Record>, StoreError> {
        match existing(&self.live, id.as_str())? {
            Some(dir) => Ok(read(&dir, STATE)?.and_then(Result::ok)),
            None => Ok(None),
        }
    }

    /// Keeps what is known of a certificate.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written; what was kept before stays.
    pub fn keep_record(&self, lock: &CertLock, record: &Record) -> Result<(), StoreError> {
        let id = lock.id().as_str();
        let dir = existing(&self.live, id)?;
        let dir = match dir {
            Some(dir) => dir,
            None => self.live.make(id).map_err(at(&self.live, id))?,
        };
        write(&dir, &lock.lock, STATE, record)?;
        self.share("record", id, record);
        Ok(())
    }

    /// The order under way. One that cannot be read is moved aside.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be read or moved.
    pub fn order(&self, lock: &CertLock) -> Result<Option<Journal>, StoreError> {
        let name = format!("{}.json", lock.id());
        match read(&self.orders, &name)? {
            Some(Ok(journal)) => Ok(Some(journal)),
            Some(Err(error)) => {
                let kept = format!("order-{name}");
                let moved = self.orders.move_to(&name, &self.quarantine, &kept);
                let moved = moved.map_err(at(&self.orders, &name))?;
                tracing::warn!(%error, moved_to = %moved.display(), "damaged order dropped");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Keeps the order under way; on return it is synced.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written: the order must not be finalized then.
    pub fn keep_order(&self, lock: &CertLock, journal: &Journal) -> Result<(), StoreError> {
        write(&self.orders, &lock.lock, &format!("{}.json", lock.id()), journal)?;
        self.share("order", lock.id().as_str(), journal);
        Ok(())
    }

    /// Forgets the order: its certificate is saved, or it came to nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be removed.
    pub fn drop_order(&self, lock: &CertLock) -> Result<(), StoreError> {
        let name = format!("{}.json", lock.id());
        self.unshare("order", lock.id().as_str());
        let removed = self.orders.remove(&name).and_then(|()| self.orders.sync());
        removed.map_err(at(&self.orders, &name))
    }

    /// The account at an authority: the one in use, or, where that cannot be read, the one before.
    ///
    /// # Errors
    /// [`StoreError::Io`] when there is a file that cannot be read.
    pub fn account<T: DeserializeOwned>(
        &self,
        authority: &AuthorityId,
    ) -> Result<Option<T>, StoreError> {
        let Some(dir) = existing(&self.accounts, authority.as_str())? else { return Ok(None) };
        tighten(&dir, ACCOUNT);
        match read(&dir, ACCOUNT)? {
            Some(Ok(account)) => Ok(Some(account)),
            Some(Err(error)) => {
                tracing::error!(%error, path = %dir.path(ACCOUNT).display(), "account cannot be read, the one before is used");
                self.account_before(authority)
            }
            None => Ok(None),
        }
    }

    /// The account that [`keep_account`](Self::keep_account) replaced last: its key still counts
    /// when a roll-over stopped half-way (RFC 8555 §7.3.5).
    ///
    /// # Errors
    /// [`StoreError::Io`] when there is a file that cannot be read.
    pub fn account_before<T: DeserializeOwned>(
        &self,
        authority: &AuthorityId,
    ) -> Result<Option<T>, StoreError> {
        match existing(&self.accounts, authority.as_str())? {
            Some(dir) => Ok(read(&dir, ACCOUNT_BEFORE)?.and_then(Result::ok)),
            None => Ok(None),
        }
    }

    /// Keeps an account, and the one that it replaces as the one before.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written; what was kept stays.
    pub fn keep_account<T: Serialize>(
        &self,
        lock: &AccountLock,
        account: &T,
    ) -> Result<(), StoreError> {
        let name = lock.authority().as_str();
        let json = |source| StoreError::Json { path: self.accounts.path(name), source };
        let mut account = serde_json::to_value(account).map_err(json)?;
        if let Some(fields) = account.as_object_mut() {
            let last = self.raw_account(lock.authority())?.as_ref().map_or(0, revision);
            fields.insert(REVISION.to_owned(), last.saturating_add(1).into());
        }
        self.write_account(lock, &account)?;
        self.share("account", name, &account);
        Ok(())
    }

    /// The account as it is kept.
    pub(super) fn raw_account(&self, authority: &AuthorityId) -> Result<Option<Value>, StoreError> {
        match existing(&self.accounts, authority.as_str())? {
            Some(dir) => Ok(read(&dir, ACCOUNT)?.and_then(Result::ok)),
            None => Ok(None),
        }
    }

    /// Puts an account in the place of the one that is kept, which becomes the one before.
    pub(super) fn write_account(
        &self,
        lock: &AccountLock,
        account: &Value,
    ) -> Result<(), StoreError> {
        let name = lock.authority().as_str();
        let dir = match existing(&self.accounts, name)? {
            Some(dir) => dir,
            None => {
                let made = self.accounts.make(name);
                let made = made.and_then(|dir| self.accounts.sync().map(|()| dir));
                made.map_err(at(&self.accounts, name))?
            }
        };
        dir.sweep(&lock.lock).map_err(at(&self.accounts, name))?;
        if let Some(old) = dir.read_own(ACCOUNT).map_err(at(&dir, ACCOUNT))? {
            let is_whole = serde_json::from_slice::<Value>(&old).is_ok();
            if is_whole {
                dir.write(&lock.lock, ACCOUNT_BEFORE, &old).map_err(at(&dir, ACCOUNT_BEFORE))?;
            }
        }
        write(&dir, &lock.lock, ACCOUNT, account)
    }

    /// Everything that authorities may ask for, as whichever instance made the order left it, the
    /// oldest first. One that cannot be read is left out.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn challenges<T: DeserializeOwned>(&self) -> Result<Vec<T>, StoreError> {
        let mut all: Vec<Left> = self.left()?.into_values().collect();
        all.sort_by_key(|left| left.at);
        Ok(all.into_iter().filter_map(|left| serde_json::from_value(left.answer).ok()).collect())
    }

    /// What is left here and in the fleet, by its name.
    fn left(&self) -> Result<HashMap<String, Left>, StoreError> {
        let names = self.challenges.names().map_err(at(&self.challenges, ""))?;
        let of_a_file = |name: String| {
            let left = read(&self.challenges, &name).ok()??.ok()?;
            Some((name, left))
        };
        let mut all: HashMap<String, Left> = names.into_iter().filter_map(of_a_file).collect();
        for (name, theirs) in self.shared_challenges() {
            // An instance that died has left it here, and another one goes on with the order.
            if all.get(&name).is_none_or(|ours| ours.at <= theirs.at) {
                all.insert(name, theirs);
            }
        }
        Ok(all)
    }

    /// Leaves what an authority may ask for for every instance, under the token (RFC 8555 §8.3) as
    /// `key`.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written, [`StoreError::Fleet`] when only the fleet lacks it.
    pub fn keep_challenge<T: Serialize>(
        &self,
        lock: &CertLock,
        key: &str,
        answer: &T,
    ) -> Result<(), StoreError> {
        let name = challenge_file(key);
        let json = |source| StoreError::Json { path: self.challenges.path(&name), source };
        let left = Left {
            at: unix(SystemTime::now()),
            certificate: lock.id().to_string(),
            answer: serde_json::to_value(answer).map_err(json)?,
        };
        // Where this disk is full, others may have room.
        let shared = self.share_challenge(&name, &left);
        write(&self.challenges, &lock.lock, &name, &left)?;
        shared.map_err(StoreError::Fleet)
    }

    /// Takes away what was left under `key`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be removed.
    pub fn drop_challenge(&self, _lock: &CertLock, key: &str) -> Result<(), StoreError> {
        self.drop_left(&challenge_file(key))
    }

    /// Takes away what earlier orders of the certificate have left under other keys than `keys`:
    /// nobody waits for it any more.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read, or a file cannot be removed.
    pub fn drop_other_challenges<'k>(
        &self,
        lock: &CertLock,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Result<(), StoreError> {
        let names: Vec<String> = keys.into_iter().map(challenge_file).collect();
        let mut outcome = Ok(());
        for (name, left) in self.left()? {
            if left.certificate == lock.id().as_str() && !names.contains(&name) {
                let dropped = self.drop_left(&name);
                outcome = outcome.and(dropped);
            }
        }
        outcome
    }

    fn drop_left(&self, name: &str) -> Result<(), StoreError> {
        self.unshare_challenge(name);
        self.challenges.remove(name).map_err(at(&self.challenges, name))
    }

    /// Takes away what processes that died left more than a day before `now`; how many.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn sweep_challenges(&self, now: SystemTime) -> Result<usize, StoreError> {
        let mut swept = self.sweep_shared_challenges(now);
        for name in self.challenges.names().map_err(at(&self.challenges, ""))? {
            let changed = std::fs::symlink_metadata(self.challenges.path(&name))
                .and_then(|found| found.modified());
            let is_old = changed
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > CHALLENGE_LONGEST));
            if is_old && self.challenges.remove(&name).is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// A challenge as it is kept.
#[derive(Deserialize, Serialize)]
pub(super) struct Left {
    /// When it was left.
    pub(super) at: i64,
    /// Whose order it is of.
    certificate: String,
    answer: Value,
}

const STATE: &str = "state.json";
pub(super) const ACCOUNT: &str = "account.json";
const ACCOUNT_BEFORE: &str = "account.json.prev";

/// Counts the accounts that were kept, in the file of one.
const REVISION: &str = "revision";

/// Which of the accounts that a fleet has had this one is.
pub(super) fn revision(account: &Value) -> u64 {
    account.get(REVISION).and_then(Value::as_u64).unwrap_or(0)
}

/// Authorities keep an authorization pending for days, but no order of ours is under way that long.
pub(super) const CHALLENGE_LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Tokens are chosen by authorities and names by clients: neither may become a path.
fn challenge_file(key: &str) -> String {
    let hash: String = sha256(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}.json")
}

pub(super) fn at(
    dir: &PrivateDir,
    name: &str,
) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let path = dir.path(name);
    move |source| StoreError::Io { path, source }
}

pub(super) fn existing(dir: &PrivateDir, name: &str) -> Result<Option<PrivateDir>, StoreError> {
    dir.existing(name).map_err(at(dir, name))
}

/// Takes the file from other users, and says so.
pub(super) fn tighten(dir: &PrivateDir, name: &str) {
    if dir.tighten(name).is_ok_and(|was_open| was_open) {
        tracing::warn!(path = %dir.path(name).display(), "file with a key was readable by other users");
    }
}

/// The file's contents, `None` when there is no such file.
fn read<T: DeserializeOwned>(
    dir: &PrivateDir,
    name: &str,
) -> Result<Option<Result<T, serde_json::Error>>, StoreError> {
    let bytes = dir.read_own(name).map_err(at(dir, name))?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)))
}

fn write<T: Serialize>(
    dir: &PrivateDir,
    lock: &Lock,
    name: &str,
    value: &T,
) -> Result<(), StoreError> {
    let json = |source| StoreError::Json { path: dir.path(name), source };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(json)?;
    bytes.push(b'\n');
    dir.write(lock, name, &bytes).map_err(at(dir, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::state::Target;

    fn storage() -> (tempfile::TempDir, Storage) {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(root.path()).unwrap();
        (root, storage)
    }

    fn journal(order_url: &str) -> Journal {
        Journal {
            order_url: order_url.into(),
            key_pem: "secret".into(),
            names: vec!["a.test".into()],
            directory: "https://ca/dir".into(),
            profile: None,
            replaces: None,
            created: 5,
        }
    }

    #[test]
    fn an_order_is_kept_replaced_and_dropped() {
        let (_root, storage) = storage();
        let lock = storage.lock(&CertId::new("a.test")).unwrap().unwrap();
        assert_eq!(storage.order(&lock).unwrap(), None);
        for url in ["1", "2"] {
            storage.keep_order(&lock, &journal(url)).unwrap();
            assert_eq!(storage.order(&lock).unwrap(), Some(journal(url)));
        }
        storage.drop_order(&lock).unwrap();
        storage.drop_order(&lock).unwrap();
        assert_eq!(storage.order(&lock).unwrap(), None);
        assert!(!format!("{:?}", journal("1")).contains("secret"));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none_and_an_order_is_moved_aside() {
        let (root, storage) = storage();
        let id = CertId::new("*.a.test");
        let lock = storage.lock(&id).unwrap().unwrap();
        assert_eq!(storage.record(&id).unwrap(), None);
        let record = Record::new(Target::new(vec!["*.a.test".into()], "d", None), 5);
        storage.keep_record(&lock, &record).unwrap();
        assert_eq!(storage.record(&id).unwrap(), Some(record));
        std::fs::write(root.path().join("live/_wild_.a.test/state.json"), "{\"state\":").unwrap();
        assert_eq!(storage.record(&id).unwrap(), None);
        std::fs::write(root.path().join("orders/_wild_.a.test.json"), "[]").unwrap();
        assert_eq!(storage.order(&lock).unwrap(), None);
        assert!(root.path().join("quarantine/order-_wild_.a.test.json").exists());
        assert_eq!(std::fs::read_dir(root.path().join("orders")).unwrap().count(), 0);
    }

    #[test]
    fn an_account_keeps_the_one_before() {
        let (root, storage) = storage();
        let authority = AuthorityId::new("https://ca.test/dir");
        let lock = storage.lock_account(&authority).unwrap().unwrap();
        assert_eq!(storage.account::<String>(&authority).unwrap(), None);
        for (account, before) in [("1", None), ("2", Some("1")), ("3", Some("2"))] {
            storage.keep_account(&lock, &account).unwrap();
            assert_eq!(storage.account::<String>(&authority).unwrap().as_deref(), Some(account));
            assert_eq!(storage.account_before::<String>(&authority).unwrap().as_deref(), before);
        }
        std::fs::write(root.path().join("accounts/ca.test+dir/account.json"), "\"3").unwrap();
        assert_eq!(storage.account::<String>(&authority).unwrap().as_deref(), Some("2"));
        storage.keep_account(&lock, &"4").unwrap();
        let before = storage.account_before::<String>(&authority).unwrap();
        assert_eq!(before.as_deref(), Some("2"), "a damaged one replaces nothing");
        let id = CertId::new("account-ca.test");
        assert!(storage.lock(&id).unwrap().is_some(), "not the account's lock");
    }

    #[test]
    fn challenges_are_found_by_every_instance_until_they_are_dropped_or_old() {
        let (root, storage) = storage();
        let other = Storage::open(root.path()).unwrap();
        let lock = storage.lock(&CertId::new("a.test")).unwrap().unwrap();
        let outstanding = || {
            let mut all = other.challenges::<String>().unwrap();
            all.sort();
            all
        };
        for key in ["../../token", "token"] {
            storage.keep_challenge(&lock, key, &key).unwrap();
        }
        std::fs::write(root.path().join("challenges/torn.json"), "\"to").unwrap();
        assert_eq!(outstanding(), ["../../token", "token"]);
        std::fs::remove_file(root.path().join("challenges/torn.json")).unwrap();
        storage.drop_challenge(&lock, "token").unwrap();
        assert_eq!(outstanding(), ["../../token"]);
        let now = SystemTime::now();
        assert_eq!(storage.sweep_challenges(now).unwrap(), 0);
        let day_after = now + CHALLENGE_LONGEST + Duration::from_secs(60);
        assert_eq!(storage.sweep_challenges(day_after).unwrap(), 1);
    }

    #[test]
    fn a_new_challenge_counts_before_old_ones_and_takes_those_of_its_certificate_away() {
        let (root, storage) = storage();
        let locks = ["a.test", "b.test"].map(|id| storage.lock(&CertId::new(id)).unwrap().unwrap());
        let outstanding = || storage.challenges::<String>().unwrap();
        let age = |key: &str, at: i64| {
            let path = root.path().join("challenges").join(challenge_file(key));
            let mut left: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            left["at"] = at.into();
            std::fs::write(&path, left.to_string()).unwrap();
        };
        let keys = ["one", "two", "three", "four"];
        for orders in [keys, ["four", "three", "two", "one"]] {
            for (at, key) in (1..).zip(orders) {
                storage.keep_challenge(&locks[0], key, &key).unwrap();
                age(key, at);
            }
            assert_eq!(outstanding(), orders, "whatever their files are called");
        }
        storage.keep_challenge(&locks[1], "other", &"other").unwrap();
        storage.drop_other_challenges(&locks[0], ["two", "new"]).unwrap();
        assert_eq!(outstanding(), ["two", "other"]);
    }
}
