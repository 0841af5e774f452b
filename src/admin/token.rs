//! The secret that proves a request to come from somebody who may read the gateway's state.
//!
//! Answers "may this request change something?". Made once under `storage:`, kept over restarts and
//! reloads, and made anew when it is missing or damaged. Never logged.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, digest, rand};

use crate::tls::private_dir::PrivateDir;

/// 256 bits cannot be guessed.
const BYTES: usize = 32;

/// The directory below `storage:`.
const DIRECTORY: &str = "admin";
const TOKEN: &str = "token";
const ADDRESS: &str = "address";

/// The secret that a request shows as `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token kept under `storage`, made if there is none or it is damaged.
    ///
    /// Blocks on files.
    ///
    /// # Errors
    /// When the directory or the file can be neither read nor made.
    pub fn open_or_create(storage: &Path) -> io::Result<Self> {
        let directory = PrivateDir::open(&storage.join(DIRECTORY))?;
        let lock = directory.lock()?;
        if let Some(token) = directory.read(TOKEN)?.as_deref().and_then(Self::parse) {
            directory.tighten(TOKEN)?;
            return Ok(token);
        }
        let token = Self::random()?;
        directory.write(&lock, TOKEN, format!("{}\n", token.0).as_bytes())?;
        Ok(token)
    }

    /// The token in the file at `path`, whatever its form: the operator may have chosen it.
    ///
    /// # Errors
    /// When the file cannot be read, is no text or holds nothing.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        match text.trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
            token => Ok(Self(token.to_owned())),
        }
    }

    /// Whether `offered` is the token, in a time that tells nothing about it.
    #[must_use]
    pub fn is(&self, offered: &str) -> bool {
        is_same(&self.0, offered)
    }

    /// What follows `Bearer `.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn random() -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_ascii();
        let is_whole = text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_whole.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Compares digests, so that neither content nor length shows in the time it takes.
pub(super) fn is_same(token: &str, offered: &str) -> bool {
    let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    let (token, offered) = (digest(token), digest(offered));
    constant_time::verify_slices_are_equal(token.as_ref(), offered.as_ref()).is_ok()
}

/// Where the token of a gateway with this `storage:` is.
#[must_use]
pub fn path(storage: &Path) -> PathBuf {
    storage.join(DIRECTORY).join(TOKEN)
}

/// Writes down where the admin listener is bound, beside the token, for those who know `storage`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_address(storage: &Path, address: SocketAddr) -> io::Result<()> {
    let directory = PrivateDir::open(&storage.join(DIRECTORY))?;
    let lock = directory.lock()?;
    directory.write(&lock, ADDRESS, format!("{address}\n").as_bytes())
}

/// What [`write_address`] wrote last; `None` when it cannot be read.
#[must_use]
pub fn read_address(storage: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(storage.join(DIRECTORY).join(ADDRESS)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_kept_and_made_anew_when_damaged() {
        let storage = tempfile::tempdir().unwrap();
        let first = Token::open_or_create(storage.path()).unwrap();
        assert_eq!(first.expose().len(), 64);
        let again = Token::open_or_create(storage.path()).unwrap();
        assert!(again.is(first.expose()), "kept");
        let cut = &first.expose()[..63];
        for damaged in ["", "\n", "short", cut, &"g".repeat(64)] {
            std::fs::write(path(storage.path()), damaged).unwrap();
            let token = Token::open_or_create(storage.path()).unwrap();
            assert!(!token.is(first.expose()), "{damaged}");
            assert!(token.is(Token::read(&path(storage.path())).unwrap().expose()), "{damaged}");
        }
        assert_eq!(format!("{first:?}"), "Token", "not even by mistake");
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Token("secret".to_owned());
        for (offered, wanted) in
            [("secret", true), ("secre", false), ("secrets", false), ("", false), ("Secret", false)]
        {
            assert_eq!(token.is(offered), wanted, "{offered}");
        }
    }

    #[test]
    fn the_address_is_read_back() {
        let storage = tempfile::tempdir().unwrap();
        assert_eq!(read_address(storage.path()), None);
        let address = "127.0.0.1:2019".parse().unwrap();
        write_address(storage.path(), address).unwrap();
        assert_eq!(read_address(storage.path()), Some(address));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;

        let storage = tempfile::tempdir().unwrap();
        let file = path(storage.path());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for _ in 0..2 {
            Token::open_or_create(storage.path()).unwrap();
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}
