//! What a person at a terminal is told once the gateway serves: where, and what to try next.
//!
//! Answers "and now?". Written by `app` and shown by `cli`, on terminals only: everything in it is in
//! the log as well, for those who read that. Never tells more than the configuration does.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::config::listener::Protocol;
use crate::config::route::Action;
use crate::config::site::{HttpsPolicy, Site, SiteCertificate};
use crate::net::{Host, HostPattern};

/// Sites that are listed; the others are counted.
const LISTED: usize = 8;

/// Time for a backend on this machine to accept a connection.
const LOOK: Duration = Duration::from_millis(200);

/// A gateway that serves.
#[derive(Debug)]
pub struct Greeting<'a> {
    pub(super) config: &'a Config,
    /// By listener, as bound.
    pub(super) ports: &'a HashMap<usize, u16>,
    /// As bound.
    pub(super) admin: Option<SocketAddr>,
}

/// How the gateway was started, so that commands are shown as they work here.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The program as it was called, such as `wardgate`.
    pub program: String,
    /// What its commands need to find the same file: empty, or the file with a space before it.
    /// `None` where there is no file.
    pub file: Option<String>,
}

impl Greeting<'_> {
    /// The text, of a few lines.
    #[must_use]
    pub fn text(&self, by: &Invocation) -> String {
        let sites = &self.config.sites;
        let mut rows: Vec<(String, String)> =
            sites.iter().take(LISTED).filter_map(|site| self.site(site)).collect();
        if sites.len() > LISTED {
            rows.push((format!("and {} more", sites.len() - LISTED), String::new()));
        }
        section("Wardgate is ready", &rows) + &section("Next", &self.next(by)) + "\n"
    }

    /// A site's URL and what answers there. `None` for a site that no listener serves.
    fn site(&self, site: &Site) -> Option<(String, String)> {
        let listener = self.listener_of(site, Protocol::Https);
        let (scheme, index) = match listener {
            Some(index) => ("https", index),
            None => ("http", self.listener_of(site, Protocol::Http)?),
        };
        let mut about = self.answerer(site);
        let plain = self.listener_of(site, Protocol::Http).and_then(|index| self.ports.get(&index));
        if let (Some(port), "https") = (plain, scheme) {
            about.push_str(&match site.https {
                HttpsPolicy::Redirect => format!("; http on port {port} redirects here"),
                HttpsPolicy::Both => format!("; http on port {port} as well"),
                HttpsPolicy::Only => String::new(),
            });
        }
        Some((self.url(scheme, index, site.patterns.first()?), about))
    }

    fn listener_of(&self, site: &Site, protocol: Protocol) -> Option<usize> {
        let mut listeners = site.listeners.iter().copied();
        listeners.find(|index| self.config.listeners[*index].protocol == protocol)
    }

    fn url(&self, scheme: &str, listener: usize, pattern: &HostPattern) -> String {
        let host = match pattern {
            HostPattern::Exact(Host::Address(address)) if address.is_ipv6() => {
                format!("[{address}]")
            }
            HostPattern::Any => "localhost".to_owned(),
            pattern => pattern.to_string(),
        };
        match (scheme, self.ports.get(&listener)) {
            ("https", Some(443)) | ("http", Some(80)) | (_, None) => format!("{scheme}://{host}/"),
            (_, Some(port)) => format!("{scheme}://{host}:{port}/"),
        }
    }

    /// What answers where no other route does.
    fn answerer(&self, site: &Site) -> String {
        let what = match site.routes.last().map(|route| &route.action) {
            Some(Action::Upstream(pool)) => format!("to {}", self.config.upstreams[*pool].name),
            Some(Action::Redirect(_)) => "redirects".to_owned(),
            Some(Action::Welcome) => "the built-in page".to_owned(),
            Some(Action::Respond(_)) | None => "a fixed answer".to_owned(),
        };
        match site.routes.len() {
            0 | 1 => what,
            2 => format!("{what}, and 1 more route"),
            count => format!("{what}, and {} more routes", count - 1),
        }
    }

    fn next(&self, by: &Invocation) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let program = &by.program;
        for address in self.silent_backends() {
            let command = format!("{program} demo-backend --bind {address}");
            rows.push((command, "in another terminal: nothing listens there yet".to_owned()));
        }
        if self.config.sites.iter().any(|site| site.certificate == SiteCertificate::Internal) {
            rows.push(match &by.file {
                Some(file) => {
                    let about = "how browsers come to trust the local CA";
                    (format!("{program} trust{file}"), about.to_owned())
                }
                None => {
                    let ca = self.config.storage.join("local-ca/ca.pem");
                    (ca.display().to_string(), "the local CA, for browsers to trust".to_owned())
                }
            });
        }
        if let Some(file) = &by.file {
            let about = "what is wrong with the file; a sound change is in force once saved";
            rows.push((format!("{program} check{file}"), about.to_owned()));
            if self.admin.is_some() {
                let about = "how sites, servers and certificates stand";
                rows.push((format!("{program} status{file}"), about.to_owned()));
            }
        }
        if let Some(admin) = self.admin {
            rows.push((
                format!("http://{admin}/metrics"),
                "for Prometheus; /ready for supervisors".into(),
            ));
        }
        rows.push(("Ctrl-C".into(), "finishes what is in flight, then ends".into()));
        rows
    }

    /// Addresses of backends on this machine where nobody accepts.
    fn silent_backends(&self) -> Vec<SocketAddr> {
        let servers = self.config.upstreams.iter().flat_map(|pool| &pool.servers);
        let local = servers.filter_map(|server| match &server.host {
            Host::Address(address) => Some(SocketAddr::new(*address, server.port)),
            Host::Name(name) if name.as_str() == "localhost" => {
                Some(SocketAddr::from(([127, 0, 0, 1], server.port)))
            }
            Host::Name(_) => None,
        });
        local
            .filter(|address| address.ip().is_loopback())
            .take(LISTED)
            .filter(|address| TcpStream::connect_timeout(address, LOOK).is_err())
            .collect()
    }
}

/// A heading, then two columns.
fn section(title: &str, rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    let mut text = format!("\n  {title}\n");
    for (left, right) in rows {
        let row = format!("    {left:width$}   {right}");
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn greeting(yaml: &str, ports: &[u16], admin: Option<&str>) -> String {
        let loaded = config::from_text("gateway.yaml", yaml, Path::new("")).unwrap();
        let ports = ports.iter().copied().enumerate().collect();
        let admin = admin.map(|address| address.parse().unwrap());
        let by = Invocation { program: "wardgate".into(), file: Some(" my.yaml".into()) };
        Greeting { config: &loaded.config, ports: &ports, admin }.text(&by)
    }

    #[test]
    fn without_a_file_no_command_asks_for_one() {
        let yaml = "sites: { app.test: { upstream: \"http://192.0.2.1\" } }\n";
        let loaded = config::from_text("the command line", yaml, Path::new("")).unwrap();
        let greeting = Greeting { config: &loaded.config, ports: &HashMap::new(), admin: None };
        let text = greeting.text(&Invocation { program: "wardgate".into(), file: None });
        assert!(!text.contains("wardgate"), "{text}");
        assert!(text.contains("ca.pem   the local CA, for browsers to trust"), "{text}");
    }

    #[test]
    fn a_person_is_told_every_url_and_what_to_do_next() {
        let yaml = r#"
listeners: { web: { bind: ":8080", protocol: http }, secure: { bind: ":8443", protocol: https } }
sites:
  localhost:
    routes: [ { match: { path: /a/* }, upstream: app }, { respond: welcome } ]
  app.test: { https: both, upstream: app }
  plain.test: { listeners: web, routes: [ { redirect: /a } ] }
  "[::1]": { https: only, routes: [ { respond: ok } ] }
upstreams: { app: { servers: "http://192.0.2.1:5000" } }
"#;
        let expected = "
  Wardgate is ready
    https://localhost:8443/   the built-in page, and 1 more route; http on port 8080 redirects here
    https://app.test:8443/    to app; http on port 8080 as well
    http://plain.test:8080/   redirects
    https://[::1]:8443/       a fixed answer

  Next
    wardgate trust my.yaml          how browsers come to trust the local CA
    wardgate check my.yaml          what is wrong with the file; a sound change is in force once saved
    wardgate status my.yaml         how sites, servers and certificates stand
    http://127.0.0.1:2019/metrics   for Prometheus; /ready for supervisors
    Ctrl-C                          finishes what is in flight, then ends

";
        assert_eq!(greeting(yaml, &[8080, 8443], Some("127.0.0.1:2019")), expected);
    }

    #[test]
    fn ports_of_the_scheme_are_left_out_and_many_sites_are_counted() {
        let mut yaml = "listeners: { web: { bind: \":80\", protocol: http } }\nsites:\n".to_owned();
        for site in 0..LISTED + 3 {
            yaml.push_str(&format!("  site-{site}.test: {{ routes: [ {{ respond: ok }} ] }}\n"));
        }
        let text = greeting(&yaml, &[80], None);
        assert!(
            text.contains("    http://site-7.test/   a fixed answer\n    and 3 more\n"),
            "{text}"
        );
        assert!(!text.contains("site-8") && !text.contains("trust"), "{text}");
    }

    #[test]
    fn a_backend_on_this_machine_that_is_not_there_is_pointed_out() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let yaml = format!(
            "listeners: {{ web: {{ bind: \":80\", protocol: http }} }}\n\
             sites: {{ app.test: {{ upstream: \"http://localhost:{}\" }} }}\n",
            address.port()
        );
        let hint = format!("wardgate demo-backend --bind {address}");
        assert!(!greeting(&yaml, &[80], None).contains(&hint));
        drop(socket);
        assert!(greeting(&yaml, &[80], None).contains(&hint));
    }
}
