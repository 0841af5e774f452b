use std::time::{Instant, SystemTime};

use super::*;
use crate::acme::event::Events;
use crate::acme::state::{OnDisk, Target};
use crate::acme::storage::Storage;
use crate::acme::time::{DAY, unix};
use crate::config;

#[test]
fn a_look_at_five_thousand_certificates_is_short() {
    const COUNT: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::open(directory.path()).unwrap();
    let text = "sites: { a.example.com: { upstream: \"http://b\" } }\nacme: {}\n";
    let loaded = config::from_text("gateway.yaml", text, std::path::Path::new("")).unwrap();
    let acme = loaded.config.acme.unwrap();
    let (sources, wanted, clock) = (Vec::new(), Vec::new(), Clock::default());
    let events = Events::silent();
    let present = Assignment { acme, storage, sources, clock, wanted, events };
    let assignments = watch::Sender::new(None);
    let install: Arc<Install> = Arc::new(|_: &CertId, _| {});
    let standings = Standings::default();
    let (_commands, asked) = mpsc::channel(1);
    let told = Arc::clone(&standings);
    let mut renewer = Renewer::new(Arc::default(), install, assignments.subscribe(), told, asked);
    renewer.present = Some(Arc::new(present));
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
