//! What a process has written so far, as JSON, and waiting for what it writes next.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tokio::sync::watch;

use super::PATIENCE;

/// The lines of one or more output streams. A line that is not JSON is kept as a string.
#[derive(Clone)]
pub(crate) struct Lines {
    written: Arc<Mutex<Vec<Value>>>,
    /// Counts the streams that are still open; touched at every line.
    open: watch::Sender<usize>,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self { written: Arc::default(), open: watch::Sender::new(0) }
    }

    /// Reads `stream` to its end on a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) {
        self.open.send_modify(|open| *open += 1);
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines
                    .written
                    .lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
                lines.open.send_modify(|_| ());
            }
            lines.open.send_modify(|open| *open -= 1);
        });
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.written.lock().unwrap().clone()
    }

    /// The first line, past or future, for which `is_wanted` holds.
    pub(crate) async fn wait(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_count(what, 1, is_wanted).await.remove(0)
    }

    /// The first `count` lines for which `is_wanted` holds.
    pub(crate) async fn wait_for_count(
        &self,
        what: &str,
        count: usize,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let mut open = self.open.subscribe();
        let search = async {
            loop {
                let is_over = *open.borrow_and_update() == 0;
                let mut found: Vec<Value> =
                    self.all().into_iter().filter(|line| is_wanted(line)).collect();
                if found.len() >= count {
                    found.truncate(count);
                    return Some(found);
                }
                if is_over || open.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("the process ended without {what}; it wrote:\n{self}"),
            Err(_) => panic!("no {what} within {PATIENCE:?}; the process wrote:\n{self}"),
        }
    }

    /// Waits until every stream has ended, which is when the process has.
    pub(crate) async fn wait_for_end(&self) {
        let mut open = self.open.subscribe();
        let end = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(PATIENCE, end).await.is_err() {
            panic!("the process did not end within {PATIENCE:?}; it wrote:\n{self}");
        }
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.all() {
            match line {
                Value::String(text) => writeln!(f, "  {text}")?,
                line => writeln!(f, "  {line}")?,
            }
        }
        Ok(())
    }
}

/// A field of a line, at its top or below `fields`.
pub(crate) fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    static ABSENT: Value = Value::Null;
    line.get(name).or_else(|| line.get("fields")?.get(name)).unwrap_or(&ABSENT)
}
