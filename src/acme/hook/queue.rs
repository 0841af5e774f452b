//! Events that hooks are still to be told of, and when. Pure: it takes the time.
//!
//! # Why
//! A hook is told of one event after the other, in their order, so that "failed" does not come after
//! "renewed". It stays so while the hook is down for a minute; an event that it refuses again and
//! again must not keep the others from it, so after [`STUBBORN`] tries they go past it.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::acme::time::{DAY, HOUR, MINUTE};

/// What names a hook across starts and reloads.
pub(super) type HookKey = String;

/// What names an event: its place in their order, then its id.
pub(super) type EventKey = (i64, String);

/// An event that some hook is to be told of; persisted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Waiting {
    /// Its place in the order of events: when it was taken in, in milliseconds since 1970.
    pub(super) order: i64,
    /// When it happened.
    pub(super) at: i64,
    /// What a hook gets.
    pub(super) payload: Map<String, Value>,
    /// Who is still to be told.
    pub(super) hooks: BTreeMap<HookKey, Tries>,
}

/// What became of telling a hook so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Tries {
    /// How many failed.
    pub(super) fails: u32,
    /// The next one.
    pub(super) next_at: i64,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue(BTreeMap<EventKey, Waiting>);

/// What a hook is to be told next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// This event, now.
    Now(EventKey),
    /// Something, but not before.
    At(i64),
    /// Nothing.
    Nothing,
}

/// Pauses after failures; the last one for all that follow.
const PAUSES: [i64; 5] = [1, 10, MINUTE, 10 * MINUTE, HOUR];

/// Failures after which other events go past.
const STUBBORN: u32 = 4;

/// How long an event is worth telling.
pub(super) const LONGEST_WAIT: i64 = 3 * DAY;

/// Events that may wait; more would be a flood that nobody reads.
pub(super) const MOST: usize = 4096;

impl Queue {
    /// Takes an event in. Returns the oldest ones that there is no room for any more.
    pub(super) fn add(&mut self, id: &str, waiting: Waiting) -> Vec<(EventKey, Waiting)> {
        self.0.insert((waiting.order, id.to_owned()), waiting);
        let mut dropped = Vec::new();
        while self.0.len() > MOST {
            dropped.extend(self.0.pop_first());
        }
        dropped
    }

    /// Whether the event is among them.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.keys().any(|(_, known)| known == id)
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> HashSet<String> {
        self.0.keys().map(|(_, id)| id.clone()).collect()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Every event with every hook that is to be told of it.
    pub(super) fn hooks(&self) -> Vec<(EventKey, HookKey)> {
        let of = |(key, waiting): (&EventKey, &Waiting)| {
            waiting.hooks.keys().map(|hook| (key.clone(), hook.clone())).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    pub(super) fn get(&self, key: &EventKey) -> Option<&Waiting> {
        self.0.get(key)
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What `hook` is to be told next.
    pub(super) fn next(&self, hook: &str, now: i64) -> Next {
        let mut wake = None;
        for (key, waiting) in &self.0 {
            let Some(tries) = waiting.hooks.get(hook) else { continue };
            if tries.next_at <= now {
                return Next::Now(key.clone());
            }
            let earlier = wake.unwrap_or(i64::MAX).min(tries.next_at);
            wake = Some(earlier);
            if tries.fails < STUBBORN {
                break;
            }
        }
        wake.map_or(Next::Nothing, Next::At)
    }

    /// `hook` took the event. It is alive, so that what it did not take before is tried again at
    /// once. The event is returned when there is nobody left to tell.
    pub(super) fn took(&mut self, key: &EventKey, hook: &str, now: i64) -> Option<Waiting> {
        for (other, waiting) in &mut self.0 {
            if other != key
                && let Some(tries) = waiting.hooks.get_mut(hook)
            {
                tries.next_at = tries.next_at.min(now);
            }
        }
        self.strike(key, hook)
    }

    /// `hook` did not take the event. When it is told again; `None` when it is not, because the event
    /// has become too old.
    pub(super) fn refused(&mut self, key: &EventKey, hook: &str, now: i64) -> Option<i64> {
        let waiting = self.0.get_mut(key)?;
        let end = waiting.at.saturating_add(LONGEST_WAIT);
        let tries = waiting.hooks.get_mut(hook)?;
        let pause = PAUSES[(tries.fails as usize).min(PAUSES.len() - 1)];
        tries.fails = tries.fails.saturating_add(1);
        tries.next_at = now.saturating_add(pause);
        (tries.next_at <= end).then_some(tries.next_at)
    }

    /// Takes `hook` off the event's list. The event is returned when there is nobody left to tell.
    pub(super) fn strike(&mut self, key: &EventKey, hook: &str) -> Option<Waiting> {
        let waiting = self.0.get_mut(key)?;
        waiting.hooks.remove(hook);
        if waiting.hooks.is_empty() { self.0.remove(key) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(order: i64, hooks: &[&str]) -> Waiting {
        let hooks = hooks.iter().map(|hook| ((*hook).to_owned(), Tries::default())).collect();
        Waiting { order, at: 0, payload: Map::new(), hooks }
    }

    fn key(order: i64) -> EventKey {
        (order, order.to_string())
    }

    fn queue(orders: &[i64], hooks: &[&str]) -> Queue {
        let mut queue = Queue::default();
        for order in orders {
            assert_eq!(queue.add(&order.to_string(), waiting(*order, hooks)), []);
        }
        queue
    }

    #[test]
    fn events_wait_for_the_one_before_until_it_proves_stubborn() {
        let mut queue = queue(&[1, 2], &["a", "b"]);
        assert_eq!(queue.next("a", 100), Next::Now(key(1)));
        assert_eq!(queue.next("c", 100), Next::Nothing);
        let mut now = 100;
        for pause in [1, 10, 60] {
            assert_eq!(queue.refused(&key(1), "a", now), Some(now + pause));
            assert_eq!(queue.next("a", now), Next::At(now + pause), "the second waits");
            assert_eq!(queue.next("b", now), Next::Now(key(1)), "nobody else does");
            now += pause;
        }
        assert_eq!(queue.refused(&key(1), "a", now), Some(now + 600));
        assert_eq!(queue.next("a", now), Next::Now(key(2)));
        // The hook is alive: the stubborn one gets its chance at once.
        assert_eq!(queue.took(&key(2), "a", now), None, "b is still to be told");
        assert_eq!(queue.next("a", now), Next::Now(key(1)));
        assert_eq!(queue.refused(&key(1), "a", now), Some(now + 3600));
        assert_eq!(queue.next("a", now), Next::At(now + 3600));
    }

    #[test]
    fn an_event_goes_when_all_were_told_or_it_is_too_old() {
        let mut queue = queue(&[1, 2], &["a", "b"]);
        assert_eq!(queue.took(&key(1), "a", 5), None);
        assert!(queue.took(&key(1), "b", 5).is_some());
        assert_eq!((queue.len(), queue.has("1"), queue.has("2")), (1, false, true));
        assert_eq!(queue.refused(&key(2), "a", LONGEST_WAIT), None);
        assert_eq!(queue.strike(&key(2), "a"), None);
        assert!(queue.strike(&key(2), "b").is_some());
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut queue = Queue::default();
        let orders: Vec<i64> = (0..MOST as i64).collect();
        for order in &orders {
            assert_eq!(queue.add(&order.to_string(), waiting(*order, &["a"])).len(), 0);
        }
        let dropped = queue.add("new", waiting(1 << 20, &["a"]));
        assert_eq!(dropped.iter().map(|(key, _)| key.0).collect::<Vec<_>>(), [0]);
    }
}
