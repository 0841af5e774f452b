//! The revocation lists in force: who watches them, and what is said when one nears its end.
//!
//! A list that is over locks every client of its CA out, and nobody but whoever brings the files can do
//! anything about it. So it is told while there is time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::tls::{Ending, Health, Lifetime, RevocationList};

/// Longest sleep: a clock that is set, or a machine that slept, is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Watches `lists`, which are those in force, until `stop`.
pub(super) async fn watch(
    mut lists: watch::Receiver<Vec<RevocationList>>,
    stop: CancellationToken,
) {
    let mut lives = Lives::default();
    let watching = async {
        loop {
            let pause = lives.look(&lists.borrow_and_update(), SystemTime::now());
            tokio::select! {
                changed = lists.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            }
        }
    };
    let _ = stop.run_until_cancelled(watching).await;
}

/// What was said of each list in force, by its file and its CA.
#[derive(Debug, Default)]
struct Lives(BTreeMap<(PathBuf, String), Known>);

#[derive(Debug)]
struct Known {
    lifetime: Lifetime,
    ending: Option<Ending>,
}

impl Lives {
    /// Says what is news at `now`. Returns until when there is none.
    fn look(&mut self, lists: &[RevocationList], now: SystemTime) -> Duration {
        let mut seen = BTreeMap::new();
        let mut wake = now + LONGEST_SLEEP;
        for list in lists {
            wake = list.lifetime.next_ending(now).map_or(wake, |next| wake.min(next));
            // Many CAs make the next list when less than a quarter is left of the one before.
            let ending = list.lifetime.ending(now).filter(|ending| *ending > Ending::Quarter);
            let key = (list.path.clone(), list.issuer.clone());
            let before = self.0.remove(&key);
            let was = before.as_ref().and_then(|before| before.ending);
            let is_same = before.is_some_and(|before| before.lifetime == list.lifetime);
            match ending {
                Some(ending) if was.filter(|_| is_same) < Some(ending) => tell(list, ending, now),
                None if was.is_some() => {
                    let (path, issuer) = (list.path.display(), &list.issuer);
                    let state = Health::Good.as_str();
                    tracing::info!(%path, issuer, state, "a revocation list is as it should be again");
                }
                _ => {}
            }
            seen.insert(key, Known { lifetime: list.lifetime, ending });
        }
        self.0 = seen;
        wake.duration_since(now).unwrap_or_default()
    }
}

fn tell(list: &RevocationList, ending: Ending, now: SystemTime) {
    let (path, issuer, state) = (list.path.display(), &list.issuer, ending.health().as_str());
    let seconds = list.lifetime.end.duration_since(now).map_or(0, |left| left.as_secs());
    match ending {
        Ending::Over => tracing::error!(
            %path, issuer, state,
            "a revocation list is over: the certificates of its CA are refused until there is a newer one"
        ),
        Ending::Twentieth => tracing::error!(
            %path, issuer, state, seconds,
            "a revocation list is about to end: the certificates of its CA will be refused"
        ),
        Ending::Quarter | Ending::Eighth => tracing::warn!(
            %path, issuer, state, seconds,
            "a revocation list is about to end: the certificates of its CA will be refused"
        ),
    }
}
