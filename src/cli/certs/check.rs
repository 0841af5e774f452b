//! `wardgate certs check`: why an order would fail, as a list.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::Args;
use serde_json::json;

use super::Place;
use crate::acme::check::{Gateway, Means, Subject, check};
use crate::acme::finding::{Finding, Verdict, has_fault};
use crate::cli::ask::{self, Where};
use crate::cli::{FAULTY, load, print, status};

/// What is checked, and how.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A site, or one of its hosts
    name: String,
    /// Ask this DNS server for names, instead of whom the system asks
    #[arg(long, value_name = "IP:PORT")]
    dns_server: Vec<SocketAddr>,
    /// Print the findings for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn perform(arguments: &Arguments, place: &Place) -> anyhow::Result<u8> {
    let loaded = match load(place.config.as_deref())? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let (mut findings, subject) = Subject::of(&loaded.config, &arguments.name);
    if let Some(subject) = subject {
        let hosts: Vec<String> = subject.hosts().map(ToString::to_string).collect();
        let gateway =
            match ask::probe(&Where::new(&place.config, place.admin, &place.token_file), &hosts) {
                Ok(shown) => Gateway::Shows(shown),
                Err(error) => Gateway::Silent(format!("{error:#}")),
            };
        let means = Means { dns: arguments.dns_server.clone(), gateway, ..Means::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        findings.extend(runtime.block_on(check(&loaded.config, &subject, &means)));
        runtime.shutdown_background();
    }
    if arguments.json {
        let told = json!({
            "name": arguments.name,
            "faults": count(&findings, Verdict::Fault),
            "warnings": count(&findings, Verdict::Warning),
            "findings": findings,
        });
        print(&format!("{told:#}\n"))?;
    } else {
        print(&text(&findings))?;
    }
    Ok(if has_fault(&findings) { FAULTY } else { 0 })
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

/// The list for people: lines of at most 80 columns.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut names: Vec<&str> = findings.iter().filter_map(|it| it.name.as_deref()).collect();
    names.dedup();
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let indent = "warning".len() + width + 4;
    let mut out = String::new();
    for finding in findings {
        let begin = format!("{:<7}  {:<width$} ", finding.verdict, finding.what);
        let text = match &finding.name {
            Some(name) if names.len() > 1 => format!("{name}: {}", finding.text),
            _ => finding.text.clone(),
        };
        status::wrap(&mut out, begin, &plain(&text), indent);
        if let Some(hint) = &finding.hint {
            let begin = " ".repeat(indent - 1);
            status::wrap(&mut out, begin, &plain(&format!("-> {hint}")), indent + 3);
        }
    }
    let (faults, warnings) = (count(findings, Verdict::Fault), count(findings, Verdict::Warning));
    let summary = match (faults, warnings) {
        (0, 0) => "nothing is in the way, as far as can be seen from here".to_owned(),
        (0, _) => format!("nothing is certainly in the way; warnings: {warnings}"),
        (_, 0) => format!("in the way: {faults}"),
        _ => format!("in the way: {faults}; warnings: {warnings}"),
    };
    let _ = write!(out, "\n{summary}\n");
    out
}

/// Without what would move the cursor: some of it comes from servers.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_a_list_within_80_columns() {
        let findings = [
            Finding::ok(
                "configuration",
                "the certificate of site app.example.com is ordered from https://acme-v02.api.letsencrypt.org/directory",
            ),
            Finding::fault("dns", "the name does not exist")
                .hint("add an A record with the address that clients reach this machine by")
                .of("a.example.com"),
            Finding::warning("port 80", "evil\u{1b}[2J").of("b.example.com"),
        ];
        let wanted = "\
ok       configuration  the certificate of site app.example.com is ordered from
                        https://acme-v02.api.letsencrypt.org/directory
fault    dns            a.example.com: the name does not exist
                        -> add an A record with the address that clients reach
                           this machine by
warning  port 80        b.example.com: evil?[2J

in the way: 1; warnings: 1
";
        assert_eq!(text(&findings), wanted);
    }
}
