//! The lifetimes of the certificates in service, whoever renews them: who watches them, and what is
//! said when one nears its end.
//!
//! Nothing is taken down for it. A site goes on with a certificate that has ended, since a warning in
//! a browser tells more than a refused connection; `/ready` stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::certificates::Certificates;
use crate::acme::event::{Event, Events, Happening};
use crate::acme::time::unix;
use crate::tls::{Ending, Entry, Fingerprint, Health, Origin};

/// Longest sleep: a clock that is set, or a machine that slept, is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Watches what is served until `stop`.
pub(super) async fn watch(certificates: Arc<Certificates>, stop: CancellationToken) {
    let mut lives = Lives::default();
    let watching = async {
        loop {
            // Above an hour the authority's clock counts, as for renewals.
            let judged = certificates.assignment().map(|it| it.clock.now());
            let judged = judged.and_then(|now| u64::try_from(now).ok());
            let now = judged.map_or_else(SystemTime::now, |now| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(now)
            });
            let entries = certificates.store.entries();
            let pause = lives.look(&entries, &certificates.events, now);
            tokio::select! {
                () = certificates.changed.notified() => {}
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            }
        }
    };
    let _ = stop.run_until_cancelled(watching).await;
}

/// What was said of each certificate in service.
#[derive(Debug, Default)]
struct Lives(BTreeMap<Arc<str>, Known>);

#[derive(Debug)]
struct Known {
    fingerprint: Fingerprint,
    ending: Option<Ending>,
}

impl Lives {
    /// Says what is news at `now`. Returns until when there is none.
    fn look(&mut self, entries: &[Arc<Entry>], events: &Events, now: SystemTime) -> Duration {
        let mut seen: BTreeMap<Arc<str>, Known> = BTreeMap::new();
        let mut wake = now + LONGEST_SLEEP;
        for entry in entries {
            let leaf = &entry.certificate().leaf;
            // Of two with one id the first counts.
            if seen.contains_key(entry.id()) {
                continue;
            }
            if entry.origin() == Origin::StandIn {
                // The renewer tells of what it is to be.
                let known = Known { fingerprint: leaf.fingerprint, ending: None };
                seen.insert(Arc::clone(entry.id()), known);
                continue;
            }
            let next = leaf.lifetime().next_ending(now);
            wake = next.map_or(wake, |next| wake.min(next));
            let known =
                Known { fingerprint: leaf.fingerprint, ending: leaf.lifetime().ending(now) };
            let before = self.0.get(entry.id());
            let is_another = before.is_some_and(|it| it.fingerprint != known.fingerprint);
            if is_another && entry.origin() == Origin::Files {
                tell_imported(entry, events);
            }
            let health = |known: &Known| known.ending.map_or(Health::Good, Ending::health);
            let was = before.and_then(|before| before.ending).filter(|_| !is_another);
            match known.ending {
                Some(ending) if was < Some(ending) => tell_ending(entry, ending, events, now),
                _ => {}
            }
            if before.map_or(Health::Good, health) > Health::Good && health(&known) == Health::Good
            {
                tracing::info!(certificate = %entry.id(), state = "good", "a certificate is as it should be again");
            }
            seen.insert(Arc::clone(entry.id()), known);
        }
        self.0 = seen;
        wake.duration_since(now).unwrap_or_default()
    }
}

fn tell_imported(entry: &Entry, events: &Events) {
    let leaf = &entry.certificate().leaf;
    let happening = Happening::Imported { not_after: unix(leaf.not_after) };
    let (event, certificate) = (happening.kind().name(), entry.id());
    tracing::info!(event, %certificate, fingerprint = %leaf.fingerprint, "serves another certificate from its files");
    events.tell(Event::new(happening).about_leaf(&**entry.id(), leaf));
}

fn tell_ending(entry: &Entry, ending: Ending, events: &Events, now: SystemTime) {
    let leaf = &entry.certificate().leaf;
    let happening = Happening::Ending { ending, not_after: unix(leaf.not_after) };
    let (event, certificate) = (happening.kind().name(), entry.id());
    let state = ending.health().as_str();
    let seconds = leaf.not_after.duration_since(now).map_or(0, |left| left.as_secs());
    match ending {
        Ending::Over => {
            tracing::error!(event, %certificate, state, "a certificate has expired, and is served on");
        }
        Ending::Twentieth => {
            tracing::error!(event, %certificate, state, seconds, "a certificate is about to end");
        }
        Ending::Quarter | Ending::Eighth => {
            tracing::warn!(event, %certificate, state, seconds, "a certificate is about to end");
        }
    }
    events.tell(Event::new(happening).about_leaf(&**entry.id(), leaf));
}
