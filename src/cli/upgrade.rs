//! `wardgate upgrade`: another process in the place of the running one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};

use super::ask::{Contact, Reply, Where};
use super::status::plain;
use super::{FAILED, FAULTY, print};
use crate::admin::upgrade::{LONGEST, PATIENCE};
use crate::service;

/// Time for the answer beyond that for the new process.
const MARGIN: Duration = Duration::from_secs(30);

/// What to start, and whom to ask for it.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    place: Where,
    /// The program to start. Default: the one that runs, from where it lies by now
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Time for it to become ready, such as 90s or 2m; at most 10m. Default: 60s
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Duration>,
}

/// Has the gateway upgraded.
pub(super) fn perform(upgrade: &Upgrade) -> anyhow::Result<u8> {
    if !cfg!(target_os = "linux")
        && let Some(obstacle) = service::obstacle()
    {
        anyhow::bail!(obstacle);
    }
    let patience = upgrade.timeout.unwrap_or(PATIENCE);
    let mut arguments = json!({ "timeout": patience.as_secs() });
    if let Some(binary) = &upgrade.binary {
        arguments["binary"] = absolute(binary)?.into();
    }
    let contact = Contact::find(&upgrade.place)?;
    let reply = contact.change("/upgrade", &arguments, patience + MARGIN)?;
    match (reply.status, reply.body["outcome"].as_str()) {
        (StatusCode::OK, Some("upgraded")) => {
            let (from, to) = (process(&reply.body["from"]), process(&reply.body["to"]));
            print(&format!("upgraded: {to} serves, {from} finishes what is in flight\n"))
        }
        (_, Some("failed")) => Ok(failed(&reply)),
        (_, _) if reply.body["error"].is_string() => Ok(failed(&reply)),
        _ => contact.refused(&reply),
    }
}

/// Says why, and what the new process has printed.
fn failed(reply: &Reply) -> u8 {
    let printed = lines(&reply.body["output"]);
    let end = if printed.is_empty() || printed.ends_with('\n') { "" } else { "\n" };
    eprint!("{printed}{end}");
    eprintln!("wardgate: {}", lines(&reply.body["error"]).trim_end());
    if reply.status == StatusCode::UNPROCESSABLE_ENTITY {
        eprintln!("not upgraded: {} goes on serving", process(&reply.body["serving"]));
        return FAULTY;
    }
    FAILED
}

/// A text of several lines without what would move the cursor.
fn lines(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default().chars();
    text.map(|char| if char.is_control() && char != '\n' { '?' } else { char }).collect()
}

fn process(value: &Value) -> String {
    format!("{} (process {})", plain(&value["version"]), value["pid"])
}

fn absolute(binary: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(binary)
        .with_context(|| format!("cannot find out where {} is", binary.display()))?;
    path.to_str().map(ToOwned::to_owned).context("the program's path is no text")
}

/// `90s`, `2m`.
fn patience(text: &str) -> Result<Duration, String> {
    let seconds = match text.strip_suffix('s') {
        Some(seconds) => seconds.parse().ok(),
        None => text.strip_suffix('m').and_then(|it| it.parse::<u64>().ok()?.checked_mul(60)),
    };
    seconds
        .filter(|seconds| (1..=LONGEST.as_secs()).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "a time between 1s and 10m is wanted, such as 90s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("2m", 120), ("10m", 600)] {
            assert_eq!(patience(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in
            ["", "s", "60", "0s", "601s", "11m", "1h", "-1s", "1.5s", "99999999999999999999m"]
        {
            assert!(patience(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_another_program_prints_moves_no_cursor() {
        assert_eq!(lines(&json!("a\nb\u{1b}[2J\r\n")), "a\nb?[2J?\n");
    }
}
