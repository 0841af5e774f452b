//! Requests to an authority, counted by what they were for.
//!
//! An authority's URLs are its own affair: which one is an order's or a challenge's is learnt from
//! its answers, as RFC 8555 has clients do.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response, header};
use serde_json::Value;

use super::{Sending, Transport};
use crate::acme::time::unix;
use crate::telemetry::metrics::AuthorityMetrics;

/// Counts what goes through it.
pub struct Metered {
    inner: Arc<dyn Transport>,
    metrics: Arc<AuthorityMetrics>,
    known: Arc<Mutex<Known>>,
}

/// What the authority's URLs are for.
struct Known {
    directory: String,
    /// From the directory: the URL, and what it is for.
    fixed: Vec<(String, &'static str)>,
    /// From orders and authorizations.
    learnt: HashMap<String, &'static str>,
    /// Their order, oldest first.
    ages: VecDeque<String>,
}

/// The resources of a directory (RFC 8555 §7.1.1, RFC 9773 §4.1).
const RESOURCES: [&str; 7] =
    ["newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange", "renewalInfo"];

/// URLs that are remembered: those of the orders that may be under way at once, with a hundred names
/// each.
const LONGEST_MEMORY: usize = 4096;

impl Metered {
    /// Counts with `metrics` what goes to the authority with this directory through `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, directory: &str, metrics: Arc<AuthorityMetrics>) -> Self {
        let known = Known {
            directory: directory.to_owned(),
            fixed: Vec::new(),
            learnt: HashMap::new(),
            ages: VecDeque::new(),
        };
        Self { inner, metrics, known: Arc::new(Mutex::new(known)) }
    }
}

impl Transport for Metered {
    fn send(&self, request: Request<Bytes>) -> Sending {
        let (metrics, known) = (Arc::clone(&self.metrics), Arc::clone(&self.known));
        let (url, started) = (request.uri().to_string(), Instant::now());
        let sending = self.inner.send(request);
        Box::pin(async move {
            let answer = sending.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            let endpoint = match &answer {
                Ok(answer) => {
                    if let Some(ahead) = clock_ahead(answer) {
                        metrics.clock_ahead(ahead);
                    }
                    lock(&known).take_in(&url, answer)
                }
                Err(_) => lock(&known).endpoint(&url),
            };
            metrics.asked(endpoint, status, started.elapsed());
            answer
        })
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// What `url` is for.
    fn endpoint(&self, url: &str) -> &'static str {
        if url == self.directory {
            return "directory";
        }
        let is_it = |(known, word): &&(String, &'static str)| {
            let below = url.strip_prefix(known.as_str());
            below.is_some_and(|rest| rest.is_empty() || *word == "renewalInfo")
        };
        let fixed = self.fixed.iter().find(is_it).map(|(_, word)| *word);
        fixed.or_else(|| self.learnt.get(url).copied()).unwrap_or("other")
    }

    /// What `url` was for, in the light of the answer, which may name others.
    fn take_in(&mut self, url: &str, answer: &Response<Bytes>) -> &'static str {
        let endpoint = self.endpoint(url);
        if !answer.status().is_success() {
            return endpoint;
        }
        if let ("newAccount", Some(account)) = (endpoint, location(answer)) {
            self.learn(account, "account");
        }
        if endpoint == "cert" {
            for other in super::super::session::alternates(answer.headers()) {
                self.learn(other, "cert");
            }
        }
        let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(answer.body()) else {
            return endpoint;
        };
        let texts = |value: &Value| value.as_str().map(str::to_owned);
        if endpoint == "directory" {
            let named = RESOURCES.iter().filter_map(|name| Some((texts(body.get(*name)?)?, *name)));
            self.fixed = named.collect();
        } else if let Some(finalize) = body.get("finalize").and_then(texts) {
            self.learn(finalize, "finalize");
            if let Some(order) = location(answer) {
                self.learn(order, "order");
            }
            if let Some(certificate) = body.get("certificate").and_then(texts) {
                self.learn(certificate, "cert");
            }
            let all = body.get("authorizations").and_then(Value::as_array);
            for authorization in all.into_iter().flatten().filter_map(texts) {
                self.learn(authorization, "authz");
            }
            // One that goes on after a start.
            return if endpoint == "other" { "order" } else { endpoint };
        } else if let Some(challenges) = body.get("challenges").and_then(Value::as_array) {
            for url in challenges.iter().filter_map(|one| texts(one.get("url")?)) {
                self.learn(url, "challenge");
            }
        }
        endpoint
    }

    fn learn(&mut self, url: String, word: &'static str) {
        if self.learnt.insert(url.clone(), word).is_none() {
            self.ages.push_back(url);
        }
        if self.ages.len() > LONGEST_MEMORY
            && let Some(oldest) = self.ages.pop_front()
        {
            self.learnt.remove(&oldest);
        }
    }
}

fn location(answer: &Response<Bytes>) -> Option<String> {
    Some(answer.headers().get(header::LOCATION)?.to_str().ok()?.to_owned())
}

/// How far the authority's clock is ahead of ours, in seconds.
fn clock_ahead(answer: &Response<Bytes>) -> Option<i64> {
    let date = answer.headers().get(header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(date).ok()?;
    Some(unix(theirs) - unix(SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)], body: &str) -> Response<Bytes> {
        let mut answer = Response::builder().status(200);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        answer.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    #[test]
    fn what_a_url_is_for_is_learnt_from_answers() {
        let metered = Metered::new(Arc::new(Nobody), "https://ca/dir", Arc::default());
        let mut known = lock(&metered.known);
        let directory = r#"{"newOrder":"https://ca/o","renewalInfo":"https://ca/ri","meta":{}}"#;
        assert_eq!(known.take_in("https://ca/dir", &answer(&[], directory)), "directory");
        assert_eq!(known.endpoint("https://ca/ri/abc.def"), "renewalInfo");
        assert_eq!(known.endpoint("https://ca/o/1"), "other");
        let order = r#"{"status":"valid","finalize":"https://ca/o/1/f",
            "authorizations":["https://ca/a/1"],"certificate":"https://ca/c/1"}"#;
        let placed = answer(&[("location", "https://ca/o/1")], order);
        assert_eq!(known.take_in("https://ca/o", &placed), "newOrder");
        let authorization = r#"{"challenges":[{"url":"https://ca/x/1"},{}]}"#;
        assert_eq!(known.take_in("https://ca/a/1", &answer(&[], authorization)), "authz");
        let link = [("link", "<https://ca/c/1/1>;rel=\"alternate\"")];
        assert_eq!(known.take_in("https://ca/c/1", &answer(&link, "PEM")), "cert");
        for (url, word) in [
            ("https://ca/o/1", "order"),
            ("https://ca/o/1/f", "finalize"),
            ("https://ca/x/1", "challenge"),
            ("https://ca/c/1/1", "cert"),
            ("https://ca/nowhere", "other"),
        ] {
            assert_eq!(known.endpoint(url), word, "{url}");
        }
        assert_eq!(known.take_in("https://ca/o/7", &answer(&[], order)), "order", "taken up again");
        for number in 0..2 * LONGEST_MEMORY {
            known.learn(format!("https://ca/x/{number}"), "challenge");
        }
        assert_eq!(known.learnt.len(), LONGEST_MEMORY);
    }

    struct Nobody;

    impl Transport for Nobody {
        fn send(&self, _: Request<Bytes>) -> Sending {
            Box::pin(std::future::pending())
        }
    }
}
