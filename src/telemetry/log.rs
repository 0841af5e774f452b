//! The log: what the process says about itself, on standard error.
//!
//! Answers "what is going on, and must I act?". Called by `app` once at the start and at each reload;
//! everything else says its piece through `tracing`. What is said before the configuration is read,
//! or instead of it, `cli` prints plainly. Spans are left to traces: lines carry their own fields.
//!
//! # Why
//! A formatter of our own, because one line must stay one line whatever a peer puts into a field, and
//! because flat JSON with the conventions' names is not among those that `tracing_subscriber` brings.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use super::access::{AccessLogError, RotatingFile};
use super::line::{self, Fields, Quoted};
#[cfg(unix)]
use super::stderr::PatientStderr;
use super::timestamp::Timestamp;
use crate::config::process::{Log, LogFile, LogFormat};

/// What stands before the operator's directives, which win over it where they name the same crates.
/// Pingora and rustls log what a client did wrong as warnings and errors, so that any port scan would
/// fill the log; what concerns the operator we say ourselves.
const QUIET: &str = "pingora=off,rustls=off";

/// Changes the log's filter while the process runs. Cheap to clone; the log itself lasts as long as
/// the process.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why a text is no log filter.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no log filter such as \"info\" or \"info,wardgate::acme=debug\"")]
pub struct FilterError {
    text: String,
    source: ParseError,
}

/// Why the log cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// `log.level` is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] Box<AccessLogError>),
    /// The process has a log already.
    #[error("a log is installed already")]
    Twice(#[source] TryInitError),
}

/// Makes `log` the process's log. Lines of crates that use `log` instead of `tracing` join it.
/// It goes to standard error, or to `file`; `errors` gets each error as well, in one line of text.
///
/// # Errors
/// [`InstallError`]; the second call of a process always fails.
pub fn install(
    log: &Log,
    file: Option<&LogFile>,
    errors: Option<fn(&str)>,
) -> Result<LogControl, InstallError> {
    let (filter, control) = reload::Layer::new(filter(&log.level)?);
    let is_terminal = file.is_none() && io::stderr().is_terminal();
    let out: Box<dyn Write + Send> = match file {
        Some(file) => Box::new(RotatingFile::open(file).map_err(Box::new)?.of_the_log()),
        #[cfg(unix)]
        None => Box::new(PatientStderr::new(line::format_for(log.format, is_terminal))),
        #[cfg(not(unix))]
        None => Box::new(io::stderr()),
    };
    let lines = Lines::new(out, log.format, is_terminal);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(errors.map(Errors))
        .try_init()
        .map_err(InstallError::Twice)?;
    Ok(LogControl { filter: control })
}

/// Whether the lines of `log` are text, as on a terminal, and not JSON.
#[must_use]
pub fn is_text(log: &Log) -> bool {
    line::format_for(log.format, io::stderr().is_terminal()) == LogFormat::Text
}

impl LogControl {
    /// Replaces the filter by the directives in `level`. The log stays as it is on an error.
    ///
    /// # Errors
    /// [`FilterError`] where `level` is no filter.
    pub fn set_level(&self, level: &str) -> Result<(), FilterError> {
        // Fails only when the log is gone, and it never goes.
        let _ = self.filter.reload(filter(level)?);
        // The bridge from `log` compares with a maximum of its own before it asks the filter.
        log::set_max_level(as_log(LevelFilter::current()));
        Ok(())
    }
}

/// Reads the directives of `log.level`.
///
/// # Errors
/// [`FilterError`] with the text and what is wrong with it.
pub fn filter(level: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::builder()
        .with_regex(false)
        .parse(format!("{QUIET},{level}"))
        .map_err(|source| FilterError { text: level.to_owned(), source })
}

fn as_log(level: LevelFilter) -> log::LevelFilter {
    match level.into_level() {
        None => log::LevelFilter::Off,
        Some(Level::ERROR) => log::LevelFilter::Error,
        Some(Level::WARN) => log::LevelFilter::Warn,
        Some(Level::INFO) => log::LevelFilter::Info,
        Some(Level::DEBUG) => log::LevelFilter::Debug,
        Some(Level::TRACE) => log::LevelFilter::Trace,
    }
}

/// Writes each event as one line.
struct Lines<W> {
    format: LogFormat,
    has_colour: bool,
    out: Mutex<W>,
}

impl<W: Write> Lines<W> {
    /// Colour is for terminals, and for nobody where `NO_COLOR` is set and not empty (no-color.org).
    fn new(out: W, format: Option<LogFormat>, is_terminal: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let format = line::format_for(format, is_terminal);
        Self { format, has_colour: is_terminal && !no_colour, out: Mutex::new(out) }
    }

    fn format(&self, event: &Event<'_>, at: SystemTime) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut stamp = Timestamp::new();
        let stamp = stamp.spell(at);
        let head = Head::of(event);
        match self.format {
            LogFormat::Json => head.json(stamp, event, &mut out),
            LogFormat::Text => head.text(stamp, event, self.has_colour, &mut out),
        }
        out
    }
}

impl<S: Subscriber, W: Write + 'static> Layer<S> for Lines<W>
where
    Self: 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = self.format(event, SystemTime::now());
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the log itself cannot be written, nobody is left to tell.
        let _ = out.write_all(&line);
    }
}

/// Tells somebody of errors.
struct Errors(fn(&str));

impl Errors {
    fn text(event: &Event<'_>) -> String {
        let mut out = Head::of(event).message.into_bytes();
        let mut fields = Fields::begin(&mut out, LogFormat::Text);
        event.record(&mut Rest(&mut fields));
        fields.end();
        String::from_utf8_lossy(&out).trim_end().to_owned()
    }
}

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            (self.0)(&Self::text(event));
        }
    }
}

/// What every line begins with.
struct Head {
    level: Level,
    target: String,
    message: String,
}

impl Head {
    fn of(event: &Event<'_>) -> Self {
        let metadata: &Metadata<'_> = event.metadata();
        let target = metadata.target().to_owned();
        let mut head = Self { level: *metadata.level(), target, message: String::new() };
        event.record(&mut head);
        head
    }

    fn json(&self, stamp: &[u8], event: &Event<'_>, out: &mut Vec<u8>) {
        let mut fields = Fields::begin(out, LogFormat::Json);
        fields.named("timestamp").text(stamp);
        fields.named("level").text(self.level.as_str().to_ascii_lowercase().as_bytes());
        fields.named("target").text(self.target.as_bytes());
        fields.named("message").text(self.message.as_bytes());
        event.record(&mut Rest(&mut fields));
        fields.end();
    }

    fn text(&self, stamp: &[u8], event: &Event<'_>, has_colour: bool, out: &mut Vec<u8>) {
        let (dim, colour, plain) = match (has_colour, self.level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[2m", "\x1b[1;31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
            (true, _) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
        };
        out.extend_from_slice(dim.as_bytes());
        out.extend_from_slice(stamp);
        out.extend_from_slice(plain.as_bytes());
        // Writing to memory does not fail.
        let _ = write!(out, " {colour}{:>5}{plain} {dim}", self.level);
        line::escape(out, self.target.as_bytes(), Quoted::No);
        let _ = write!(out, ":{plain} ");
        line::escape(out, self.message.as_bytes(), Quoted::No);
        let mut fields = Fields::begin(out, LogFormat::Text);
        event.record(&mut Rest(&mut fields));
        fields.end();
    }
}

impl Visit for Head {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            // Where a line of the `log` crate came from; its event's own target is only "log".
            "log.target" => value.clone_into(&mut self.target),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message.clear();
            // Writing to memory does not fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}

/// The fields after the message.
struct Rest<'a, 'b>(&'a mut Fields<'b>);

impl Rest<'_, '_> {
    /// `None` for what the head has said already, and for where in the source a line came from.
    fn key(field: &Field) -> Option<&'static str> {
        match field.name() {
            "message" | "log.target" | "log.module_path" | "log.file" | "log.line" => None,
            // A second key of that name would make the line ambiguous.
            "timestamp" => Some("field.timestamp"),
            "level" => Some("field.level"),
            "target" => Some("field.target"),
            name => Some(name.strip_prefix("r#").unwrap_or(name)),
        }
    }

    fn literal(&mut self, field: &Field, value: impl fmt::Display) {
        if let Some(key) = Self::key(field) {
            self.0.named(key).literal(value);
        }
    }
}

impl Visit for Rest<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(key) = Self::key(field) {
            self.0.named(key).text(value.as_bytes());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.literal(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.literal(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.literal(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.literal(field, value);
        } else {
            self.record_debug(field, &value);
        }
    }

    /// The whole chain of causes, as `cli` prints it.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let Some(key) = Self::key(field) else { return };
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.0.named(key).text(text.as_bytes());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(key) = Self::key(field) {
            self.0.named(key).display(format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `say` logs under `level`.
    fn logged(level: &str, format: LogFormat, is_terminal: bool, say: impl FnOnce()) -> String {
        let memory = Memory::default();
        let lines = Lines { format, has_colour: is_terminal, out: Mutex::new(memory.clone()) };
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(lines);
        tracing::subscriber::with_default(subscriber, say);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn json(say: impl FnOnce()) -> serde_json::Value {
        let line = logged("trace", LogFormat::Json, false, say);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_log_file_rotates_without_waiting_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wardgate.log");
        let spec = LogFile { path, daily: false, max_size: Some(2000), keep: 1000 };
        let file = RotatingFile::open(&spec).unwrap().of_the_log();
        let lines = Lines { format: LogFormat::Json, has_colour: false, out: Mutex::new(file) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            for number in 0..100 {
                tracing::info!(number, "counted");
            }
        });
        let files = std::fs::read_dir(directory.path()).unwrap();
        let texts: Vec<String> =
            files.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
        assert!(texts.len() > 2, "{} files", texts.len());
        assert_eq!(texts.iter().map(|text| text.lines().count()).sum::<usize>(), 100);
    }

    #[test]
    fn errors_and_nothing_else_are_told_elsewhere_as_well() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let errors = Errors(|text| TOLD.lock().unwrap().push(text.to_owned()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(errors), || {
            tracing::warn!("nearly broke");
            tracing::error!(code = 5, faults = "a\nb", "broke");
        });
        assert_eq!(*TOLD.lock().unwrap(), ["broke code=5 faults=\"a\\nb\""]);
    }

    #[test]
    fn a_json_line_is_flat_and_names_fields_as_they_were_given() {
        let mut value = json(|| {
            tracing::info!(
                target: "wardgate::app",
                listener = "web",
                http.response.status_code = 404_u64,
                negative = -1,
                ratio = 0.5,
                odd = f64::NAN,
                ready = true,
                server.address = %"10.0.0.1:80",
                shown = ?Some(1),
                level = "mine",
                "bound"
            );
        });
        let stamp = value["timestamp"].take();
        assert_eq!(stamp.as_str().unwrap().len(), 24);
        let expected = serde_json::json!({
            "timestamp": null, "level": "info", "target": "wardgate::app", "message": "bound",
            "listener": "web", "http.response.status_code": 404, "negative": -1, "ratio": 0.5,
            "odd": "NaN", "ready": true, "server.address": "10.0.0.1:80", "shown": "Some(1)",
            "field.level": "mine",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn peers_cannot_forge_a_line_or_reach_the_terminal() {
        let hostile = "x\r\n{\"level\":\"error\"}\x1b[2J \"quoted\" \\ \u{9b}\u{2028}";
        let value = json(|| tracing::info!(text = hostile, shown = %hostile, "{hostile}"));
        for key in ["text", "shown", "message"] {
            assert_eq!(value[key], hostile, "kept as it was, inside {key}");
        }
        let line = logged("info", LogFormat::Text, false, || {
            tracing::info!(text = hostile, shown = %hostile, "{hostile}");
        });
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
    }

    #[test]
    fn a_text_line_reads_from_left_to_right() {
        let say =
            || tracing::warn!(target: "wardgate::tls", path = "a b", days = 3, "renewed late");
        let plain = logged("info", LogFormat::Text, false, say);
        assert_eq!(&plain[24..], "  WARN wardgate::tls: renewed late path=\"a b\" days=3\n");
        let coloured = logged("info", LogFormat::Text, true, say);
        assert!(coloured.contains("\x1b[33m WARN\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error =
            FilterError { text: "x".to_owned(), source: EnvFilter::try_new("a=b=c").unwrap_err() };
        let value = json(|| tracing::error!(error = &error as &(dyn Error + 'static), "refused"));
        let text = value["error"].as_str().unwrap();
        assert!(text.starts_with("\"x\" is no log filter"), "{text}");
        assert!(text.ends_with(&error.source.to_string()), "{text}");
    }

    #[test]
    fn libraries_that_blame_clients_are_heard_only_when_named() {
        let say = || {
            tracing::error!(target: "pingora_core::apps", "H2 handshake error");
            tracing::error!(target: "pingora_proxy", "failed to send");
            tracing::warn!(target: "rustls::conn", "Sending warning alert");
            tracing::info!(target: "wardgate", "ours");
        };
        let count = |level| logged(level, LogFormat::Text, false, say).lines().count();
        assert_eq!(count("info"), 1);
        assert_eq!(count("trace"), 1);
        assert_eq!(count("info,pingora_proxy=warn"), 2);
        assert_eq!(count("info,pingora=warn,rustls=warn"), 4);
    }

    #[test]
    fn a_filter_is_directives_or_an_error_that_quotes_it() {
        for level in ["info", "warn,wardgate::acme=debug", "off", "wardgate=trace", ""] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["loud=very", "info,wardgate=noisy", "a=b=c"] {
            let error = filter(level).unwrap_err();
            assert!(error.to_string().contains(level), "{error}");
        }
    }

    #[test]
    fn the_bridge_follows_every_level() {
        let table = [
            (LevelFilter::OFF, log::LevelFilter::Off),
            (LevelFilter::ERROR, log::LevelFilter::Error),
            (LevelFilter::WARN, log::LevelFilter::Warn),
            (LevelFilter::INFO, log::LevelFilter::Info),
            (LevelFilter::DEBUG, log::LevelFilter::Debug),
            (LevelFilter::TRACE, log::LevelFilter::Trace),
        ];
        for (level, expected) in table {
            assert_eq!(as_log(level), expected);
        }
    }
}
