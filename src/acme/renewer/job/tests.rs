use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::Request as Asked;
use serde_json::Value;

use super::super::Wanted;
use super::super::managed::{Change, read_all};
use super::*;
use crate::acme::dns::{Dns, Provider};
use crate::acme::event::{Events, Told};
use crate::acme::fleet::Fleet;
use crate::acme::http::{RequestError, Sending, Transport};
use crate::acme::problem::Problem;
use crate::acme::session::{Authority, CallError};
use crate::acme::state::State;
use crate::acme::storage::Storage;
use crate::acme::time::{Clock, HOUR};
use crate::config;
use crate::telemetry::Metrics;

fn now() -> i64 {
    Clock::default().now()
}

/// An authority that nobody reaches, and how often it was tried.
#[derive(Default)]
struct Nobody(Arc<AtomicUsize>);

impl Transport for Nobody {
    fn send(&self, request: Asked<Bytes>) -> Sending {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Err(RequestError::Url(request.uri().to_string())) })
    }
}

struct Scene {
    job: Job,
    asked: Arc<AtomicUsize>,
    told: Told,
    storage: Storage,
    directory: tempfile::TempDir,
}

/// A job that was planned when there was no certificate.
fn scene() -> Scene {
    scene_with("{}")
}

/// The same with this as `acme:`.
fn scene_with(acme: &str) -> Scene {
    crate::tls::install();
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::open(directory.path()).unwrap();
    let text = format!("sites: {{ a.example.com: {{ upstream: \"http://b\" }} }}\nacme: {acme}\n");
    let loaded = config::from_text("gateway.yaml", &text, std::path::Path::new("")).unwrap();
    let nobody = Nobody::default();
    let asked = Arc::clone(&nobody.0);
    let acme = loaded.config.acme.unwrap();
    let settings = acme.authority.clone();
    let target = Target::new(vec!["a.example.com".into()], &settings.directory, None);
    let clock = Clock::default();
    let authority = Authority::new(settings.directory.as_str(), Arc::new(nobody));
    let authority = authority.with_clock(&clock);
    let source = Source { settings, authority, ca_digest: None };
    let (sources, wanted) = (vec![source.clone()], Vec::new());
    let (events, told) = Events::new(Arc::new(Metrics::new([], SystemTime::UNIX_EPOCH)));
    let present = Assignment { acme, storage: storage.clone(), sources, clock, wanted, events };
    let job = Job {
        present: Arc::new(present),
        source,
        challenges: Arc::default(),
        id: CertId::new("a.example.com"),
        known: Record::new(target.clone(), now()),
        target,
        replaces: None,
        life: None,
        why: Why::Missing,
    };
    Scene { job, asked, told, storage, directory }
}

impl Scene {
    /// As another process saves a certificate.
    fn save(&self) -> Record {
        let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
        let meta = Meta { target: self.job.target.clone(), saved_at: now(), ..Meta::default() };
        let key_pem = Secret(made.signing_key.serialize_pem());
        let pair = Pair { key_pem, chain_pem: made.cert.pem(), meta };
        let lock = self.storage.lock(&self.job.id).unwrap().unwrap();
        let saved = self.storage.save(Place::Live, &lock, &pair).unwrap();
        let mut record = Record::new(self.job.target.clone(), now());
        record.due(Why::Missing, now());
        record.ordering(now()).unwrap();
        record.installing(now()).unwrap();
        record
            .installed(
                &Life::of(&saved.certificate.leaf),
                &self.job.source.settings.directory,
                true,
                now(),
            )
            .unwrap();
        self.storage.keep_record(&lock, &record).unwrap();
        record
    }
}

#[tokio::test]
async fn what_another_process_has_renewed_is_taken_over_and_not_ordered() {
    let scene = scene();
    let written = scene.save();
    let done = scene.job.run().await;
    assert!(done.certificate.is_some(), "{:?}", done.record);
    assert_eq!(done.record.unwrap().certificate, written.certificate);
    assert_eq!(scene.asked.load(Ordering::Relaxed), 0, "the authority is left alone");
}

#[tokio::test]
async fn what_another_process_has_learnt_of_a_failure_is_believed() {
    let mut scene = scene();
    scene.job.known.since -= 10;
    let mut record = scene.job.known.clone();
    let problem = LastProblem { kind: "dns".into(), ..LastProblem::default() };
    let directories = [scene.job.source.settings.directory.as_str()];
    record.failed(scene.job.attempt(&directories, None, None), problem, now());
    let lock = scene.storage.lock(&scene.job.id).unwrap().unwrap();
    scene.storage.keep_record(&lock, &record).unwrap();
    drop(lock);
    let done = scene.job.run().await;
    assert_eq!(done.record.unwrap().state, record.state);
    assert_eq!(scene.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_a_clock_that_was_ahead_has_written_is_not_believed() {
    let mut scene = scene();
    scene.job.known.since -= 10;
    let mut record = scene.job.known.clone();
    record.stalled(LastProblem::default(), HOUR, now() + 300 * DAY);
    let lock = scene.storage.lock(&scene.job.id).unwrap().unwrap();
    scene.storage.keep_record(&lock, &record).unwrap();
    drop(lock);
    let done = scene.job.run().await;
    assert!(done.record.unwrap().parked_until().unwrap() < now() + DAY);
    assert!(scene.asked.load(Ordering::Relaxed) > 0, "it was tried");
}

#[tokio::test]
async fn a_panic_is_a_failure_with_a_wait() {
    let scene = scene();
    let done = scene.job.after_panic()();
    let record = done.record.unwrap();
    assert!(record.parked_until().unwrap() > now() + 30, "{:?}", record.state);
    assert!(!done.is_elsewhere);
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_in_the_way_here_is_no_failure_of_the_authority() {
    let scene = scene();
    // A file where the directory has to be.
    let live = scene.directory.path().join("live");
    std::fs::write(live.join("a.example.com"), "in the way").unwrap();
    let done = scene.job.run().await;
    let record = done.record.unwrap();
    assert_eq!((record.fails, record.turns), (1, crate::acme::turns::Turns::default()));
    assert!(record.state.as_str() == "backoff", "{:?}", record.state);
    assert_eq!(scene.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn failures_add_up_where_nothing_can_be_written() {
    let mut scene = scene();
    for fails in 1..4 {
        // As if what was written were lost.
        let done = Job { known: scene.job.known.clone(), ..scene.job.again() }.run().await;
        let record = done.record.unwrap();
        assert_eq!(record.fails, fails);
        assert!(matches!(record.state, State::Backoff { .. }), "{:?}", record.state);
        scene.job.known = Record { since: record.since + 1, ..record };
    }
    assert!(scene.asked.load(Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn every_way_to_prove_names_is_tried_and_another_first_after_a_failure() {
    let all = "{ challenges: [dns-persist-01, dns-01, http-01], dns: { rfc2136: { server: 192.0.2.53, \
               key: { name: k, secret: c2VjcmV0 } } } }";
    let mut scene = scene_with(all);
    let ways = async |scene: &Scene| -> Vec<String> {
        let methods = scene.job.request().await.methods;
        assert!(!format!("{methods:?}").contains("secret"), "{methods:?}");
        let way = |method: &Method| match method {
            Method::DnsPersist01(_) => "persist".to_owned(),
            Method::Dns01(Dns { provider: Provider::Update(server), .. }) => {
                format!("{}:{}", server.server, server.port)
            }
            other => format!("{other:?}"),
        };
        methods.iter().map(way).collect()
    };
    assert_eq!(ways(&scene).await, ["persist", "192.0.2.53:53", "Http01"]);
    scene.job.known.fails = 1;
    assert_eq!(ways(&scene).await, ["192.0.2.53:53", "Http01", "persist"]);
}

#[tokio::test]
async fn what_became_of_a_try_is_told() {
    let mut scene = scene();
    let refused = |kind: &str, detail: &str| {
        let document =
            format!("{{\"type\":\"urn:ietf:params:acme:error:{kind}\",\"detail\":\"{detail}\"}}");
        let problem = Problem::read(403, None, document.as_bytes(), SystemTime::now());
        let source = CallError::Refused(Box::new(problem));
        JobError::Order(Box::new(OrderError::Call { step: "place the order", source }))
    };
    let directory = scene.job.source.settings.directory.clone();
    for (error, event, detail) in [
        (refused("dns", "no such name"), "cert.failed", ("attempt", Value::from(1))),
        (refused("rateLimited", "too many"), "acme.limited", ("scope", "authority".into())),
        (
            refused("userActionRequired", "visit https://ca.test/terms"),
            "acme.blocked",
            ("link", "https://ca.test/terms".into()),
        ),
    ] {
        scene.job.failed(None, &error).await;
        let told = scene.told.try_recv().unwrap().payload("1", "gw");
        assert_eq!(told["event"], event, "{told:?}");
        assert_eq!(told[detail.0], detail.1, "{told:?}");
        assert_eq!(told["authority"], directory, "{told:?}");
        assert_eq!(told["why"], "missing", "{told:?}");
        assert!(scene.told.try_recv().is_err(), "one each");
    }
}

#[tokio::test]
async fn a_damaged_certificate_is_told_once_and_the_one_before_served() {
    let mut scene = scene();
    let first = scene.save();
    scene.save();
    let damaged = scene.directory.path().join("live/a.example.com/000002/chain.pem");
    std::fs::write(damaged, "no certificate").unwrap();
    let wanted = Wanted {
        id: scene.job.id.clone(),
        name: "acme:a.example.com".into(),
        names: scene.job.target.names.clone(),
    };
    let present = Arc::clone(&scene.job.present);
    let present = Assignment {
        acme: present.acme.clone(),
        storage: present.storage.clone(),
        sources: present.sources.clone(),
        clock: present.clock.clone(),
        wanted: vec![wanted],
        events: present.events.clone(),
    };
    for is_first in [true, false] {
        let mut read = read_all(&present, Change::Begun, now());
        let (_, read) = read.pop().unwrap();
        assert_eq!(read.managed.life.map(|life| life.tag().to_owned()), first.certificate);
        let told = scene.told.try_recv().map(|event| event.payload("1", "gw"));
        assert_eq!(told.is_ok(), is_first, "{told:?}");
        if let Ok(told) = told {
            assert_eq!(told["event"], "store.fell_back");
            assert_eq!(told["certificate"], "acme:a.example.com");
            assert!(!told["problem"].as_str().unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn one_that_is_busy_elsewhere_waits() {
    let scene = scene();
    let _lock = scene.storage.lock(&scene.job.id).unwrap().unwrap();
    let done = scene.job.again().run().await;
    assert!(done.is_elsewhere && done.record.is_none());
}

/// The same as an instance of a fleet whose Redis is gone.
fn without_redis() -> Scene {
    let mut scene = scene();
    let text = "sites: { a.test: { upstream: \"http://b\" } }\nstorage: redis://127.0.0.1:1\n";
    let loaded = config::from_text("gateway.yaml", text, std::path::Path::new("")).unwrap();
    let fleet = Arc::new(Fleet::new(&loaded.config.fleet.unwrap()).unwrap());
    scene.storage = scene.storage.clone().with_fleet(Some(fleet));
    let present = &scene.job.present;
    scene.job.present = Arc::new(Assignment {
        acme: present.acme.clone(),
        storage: scene.storage.clone(),
        sources: present.sources.clone(),
        clock: present.clock.clone(),
        wanted: Vec::new(),
        events: present.events.clone(),
    });
    scene
}

#[tokio::test]
async fn what_has_time_waits_for_a_redis_that_is_gone_and_nothing_else_does() {
    let mut scene = without_redis();
    let life = |left| Some(Life::new(now() - 100 * DAY + left * DAY, now() + left * DAY, &[1]));
    for (why, life, waits) in [
        (Why::Backstop, life(30), true),
        (Why::Ari, life(30), true),
        (Why::Backstop, life(24), false),
        (Why::Revoked, life(90), false),
        (Why::NamesChanged, life(90), false),
        (Why::Requested, life(90), false),
        (Why::Missing, None, false),
    ] {
        (scene.job.why, scene.job.life) = (why, life);
        let before = scene.asked.load(Ordering::Relaxed);
        let done = scene.job.again().run().await;
        let is_asked = scene.asked.load(Ordering::Relaxed) > before;
        assert_eq!((done.is_elsewhere, is_asked), (waits, !waits), "{why:?}");
    }
}

#[tokio::test]
async fn what_failed_on_another_machine_is_tried_on_this_one() {
    for (kind, is_tried) in [("local", true), ("dns", false)] {
        let mut scene = without_redis();
        scene.job.known.since -= 10;
        let mut record = scene.job.known.clone();
        let problem = LastProblem { kind: kind.into(), ..LastProblem::default() };
        let directories = [scene.job.source.settings.directory.as_str()];
        record.failed(scene.job.attempt(&directories, None, None), problem, now());
        let (storage, id) = (scene.storage.clone(), scene.job.id.clone());
        let keep = move || {
            let lock = storage.lock(&id).unwrap().unwrap();
            storage.keep_record(&lock, &record).unwrap();
        };
        blocking(keep).await.unwrap();
        scene.job.run().await;
        assert_eq!(scene.asked.load(Ordering::Relaxed) > 0, is_tried, "{kind}");
    }
}

impl Job {
    fn again(&self) -> Self {
        Self {
            present: Arc::clone(&self.present),
            source: self.source.clone(),
            challenges: Arc::clone(&self.challenges),
            id: self.id.clone(),
            target: self.target.clone(),
            known: self.known.clone(),
            replaces: None,
            life: self.life.clone(),
            why: self.why,
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_orders_nothing() {
    let scene = scene();
    let written = scene.save();
    let certificate = scene.storage.load(Place::Live, &scene.job.id).unwrap().generation.unwrap();
    let life = Life::of(&certificate.certificate.leaf);
    let clock = &scene.job.present.clock;
    let job = Job { known: written, why: Why::Expired, ..scene.job.again() };
    clock.hear(life.not_after - clock.now());
    assert!(job.was_misled(Some(&life)).await.is_none(), "the authority takes it for expired, too");
    clock.hear(-2 * DAY);
    assert!(job.was_misled(Some(&life)).await.is_some(), "it is good by the authority's clock");
    clock.hear(-60);
    assert!(
        job.was_misled(Some(&life)).await.is_some(),
        "our clock was set since this was planned"
    );
}
