//! Challenges that no authority has set, for `wardgate certs check` to ask for from where an authority
//! would: only this gateway knows the answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::Host;
use crate::tls::Challenges;
use crate::tls::challenge::Published;

/// How long one is answered.
const LIFE: Duration = Duration::from_secs(60);

/// Hosts at once; the one who asks has the token, and is not to be trusted with the memory.
const MOST: usize = 1000;

/// Those that are answered now.
#[derive(Debug, Default)]
pub struct Probes {
    held: Mutex<Vec<Held>>,
    news: Notify,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    /// Answered until they are dropped.
    _published: Vec<Published>,
}

impl Probes {
    /// Has `challenges` answer for `host`, and tells what; `None` when there are too many.
    pub(super) async fn publish(&self, challenges: &Arc<Challenges>, host: &Host) -> Option<Value> {
        let is_theirs = challenges.has_tls_alpn_elsewhere(host).await;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|one| one.until > now);
        if held.len() >= MOST {
            return None;
        }
        let letters = || std::iter::repeat_with(fastrand::alphanumeric).take(32);
        let token = format!("wardgate-check-{}", letters().collect::<String>());
        let answer = format!("{token}.{}", letters().collect::<String>());
        let mut published = vec![challenges.publish_http(host.clone(), &token, &answer)];
        // An order's own challenge is shown instead, and proves nothing to the one who asks.
        let is_free = !is_theirs && !challenges.has_tls_alpn(host);
        let secure = is_free.then(|| challenges.try_tls_alpn(host.clone(), &answer).ok());
        let secure = secure.flatten();
        let tls_alpn = secure.is_some();
        published.extend(secure);
        held.push(Held { until: now + LIFE, _published: published });
        drop(held);
        self.news.notify_one();
        Some(json!({ "token": token, "key_authorization": answer, "tls_alpn": tls_alpn }))
    }

    /// Takes them back when their time is over. Never ends; may be dropped and begun again.
    pub(super) async fn expire(&self) {
        loop {
            let next = {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                held.retain(|one| one.until > now);
                held.iter().map(|one| one.until).min()
            };
            let over = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.news.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::HostRef;
    use crate::tls::challenge::{Answer, AnswerKind, Elsewhere, HTTP_PREFIX};

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_answered_for_a_minute_and_hides_no_challenge_of_an_order() {
        crate::tls::install();
        let (probes, challenges) = (Probes::default(), Arc::new(Challenges::default()));
        let host = Host::parse("a.test").unwrap();
        let said = probes.publish(&challenges, &host).await.unwrap();
        assert_eq!(said["tls_alpn"], true);
        let path = format!("{HTTP_PREFIX}{}", said["token"].as_str().unwrap());
        let asked = || challenges.http(&HostRef::parse_authority("a.test").unwrap().0, &path);
        assert_eq!(asked().unwrap(), said["key_authorization"].as_str().unwrap());
        let again = probes.publish(&challenges, &host).await.unwrap();
        assert_eq!(again["tls_alpn"], false, "one is outstanding");
        assert_ne!(again["token"], said["token"]);
        let _ = tokio::time::timeout(LIFE - Duration::from_secs(1), probes.expire()).await;
        assert!(asked().is_some());
        let _ = tokio::time::timeout(Duration::from_secs(2), probes.expire()).await;
        assert_eq!((asked(), challenges.count()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_is_left_to_the_order_of_another_instance() {
        let (probes, challenges) = (Probes::default(), Arc::new(Challenges::default()));
        let host = Host::parse("a.test").unwrap();
        let theirs = Answer {
            kind: AnswerKind::TlsAlpn,
            host: "a.test".into(),
            token: "theirs".into(),
            key_authorization: "theirs.thumb".into(),
        };
        let elsewhere =
            Elsewhere::new([host.clone()], move || std::future::ready(vec![theirs.clone()]));
        challenges.look_elsewhere(Some(Arc::new(elsewhere)));
        let said = probes.publish(&challenges, &host).await.unwrap();
        assert_eq!((&said["tls_alpn"], challenges.count()), (&false.into(), 1));
    }
}
