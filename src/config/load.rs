//! From a path or a text to a checked [`Config`].
//!
//! Answers "which file is it, can it be read, and is it sound?". Called by `cli` and by a reload.
//! Never stops at the first fault: everything but a syntax error is collected in one run.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::acme::Acme;
use super::diagnostic::{Diagnostics, Span};
use super::grammar::ROOT;
use super::listener::{self, Listener};
use super::process::{Admin, Limits, Log, Runtime, Shutdown};
use super::reading::Reading;
use super::storage::Storage;
use super::system::system_directory;
use super::tree::{self, Map, Node};
use super::{Config, certificate, filter, interpolate, site, upstream, value};
use crate::net::CidrSet;

/// A configuration that can run, with what was noticed on the way.
#[derive(Debug)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// Warnings only.
    pub warnings: Diagnostics,
    /// The files that values were read from (`${file:…}`), readable or not.
    pub files: Vec<PathBuf>,
    /// The file as written, for [`effective`](super::effective).
    pub(super) written: Written,
}

/// What [`effective`](super::effective) needs besides the checked configuration.
#[derive(Debug)]
pub(super) struct Written {
    /// The file's tree.
    pub(super) tree: Node,
    /// The directory that its relative paths start from.
    pub(super) base: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read at all.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file that was tried.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has faults; each is among these, beside warnings.
    #[error("{} has faults", .0.file())]
    Faults(Diagnostics),
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// [`LoadError`]: the file cannot be read, or has faults.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let name = path.display().to_string();
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let text = match read_text(path).map_err(read)? {
        Ok(text) => text,
        Err((line, message)) => {
            let mut faults = Diagnostics::new(&name, "");
            faults.error(Span { line, column: 1, length: 1 }, message);
            return Err(LoadError::Faults(faults));
        }
    };
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    from_text(&name, &text, base).map_err(LoadError::Faults)
}

/// Checks `text`, the content of a file called `name` in the directory `base_dir`.
///
/// # Errors
/// Every fault of the text, beside the warnings.
pub fn from_text(name: &str, text: &str, base_dir: &Path) -> Result<Loaded, Diagnostics> {
    // A text beyond the limit is not even indexed.
    let indexed = if text.len() > tree::MAX_BYTES { "" } else { text };
    let mut faults = Diagnostics::new(name, indexed);
    let Some(mut tree) = tree::parse(text, &mut faults) else { return Err(faults) };
    let mut files = Vec::new();
    interpolate::files(&tree, base_dir, &mut files);
    interpolate::resolve(&mut tree, base_dir, &mut faults);
    let mut reading = Reading::new(faults, base_dir.to_owned());
    let config = value::map(&tree, &mut reading, read_root);
    let mut faults = reading.faults;
    faults.sort();
    match config {
        Some(config) if !faults.has_errors() => {
            let written = Written { tree, base: base_dir.to_owned() };
            Ok(Loaded { config, warnings: faults, files, written })
        }
        _ => Err(faults),
    }
}

/// The file to read: `explicit`, else the first that exists of `gateway.yaml` in the working
/// directory and the system's place, else `gateway.yaml`.
///
/// The system's place is `/etc/wardgate/gateway.yaml`, on Windows
/// `%ProgramData%\Wardgate\gateway.yaml`.
#[must_use]
pub fn find(explicit: Option<&Path>) -> PathBuf {
    if let Some(path) = explicit {
        return path.to_owned();
    }
    let here = PathBuf::from("gateway.yaml");
    let system = system_directory().join("gateway.yaml");
    if !here.exists() && system.exists() { system } else { here }
}

/// Where state is kept unless `storage:` says otherwise.
pub(super) fn default_storage(base: &Path) -> PathBuf {
    let here = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let directory = std::path::absolute(here).unwrap_or_else(|_| base.to_owned());
    let system = system_directory();
    if cfg!(windows) && directory.as_os_str().eq_ignore_ascii_case(&system) {
        return system;
    }
    if system == directory { PathBuf::from("/var/lib/wardgate") } else { base.join("certs") }
}

/// The text of a file; the inner error is a fault of its content and the line where it shows.
pub(super) fn read_text(path: &Path) -> io::Result<Result<String, (u32, String)>> {
    let limit = tree::MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > tree::MAX_BYTES {
        let message = format!("the file is larger than {} MiB", tree::MAX_BYTES >> 20);
        return Ok(Err((1, message)));
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let breaks = valid.iter().filter(|byte| **byte == b'\n').count();
        let line = u32::try_from(breaks + 1).unwrap_or(u32::MAX);
        (line, "the file is not UTF-8 text".to_owned())
    }))
}

fn read_root(map: &Map, reading: &mut Reading) -> Option<Config> {
    let standard = tree::parse(STANDARD_LISTENERS, &mut Diagnostics::new("", ""));
    let listeners = map.entry("listeners").map(|entry| &entry.value).or(standard.as_ref());
    let is_standard = map.entry("listeners").is_none();
    reading.listeners.declare(listeners, is_standard);
    for (name, names) in [
        ("upstreams", &mut reading.upstreams),
        ("certificates", &mut reading.certificates),
        ("filters", &mut reading.filters),
    ] {
        names.declare(map.entry(name).map(|entry| &entry.value), false);
    }

    let mut keys = map.keys(&ROOT, reading);
    let listeners = match keys.read("listeners", listener::read_all) {
        None if keys.span_of("listeners").is_none() => {
            standard.and_then(|node| listener::read_all(&node, keys.reading))
        }
        listeners => listeners,
    };
    keys.reading.know_listeners(listeners.as_deref().unwrap_or_default());
    let upstreams = keys.read("upstreams", upstream::read_all);
    let certificates = keys.read("certificates", certificate::read_all);
    keys.reading.know_certificates(certificates.as_deref().unwrap_or_default());
    let acme = keys.section("acme", Acme::read);
    keys.reading.has_acme = keys.span_of("acme").is_some();
    keys.reading.has_dns = acme.as_ref().is_none_or(Acme::has_dns);
    let filters = keys.read("filters", filter::read_chains);
    let sites = keys.read("sites", site::read_all);
    let storage = Storage::read_or_standard(&mut keys);
    let trusted_proxies = keys.list("trusted_proxies", value::block);
    let limits = keys.section("limits", Limits::read);
    let log = keys.section("log", Log::read);
    let admin = keys.read("admin", Admin::read);
    let shutdown = keys.section("shutdown", Shutdown::read);
    let runtime = keys.section("runtime", Runtime::read);
    keys.finish();
    if let (Some(listeners), Some(Some(admin))) = (&listeners, &admin) {
        check_admin(listeners, admin, map, reading);
    }
    warn_unused(map, reading);
    let mut upstreams = upstreams.unwrap_or_default();
    upstreams.append(&mut reading.url_pools);
    Some(Config {
        listeners: listeners?,
        sites: sites.unwrap_or_default(),
        upstreams,
        certificates: certificates.unwrap_or_default(),
        acme,
        filters: filters.unwrap_or_default(),
        storage: storage.directory,
        fleet: storage.redis,
        trusted_proxies: CidrSet::from_iter(trusted_proxies),
        limits: limits?,
        log: log?,
        admin: admin?,
        shutdown: shutdown?,
        runtime: runtime?,
    })
}

/// What listens when the file does not say.
pub(super) const STANDARD_LISTENERS: &str = "\
web: { bind: \":80\", protocol: http }
secure: { bind: \":443\", protocol: https }
";

fn check_admin(listeners: &[Listener], admin: &Admin, map: &Map, reading: &mut Reading) {
    let Some(entry) = map.entry("admin") else { return };
    let bind = listener::BindAddress::Addr(admin.bind);
    let takes = |listener: &&Listener| listener.bind.iter().any(|other| bind.overlaps(*other));
    if let Some(listener) = listeners.iter().find(takes) {
        let message = format!("the listener \"{}\" takes the admin address {bind}", listener.name);
        reading.error(entry.key.span, message);
    }
}

/// Faults explain most of what looks unused, so this waits until there are none.
fn warn_unused(map: &Map, reading: &mut Reading) {
    if reading.faults.has_errors() {
        return;
    }
    let has_sites = map.entry("sites").is_some_and(|entry| match &entry.value {
        Node::Map(sites) => !sites.entries.is_empty(),
        Node::Scalar(scalar) => !scalar.is_null(),
        Node::List(_) => true,
    });
    if !has_sites {
        let hint = "add `sites:`; every request gets 404 or 421 until then";
        reading.warning(tree::start_of_file(), "there are no sites", hint);
        return;
    }
    for (names, what) in [
        (reading.upstreams.unused(), "no site uses this upstream"),
        (reading.certificates.unused(), "no site uses this certificate"),
        (reading.listeners.unused(), "no site uses this listener"),
        (reading.filters.unused(), "no site uses this chain of filters"),
    ] {
        for (_, span) in names {
            reading.faults.warning(span, what, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_explicit_file_is_taken_even_if_it_does_not_exist() {
        assert_eq!(find(Some(Path::new("other.yaml"))), PathBuf::from("other.yaml"));
    }

    #[test]
    #[cfg(unix)]
    fn an_installed_gateway_keeps_its_state_apart() {
        for (base, storage) in [
            ("/etc/wardgate", "/var/lib/wardgate"),
            ("/etc/wardgate/", "/var/lib/wardgate"),
            ("/srv/gateway", "/srv/gateway/certs"),
            ("", "certs"),
        ] {
            assert_eq!(default_storage(Path::new(base)), PathBuf::from(storage), "{base}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_cannot_be_read() {
        let error = load(Path::new("no-such-directory/gateway.yaml")).unwrap_err();
        assert!(matches!(error, LoadError::Read { .. }), "{error}");
    }

    #[test]
    fn fast_open_is_honoured_or_refused() {
        let text = "\
listeners: { web: { bind: \":0\", protocol: http, tcp_fast_open: 256 } }
sites: { a.test: { upstream: http://b } }
";
        let answer = from_text("gateway.yaml", text, Path::new(""));
        if cfg!(target_os = "linux") {
            assert_eq!(answer.unwrap().config.listeners[0].tcp_fast_open, Some(256));
        } else {
            assert!(answer.is_err());
        }
    }

    #[test]
    fn one_url_is_one_pool_and_named_pools_come_first() {
        let text = "\
upstreams: { app: { servers: http://c } }
sites:
  a.test: { upstream: http://b }
  b.test: { upstream: http://b }
  c.test: { upstream: app }
";
        let config = from_text("gateway.yaml", text, Path::new("")).unwrap().config;
        let names: Vec<&str> = config.upstreams.iter().map(|pool| &*pool.name).collect();
        assert_eq!(names, ["app", "http://b"]);
    }
}
