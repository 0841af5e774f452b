//! The pages that the gateway itself shows: the one that says it works, and errors.
//!
//! Answers "what does a person see where no backend answers?". Called by `proxy`. Never shows where a
//! file lies, what failed inside, or what a backend said; never loads anything from elsewhere.

pub mod error_page;

mod template;

use std::net::IpAddr;

use self::template::{Html, fill};

/// `Content-Security-Policy` of every page here: they bring their style along and need nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What both kinds of page look like.
const STYLE: &str = include_str!("style.css");

/// What the built-in page says about the request that asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `Host` as the client wrote it, with its port where it is not the scheme's own.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Such as `HTTP/2`.
    pub protocol: &'a str,
    /// Such as `TLS 1.3`; `None` without.
    pub tls: Option<&'a str>,
    /// The listener's configured name.
    pub listener: &'a str,
    /// Who asks.
    pub client: IpAddr,
    /// Where the demo backend answers, such as `https://demo.localhost:8443`; `None` where it does not
    /// run.
    pub demo: Option<&'a str>,
}

/// The built-in page, "Wardgate works", as a whole HTML document in UTF-8.
#[must_use]
pub fn page(facts: &Facts<'_>) -> String {
    let origin = format!("{}://{}", facts.scheme, command_host(facts.host));
    let demo = facts.demo.map(|demo| {
        fill(include_str!("demo.html"), &[("demo", Html::text(demo.trim_end_matches('/')))])
    });
    let phrase = match facts.tls {
        Some(tls) => format!("encrypted with {tls}"),
        None => "not encrypted".to_owned(),
    };
    fill(
        include_str!("page.html"),
        &[
            ("style", Html::markup(STYLE)),
            ("host", Html::text(facts.host)),
            ("protocol", Html::text(facts.protocol)),
            ("tls_phrase", Html::text(&phrase)),
            ("tls", Html::text(facts.tls.unwrap_or("none"))),
            ("listener", Html::text(facts.listener)),
            ("client", Html::text(&facts.client.to_canonical().to_string())),
            ("version", Html::text(env!("CARGO_PKG_VERSION"))),
            ("demo", Html::markup(demo.as_deref().unwrap_or(""))),
            ("origin", Html::text(&origin)),
        ],
    )
}

/// A host for commands that people paste into a shell: the one asked for, unless it holds anything that
/// a shell might read as more than a name.
fn command_host(host: &str) -> &str {
    let is_harmless =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    let is_option = host.starts_with('-');
    if !host.is_empty() && !is_option && host.bytes().all(is_harmless) { host } else { "localhost" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            host: "localhost:8443",
            scheme: "https",
            protocol: "HTTP/2",
            tls: Some("TLS 1.3"),
            listener: "secure",
            client: "127.0.0.1".parse().unwrap(),
            demo: Some("https://demo.localhost:8443/"),
        }
    }

    #[test]
    fn the_page_says_what_was_asked_and_what_to_try() {
        let page = page(&facts());
        for part in [
            "<strong>localhost:8443</strong>",
            "encrypted with TLS 1.3",
            "<dd>secure</dd>",
            "curl -k https://localhost:8443/\n",
            "curl -kN https://demo.localhost:8443/stream",
            "wardgate trust",
            "wardgate check gateway.yaml",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert!(!page.contains("{{"), "every slot is filled");
        for elsewhere in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn without_a_demo_or_tls_the_page_says_so() {
        let page = page(&Facts { demo: None, tls: None, scheme: "http", ..facts() });
        assert!(page.contains("not encrypted"));
        assert!(!page.contains("/stream"));
        assert!(page.contains("curl -k http://localhost:8443/"));
    }

    #[test]
    fn a_hostile_host_is_shown_as_text_and_never_as_a_command() {
        let host = "<script>alert(1)</script>{{client}}\";rm -rf ~'&";
        let page = page(&Facts { host, client: "::ffff:192.0.2.1".parse().unwrap(), ..facts() });
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;{{client}}&quot;;rm"));
        assert!(!page.contains("<script"));
        assert!(page.contains("curl -k https://localhost/\n"));
        assert!(page.contains("<dd>192.0.2.1</dd>"), "an IPv4 client is shown as one");
    }
}
