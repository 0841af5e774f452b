//! `client_auth:`: whether clients are asked for a certificate, and whose certificates count.
//!
//! Answers "which rule about client certificates holds here?" for listeners and sites. Never opens a
//! file: what is in them decides when they are loaded, and then it refuses the configuration.

use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::Span;
use super::grammar::CLIENT_AUTH;
use super::keys::Keys;
use super::listener::Protocol;
use super::reading::Reading;
use super::site::HttpsPolicy;
use super::tree::{Map, Node};
use super::value;

/// A rule about client certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientAuth {
    /// What becomes of clients without one. Default `require`.
    pub mode: ClientAuthMode,
    /// PEM file of the CAs whose certificates count.
    pub ca: PathBuf,
    /// PEM or DER files of revocation lists. Empty checks nothing for revocation.
    pub crl: Vec<PathBuf>,
    /// Line in the file where the rule starts, from 1.
    pub line: u32,
}

/// What becomes of clients without a certificate.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ClientAuthMode {
    /// They are served. One that shows a certificate that does not count is not.
    Request,
    /// The handshake fails.
    Require,
}

/// What a site says about client certificates.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum SiteClientAuth {
    /// Nothing: the rule of each of its listeners holds.
    #[default]
    Inherit,
    /// `off`: nobody is asked for one.
    Off,
    /// A rule of its own, on all its listeners.
    Own(Arc<ClientAuth>),
}

impl ClientAuth {
    /// Reads the section, or `off`, which is the inner `None`.
    #[expect(clippy::option_option, reason = "outer: whether it could be read; inner: the setting")]
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Option<Self>> {
        let hint = |_: &str| "write \"off\", or { ca: clients.pem, mode: require }".to_owned();
        value::map_or_off(node, hint, reading, Self::read_map)
    }

    fn read_map(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&CLIENT_AUTH, reading);
        let ca = keys.read("ca", value::path);
        let words = [("request", ClientAuthMode::Request), ("require", ClientAuthMode::Require)];
        let mode = keys.choice("mode", &words);
        let crl = keys.list("crl", value::path);
        keys.finish();
        Some(Self { mode: mode?, ca: ca?, crl, line: map.span.line })
    }

    /// Whether both mean the same, wherever they stand.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.mode, &self.ca, &self.crl) == (other.mode, &other.ca, &other.crl)
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.ca).chain(&self.crl)
    }
}

impl SiteClientAuth {
    /// Reads `client_auth:` of a site.
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let own = ClientAuth::read(node, reading)?;
        Some(own.map_or(Self::Off, |own| Self::Own(Arc::new(own))))
    }

    /// The site's own rule.
    #[must_use]
    pub fn own(&self) -> Option<&ClientAuth> {
        match self {
            Self::Own(own) => Some(own),
            Self::Inherit | Self::Off => None,
        }
    }
}

/// What is known of a listener that serves a site; `None` for one that could not be read.
pub(super) type Served = Option<(Protocol, Option<ClientAuthMode>)>;

/// Reports where a site's plain HTTP stands in the way of what its clients have to show.
pub(super) fn check_site(
    keys: &mut Keys<'_, '_>,
    own: Option<&SiteClientAuth>,
    https: Option<HttpsPolicy>,
    served: &[Served],
) {
    let is_known = !served.is_empty() && served.iter().all(Option::is_some);
    let speaks = |wanted: Protocol| move |it: &Served| it.is_some_and(|it| it.0 == wanted);
    let is_plain = is_known && !served.iter().any(speaks(Protocol::Https));
    if let (Some(span), true) = (keys.span_of("client_auth"), is_plain) {
        let hint = "none of its listeners speaks https";
        return match own {
            Some(SiteClientAuth::Own(_)) => {
                keys.reading.error_hint(span, "nobody can be asked for a certificate", hint);
            }
            _ => keys.reading.warning(span, "nobody is asked for a certificate anyway", hint),
        };
    }
    let is_open = https == Some(HttpsPolicy::Both) && served.iter().any(speaks(Protocol::Http));
    let (Some(span), Some(own), true) = (keys.span_of("https"), own, is_open) else { return };
    check_plain(own, span, served, keys.reading);
}

/// `https: both`, at `span`, on a site with a plain listener.
fn check_plain(own: &SiteClientAuth, span: Span, served: &[Served], reading: &mut Reading) {
    let is_required = |it: &Served| it.is_some_and(|it| it.1 == Some(ClientAuthMode::Require));
    match own {
        SiteClientAuth::Own(own) if own.mode == ClientAuthMode::Require => {
            let message = "over plain HTTP nobody shows the certificate that the site requires";
            reading.error_hint(span, message, "write `https: redirect`, or `https: only`");
        }
        SiteClientAuth::Inherit if served.iter().any(is_required) => {
            let message =
                "plain HTTP serves the site without the client certificate that https requires";
            reading.warning(span, message, "write `https: redirect`, or `https: only`");
        }
        _ => {}
    }
}
