//! Challenges that another instance has published: a certificate authority that asks for a name gets to
//! any of those that serve it.
//!
//! Answers "has somebody else been told to show this?". All that is outstanding is fetched at once,
//! by one task for all who ask, and no more often than [`PAUSE`] allows: strangers who make up tokens
//! neither load what it is fetched from, nor keep an authority waiting. What hangs is fetched from
//! once, and not again until that has ended.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::server_name;
use crate::net::Host;

/// Between two fetches.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest wait of one who asks: authorities wait for ten seconds.
const LONGEST: Duration = Duration::from_secs(4);

/// Those who wait at once; whoever comes beyond that, strangers mostly, is told what was found last.
const ASKING: usize = 256;

/// What an authority is to be shown, by whichever instance it asks.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// How it asks.
    pub kind: AnswerKind,
    /// The name or address that it asks for.
    pub host: String,
    /// What the authority called it.
    pub token: String,
    /// The answer.
    pub key_authorization: String,
}

/// How an authority asks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AnswerKind {
    /// Over plain HTTP (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http,
    /// In a handshake (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
}

/// Fetches all answers that are outstanding anywhere, the oldest first.
type Fetch = dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Answer>> + Send>> + Send + Sync;

/// Where other instances leave answers.
pub struct Elsewhere {
    /// What may be asked for: names as they stand in SNI.
    names: HashSet<String>,
    source: Arc<Source>,
    asking: Semaphore,
}

/// What answers are fetched from, and what was found there.
struct Source {
    fetch: Box<Fetch>,
    seen: watch::Sender<Seen>,
}

/// What the last fetch has found.
#[derive(Default)]
struct Seen {
    /// Whether there is another under way.
    is_under_way: bool,
    began: Option<Instant>,
    ended: Option<Instant>,
    answers: Arc<Vec<Answer>>,
}

impl Elsewhere {
    /// Answers about `hosts`, which `fetch` finds, the oldest first.
    pub fn new<F>(
        hosts: impl IntoIterator<Item = Host>,
        fetch: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<Answer>> + Send + 'static,
    {
        let fetch =
            Box::new(move || -> Pin<Box<dyn Future<Output = _> + Send>> { Box::pin(fetch()) });
        Self {
            names: hosts.into_iter().map(|host| server_name(&host)).collect(),
            source: Arc::new(Source { fetch, seen: watch::Sender::default() }),
            asking: Semaphore::new(ASKING),
        }
    }

    /// The newest answer for `name`, as it stands in SNI, and for `token` where there is one: an
    /// authority waits for the newest alone, and those that died have left others.
    pub(super) async fn find(
        &self,
        kind: AnswerKind,
        name: &str,
        token: Option<&str>,
    ) -> Option<Answer> {
        if !self.names.contains(name) {
            return None;
        }
        let found = match self.asking.try_acquire() {
            Ok(_asking) => timeout(LONGEST, self.source.all()).await.ok(),
            Err(_) => None,
        };
        let answers = found.unwrap_or_else(|| self.source.last());
        let is_it = |answer: &&Answer| {
            answer.kind == kind
                && token.is_none_or(|token| answer.token == token)
                && Host::parse(&answer.host).is_ok_and(|host| server_name(&host) == name)
        };
        answers.iter().rev().find(is_it).cloned()
    }
}

impl Source {
    /// All that was outstanding when this was called.
    async fn all(self: &Arc<Self>) -> Arc<Vec<Answer>> {
        let asked = Instant::now();
        let mut seen = self.seen.subscribe();
        loop {
            {
                let seen = seen.borrow_and_update();
                if seen.began.is_some_and(|began| began >= asked) {
                    return Arc::clone(&seen.answers);
                }
            }
            self.begin();
            if seen.changed().await.is_err() {
                return self.last();
            }
        }
    }

    /// What was found last, which may be nothing yet.
    fn last(&self) -> Arc<Vec<Answer>> {
        Arc::clone(&self.seen.borrow().answers)
    }

    /// Fetches, unless somebody has begun to. It goes on when nobody waits any more: what blocks
    /// cannot be broken off, and must not be begun again beside itself.
    fn begin(self: &Arc<Self>) {
        let mut ended = None;
        let mut begins = false;
        self.seen.send_if_modified(|seen| {
            begins = !seen.is_under_way;
            seen.is_under_way = true;
            ended = seen.ended;
            false
        });
        if !begins {
            return;
        }
        let source = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(ended) = ended {
                sleep_until(ended + PAUSE).await;
            }
            let began = Some(Instant::now());
            // One that panics has found nothing, and has ended all the same.
            let found = tokio::spawn((source.fetch)()).await.unwrap_or_default();
            let (ended, answers) = (Some(Instant::now()), Arc::new(found));
            source.seen.send_replace(Seen { is_under_way: false, began, ended, answers });
        });
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("names", &self.names).finish_non_exhaustive()
    }
}

impl fmt::Debug for Answer {
    /// Without what proves anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("kind", &self.kind)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::net::HostRef;
    use crate::tls::Challenges;

    const TOKEN: &str = "0123456789abcdef";

    fn answer(kind: AnswerKind, host: &str) -> Answer {
        let key_authorization = format!("{TOKEN}.thumb");
        Answer { kind, host: host.into(), token: TOKEN.into(), key_authorization }
    }

    /// Challenges of instances that serve `a.test` and 192.0.2.1, and how often they were fetched.
    fn challenges() -> (Challenges, Arc<AtomicUsize>) {
        let fetched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fetched);
        let hosts = ["a.test", "192.0.2.1"].map(|host| Host::parse(host).unwrap());
        let elsewhere = Elsewhere::new(hosts, move || {
            count.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                vec![
                    answer(AnswerKind::Http, "a.test"),
                    answer(AnswerKind::TlsAlpn, "192.0.2.1"),
                    answer(AnswerKind::Http, "b.test"),
                ]
            }
        });
        let challenges = Challenges::default();
        challenges.look_elsewhere(Some(Arc::new(elsewhere)));
        (challenges, fetched)
    }

    async fn ask(challenges: &Challenges, host: &str, token: &str) -> Option<bytes::Bytes> {
        let (host, _) = HostRef::parse_authority(host).unwrap();
        let path = format!("/.well-known/acme-challenge/{token}");
        challenges.http_elsewhere(&host, &path).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_instance_has_left_is_shown() {
        crate::tls::install();
        let (challenges, _) = challenges();
        assert_eq!(ask(&challenges, "A.test:80", TOKEN).await.unwrap(), "0123456789abcdef.thumb");
        let (host, _) = challenges.tls_alpn("1.2.0.192.in-addr.arpa").await.unwrap();
        assert_eq!(host.to_string(), "192.0.2.1");
        assert!(challenges.tls_alpn("a.test").await.is_none(), "left for HTTP");
        assert!(!format!("{:?}", answer(AnswerKind::Http, "a.test")).contains("thumb"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_probe_of_ours_fetches_nothing() {
        let (challenges, fetched) = challenges();
        let long = "a".repeat(129);
        for (host, token) in [
            ("b.test", TOKEN),
            ("a.test", "short"),
            ("a.test", long.as_str()),
            ("a.test", "0123456789abcde/"),
            ("a.test", "0123456789abcde%41"),
        ] {
            assert_eq!(ask(&challenges, host, token).await, None, "{host} {token}");
        }
        assert!(challenges.tls_alpn("b.test").await.is_none());
        assert_eq!(fetched.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_neither_load_what_is_asked_nor_keep_an_authority_waiting() {
        let (challenges, fetched) = challenges();
        let began = Instant::now();
        for round in 0..10 {
            let strangers = (0..100).map(|number| {
                let token = format!("made-up-{round:04}-{number:04}");
                let challenges = &challenges;
                async move { ask(challenges, "a.test", &token).await }
            });
            let (found, authority) =
                tokio::join!(join_all(strangers), ask(&challenges, "a.test", TOKEN));
            assert!(authority.is_some() && found.iter().all(Option::is_none));
        }
        assert!(fetched.load(Ordering::Relaxed) <= 20, "{fetched:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_is_waited_for_seconds_only() {
        let host = Host::parse("a.test").unwrap();
        let elsewhere = Elsewhere::new([host], std::future::pending::<Vec<Answer>>);
        let challenges = Challenges::default();
        challenges.look_elsewhere(Some(Arc::new(elsewhere)));
        assert_eq!(ask(&challenges, "a.test", TOKEN).await, None);
    }

    /// An answer of its own token.
    fn numbered(kind: AnswerKind, number: u32) -> Answer {
        let token = format!("{number:016}");
        let key_authorization = format!("{token}.thumb");
        Answer { kind, host: "a.test".into(), token, key_authorization }
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_that_a_handshake_may_ask_for_the_newest_is_shown() {
        let host = Host::parse("a.test").unwrap();
        let left = || async {
            vec![
                numbered(AnswerKind::TlsAlpn, 9),
                numbered(AnswerKind::TlsAlpn, 1),
                numbered(AnswerKind::Http, 5),
            ]
        };
        let elsewhere = Elsewhere::new([host], left);
        let found = elsewhere.find(AnswerKind::TlsAlpn, "a.test", None).await.unwrap();
        assert_eq!(found.token, "0000000000000001");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_too_many_waiting_is_told_what_was_found_last() {
        let host = Host::parse("a.test").unwrap();
        let first = AtomicUsize::new(0);
        let elsewhere = Elsewhere::new([host], move || {
            let hangs = first.fetch_add(1, Ordering::Relaxed) > 0;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                vec![answer(AnswerKind::Http, "a.test")]
            }
        });
        let find = |token: &'static str| elsewhere.find(AnswerKind::Http, "a.test", Some(token));
        assert!(find(TOKEN).await.is_some());
        let strangers = join_all((0..ASKING).map(|_| find("made-up-made-up-")));
        let authority = async {
            let began = Instant::now();
            (find(TOKEN).await, began.elapsed())
        };
        // The strangers are polled first, and all wait.
        let (strangers, (authority, took)) = tokio::join!(strangers, authority);
        assert!(strangers.iter().all(Option::is_none));
        assert!(authority.is_some() && took < PAUSE, "{took:?}");
        assert!(find(TOKEN).await.is_some(), "what hangs hides nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_asked_once_however_many_wait_and_give_up() {
        let host = Host::parse("a.test").unwrap();
        let (fetched, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (count, wait) = (Arc::clone(&fetched), Arc::clone(&go));
        let elsewhere = Elsewhere::new([host], move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let wait = Arc::clone(&wait);
            async move {
                wait.notified().await;
                assert!(number > 0, "the first one panics");
                vec![answer(AnswerKind::Http, "a.test")]
            }
        });
        let find = || elsewhere.find(AnswerKind::Http, "a.test", Some(TOKEN));
        for _ in 0..5 {
            assert!(join_all((0..300).map(|_| find())).await.iter().all(Option::is_none));
        }
        assert_eq!(fetched.load(Ordering::Relaxed), 1);
        go.notify_one();
        let (found, ()) = tokio::join!(find(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            go.notify_one();
        });
        assert!(found.is_some(), "it is asked again when it has ended");
        assert_eq!(fetched.load(Ordering::Relaxed), 2);
    }
}
