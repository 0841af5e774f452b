//! Challenges that another instance has published: a certificate authority that asks for a name gets to
//! any of those that serve it.
//!
//! Answers "has somebody else been told to show this?". All that is outstanding is fetched at once
//! and no more often than [`PAUSE`] allows, however many ask: strangers who make up tokens neither
//! load what it is fetched from, nor keep an authority waiting.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::server_name;
use crate::net::Host;

/// Between two fetches.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest wait of one who asks: authorities wait for ten seconds.
const LONGEST: Duration = Duration::from_secs(4);

/// Those who ask at once; whoever comes beyond that is a stranger, mostly.
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

/// Fetches all answers that are outstanding anywhere.
type Fetch = dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Answer>> + Send>> + Send + Sync;

/// Where other instances leave answers.
pub struct Elsewhere {
    /// What may be asked for: names as they stand in SNI.
    names: HashSet<String>,
    fetch: Box<Fetch>,
    seen: Mutex<Seen>,
    asking: Semaphore,
}

/// What the last fetch has found.
#[derive(Default)]
struct Seen {
    began: Option<Instant>,
    ended: Option<Instant>,
    answers: Arc<Vec<Answer>>,
}

impl Elsewhere {
    /// Answers about `hosts`, which `fetch` finds.
    pub fn new<F>(
        hosts: impl IntoIterator<Item = Host>,
        fetch: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<Answer>> + Send + 'static,
    {
        Self {
            names: hosts.into_iter().map(|host| server_name(&host)).collect(),
            fetch: Box::new(move || Box::pin(fetch())),
            seen: Mutex::default(),
            asking: Semaphore::new(ASKING),
        }
    }

    /// The answer for `name`, as it stands in SNI, and for `token` where there is one.
    pub(super) async fn find(
        &self,
        kind: AnswerKind,
        name: &str,
        token: Option<&str>,
    ) -> Option<Answer> {
        if !self.names.contains(name) {
            return None;
        }
        let _asking = self.asking.try_acquire().ok()?;
        let answers = timeout(LONGEST, self.all()).await.ok()?;
        let is_it = |answer: &&Answer| {
            answer.kind == kind
                && token.is_none_or(|token| answer.token == token)
                && Host::parse(&answer.host).is_ok_and(|host| server_name(&host) == name)
        };
        answers.iter().rev().find(is_it).cloned()
    }

    /// All that was outstanding when this was called.
    async fn all(&self) -> Arc<Vec<Answer>> {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        if seen.began.is_none_or(|began| began < asked) {
            if let Some(ended) = seen.ended {
                sleep_until(ended + PAUSE).await;
            }
            let began = Instant::now();
            let answers = Arc::new((self.fetch)().await);
            *seen = Seen { began: Some(began), ended: Some(Instant::now()), answers };
        }
        Arc::clone(&seen.answers)
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
        let (host, _) = challenges.tls_alpn_elsewhere("1.2.0.192.in-addr.arpa").await.unwrap();
        assert_eq!(host.to_string(), "192.0.2.1");
        assert!(challenges.tls_alpn_elsewhere("a.test").await.is_none(), "left for HTTP");
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
        assert!(challenges.tls_alpn_elsewhere("b.test").await.is_none());
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
}
