//! A server's URL: scheme, host and port, and nothing else.
//!
//! Answers "which server is this, and how is it spoken to?" for `servers:` and for a URL that stands
//! where a pool's name may. Never resolves a name.

use std::net::Ipv6Addr;

use super::diagnostic::quoted;
use super::reading::{Reading, shown};
use super::tree::Scalar;
use super::upstream::Server;
use crate::net::Host;

/// Reads `http://10.0.0.5:8080`, as a server of weight 1.
pub(super) fn read(scalar: &Scalar, reading: &mut Reading) -> Option<Server> {
    match parse(&scalar.text) {
        Ok(server) => Some(server),
        Err((message, hint)) => {
            let message = if message.is_empty() {
                format!("{} is not a server's URL", quoted(shown(scalar)))
            } else {
                message
            };
            let hint = if scalar.is_secret { String::new() } else { hint };
            reading.wrong(scalar, message, hint);
            None
        }
    }
}

/// The server, or a message, empty for "not a URL at all", and a hint.
fn parse(text: &str) -> Result<Server, (String, String)> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let hint = match Host::parse_authority(text) {
            Ok(_) => format!("write \"http://{text}\""),
            Err(_) => "such as \"http://10.0.0.5:8080\"".to_owned(),
        };
        return Err((String::new(), hint));
    };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        other => {
            let message = format!("{} is not a scheme of servers", quoted(scheme));
            return Err((message, hint_for_scheme(other, rest)));
        }
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !matches!(path, "" | "/") {
        let hint = match path.starts_with('/') {
            true if !path.contains(['?', '#']) => format!(
                "remove \"{path}\"; a route can add it: rewrite: {{ path: \"{}{{path}}\" }}",
                path.trim_end_matches('/')
            ),
            _ => format!("remove \"{path}\""),
        };
        return Err(("a server's URL has no path or query".to_owned(), hint));
    }
    if authority.contains('@') {
        let hint = "remove what stands before the @".to_owned();
        return Err(("a server's URL has no user name or password".to_owned(), hint));
    }
    match Host::parse_authority(authority) {
        Ok((_, Some(0))) => Err(("a server's port is 1 to 65535".to_owned(), String::new())),
        Ok((host, port)) => {
            let port = port.unwrap_or(if https { 443 } else { 80 });
            Ok(Server { url: text.to_owned(), https, host, port, weight: 1, backup: false })
        }
        Err(_) if authority.parse::<Ipv6Addr>().is_ok() => {
            Err((String::new(), format!("write \"{scheme}://{}\"", bracketed(authority))))
        }
        Err(error) => Err((String::new(), error.to_string())),
    }
}

fn hint_for_scheme(scheme: &str, rest: &str) -> String {
    match scheme {
        "ws" => format!("write \"http://{rest}\"; WebSockets pass as they are"),
        "wss" => format!("write \"https://{rest}\"; WebSockets pass as they are"),
        "h2c" | "grpc" => format!("write \"http://{rest}\" and `protocol: h2c`"),
        _ => "http:// or https://".to_owned(),
    }
}

/// An IPv6 address, perhaps with a port, in the brackets that it lacks.
fn bracketed(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        _ => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_scheme_host_and_port() {
        for (text, https, host, port) in [
            ("http://a", false, "a", 80),
            ("https://a/", true, "a", 443),
            ("HTTP://10.0.0.5:8080", false, "10.0.0.5", 8080),
            ("https://[::1]:8443", true, "[::1]", 8443),
        ] {
            let server = parse(text).unwrap();
            let found = (server.https, server.host.to_string(), server.port);
            assert_eq!(found, (https, host.to_owned(), port));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "a:1",
            "ftp://a",
            "http://",
            "http://a/b",
            "http://a?b",
            "http://a#b",
            "http://u:p@a",
            "http://a:0",
            "http://a:99999",
            "http://a b",
            "http://::1",
            "http://*",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
