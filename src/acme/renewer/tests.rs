use std::time::{Instant, SystemTime};

use super::*;
use crate::acme::backoff::Scope;
use crate::acme::event::Events;
use crate::acme::state::{Attempt, LastProblem, OnDisk, Target};
use crate::acme::storage::Storage;
use crate::acme::time::{DAY, HOUR, unix};
use crate::config;

/// A renewer that has a configuration, and one certificate that was not obtained yet.
struct Scene {
    renewer: Renewer,
    id: CertId,
    _commands: mpsc::Sender<Command>,
    _assignments: watch::Sender<Option<Arc<Assignment>>>,
    _directory: tempfile::TempDir,
}

fn present(acme: &str, directory: &std::path::Path) -> Assignment {
    let storage = Storage::open(directory).unwrap();
    let text = format!("sites: {{ a.example.com: {{ upstream: \"http://b\" }} }}\nacme: {acme}\n");
    let loaded = config::from_text("gateway.yaml", &text, std::path::Path::new("")).unwrap();
    let acme = loaded.config.acme.unwrap();
    let (sources, wanted, clock) = (Vec::new(), Vec::new(), Clock::default());
    Assignment { acme, storage, sources, clock, wanted, events: Events::silent() }
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let present = present("{}", directory.path());
    let assignments = watch::Sender::new(None);
    let install: Arc<Install> = Arc::new(|_: &CertId, _| {});
    let (commands, asked) = mpsc::channel(1);
    let told = Standings::default();
    let mut renewer = Renewer::new(Arc::default(), install, assignments.subscribe(), told, asked);
    renewer.clock = present.clock.clone();
    renewer.present = Some(Arc::new(present));
    let id = CertId::new("a.example.com");
    let target = Target::new(vec!["a.example.com".into()], "https://ca/dir", None);
    let managed = Managed::unknown(target, renewer.clock.now());
    renewer.managed.insert(id.clone(), managed);
    Scene { renewer, id, _commands: commands, _assignments: assignments, _directory: directory }
}

fn problem() -> LastProblem {
    LastProblem { detail: "no".into(), ..LastProblem::default() }
}

#[tokio::test]
async fn waits_that_a_clock_ahead_has_begun_end_when_it_is_set_back() {
    let Scene { mut renewer, id, _commands, _assignments, _directory } = scene();
    let now = renewer.clock.now();
    let next_year = now + 365 * DAY;
    let managed = renewer.managed.get_mut(&id).unwrap();
    managed.record.stalled(problem(), HOUR, next_year);
    managed.again_at = Some(next_year);
    renewer.limits.park("https://ca/dir", Scope::Authority, next_year + HOUR);
    renewer.seen_at = next_year;
    renewer.mind_the_clock();
    let parked = renewer.managed[&id].record.parked_until().unwrap();
    assert!((now + HOUR..=now + HOUR + 5).contains(&parked), "{}", parked - now);
    assert_eq!(renewer.managed[&id].again_at, None);
    assert_eq!(renewer.limits, Limits::default());
    let again = renewer.managed[&id].record.clone();
    renewer.mind_the_clock();
    assert_eq!(renewer.managed[&id].record, again, "once");
}

#[tokio::test]
async fn what_failed_by_settings_that_were_changed_meanwhile_is_tried_again() {
    let Scene { mut renewer, id, _commands, _assignments, _directory } = scene();
    let now = renewer.clock.now();
    let same = Arc::clone(renewer.present.as_ref().unwrap());
    let other = Arc::new(present("{ key_type: p384 }", _directory.path()));
    let block = |renewer: &mut Renewer| {
        let mut record = renewer.managed[&id].record.clone();
        let (directory, directories) = ("https://ca/dir", &["https://ca/dir"][..]);
        let attempt =
            Attempt { id: id.as_str(), directory, directories, left: None, retry_after: None };
        record.blocked(attempt, problem(), None, now);
        Box::new(Done { record: Some(record), ..Done::default() })
    };
    for (then, state) in [(same, "blocked"), (other, "missing")] {
        let done = block(&mut renewer);
        renewer.take_in(Finished::Ordered(id.clone(), then, done));
        assert_eq!(renewer.managed[&id].record.state.as_str(), state);
    }
}

#[tokio::test]
async fn the_standings_go_with_the_last_certificate() {
    let Scene { mut renewer, _commands, _assignments, _directory, .. } = scene();
    renewer.look(renewer.clock.now());
    assert_eq!(renewer.standings.load().len(), 1);
    renewer.adopt(None).await;
    assert_eq!(renewer.standings.load().len(), 0);
}

#[test]
fn a_look_at_five_thousand_certificates_is_short() {
    const COUNT: usize = 5_000;
    let Scene { mut renewer, _commands, _assignments, _directory, .. } = scene();
    renewer.managed.clear();
    let standings = Arc::clone(&renewer.standings);
    let now = unix(SystemTime::now());
    for number in 0..COUNT {
        let name = format!("n{number}.example.com");
        let target = Target::new(vec![name.clone()], "https://ca/dir", None);
        let life = Life::new(now - DAY, now + 89 * DAY, name.as_bytes());
        let mut managed = Managed::unknown(target.clone(), now);
        let on_disk = OnDisk { target: &target, issued_by: None, life: &life };
        managed.record.found(Some(on_disk), true, now);
        managed.life = Some(life);
        renewer.managed.insert(CertId::new(&name), managed);
    }
    let began = Instant::now();
    let turn = renewer.look(now);
    let took = began.elapsed();
    println!("a look at {COUNT} certificates: {} us", took.as_micros());
    assert_eq!((turn.due.len(), standings.load().len()), (0, COUNT));
    assert!(took.as_millis() < 500, "{took:?}");
}
