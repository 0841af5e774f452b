//! The queue between requests and the thread that writes their lines.
//!
//! Answers "where does a finished line wait?". Bounded in bytes; what does not fit is counted, and
//! nobody waits for the disk.
//!
//! # Why
//! One buffer behind a short lock, swapped whole by the writer: a line costs a copy and no
//! allocation, and a batch is one write. A thread and not a task, because a write to a full pipe or a
//! stalled disk blocks, and must not hold a worker of the runtime.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::output::Output;

/// Bytes of lines that may wait, some 20,000 of them; what comes beyond is dropped.
const LIMIT: usize = 8 * 1024 * 1024;
/// Bytes of lines that wake the writer before its pause is over.
const WAKE: usize = 256 * 1024;
/// Longest time a line waits for company. Waking the writer costs the request's thread a system call,
/// and so does each write: both happen at most fifty times a second unless [`WAKE`] is reached.
const PAUSE: Duration = Duration::from_millis(20);
/// Capacity that both buffers keep after a burst.
const KEEP: usize = 2 * WAKE;
/// Shortest time between two reports of lost lines, and of a file that cannot be rotated.
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The requests' side.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Lines refused because the queue was full or closed.
    refused: AtomicU64,
    /// Lines lost because a write failed.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The writer sleeps until somebody wakes it, however long that takes.
    is_asleep: bool,
    is_closing: bool,
    /// The file at the path may be another.
    must_reopen: bool,
}

impl Waiting {
    /// Something is to be done that does not wait for company.
    fn is_urgent(&self) -> bool {
        self.is_closing || self.must_reopen
    }
}

impl Queue {
    /// Starts the writer, which owns `out` from here on.
    ///
    /// # Errors
    /// What the system says when it has no thread to give.
    pub(super) fn start(out: Output) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (ending, ended) = watch::channel(false);
        let mut writer = Writer { shared: Arc::clone(&shared), out, report: None };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            // The last receiver may be gone, and then nobody waits.
            let _ = ending.send(true);
        })?;
        Ok(Self { shared, ended })
    }

    /// Queues `line`, or counts it as refused.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.shared.lock();
        let before = waiting.lines.len();
        let after = before + line.len();
        if waiting.is_closing || after > LIMIT {
            drop(waiting);
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        let must_wake = std::mem::take(&mut waiting.is_asleep) || (before < WAKE && after >= WAKE);
        drop(waiting);
        if must_wake {
            self.shared.wake.notify_one();
        }
    }

    /// Lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed) + self.shared.lost.load(Ordering::Relaxed)
    }

    /// Has lines that come after this, and perhaps some before it, written to the file that is at the
    /// path then.
    pub(super) fn reopen(&self) {
        self.shared.lock().must_reopen = true;
        self.shared.wake.notify_one();
    }

    /// Refuses further lines and waits until the others are written.
    pub(super) async fn close(&self) {
        self.shared.begin_closing();
        // An error says that the writer is gone, which is what is waited for.
        let _ = self.ended.clone().wait_for(|has_ended| *has_ended).await;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_closing(&self) {
        self.lock().is_closing = true;
        self.wake.notify_one();
    }

    /// Waits for lines and some company for them, and swaps them into `batch`, which is empty. Leaves
    /// it empty when the queue is closed and nothing is left. Returns whether the file is to be opened
    /// again before they are written.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() && !waiting.is_urgent() {
            waiting.is_asleep = true;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_asleep = false;
        let is_early = |waiting: &mut Waiting| waiting.lines.len() < WAKE && !waiting.is_urgent();
        let paused = self.wake.wait_timeout_while(waiting, PAUSE, is_early);
        waiting = paused.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut waiting.lines, batch);
        std::mem::take(&mut waiting.must_reopen)
    }
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    out: Output,
    /// When losses were last reported, and how many there were.
    report: Option<(Instant, u64)>,
}

impl Writer {
    fn run(&mut self) {
        let mut batch = Vec::new();
        loop {
            let must_reopen = self.shared.take(&mut batch);
            if must_reopen {
                self.out.reopen(SystemTime::now());
            }
            if !batch.is_empty() {
                let outcome = self.write(&batch);
                self.report(outcome.err(), Instant::now());
                batch.clear();
                batch.shrink_to(KEEP);
            } else if !must_reopen {
                return;
            }
        }
    }

    /// Writes whole lines, or counts those it could not write. What is torn by a failure is ended, so
    /// that the line after it stands alone.
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let mut written = 0;
        let outcome = self.end_torn().and_then(|()| self.put(batch, &mut written));
        self.lose(&batch[written..]);
        outcome.and_then(|()| self.out.flush())
    }

    fn end_torn(&mut self) -> io::Result<()> {
        if self.out.is_torn() { self.put(b"\n", &mut 0) } else { Ok(()) }
    }

    /// Writes all of `bytes`; `written` says how many they were also after an error.
    fn put(&mut self, bytes: &[u8], written: &mut usize) -> io::Result<()> {
        while *written < bytes.len() {
            match self.out.write(&bytes[*written..], SystemTime::now()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lose(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.shared.lost.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Says at most once per [`REPORT_EVERY`] that lines were lost, and why.
    fn report(&mut self, error: Option<io::Error>, now: Instant) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let dropped = self.shared.refused.load(Ordering::Relaxed) + lost;
        let known = self.report.map_or(0, |(_, known)| known);
        let is_due = self.report.is_none_or(|(last, _)| now - last >= REPORT_EVERY);
        if !is_due || (error.is_none() && dropped == known) {
            return;
        }
        self.report = Some((now, dropped));
        let lines = dropped - known;
        match error {
            Some(error) => tracing::error!(error = %error, lines, "access log was not written"),
            None => tracing::warn!(lines, "access lines were dropped, the log is too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    /// A destination whose writes do as they are told, then succeed. Tells what reached it.
    struct Scripted {
        script: mpsc::Receiver<io::Result<usize>>,
        began: mpsc::Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    struct Script {
        replies: mpsc::Sender<io::Result<usize>>,
        began: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    fn scripted() -> (Output, Script) {
        let (replies, script) = mpsc::channel();
        let (begin, began) = mpsc::channel();
        let written = Arc::default();
        let out = Scripted { script, began: begin, written: Arc::clone(&written) };
        (Output::stream(Box::new(out)), Script { replies, began, written })
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            let count = self.script.recv().unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            self.written.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn disk_full() -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[tokio::test]
    async fn a_stalled_writer_costs_lines_but_no_time() {
        let (out, script) = scripted();
        let queue = Queue::start(out).unwrap();
        queue.push(b"first\n");
        script.began.recv().unwrap();

        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..LIMIT / 1024 + 5 {
            queue.push(&line);
        }
        assert_eq!(queue.dropped(), 5, "what is beyond the limit");

        drop(script.replies);
        queue.close().await;
        assert_eq!(script.written.lock().unwrap().len(), 6 + LIMIT);
    }

    #[tokio::test]
    async fn a_failed_write_is_counted_and_the_next_line_stands_alone() {
        let (out, script) = scripted();
        let queue = Queue::start(out).unwrap();
        script.replies.send(Ok(8)).unwrap();
        script.replies.send(disk_full()).unwrap();
        queue.push(b"{\"a\":1}\n{\"b\":2}\n");
        script.began.recv().unwrap();
        script.began.recv().unwrap();
        script.replies.send(Ok(3)).unwrap();
        script.replies.send(disk_full()).unwrap();
        queue.push(b"{\"c\":3}\n");
        script.began.recv().unwrap();
        script.began.recv().unwrap();
        queue.push(b"{\"d\":4}\n");
        drop(script.replies);
        queue.close().await;

        assert_eq!(queue.dropped(), 2);
        let written = script.written.lock().unwrap().clone();
        assert_eq!(String::from_utf8(written).unwrap(), "{\"a\":1}\n{\"c\n{\"d\":4}\n");
    }

    #[tokio::test]
    async fn losses_are_reported_once_a_minute() {
        let (out, _script) = scripted();
        let shared = Arc::new(Shared::default());
        let mut writer = Writer { shared: Arc::clone(&shared), out, report: None };
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let error = || Some(io::ErrorKind::StorageFull.into());

        writer.report(None, at(0));
        assert_eq!(writer.report, None, "nothing to say");
        shared.lost.store(3, Ordering::Relaxed);
        writer.report(error(), at(1));
        assert_eq!(writer.report, Some((at(1), 3)));
        shared.lost.store(5, Ordering::Relaxed);
        writer.report(error(), at(60));
        assert_eq!(writer.report, Some((at(1), 3)), "too soon");
        writer.report(error(), at(61));
        assert_eq!(writer.report, Some((at(61), 5)));
        writer.report(None, at(200));
        assert_eq!(writer.report, Some((at(61), 5)), "nothing new");
    }

    #[tokio::test]
    async fn dropping_the_queue_ends_the_writer() {
        let (out, script) = scripted();
        let queue = Queue::start(out).unwrap();
        queue.push(b"kept\n");
        drop(script.replies);
        let mut ended = queue.ended.clone();
        drop(queue);
        assert!(ended.wait_for(|has_ended| *has_ended).await.is_ok());
        assert_eq!(*script.written.lock().unwrap(), b"kept\n");
    }
}
