//! `wardgate certs export`: a certificate and its key, for a program that cannot ask the gateway.
//!
//! Reads what lies under `storage:`, whether a gateway runs or not: keys are never asked for over the
//! admin API.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{Place, load};
use crate::app::certs::{Exported, Local};
use crate::cli::print;
use crate::tls::pfx::{self, Encryption};

/// What goes where.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// A site, or one of its hosts
    name: String,
    /// Where the chain goes, PEM
    #[arg(long, value_name = "FILE", requires = "key", required_unless_present = "pfx")]
    chain: Option<PathBuf>,
    /// Where the key goes, PEM; for the owner only
    #[arg(long, value_name = "FILE", requires = "chain")]
    key: Option<PathBuf>,
    /// Where both go in one PKCS#12 file, as Windows and Java take it
    #[arg(long, value_name = "FILE", requires = "password_file", conflicts_with = "chain")]
    pfx: Option<PathBuf>,
    /// The first line of this file is the password of the PKCS#12 file
    #[arg(long, value_name = "FILE", requires = "pfx")]
    password_file: Option<PathBuf>,
    /// Encrypt it so that Windows before 2019 can read it
    #[arg(long, requires = "pfx")]
    legacy: bool,
    /// An older one, by its number in `certs show`
    #[arg(long, value_name = "N")]
    generation: Option<u32>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// `wardgate certs export`.
pub(super) fn perform(place: &Place, wanted: &Export) -> anyhow::Result<u8> {
    let loaded = match load(place.config.as_deref())? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let local = Local::open(&loaded.config)
        .with_context(|| format!("cannot use {}", loaded.config.storage.display()))?;
    let found = local.export(&wanted.name, wanted.generation).map_err(anyhow::Error::msg)?;
    match (&wanted.chain, &wanted.key, &wanted.pfx) {
        (Some(chain), Some(key), _) if chain == key => bail!("chain and key go to two files"),
        (Some(chain), Some(key), _) => {
            let files = [(key, &found.key_pem), (chain, &found.chain_pem)];
            let files = files.map(|(path, text)| (path.as_path(), text.as_bytes()));
            write_all(&files, wanted.force)?;
            let (chain, key) = (chain.display(), key.display());
            print(&format!("{}: chain in {chain}, key in {key}\n", found.name))
        }
        (_, _, Some(path)) => {
            let password = password(wanted.password_file.as_deref())?;
            let encryption = if wanted.legacy { Encryption::Legacy } else { Encryption::Modern };
            let Exported { name, chain_pem, key_pem } = &found;
            let file = pfx::write(chain_pem, key_pem, &password, name, encryption)?;
            write_all(&[(path, &file)], wanted.force)?;
            print(&format!("{name}: chain and key in {}\n", path.display()))
        }
        _ => bail!("say where to: --chain and --key, or --pfx"),
    }
}

/// The first line of a file; no password without one.
pub(super) fn password(file: Option<&Path>) -> anyhow::Result<String> {
    let Some(file) = file else { return Ok(String::new()) };
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Writes files that only their owner may read; none unless all can be.
fn write_all(files: &[(&Path, &[u8])], may_replace: bool) -> anyhow::Result<()> {
    if let Some((path, _)) = files.iter().find(|(path, _)| !may_replace && path.exists()) {
        bail!("{} exists; --force replaces it", path.display());
    }
    let mut made: Vec<PathBuf> = Vec::new();
    let outcome = files.iter().try_for_each(|(path, bytes)| {
        let beside = beside(path);
        // What an earlier try has left.
        let _ = fs::remove_file(&beside);
        made.push(beside.clone());
        create(&beside, bytes).with_context(|| format!("cannot write {}", path.display()))
    });
    let outcome = outcome.and_then(|()| {
        made.iter().zip(files).try_for_each(|(beside, (path, _))| {
            fs::rename(beside, path).with_context(|| format!("cannot write {}", path.display()))
        })
    });
    if outcome.is_err() {
        for beside in made {
            let _ = fs::remove_file(beside);
        }
    }
    outcome
}

/// A name in the same directory, so that the file is there whole or not at all.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_only_by_force_and_never_by_half() {
        let directory = tempfile::tempdir().unwrap();
        let (key, chain) = (directory.path().join("key"), directory.path().join("chain"));
        let files = |text: &'static [u8]| [(key.as_path(), text), (chain.as_path(), text)];
        write_all(&files(b"one"), false).unwrap();
        let refused = write_all(&files(b"two"), false).unwrap_err().to_string();
        assert!(refused.ends_with("key exists; --force replaces it"), "{refused}");
        write_all(&files(b"two"), true).unwrap();
        assert_eq!(fs::read(&key).unwrap(), b"two");
        let nowhere = directory.path().join("no/where");
        write_all(&[(&key, b"three"), (&nowhere, b"three")], true).unwrap_err();
        assert_eq!(fs::read(&key).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no litter");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
