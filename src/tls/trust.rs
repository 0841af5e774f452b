//! What `wardgate trust` prints: the local CA and how to install it on each system.

use std::path::Path;

use crate::tls::local_ca::LocalCa;

/// The CA's certificate, name, fingerprint and end, then instructions for each system, as text.
#[must_use]
pub fn instructions(ca: &LocalCa) -> String {
    let path = ca.certificate_path();
    let path = std::path::absolute(&path).unwrap_or(path);
    let about = format!(
        "{name}\n  file         {path}\n  SHA-256      {fingerprint}\n  valid until  {until}\n\n{pem}\n",
        name = ca.common_name(),
        path = path.display(),
        fingerprint = ca.fingerprint(),
        until = httpdate::fmt_http_date(ca.not_after()),
        pem = ca.pem().trim_end(),
    );
    about + CAUTION + &steps(&path, &ca.common_name())
}

const CAUTION: &str = "
Whoever trusts this CA believes every certificate made with its key, which is the file ca.key
beside it. Install it only on machines that should believe this gateway, and compare the
fingerprint there. It is made once per `storage:` folder and renews itself with the same key.
";

/// One paragraph per system; `{file}` and `{name}` stand for the CA's.
const STEPS: &str = "
Debian, Ubuntu
  sudo cp '{file}' /usr/local/share/ca-certificates/{slug}.crt
  sudo update-ca-certificates

Fedora, RHEL, Rocky, Alma
  sudo cp '{file}' /etc/pki/ca-trust/source/anchors/{slug}.crt
  sudo update-ca-trust

macOS
  sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain '{file}'

Windows (as Administrator)
  certutil -addstore Root \"{file}\"
  or in PowerShell:
  Import-Certificate -FilePath '{file}' -CertStoreLocation Cert:\\LocalMachine\\Root

Firefox
  On Windows and macOS it follows the system. Elsewhere: Settings, Privacy & Security,
  Certificates, View Certificates, Authorities, Import, and tick \"identify websites\".

Chrome and Chromium on Linux
  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n '{name}' -i '{file}'    (package libnss3-tools)

Programs with lists of their own
  curl       curl --cacert '{file}' https://...
  Node.js    NODE_EXTRA_CA_CERTS='{file}'
  Python     SSL_CERT_FILE='{file}'    requests: REQUESTS_CA_BUNDLE='{file}'
  Git        git config http.sslCAInfo '{file}'
  Java       keytool -importcert -cacerts -alias {slug} -file '{file}'

To take it back, remove it in the same place under the name \"{name}\".
";

fn steps(path: &Path, name: &str) -> String {
    let slug = name.to_ascii_lowercase().replace(' ', "-");
    STEPS
        .replace("{file}", &path.display().to_string())
        .replace("{name}", name)
        .replace("{slug}", &slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_file_the_fingerprint_and_every_system() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(dir.path(), std::time::SystemTime::now()).unwrap();
        let text = instructions(&ca);
        for wanted in [
            ca.certificate_path().to_str().unwrap(),
            &ca.fingerprint().to_string(),
            &ca.common_name(),
            "-----END CERTIFICATE-----",
            "Debian",
            "Fedora",
            "macOS",
            "certutil -addstore Root",
            "Import-Certificate",
            "Firefox",
            "NODE_EXTRA_CA_CERTS",
            "/wardgate-local-ca-",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains('{') && !text.contains("PRIVATE KEY"), "{text}");
    }
}
