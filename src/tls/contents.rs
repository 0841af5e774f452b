//! What a file holds that should hold a certificate or a key, in words for its owner.

use std::fmt;

/// What a file holds where a certificate or a key was expected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Contents {
    /// No byte.
    Nothing,
    /// Sections with these labels.
    Sections(Vec<String>),
    /// A key under a passphrase.
    EncryptedKey,
    /// ASN.1 without PEM's armour: a certificate or key in DER, or PKCS#12 (`.pfx`, `.p12`).
    Der,
    /// Text in two-byte letters, as PowerShell's redirection writes it.
    Utf16,
    /// None of these.
    Unknown,
}

impl Contents {
    /// Looks at the labels of PEM sections, else at the first bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        const DER_SEQUENCE: u8 = 0x30;
        let labels = labels(bytes);
        let encrypted = labels.iter().any(|label| label.starts_with("ENCRYPTED"))
            || bytes.windows(19).any(|window| window == b"Proc-Type: 4,ENCRYP");
        match bytes.first() {
            _ if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") => Self::Utf16,
            _ if encrypted => Self::EncryptedKey,
            _ if !labels.is_empty() => Self::Sections(labels),
            None => Self::Nothing,
            Some(&DER_SEQUENCE) => Self::Der,
            Some(_) => Self::Unknown,
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Sections(labels) => write!(f, "{}", labels.join(", ")),
            Self::EncryptedKey => f.write_str(
                "a key under a passphrase (take it off with `openssl pkey -in FILE -out FILE`)",
            ),
            Self::Der => f.write_str(
                "binary data, DER or PKCS#12 (convert it with `openssl x509 -inform der` or `openssl pkcs12 -nodes`)",
            ),
            Self::Utf16 => f.write_str("text in UTF-16 (save it as UTF-8)"),
            Self::Unknown => f.write_str("something else"),
        }
    }
}

/// The labels of the PEM sections, each once, at most eight and none longer than 40 bytes:
/// they end up in a message.
fn labels(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let label = line
            .trim_ascii()
            .strip_prefix(b"-----BEGIN ")
            .and_then(|rest| rest.strip_suffix(b"-----"))
            .filter(|label| {
                label.len() <= 40 && label.iter().all(|b| b.is_ascii_graphic() || *b == b' ')
            });
        let Some(label) = label else { continue };
        let label = String::from_utf8_lossy(label).into_owned();
        if found.len() < 8 && !found.contains(&label) {
            found.push(label);
        }
    }
    found
}
