//! What runs for one route, and one request's way through it.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::fields::RequestHeaders;
use super::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY, RateLimit};
use super::{Action, Draw, Instance, Rejection, Request, Verdict, fields};
use crate::config::filter::Coding;
use crate::net::Fields;

/// The filters of one route, in the order in which they run.
#[derive(Debug)]
pub struct Stack {
    entries: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    /// What a limiter is called here, and its policy.
    policy: Option<(String, HeaderValue)>,
}

/// One request on its way through a stack, and its response on the way back.
#[derive(Debug)]
pub struct Passage {
    stack: Arc<Stack>,
    /// What limiters tell the client: the place of each in the stack, and what it has drawn. Made a
    /// field when there is a response, which can then keep it without another copy.
    draws: Vec<(usize, Draw)>,
    /// Bytes of the request's body that have come.
    received: u64,
}

/// A verdict that a log should know of.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a> {
    /// Who found it.
    pub instance: &'a Instance,
    /// What it found.
    pub rejection: Rejection,
}

impl Finding<'_> {
    /// Whether the request ends by it; else it only would have.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.instance.is_enforced()
    }
}

impl Stack {
    /// `None` when nothing is to run.
    pub(super) fn new(instances: Vec<Arc<Instance>>) -> Option<Arc<Self>> {
        if instances.is_empty() {
            return None;
        }
        let mut limiters = 0;
        let entries = instances.into_iter().map(|instance| {
            let policy = match &instance.action {
                Action::RateLimit(limiter) if instance.is_enforced() => {
                    limiters += 1;
                    let name = match limiters {
                        1 => "default".to_owned(),
                        more => format!("default-{more}"),
                    };
                    let policy = limiter.policy(&name);
                    Some((name, policy))
                }
                _ => None,
            };
            Entry { instance, policy }
        });
        Some(Arc::new(Self { entries: entries.collect() }))
    }

    /// The filters.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.entries.iter().map(|entry| &*entry.instance)
    }

    /// Lets the filters judge `request`, up to the first whose rejection counts. Every rejection is
    /// told to `found`.
    pub fn enter(
        self: &Arc<Self>,
        request: &Request<'_>,
        found: &mut dyn FnMut(Finding<'_>),
    ) -> (Passage, Verdict) {
        let mut passage = Passage { stack: Arc::clone(self), draws: Vec::new(), received: 0 };
        for (at, entry) in self.entries.iter().enumerate() {
            let verdict = passage.judge(at, entry, request);
            if let Verdict::Reject(rejection) = verdict {
                found(Finding { instance: &entry.instance, rejection });
                if entry.instance.is_enforced() {
                    return (passage, verdict);
                }
            }
        }
        (passage, Verdict::Continue)
    }

    /// Filters that act on what passes.
    fn acting(&self) -> impl Iterator<Item = &Action> {
        let enforced = self.instances().filter(|instance| instance.is_enforced());
        enforced.map(|instance| &instance.action)
    }
}

impl Passage {
    fn judge(&mut self, at: usize, entry: &Entry, request: &Request<'_>) -> Verdict {
        let verdict = match &entry.instance.action {
            Action::Access(access) => access.judge(request.client),
            Action::BodyLimit(most) if request.content_length.is_some_and(|it| it > *most) => {
                Verdict::Reject(Rejection::BodyTooLarge)
            }
            Action::BodyLimit(_) => Verdict::Continue,
            Action::RateLimit(limiter) => {
                let (verdict, draw) = limiter.judge(request, Instant::now());
                self.draws.push((at, draw));
                verdict
            }
            _ => return Verdict::Continue,
        };
        entry.instance.count(verdict);
        verdict
    }

    /// Notes `bytes` of the request's body, and lets those filters judge that have a bound between
    /// what had come before and what has come now.
    pub fn receive(&mut self, bytes: u64, found: &mut dyn FnMut(Finding<'_>)) -> Verdict {
        let before = self.received;
        self.received = before.saturating_add(bytes);
        for instance in self.stack.instances() {
            let Action::BodyLimit(most) = &instance.action else { continue };
            if before <= *most && self.received > *most {
                let rejection = Rejection::BodyTooLarge;
                let verdict = Verdict::Reject(rejection);
                instance.count(verdict);
                found(Finding { instance, rejection });
                if instance.is_enforced() {
                    return verdict;
                }
            }
        }
        Verdict::Continue
    }

    /// The request is about to be sent again: its body comes anew.
    pub fn restart(&mut self) {
        self.received = 0;
    }

    /// Takes away what a client sends in the place of fields that [`edit_request`](Self::edit_request)
    /// sets or removes, before anybody has added any.
    pub fn drop_forged(&self, request: &mut impl Fields) {
        self.request_headers().for_each(|headers| headers.drop_forged(request));
    }

    /// Changes what the backend gets.
    pub fn edit_request(&self, request: &mut impl Fields) {
        self.request_headers().for_each(|headers| headers.apply(request));
    }

    fn request_headers(&self) -> impl Iterator<Item = &RequestHeaders> {
        self.stack.acting().filter_map(|action| match action {
            Action::RequestHeaders(headers) => Some(headers),
            _ => None,
        })
    }

    /// Changes what the client gets.
    pub fn edit_response(&self, response: &mut impl Fields, is_https: bool) {
        for (at, draw) in &self.draws {
            if let Some((name, policy)) = &self.stack.entries[*at].policy {
                response.append(RATE_LIMIT, RateLimit::state(name, draw));
                response.append(RATE_LIMIT_POLICY, policy.clone());
            }
        }
        for action in self.stack.acting() {
            match action {
                Action::SecurityHeaders(headers) => headers.apply(response, is_https),
                Action::ResponseHeaders(edits) => fields::edit(response, edits),
                _ => {}
            }
        }
    }

    /// Changes the head of a response into that of an encoded one where it may be, after all other
    /// changes to it. Returns the coding of the body, which a response to HEAD does not have.
    pub fn encode(
        &self,
        method: &Method,
        asked: &HeaderMap,
        status: StatusCode,
        response: &mut impl Fields,
    ) -> Option<Coding> {
        let mut compressing = self.stack.acting().filter_map(|action| match action {
            Action::Compress(compress) => Some(compress),
            _ => None,
        });
        let coding = compressing.find_map(|compress| compress.apply(asked, status, response));
        coding.filter(|_| method != Method::HEAD)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::request;
    use super::super::{Place, Scope};
    use super::*;
    use crate::config::filter::{Compress, Filter, FilterKind, Mode, RateKey, RateLimit as Limit};

    fn stack(filters: Vec<(FilterKind, Mode)>) -> Arc<Stack> {
        let instances = filters.into_iter().enumerate().map(|(position, (kind, mode))| {
            let scope = Scope::Site("a.example".into());
            let place = Place { scope, position, filter: super::super::name(&kind) };
            Arc::new(Instance::new(place, &Filter { line: 1, mode, kind }, None))
        });
        Stack::new(instances.collect()).unwrap()
    }

    fn limit(burst: u32) -> FilterKind {
        let period = Duration::from_secs(60);
        FilterKind::RateLimit(Limit { key: RateKey::ClientIp, rate: burst, period, burst })
    }

    #[test]
    fn a_body_is_judged_by_its_announced_length_and_by_what_comes() {
        let fields = HeaderMap::new();
        for (mode, announced, pieces, expected) in [
            (Mode::Enforce, Some(10), &[10][..], "ok"),
            (Mode::Enforce, Some(11), &[], "head"),
            (Mode::Enforce, None, &[5, 5], "ok"),
            (Mode::Enforce, None, &[5, 6], "body"),
            (Mode::Enforce, None, &[u64::MAX, u64::MAX], "body"),
            (Mode::Monitor, Some(11), &[11], "ok"),
            (Mode::Monitor, None, &[5, 6, 7], "ok"),
        ] {
            let stack = stack(vec![(FilterKind::BodyLimit(10), mode)]);
            let mut findings = 0;
            let mut request = request("192.0.2.1", &fields);
            request.content_length = announced;
            let (mut passage, verdict) = stack.enter(&request, &mut |_| findings += 1);
            let mut outcome = if verdict == Verdict::Continue { "ok" } else { "head" };
            for bytes in pieces {
                if passage.receive(*bytes, &mut |_| findings += 1) != Verdict::Continue {
                    outcome = "body";
                    break;
                }
            }
            assert_eq!(outcome, expected, "{mode:?} {announced:?} {pieces:?}");
            let total = announced
                .unwrap_or_default()
                .max(pieces.iter().fold(0, |a: u64, b| a.saturating_add(*b)));
            assert_eq!(findings > 0, total > 10, "{mode:?} {announced:?} {pieces:?}");
        }
    }

    #[test]
    fn a_body_that_is_sent_again_counts_anew() {
        let fields = HeaderMap::new();
        let stack = stack(vec![(FilterKind::BodyLimit(10), Mode::Enforce)]);
        let (mut passage, _) = stack.enter(&request("192.0.2.1", &fields), &mut |_| {});
        for _ in 0..3 {
            passage.restart();
            assert_eq!(passage.receive(10, &mut |_| {}), Verdict::Continue);
        }
    }

    #[test]
    fn limiters_have_names_of_their_own_and_monitored_ones_say_nothing() {
        let fields = HeaderMap::new();
        let stack = stack(vec![
            (limit(5), Mode::Enforce),
            (limit(7), Mode::Monitor),
            (limit(9), Mode::Enforce),
        ]);
        let (passage, _) = stack.enter(&request("192.0.2.1", &fields), &mut |_| {});
        let mut response = HeaderMap::new();
        passage.edit_response(&mut response, false);
        let values = |name| response.get_all(name).iter().map(HeaderValue::as_bytes);
        let told: Vec<_> = values("ratelimit-policy").collect();
        assert_eq!(told, [&b"\"default\";q=5;w=60"[..], b"\"default-2\";q=9;w=60"]);
        let told: Vec<_> = values("ratelimit").collect();
        assert_eq!(told, [&b"\"default\";r=4;t=12"[..], b"\"default-2\";r=8;t=7"]);
    }

    #[test]
    fn head_gets_the_head_of_an_encoded_answer_and_no_body() {
        let compress =
            Compress { codings: vec![Coding::Gzip], types: vec!["text/*".into()], min_size: 0 };
        let stack = stack(vec![(FilterKind::Compress(compress), Mode::Enforce)]);
        let fields = HeaderMap::new();
        let (passage, _) = stack.enter(&request("192.0.2.1", &fields), &mut |_| {});
        let asked = HeaderMap::from_iter([(
            http::header::ACCEPT_ENCODING,
            HeaderValue::from_static("gzip"),
        )]);
        for (method, expected) in [(Method::GET, Some(Coding::Gzip)), (Method::HEAD, None)] {
            let mut response = HeaderMap::from_iter([(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain"),
            )]);
            let coding = passage.encode(&method, &asked, StatusCode::OK, &mut response);
            assert_eq!(coding, expected);
            assert_eq!(response["content-encoding"], "gzip", "{method}");
        }
    }
}
