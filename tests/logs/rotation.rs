//! The access log's files, written by the real program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Gateway, field};

/// A gateway that answers everything itself and logs to a file below `directory`, with these `log:`
/// settings of it.
fn yaml(directory: &Path, settings: &str) -> String {
    let file = directory.join("logs/access.log").display().to_string();
    format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ routes: [ {{ respond: ok }} ] }} }}\n\
         log: {{ access: {{ file: \"{file}\"{settings} }} }}\n"
    )
}

/// Sends `count` requests on one connection, each for another path; returns the paths.
async fn visit(gateway: &Gateway, count: usize) -> Vec<String> {
    static VISITS: AtomicUsize = AtomicUsize::new(0);
    let mut connection = gateway.client().connect().await;
    let mut paths = Vec::new();
    for _ in 0..count {
        let path = format!("/{}", VISITS.fetch_add(1, Ordering::Relaxed));
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.send(head.as_bytes()).await.unwrap();
        assert_eq!(connection.read_reply(false).await.unwrap().status, 200);
        paths.push(path);
    }
    paths
}

/// Ends the gateway; returns how many lines it says it has lost.
async fn end(gateway: &mut Gateway) -> u64 {
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    let line = gateway.wait_log(is("terminated")).await;
    field(&line, "dropped_lines").as_u64().unwrap()
}

fn is(message: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == message
}

/// The files of `logs` by name, which is by age with the present one last, and the paths in them.
fn files(directory: &Path) -> BTreeMap<String, Vec<String>> {
    let paths = |path: &Path| {
        let asked = |line: &str| {
            let line: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            field(&line, "url.path").as_str().unwrap().to_owned()
        };
        fs::read_to_string(path).unwrap().lines().map(asked).collect()
    };
    let entries = fs::read_dir(directory.join("logs")).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), paths(&entry.path()))).collect()
}

#[tokio::test]
async fn rotation_under_load_loses_and_doubles_no_line() {
    let at = TempDir::new().unwrap();
    let settings = ", rotate: [daily, 16KiB], keep: 10000";
    let mut gateway = Gateway::start(yaml(at.path(), settings)).await;
    let visits = [(); 4].map(|()| visit(&gateway, 400));
    let mut asked = futures_util::future::join_all(visits).await.concat();
    assert_eq!(end(&mut gateway).await, 0);
    let files = files(at.path());
    assert!(files.len() > 10, "{} files are no rotation", files.len());
    for name in files.keys() {
        let size = fs::metadata(at.path().join("logs").join(name)).unwrap().len();
        assert!((1..=16 << 10).contains(&size), "{name} has {size} bytes");
    }
    let mut written = files.into_values().flatten().collect::<Vec<_>>();
    asked.sort();
    written.sort();
    assert_eq!(written, asked);
}

#[tokio::test]
async fn the_newest_files_are_kept_and_foreign_ones_are_left_alone() {
    let at = TempDir::new().unwrap();
    fs::create_dir(at.path().join("logs")).unwrap();
    let foreign =
        ["access-.log", "access-2026-01-01.log", "access.log.1", "access.log.gz", "notes"];
    for name in foreign {
        fs::write(at.path().join("logs").join(name), "").unwrap();
    }
    let mut gateway = Gateway::start(yaml(at.path(), ", rotate: 4KiB, keep: 3")).await;
    let asked = visit(&gateway, 200).await;
    assert_eq!(end(&mut gateway).await, 0);
    let mut files = files(at.path());
    for name in foreign {
        assert_eq!(files.remove(name), Some(Vec::new()), "{name} is as it was");
    }
    assert_eq!(files.len(), 4, "three old ones and the present one: {:?}", files.keys());
    let written = files.into_values().flatten().collect::<Vec<_>>();
    assert_eq!(written, asked[asked.len() - written.len()..], "the last ones, in order");
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_again_at_a_hangup() {
    let at = TempDir::new().unwrap();
    let logs = at.path().join("logs");
    let config = yaml(at.path(), "");
    let mut gateway = Gateway::start(&config).await;
    let first = visit(&gateway, 3).await;
    fs::rename(logs.join("access.log"), logs.join("access.log.1")).unwrap();
    gateway.signal("HUP");
    gateway.wait_log(is("nothing to reload")).await;
    let second = visit(&gateway, 3).await;
    fs::rename(logs.join("access.log"), logs.join("access.log.2")).unwrap();
    gateway.rewrite("sites: [wrong]\n");
    gateway.signal("HUP");
    gateway.wait_log(is("rejected a configuration")).await;
    let third = visit(&gateway, 3).await;
    assert_eq!(end(&mut gateway).await, 0);
    let files = files(at.path());
    // Lines that were on their way at the signal are behind it.
    let all = [&files["access.log.1"][..], &files["access.log.2"], &files["access.log"]].concat();
    assert_eq!(all, [first.clone(), second, third.clone()].concat());
    assert!(first.starts_with(&files["access.log.1"]), "{files:?}");
    assert!(files["access.log"].ends_with(&third), "a rejected reload opens it as well: {files:?}");
}

#[tokio::test]
async fn a_restart_goes_on_with_the_file() {
    let at = TempDir::new().unwrap();
    let mut asked = Vec::new();
    for _ in 0..2 {
        let mut gateway = Gateway::start(yaml(at.path(), ", rotate: [daily, 1MiB]")).await;
        asked.extend(visit(&gateway, 3).await);
        assert_eq!(end(&mut gateway).await, 0);
    }
    assert_eq!(files(at.path()), BTreeMap::from([("access.log".to_owned(), asked.clone())]));

    let path = at.path().join("logs/access.log");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 9]).unwrap();
    let mut gateway = Gateway::start(yaml(at.path(), ", rotate: [daily, 1MiB]")).await;
    asked.extend(visit(&gateway, 1).await);
    assert_eq!(end(&mut gateway).await, 0);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 7, "what a crash tore is one line: {text}");
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(field(&last, "url.path"), asked.last().unwrap());
}

#[tokio::test]
async fn a_file_of_yesterday_is_set_aside_by_the_first_line_of_today() {
    let at = TempDir::new().unwrap();
    let logs = at.path().join("logs");
    fs::create_dir(&logs).unwrap();
    fs::write(logs.join("access.log"), "{\"url.path\":\"old\"}\n").unwrap();
    let file = fs::File::options().append(true).open(logs.join("access.log")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_782_907_200)).unwrap();
    let mut gateway = Gateway::start(yaml(at.path(), ", rotate: daily")).await;
    let asked = visit(&gateway, 2).await;
    assert_eq!(end(&mut gateway).await, 0);
    let old = ("access-2026-07-01T12-00-00.000Z.log".to_owned(), vec!["old".to_owned()]);
    assert_eq!(files(at.path()), BTreeMap::from([old, ("access.log".to_owned(), asked)]));
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_any_more_costs_no_request_and_no_line() {
    let at = TempDir::new().unwrap();
    let (logs, moved) = (at.path().join("logs"), at.path().join("moved"));
    let mut gateway = Gateway::start(yaml(at.path(), ", rotate: 2KiB, keep: 10000")).await;
    let mut asked = visit(&gateway, 20).await;
    // Not by permissions, which do not bind root.
    fs::rename(&logs, &moved).unwrap();
    fs::write(&logs, "no directory").unwrap();
    asked.extend(visit(&gateway, 50).await);
    let said = "could not rotate the access log, went on in the file at hand";
    let line = gateway.wait_log(is(said)).await;
    assert!(field(&line, "error").as_str().unwrap().contains("access.log"), "{line}");
    fs::remove_file(&logs).unwrap();
    fs::rename(&moved, &logs).unwrap();
    gateway.signal("HUP");
    gateway.wait_log(is("nothing to reload")).await;
    asked.extend(visit(&gateway, 50).await);
    assert_eq!(end(&mut gateway).await, 0);
    assert_eq!(gateway.log().all().iter().filter(|line| is(said)(line)).count(), 1, "said once");
    let mut written = files(at.path()).into_values().flatten().collect::<Vec<_>>();
    written.sort();
    asked.sort();
    assert_eq!(written, asked);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn lines_that_cannot_be_written_are_counted_to_the_last() {
    let at = TempDir::new().unwrap();
    let yaml = yaml(at.path(), "")
        .replace(&at.path().join("logs/access.log").display().to_string(), "/dev/full");
    let started = SystemTime::now();
    let mut gateway = Gateway::start(yaml).await;
    visit(&gateway, 50).await;
    gateway.wait_log(is("access log was not written")).await;
    visit(&gateway, 50).await;
    assert_eq!(end(&mut gateway).await, 100);
    let reports =
        gateway.log().all().iter().filter(|line| is("access log was not written")(line)).count();
    let minutes = started.elapsed().unwrap().as_secs() / 60 + 1;
    assert!(reports as u64 <= minutes, "{reports} reports in {minutes} minutes");
}
