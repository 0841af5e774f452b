//! `wardgate certs import`: a certificate of an operator's in the place of an ordered one.
//!
//! Writes below `storage:` itself, under the certificate's lock: keys never go over the admin API. A
//! running gateway is told, and serves it at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::check::text;
use super::export::password;
use super::{BUSY, Place, load};
use crate::acme::import::{Files, ImportError};
use crate::admin::timestamp;
use crate::app::certs::{BringError, Imported, Local};
use crate::cli::ask::{ANSWER, Contact, Where};
use crate::cli::status::moment;
use crate::cli::{FAILED, print};

/// What is brought.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// A site, or one of its hosts
    name: String,
    /// The chain, PEM, in any order
    #[arg(long, value_name = "FILE", requires = "key")]
    chain: Option<PathBuf>,
    /// The key, PEM; may be in the same file
    #[arg(long, value_name = "FILE", requires = "chain")]
    key: Option<PathBuf>,
    /// Both in one PKCS#12 file (.pfx, .p12)
    #[arg(long, value_name = "FILE", conflicts_with = "chain")]
    pfx: Option<PathBuf>,
    /// The first line of this file is the password of the PKCS#12 file
    #[arg(long, value_name = "FILE", requires = "pfx")]
    password_file: Option<PathBuf>,
    /// Take away what was imported: what the authority issues is served again
    #[arg(long, conflicts_with_all = ["chain", "pfx"])]
    remove: bool,
    /// Print the findings for programs
    #[arg(long, conflicts_with = "remove")]
    json: bool,
}

/// `wardgate certs import`.
pub(super) fn perform(place: &Place, wanted: &Import) -> anyhow::Result<u8> {
    let loaded = match load(place.config.as_deref())? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let local = Local::open(&loaded.config)
        .with_context(|| format!("cannot use {}", loaded.config.storage.display()))?;
    let name = &wanted.name;
    if wanted.remove {
        return match local.remove_import(name) {
            Ok(true) => print(&format!("{name}: taken away; {}\n", tell(place, "takes note"))),
            Ok(false) => bail!("nothing was imported for {name}"),
            Err(error) => refused(error),
        };
    }
    let imported = match (&wanted.chain, &wanted.key, &wanted.pfx) {
        (Some(chain), Some(key), _) => {
            let (chain, key) = (read(chain)?, read(key)?);
            local.import(name, Files::Pem { chain: &chain, key: &key })
        }
        (_, _, Some(file)) => {
            let (file, password) = (read(file)?, password(wanted.password_file.as_deref())?);
            local.import(name, Files::Pfx { file: &file, password: &password })
        }
        _ => bail!("say what: --chain and --key, --pfx, or --remove"),
    };
    match imported {
        Ok(imported) => show(place, &imported, wanted.json),
        Err(error) => refused(error),
    }
}

fn show(place: &Place, imported: &Imported, as_json: bool) -> anyhow::Result<u8> {
    let until = imported.until.map_or(Value::Null, timestamp);
    if as_json {
        let told = json!({
            "name": imported.name,
            "generation": imported.number,
            "served_until": until,
            "findings": imported.findings,
        });
        print(&format!("{told:#}\n"))?;
    } else {
        print(&text(&imported.findings))?;
    }
    if imported.number.is_none() {
        eprintln!("{}: not imported", imported.name);
        return Ok(FAILED);
    }
    let told = tell(place, "serves it");
    if !as_json {
        print(&format!("{}: imported, until {}; {told}\n", imported.name, moment(&until)))?;
    }
    Ok(0)
}

fn refused(error: BringError) -> anyhow::Result<u8> {
    if let BringError::Import(ImportError::Busy(_)) = error {
        eprintln!("wardgate: {error}");
        return Ok(BUSY);
    }
    Err(error.into())
}

/// Has a running gateway look at once. It looks by itself as well, within seconds.
fn tell(place: &Place, what: &str) -> String {
    let wanted = Where::new(&place.config, place.admin, &place.token_file);
    let Some(contact) = Contact::find(&wanted).ok().filter(Contact::is_there) else {
        return "no gateway runs".to_owned();
    };
    match contact.change("/reload", &Value::Null, ANSWER) {
        Ok(reply) if reply.status.is_success() => format!("the gateway {what}"),
        _ => format!("the gateway {what} within seconds"),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
