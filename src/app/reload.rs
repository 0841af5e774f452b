//! A reload: read, check, build beside what is in force, and swap; or say why not.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::inputs::Inputs;
use super::prepare::{Basis, Prepared, prepare};
use super::running::Running;
use super::{StartError, stapling, supervise};
use crate::admin::control::{Attempted, Outcome, Reload};
use crate::config::{self, Config, Diagnostics, LoadError};
use crate::listen::Inherited;
use crate::service::Manager;

/// Who asks when a file has changed.
pub(super) const FILE: &str = "file";

/// Why a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Start(#[from] StartError),
    /// What a file looks like while it is written, most of all.
    #[error(
        "{} has no sites: that is put in force only by who asks for it, not because the file changed",
        .0.display()
    )]
    NoSites(PathBuf),
    #[error("reading the configuration panicked")]
    Panicked,
}

/// A configuration that is not put in force.
struct Refused {
    rejection: Box<Rejection>,
    /// What it is made of, if that much could be read: it may be whole with the next change of it.
    files: Vec<PathBuf>,
}

/// A configuration that differs from the one in force.
struct Renewed {
    prepared: Prepared,
    warnings: Diagnostics,
}

impl Running {
    /// Does what `request` asks for, and answers it; `manager` hears of it unless files only had to be
    /// looked at again. Dropped before its end it has done nothing.
    pub(super) async fn reload(&mut self, request: Reload, manager: &Manager) {
        let started = Instant::now();
        let Reload { reason, answer } = request;
        let is_asked_for = reason != FILE;
        if is_asked_for {
            manager.reloading();
        }
        // Whoever moves a log file away asks for a reload, whatever the configuration says by then.
        self.shared.access.load().reopen();
        let begin = || {
            if !is_asked_for {
                manager.reloading();
            }
        };
        let outcome = self.renew(reason, begin).await;
        let seconds = started.elapsed().as_secs_f64();
        let last = self.last.get();
        let told = without_excerpts(outcome.clone());
        let is_news = is_asked_for || is_news(last.as_ref().map(|last| &last.outcome), &told);
        log_outcome(reason, &told, seconds, is_news);
        if is_news {
            let at = SystemTime::now();
            self.shared.metrics.reloaded(outcome.as_str(), at);
            self.last.note(Attempted { at, reason, outcome: told });
        }
        if is_news || !matches!(outcome, Outcome::Unchanged { .. }) {
            manager.ready(&supervise::summary(self));
        }
        // Nobody need listen.
        let _ = answer.send(outcome);
    }

    /// Calls `begin` when something differs from what is in force, and before it is built.
    async fn renew(&mut self, reason: &'static str, begin: impl FnOnce()) -> Outcome {
        let generation = self.generation().number;
        let Some(file) = self.file.clone() else { return Outcome::Unchanged { generation } };
        let basis = self.basis();
        let look = tokio::task::spawn_blocking(move || (basis.inputs.again(), basis)).await;
        let renewed = match look {
            Ok((inputs, basis)) if inputs.is_same(&basis.inputs) => {
                return Outcome::Unchanged { generation };
            }
            Ok((inputs, basis)) => {
                begin();
                let renewed = move || renewed(&file, &inputs, &basis, reason);
                tokio::task::spawn_blocking(renewed).await.unwrap_or_else(|_| panicked())
            }
            Err(_) => panicked(),
        };
        let renewed = match renewed {
            Ok(renewed) => self.complete(renewed).await,
            Err(refused) => Err(refused),
        };
        match renewed {
            Ok(Renewed { prepared, warnings }) => {
                let mut warnings = warnings.to_string();
                for kept in self.apply(prepared) {
                    tracing::warn!(setting = kept, "needs a restart to change");
                    let _ = writeln!(warnings, "{kept} needs a restart to change");
                }
                Outcome::Applied { generation: generation + 1, warnings }
            }
            Err(Refused { rejection, mut files }) => {
                files.extend(self.inputs.paths());
                files.sort();
                files.dedup();
                self.watch(files);
                Outcome::Rejected { generation, faults: rejection.faults() }
            }
        }
    }

    /// Does what is left once nothing else stands in the way.
    async fn complete(&self, mut renewed: Renewed) -> Result<Renewed, Refused> {
        let (store, metrics) = (&self.certificates.store, &self.shared.metrics);
        stapling::ask_first(&mut renewed.prepared.sources, store, metrics).await;
        match self.open(&mut renewed.prepared) {
            Ok(()) => Ok(renewed),
            Err(error) => {
                let files = renewed.prepared.inputs.paths();
                Err(Refused { rejection: Box::new(error.into()), files })
            }
        }
    }

    /// Puts `prepared` in force. Returns the settings that only a restart can change.
    fn apply(&mut self, prepared: Prepared) -> Vec<&'static str> {
        let old = self.generation();
        self.put_in_force(prepared);
        let new = self.generation();
        if new.config.log.level != old.config.log.level
            && let Err(error) = self.log.set_level(&new.config.log.level)
        {
            tracing::error!(%error, "could not change the log's filter");
        }
        needs_restart(&old.config, &new.config)
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let settings = [
        ("runtime.threads", old.runtime == new.runtime),
        ("log.format", old.log.format == new.log.format),
    ];
    settings.iter().filter(|(_, is_same)| !is_same).map(|(name, _)| *name).collect()
}

fn panicked() -> Result<Renewed, Refused> {
    Err(Rejection::Panicked.into())
}

/// What is to be put in force, `inputs` being what is there now. Blocks on files.
fn renewed(file: &Path, inputs: &Inputs, basis: &Basis, reason: &str) -> Result<Renewed, Refused> {
    let loaded = config::load(file).map_err(Rejection::from)?;
    if reason == FILE && loaded.config.sites.is_empty() {
        return Err(Rejection::NoSites(file.to_owned()).into());
    }
    let inputs = Inputs::of(Some(file), &loaded, inputs);
    let files = inputs.paths();
    let prepared = prepare(&loaded, inputs, basis, Inherited::default())
        .map_err(|error| Refused { rejection: Box::new(error.into()), files })?;
    Ok(Renewed { prepared, warnings: loaded.warnings })
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self { rejection: Box::new(rejection), files: Vec::new() }
    }
}

impl Rejection {
    /// The faults as `wardgate check` prints them, or what else stands in the way, with its causes.
    fn faults(&self) -> String {
        if let Self::Load(LoadError::Faults(faults)) = self {
            return faults.to_string();
        }
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text.push('\n');
        text
    }
}

/// `outcome` for the log and for `/status`, which others read than those who may read the file.
fn without_excerpts(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Applied { generation, warnings } => {
            Outcome::Applied { generation, warnings: config::without_excerpts(&warnings) }
        }
        Outcome::Unchanged { .. } => outcome,
        Outcome::Rejected { generation, faults } => {
            Outcome::Rejected { generation, faults: config::without_excerpts(&faults) }
        }
    }
}

/// Whether an outcome that nobody has asked for is worth telling: files are touched, and looked at
/// again, without any change.
fn is_news(last: Option<&Outcome>, outcome: &Outcome) -> bool {
    match (last, outcome) {
        (_, Outcome::Applied { .. })
        | (Some(Outcome::Rejected { .. }), Outcome::Unchanged { .. }) => true,
        (_, Outcome::Unchanged { .. }) => false,
        (last, Outcome::Rejected { .. }) => last != Some(outcome),
    }
}

fn log_outcome(reason: &'static str, outcome: &Outcome, seconds: f64, is_news: bool) {
    match outcome {
        _ if !is_news => tracing::debug!(reason, outcome = outcome.as_str(), "no news of files"),
        Outcome::Applied { generation, warnings } => {
            if !warnings.is_empty() {
                tracing::warn!(
                    generation,
                    warnings = warnings.trim_end(),
                    "noticed in the configuration"
                );
            }
            tracing::info!(reason, generation, seconds, "reloaded");
        }
        Outcome::Unchanged { generation } => {
            tracing::info!(reason, generation, seconds, "nothing to reload");
        }
        Outcome::Rejected { generation, faults } => {
            let faults = faults.trim_end();
            tracing::error!(reason, generation, faults, "rejected a configuration");
        }
    }
}
