//! `wardgate certs`: certificates and the account they are ordered with, looked at and acted on.
//!
//! Asks the running gateway, whose renewer does the work under its locks. Where none runs, what lies
//! under `storage:` answers as far as it can.

mod check;
mod export;
mod import;
mod text;

use std::io::{BufRead as _, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{ANSWER, Contact, Where};
use super::{FAILED, load, print};
use crate::acme::revocation::Reason;
use crate::admin::certs::Question;
use crate::app::certs::Local;

/// What stands below the list of commands.
const AFTER_HELP: &str = "\
NAME is a site, any of its hosts, or an entry under `certificates:`.

Exit status:
  0  done, or begun; nothing to do
  1  it did not work
  2  the configuration or the command line has faults; for check: something is in the way
  3  a rate limit of the authority stands against it, until the time that is printed
  4  it is blocked: somebody has to change something first
  5  another process or order is at it";

const LIMITED: u8 = 3;
const BLOCKED: u8 = 4;
const BUSY: u8 = 5;

/// Longest wait for orders that were asked for: each takes ten minutes at most, and four run at once.
const PATIENCE: Duration = Duration::from_secs(6 * 60 * 60);

/// `wardgate certs`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Certs {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which gateway is meant.
#[derive(Debug, Args)]
struct Place {
    /// The file the gateway runs with. Default: gateway.yaml here, else the system's
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask at this address, whatever the file says
    #[arg(long, global = true, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Read the admin token from this file, whatever the configuration says
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every certificate: its names, its end, what happens next and what went wrong
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one
    Show {
        /// A site, one of its hosts, or an entry under `certificates:`
        name: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Print the records that have to stay in the DNS for dns-persist-01, and look for them
    DnsPersist {
        /// A site, or one of its hosts
        name: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Look for what stands in the way of one: names, ports, CAA, clock, permissions. Orders nothing
    Check(check::Arguments),
    /// Order one anew, or all, now
    Renew {
        /// A site, or one of its hosts
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// All that an authority issues
        #[arg(long)]
        all: bool,
        /// Though it is young or was issued often. The authority's limits stay
        #[arg(long)]
        force: bool,
        /// Only try it out, at Let's Encrypt's staging authority: nothing is kept or served
        #[arg(long, conflicts_with_all = ["all", "force"])]
        staging: bool,
        /// Wait for the outcome
        #[arg(long)]
        wait: bool,
    },
    /// Revoke the one in service; a new one is ordered
    Revoke {
        /// A site, or one of its hosts
        name: String,
        /// Why, in the words of RFC 5280
        #[arg(long, value_parser = PossibleValuesParser::new(Reason::names()), ignore_case = true)]
        reason: String,
        /// Have a new one first, serve it, and then revoke the old one
        #[arg(long)]
        reissue: bool,
        /// Do not ask whether it is meant
        #[arg(long)]
        yes: bool,
    },
    /// Put an older generation in service again
    Restore {
        /// A site, or one of its hosts
        name: String,
        /// Its number, as `certs show` lists it
        #[arg(long, value_name = "N")]
        generation: u32,
    },
    /// Serve a certificate of your own in the place of an ordered one
    Import(import::Import),
    /// Write the chain and the key in service to files, for another program
    Export(export::Export),
    /// The account that certificates are ordered with
    #[command(subcommand)]
    Account(AccountCommand),
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Show it, and what the authority says of it
    Show {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Give it a new key
    Rollover {
        /// Which, where there are several: letsencrypt, a host or a directory's URL
        #[arg(long, value_name = "AUTHORITY")]
        authority: Option<String>,
    },
    /// End it, for good: nothing is ordered with it any more
    Deactivate {
        /// Which, where there are several: letsencrypt, a host or a directory's URL
        #[arg(long, value_name = "AUTHORITY")]
        authority: Option<String>,
        /// Do not ask whether it is meant
        #[arg(long)]
        yes: bool,
    },
}

/// What was answered.
struct Said {
    is_success: bool,
    body: Value,
}

/// `wardgate certs`.
pub(super) fn perform(certs: Certs) -> anyhow::Result<u8> {
    let Certs { place, command } = certs;
    match command {
        Command::List { json } => show(&place, &Question::List, json, text::list),
        Command::Show { name, json } => show(&place, &Question::Show(name), json, text::whole),
        Command::DnsPersist { name, json } => {
            show(&place, &Question::DnsPersist(name), json, text::lasting)
        }
        Command::Check(arguments) => check::perform(&arguments, &place),
        Command::Renew { name, all: _, force, staging, wait } => {
            let patience = if wait || staging { PATIENCE } else { ANSWER };
            let arguments = json!({ "force": force, "staging": staging, "wait": wait });
            act(&place, &Question::Renew(name), &arguments, patience)
        }
        Command::Revoke { name, reason, reissue, yes } => {
            let what = format!(
                "Revoke the certificate of {name}? Clients that look will refuse it for good."
            );
            if !yes && !is_meant(&what)? {
                return Ok(FAILED);
            }
            let arguments = json!({ "reason": reason, "reissue": reissue });
            act(&place, &Question::Revoke(name), &arguments, PATIENCE)
        }
        Command::Restore { name, generation } => {
            let arguments = json!({ "generation": generation });
            act(&place, &Question::Restore(name), &arguments, ANSWER)
        }
        Command::Import(wanted) => import::perform(&place, &wanted),
        Command::Export(wanted) => export::perform(&place, &wanted),
        Command::Account(command) => account(&place, command),
    }
}

fn account(place: &Place, command: AccountCommand) -> anyhow::Result<u8> {
    let which = |authority: Option<String>| match authority {
        Some(authority) => json!({ "authority": authority }),
        None => json!({}),
    };
    match command {
        AccountCommand::Show { json } => show(place, &Question::Account, json, text::accounts),
        AccountCommand::Rollover { authority } => {
            act(place, &Question::Rollover, &which(authority), ANSWER)
        }
        AccountCommand::Deactivate { authority, yes } => {
            let what = "Deactivate the account? It ends for good, and nothing is ordered any more \
                        until another is made.";
            if !yes && !is_meant(what)? {
                return Ok(FAILED);
            }
            act(place, &Question::Deactivate, &which(authority), ANSWER)
        }
    }
}

/// Asks a person whether `what` is meant.
fn is_meant(what: &str) -> anyhow::Result<bool> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        bail!("nobody can be asked whether it is meant; say so with --yes");
    }
    eprint!("{what} [y/N] ");
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    let is_meant = matches!(answer.trim(), "y" | "Y" | "yes");
    if !is_meant {
        eprintln!("nothing was done");
    }
    Ok(is_meant)
}

/// Prints what is known.
fn show(
    place: &Place,
    question: &Question,
    as_json: bool,
    text: impl Fn(&Value) -> String,
) -> anyhow::Result<u8> {
    let said = match ask(place, question, &json!({}), ANSWER)? {
        Ok(said) => said,
        Err(code) => return Ok(code),
    };
    match said.body["error"].as_str() {
        Some(error) if !said.is_success => bail!("{}", text::harmless(error)),
        _ if as_json => print(&format!("{:#}\n", said.body)),
        _ => print(&text(&said.body)),
    }
}

/// Has something done, and prints what became of it.
fn act(
    place: &Place,
    question: &Question,
    arguments: &Value,
    patience: Duration,
) -> anyhow::Result<u8> {
    let said = match ask(place, question, arguments, patience)? {
        Ok(said) => said,
        Err(code) => return Ok(code),
    };
    let results = match said.body["results"].as_array() {
        Some(results) => results.as_slice(),
        None => std::slice::from_ref(&said.body),
    };
    if results.is_empty() {
        return print("no authority issues any certificate of this configuration\n");
    }
    let mut worst = 0;
    for result in results {
        let code = code(result);
        worst = graver(worst, code);
        match result["outcome"].as_str() {
            Some(_) if code == 0 => {
                print(&text::outcome(result))?;
            }
            Some(_) => eprint!("{}", text::outcome(result)),
            None => bail!("{}", text::harmless(result["error"].as_str().unwrap_or_default())),
        }
    }
    Ok(worst)
}

/// The exit status for one outcome.
fn code(result: &Value) -> u8 {
    match result["outcome"].as_str() {
        None | Some("failed" | "unsaved") => FAILED,
        Some("limited") => LIMITED,
        Some("blocked") => BLOCKED,
        Some("busy") => BUSY,
        Some(_) => 0,
    }
}

/// Of several outcomes, the one that needs somebody most.
fn graver(one: u8, other: u8) -> u8 {
    let rank = |code| [0, BUSY, LIMITED, BLOCKED, FAILED].iter().position(|it| *it == code);
    if rank(other) > rank(one) { other } else { one }
}

/// What the gateway says, or what lies under `storage:` where none runs; or the exit status when
/// the file has faults.
fn ask(
    place: &Place,
    question: &Question,
    arguments: &Value,
    patience: Duration,
) -> anyhow::Result<Result<Said, u8>> {
    let wanted = Where::new(&place.config, place.admin, &place.token_file);
    let contact = Contact::find(&wanted);
    match &contact {
        Ok(contact) if contact.is_there() => {
            return Ok(Ok(from_gateway(contact, question, arguments, patience)?));
        }
        Ok(contact) if place.admin.is_some() => bail!("{}", contact.unanswered()),
        _ => {}
    }
    let loaded = match load(place.config.as_deref())? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(Err(code)),
    };
    let local = Local::open(&loaded.config).with_context(|| {
        let shown = loaded.config.storage.display();
        format!("no gateway runs that could be asked, and {shown} cannot be used")
    })?;
    let Some(reply) = local.answer(question, arguments.clone()) else {
        return Err(match contact {
            Ok(contact) => {
                anyhow::anyhow!("{}; only a running one does this", contact.unanswered())
            }
            Err(error) => error.context("only a running gateway does this"),
        });
    };
    eprintln!("no gateway runs; this is what lies under {}", loaded.config.storage.display());
    Ok(Ok(Said { is_success: reply.status.is_success(), body: reply.body }))
}

fn from_gateway(
    contact: &Contact,
    question: &Question,
    arguments: &Value,
    patience: Duration,
) -> anyhow::Result<Said> {
    let reply = if question.is_change() {
        contact.change(&question.path(), arguments, patience)?
    } else {
        contact.look(&question.path())?
    };
    if !reply.body.is_object() {
        contact.refused(&reply)?;
    }
    Ok(Said { is_success: reply.status.is_success(), body: reply.body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_outcomes_the_one_that_needs_somebody_most_counts() {
        let worst = |outcomes: &[&str]| {
            let codes = outcomes.iter().map(|it| code(&json!({ "outcome": it })));
            codes.fold(0, graver)
        };
        for (outcomes, wanted) in [
            (&["renewed", "early", "begun"][..], 0),
            (&["renewed", "busy"], BUSY),
            (&["limited", "busy"], LIMITED),
            (&["limited", "blocked", "busy"], BLOCKED),
            (&["failed", "blocked"], FAILED),
            (&["unsaved"], FAILED),
        ] {
            assert_eq!(worst(outcomes), wanted, "{outcomes:?}");
        }
        assert_eq!(code(&json!({ "error": "no such site" })), FAILED);
    }
}
