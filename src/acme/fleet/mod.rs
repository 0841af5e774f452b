//! What a fleet of gateways shares through a Redis: who is at a certificate, and what was last kept.
//!
//! Answers "has another instance something newer, and may I?". Called by [`storage`](super::storage)
//! on threads that may block, for which it is a layer above the files: whatever fails here is told
//! once, and everything goes on with what is on this machine. Values are JSON, keys and accounts
//! among them in the clear, so that whoever can read this Redis has them:
//!
//! ```text
//! wardgate:versions                  of each certificate, which is the newest: "7 1790000000 0f1e…"
//! wardgate:pair:<id>                 its key, chain and meta.json
//! wardgate:record:<id>               what is known of it besides: state.json
//! wardgate:order:<id>                the order under way
//! wardgate:account:<authority>       the account
//! wardgate:challenges                what authorities may ask for, by the token's hash
//! wardgate:lock:<id>, wardgate:lock:account-<authority>
//! ```
//!
//! The server may be a Redis or a Valkey from version 6.0 on; a cluster's parts are not asked for each other.

mod lease;
mod link;
mod version;

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, FromRedisValue, cmd};
use tokio::runtime::Handle;

pub use self::lease::Lease;
use self::link::Link;
pub use self::link::LinkError;
pub use self::version::Version;
use crate::config::storage::Redis;
use crate::tls::client_config::ClientConfigError;

/// The Redis that a fleet shares.
pub struct Fleet {
    link: Link,
    /// Whose reactor moves the bytes, while those who ask block.
    runtime: Handle,
}

/// How long orders are kept that nobody takes away, in seconds: authorities end theirs in a week.
const ORDER_KEPT: u64 = 7 * 24 * 60 * 60;

/// How long challenges are kept after the last one was left.
const CHALLENGES_KEPT: u64 = 24 * 60 * 60;

/// Keeps a pair unless there is a newer one; whether it is kept. `KEYS`: versions, the pair. `ARGV`:
/// the certificate, its version in three parts, the pair.
const KEEP_PAIR: &str = "\
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if kept then
  local revision, start, tag = string.match(kept, '^(%d+) (-?%d+) (%w*)$')
  if revision then
    local old, new = {tonumber(revision), tonumber(start)}, {tonumber(ARGV[2]), tonumber(ARGV[3])}
    if old[1] > new[1] or (old[1] == new[1] and (old[2] > new[2] or
      (old[2] == new[2] and tag > ARGV[4]))) then
      return 0
    end
  end
end
redis.call('SET', KEYS[2], ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return 1";

impl Fleet {
    /// The fleet that meets at `at`, which is not asked anything yet. Needs a runtime.
    ///
    /// # Errors
    /// [`ClientConfigError`] where the CA of `at` cannot be used.
    pub fn new(at: &Redis) -> Result<Self, ClientConfigError> {
        Ok(Self { link: Link::new(at)?, runtime: Handle::current() })
    }

    /// Where it meets.
    #[must_use]
    pub fn at(&self) -> &Redis {
        self.link.at()
    }

    /// Whether its Redis has answered when it was asked last; true before it was asked.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.link.is_reachable()
    }

    /// The right to do something that only one instance should, `None` while another has it.
    pub(super) fn lease(self: &Arc<Self>, what: &str) -> Result<Option<Lease>, LinkError> {
        self.runtime.block_on(Lease::take(self, self.key(&format!("lock:{what}"))))
    }

    /// Which pair of each certificate is the newest; `None` for one that there is none of.
    pub(super) fn versions<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Option<Version>>, LinkError> {
        let mut question = cmd("HMGET");
        question.arg(self.key("versions"));
        for id in ids {
            question.arg(id);
        }
        let answers: Vec<Option<Vec<u8>>> = self.ask(&question)?;
        let parse = |answer: Vec<u8>| std::str::from_utf8(&answer).ok()?.parse().ok();
        Ok(answers.into_iter().map(|answer| answer.and_then(parse)).collect())
    }

    /// Keeps a certificate's pair for everybody, unless there is a newer one; whether it is kept.
    pub(super) fn keep_pair(
        &self,
        id: &str,
        version: &Version,
        pair: &[u8],
    ) -> Result<bool, LinkError> {
        let Version { revision, not_before, tag } = version;
        let mut question = cmd("EVAL");
        question
            .arg(KEEP_PAIR)
            .arg(2)
            .arg(self.key("versions"))
            .arg(self.key(&format!("pair:{id}")));
        question.arg(id).arg(*revision).arg(*not_before).arg(tag).arg(pair);
        self.ask(&question).map(|kept: i64| kept == 1)
    }

    /// What is kept as `what` (`pair`, `record`, `order`, `account`) of `id`.
    pub(super) fn kept(&self, what: &str, id: &str) -> Result<Option<Vec<u8>>, LinkError> {
        self.ask(cmd("GET").arg(self.key(&format!("{what}:{id}"))))
    }

    /// Keeps `value` as `what` of `id`, an order as long as one can last.
    pub(super) fn keep(&self, what: &str, id: &str, value: &[u8]) -> Result<(), LinkError> {
        let mut question = cmd("SET");
        question.arg(self.key(&format!("{what}:{id}"))).arg(value);
        if what == "order" {
            question.arg("EX").arg(ORDER_KEPT);
        }
        self.ask(&question)
    }

    /// Forgets what is kept as `what` of `id`.
    pub(super) fn forget(&self, what: &str, id: &str) -> Result<(), LinkError> {
        self.ask(cmd("DEL").arg(self.key(&format!("{what}:{id}"))))
    }

    /// Everything that authorities may ask for, by its name.
    pub(super) fn challenges(&self) -> Result<Vec<(String, Vec<u8>)>, LinkError> {
        self.ask(cmd("HGETALL").arg(self.key("challenges")))
    }

    /// Leaves what an authority may ask for as `name`.
    pub(super) fn keep_challenge(&self, name: &str, answer: &[u8]) -> Result<(), LinkError> {
        let key = self.key("challenges");
        self.ask::<()>(cmd("HSET").arg(&key).arg(name).arg(answer))?;
        self.ask(cmd("EXPIRE").arg(key).arg(CHALLENGES_KEPT))
    }

    /// Takes away what was left as `name`.
    pub(super) fn drop_challenge(&self, name: &str) -> Result<(), LinkError> {
        self.ask(cmd("HDEL").arg(self.key("challenges")).arg(name))
    }

    fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, LinkError> {
        self.runtime.block_on(self.link.ask(question))
    }

    fn key(&self, what: &str) -> String {
        format!("{}{what}", self.at().prefix)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fleet({:?})", self.at())
    }
}
