//! `GET /status` for people: lines of at most 80 columns.

use std::fmt::Write as _;

use serde_json::Value;

const WIDTH: usize = 80;

/// Rows of one section; the others are counted.
const LISTED: usize = 40;

/// The text for what the gateway answered.
pub(super) fn text(status: &Value) -> String {
    let mut out = format!(
        "Wardgate {}, {} for {}, generation {}{}\n",
        plain(&status["version"]),
        plain(&status["state"]),
        span(status["uptime_seconds"].as_u64().unwrap_or_default()),
        status["generation"],
        status["pid"].as_u64().map(|pid| format!(", process {pid}")).unwrap_or_default(),
    );
    let _ = writeln!(
        out,
        "  {} connections, {} requests in flight",
        status["connections"], status["requests_in_flight"]
    );
    out += &shortage(status);
    out += &health(status);
    out += &last_reload(&status["last_reload"]);
    let listeners = rows(status, "listeners", |listener| {
        vec![plain(&listener["name"]), plain(&listener["protocol"]), list(&listener["addresses"])]
    });
    out += &section("Listeners", listeners);
    let sites = rows(status, "sites", site);
    out += &section("Sites", sites);
    for pool in status["pools"].as_array().into_iter().flatten() {
        out += &section(&pool_title(pool), rows(pool, "servers", server));
    }
    let certificates = rows(status, "certificates", |certificate| {
        let hosts = list(&certificate["hosts"]);
        vec![days(certificate), plain(&certificate["name"]), hosts]
    });
    out += &section("Certificates", certificates);
    let lists = rows(status, "revocation_lists", |list| {
        vec![days(list), plain(&list["issuer"]), plain(&list["file"])]
    });
    out += &section("Revocation lists", lists);
    out += &orders(status);
    out
}

/// What the process is short of, and what follows.
fn shortage(status: &Value) -> String {
    let mut out = String::new();
    let memory = &status["memory"];
    let mebibytes = |value: &Value| value.as_u64().unwrap_or_default() >> 20;
    let (used, limit) = (mebibytes(&memory["bytes"]), mebibytes(&memory["limit"]));
    let what = match memory["level"].as_str() {
        Some("shedding") => "requests get 503",
        Some("refusing") => "requests get 503, connections are refused",
        _ => "",
    };
    if !what.is_empty() {
        let _ = writeln!(out, "  short of memory, {used} of {limit} MiB: {what}");
    }
    if status["descriptors_short"] == true {
        out.push_str("  short of descriptors: idle connections are closed\n");
    }
    out
}

/// Certificates that are not as they should be.
fn orders(status: &Value) -> String {
    let all = status["orders"].as_array().map(Vec::as_slice).unwrap_or_default();
    let open: Vec<&Value> = all.iter().filter(|order| order["state"] != "active").collect();
    let row = |order: &&Value| {
        let mut about = Vec::new();
        if order["problem"].is_string() {
            about.push(plain(&order["problem"]));
        }
        match order["next_at"].as_str() {
            Some(_) if order["state"] == "imported" => {
                about.push(format!("ordered from {}", moment(&order["next_at"])));
            }
            Some(_) => about.push(format!("next try {}", moment(&order["next_at"]))),
            None => about.push("waits for a change".to_owned()),
        }
        vec![plain(&order["name"]), plain(&order["state"]), about.join(", ")]
    };
    section("Orders", (open.len(), open.iter().take(LISTED).map(row).collect()))
}

fn last_reload(last: &Value) -> String {
    let Some(outcome) = last["outcome"].as_str() else { return String::new() };
    let mut out =
        format!("  last reload {outcome}, {} ({})\n", moment(&last["at"]), plain(&last["reason"]));
    let said = last["faults"].as_str().or_else(|| last["warnings"].as_str()).unwrap_or_default();
    for line in said.lines() {
        let line: String = line.chars().filter(|char| !char.is_control()).collect();
        let _ = writeln!(out, "    {line}");
    }
    out
}

fn site(site: &Value) -> Vec<String> {
    let name = plain(&site["name"]);
    let certificate = match site["certificate"].as_str() {
        None => "no certificate".to_owned(),
        Some(found) if found.starts_with("internal:") => "local CA".to_owned(),
        Some(found) if found.starts_with("acme:") => "ACME".to_owned(),
        Some(_) => format!("certificate {}", plain(&site["certificate"])),
    };
    let hosts = site["hosts"].as_array().into_iter().flatten().map(plain);
    let aliases: Vec<String> = hosts.filter(|host| *host != name).collect();
    let also = if aliases.is_empty() { "" } else { "also " };
    vec![name, certificate, format!("{also}{}", aliases.join(", "))]
}

fn pool_title(pool: &Value) -> String {
    let (name, servers) = (plain(&pool["name"]), pool["servers"].as_array());
    let servers = servers.map(Vec::as_slice).unwrap_or_default();
    if pool["checked"] != true {
        return format!("Pool {name}, not checked");
    }
    let healthy = servers.iter().filter(|server| server["health"] == "healthy").count();
    format!("Pool {name}, {healthy} of {} healthy", servers.len())
}

fn server(server: &Value) -> Vec<String> {
    let (url, address) = (plain(&server["url"]), plain(&server["address"]));
    let place = match server["address"].as_str() {
        None => format!("{url} (no address)"),
        Some(_) if url.contains(&address) => url,
        Some(_) => format!("{url} ({address})"),
    };
    let is_well = server["health"] == "healthy";
    let mut about = Vec::new();
    if let (Some(_), false) = (server["why"].as_str(), is_well) {
        about.push(plain(&server["why"]));
    }
    if let (Some(_), false) = (server["since"].as_str(), is_well) {
        about.push(format!("since {}", moment(&server["since"])));
    }
    about.push(format!("{} in flight", server["in_flight"]));
    if server["backup"] == true {
        about.push("backup".to_owned());
    }
    vec![place, plain(&server["health"]), about.join(", ")]
}

/// A line where certificates are not as they should be, and one where revocation lists are not.
fn health(status: &Value) -> String {
    let lists = "refusing clients once over";
    unwell(status, "certificates", "certificates", "served all the same")
        + &unwell(status, "revocation_lists", "revocation lists", lists)
}

/// How many of those at `key` are not as they should be, and what follows.
fn unwell(status: &Value, key: &str, name: &str, follows: &str) -> String {
    let all = status[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |word: &str| all.iter().filter(|it| it["health"] == word).count();
    let counts = [("failing", count("failing")), ("degraded", count("degraded"))];
    let told = counts.iter().filter(|(_, count)| *count > 0);
    let told: Vec<String> = told.map(|(word, count)| format!("{count} {word}")).collect();
    match told.as_slice() {
        [] => String::new(),
        told => format!("  {name}: {}, {follows}\n", told.join(", ")),
    }
}

fn days(certificate: &Value) -> String {
    if certificate["stand_in"] == true {
        return "stand-in".to_owned();
    }
    let left = match certificate["days_left"].as_i64() {
        Some(1) => "1 day left".to_owned(),
        Some(days @ 0..) => format!("{days} days left"),
        Some(_) => return "expired".to_owned(),
        None => "no end".to_owned(),
    };
    match certificate["health"].as_str() {
        Some(health @ ("degraded" | "failing")) => format!("{left}, {health}"),
        _ => left,
    }
}

fn rows(
    value: &Value,
    key: &str,
    row: impl Fn(&Value) -> Vec<String>,
) -> (usize, Vec<Vec<String>>) {
    let all = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
    (all.len(), all.iter().take(LISTED).map(row).collect())
}

/// A title and aligned rows below it. What the last cell has no room for goes on below it.
pub(super) fn section(title: &str, (count, rows): (usize, Vec<Vec<String>>)) -> String {
    if count == 0 {
        return String::new();
    }
    let columns = rows.first().map_or(0, |row| row.len() - 1);
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    // One long name must not push the others' last cells off the screen.
    let widths: Vec<usize> =
        (0..columns).map(|column| longest(column).unwrap_or(0).min(44)).collect();
    let mut out = format!("\n{title}\n");
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, " {cell:<width$} ");
        }
        let indent = 2 + widths.iter().map(|width| width + 2).sum::<usize>();
        wrap(&mut out, line, &row[columns], indent);
    }
    if count > rows.len() {
        let _ = writeln!(out, "  and {} more: --json lists all", count - rows.len());
    }
    out
}

/// Puts the words of `text` after `line`, and below at `indent` what finds no room.
pub(super) fn wrap(out: &mut String, mut line: String, text: &str, indent: usize) {
    for word in text.split(' ') {
        let is_begun = !line.trim().is_empty();
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent.min(WIDTH / 2) - 1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

/// A text without what would move the cursor: some of it comes from servers.
pub(super) fn plain(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default().chars();
    text.map(|char| if char.is_control() { '?' } else { char }).collect()
}

fn list(value: &Value) -> String {
    let items = value.as_array().into_iter().flatten().map(plain);
    items.collect::<Vec<_>>().join(", ")
}

/// `2026-07-01 12:00:00 UTC` for RFC 3339.
pub(super) fn moment(value: &Value) -> String {
    plain(value).replace('T', " ").replace('Z', " UTC")
}

/// The two largest units of a span.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_sees_what_is_wrong_within_eighty_columns() {
        let status = json!({
            "version": "1.2.3", "pid": 4711, "state": "running", "uptime_seconds": 11_525, "generation": 4,
            "connections": 12, "requests_in_flight": 3,
            "last_reload": {
                "outcome": "rejected", "generation": 4, "at": "2026-07-01T12:00:00Z",
                "reason": "file", "faults": "gateway.yaml:3:5: \"upstraem\" is no key\n",
            },
            "listeners": [
                { "name": "web", "protocol": "http", "addresses": ["0.0.0.0:80", "[::]:80"] },
                { "name": "secure", "protocol": "https", "addresses": ["0.0.0.0:443"] },
            ],
            "sites": [
                { "name": "shop.example.com", "hosts": ["shop.example.com", "www.shop.example.com"], "certificate": "shop" },
                { "name": "plain.test", "hosts": ["plain.test"], "certificate": null },
            ],
            "pools": [
                { "name": "web", "checked": true, "in_flight": 3, "servers": [
                    { "url": "http://10.0.0.6:8080", "address": "10.0.0.6:8080", "health": "healthy", "why": "old", "since": "2026-07-01T11:00:00Z", "in_flight": 3, "weight": 1, "backup": false },
                    { "url": "http://web.internal:80", "address": "10.0.0.7:80", "health": "unhealthy", "why": "answered 500\u{1b}[2J where 200-299 was wanted", "since": "2026-07-01T11:58:00Z", "in_flight": 0, "weight": 1, "backup": true },
                ]},
                { "name": "http://localhost:1", "checked": false, "in_flight": 0, "servers": [
                    { "url": "http://localhost:1", "address": null, "health": "unknown", "why": null, "since": null, "in_flight": 0, "weight": 1, "backup": false },
                ]},
            ],
            "certificates": [
                { "name": "shop", "hosts": ["shop.example.com", "www.shop.example.com"], "days_left": 1, "health": "failing" },
                { "name": "old", "hosts": ["old.example.com"], "days_left": -3, "health": "failing" },
                { "name": "acme:new.example.com", "hosts": ["new.example.com"], "days_left": 59, "health": "degraded", "stand_in": true },
                { "name": "well", "hosts": ["well.example.com"], "days_left": 59, "health": "good", "stand_in": false },
            ],
            "revocation_lists": [
                { "file": "/etc/wardgate/staff.crl", "issuer": "CN=Staff,O=Example", "days_left": 0, "health": "degraded" },
                { "file": "/etc/wardgate/old.crl", "issuer": "CN=Old", "days_left": -1, "health": "failing" },
            ],
        });
        let wanted = "\
Wardgate 1.2.3, running for 3 h 12 min, generation 4, process 4711
  12 connections, 3 requests in flight
  certificates: 2 failing, 1 degraded, served all the same
  revocation lists: 1 failing, 1 degraded, refusing clients once over
  last reload rejected, 2026-07-01 12:00:00 UTC (file)
    gateway.yaml:3:5: \"upstraem\" is no key

Listeners
  web     http   0.0.0.0:80, [::]:80
  secure  https  0.0.0.0:443

Sites
  shop.example.com  certificate shop  also www.shop.example.com
  plain.test        no certificate

Pool web, 1 of 2 healthy
  http://10.0.0.6:8080                  healthy    3 in flight
  http://web.internal:80 (10.0.0.7:80)  unhealthy  answered 500?[2J where
                                        200-299 was wanted, since 2026-07-01
                                        11:58:00 UTC, 0 in flight, backup

Pool http://localhost:1, not checked
  http://localhost:1 (no address)  unknown  0 in flight

Certificates
  1 day left, failing  shop                  shop.example.com,
                                        www.shop.example.com
  expired              old                   old.example.com
  stand-in             acme:new.example.com  new.example.com
  59 days left         well                  well.example.com

Revocation lists
  0 days left, degraded  CN=Staff,O=Example  /etc/wardgate/staff.crl
  expired                CN=Old              /etc/wardgate/old.crl
";
        let seen = text(&status);
        assert_eq!(seen, wanted, "{seen}");
        assert!(seen.lines().all(|line| line.chars().count() <= WIDTH), "{seen}");
    }

    #[test]
    fn orders_are_told_while_they_are_not_done() {
        let order = |name: &str, state: &str, problem: Option<&str>, next: Option<&str>| json!({ "name": name, "state": state, "fails": 2, "problem": problem, "next_at": next });
        let next = Some("2026-07-01T12:10:00Z");
        let seen = text(&json!({
            "sites": [{ "name": "a.test", "hosts": ["a.test"], "certificate": "acme:a.test" }],
            "orders": [
                order("a.test", "active", None, Some("2026-09-01T12:00:00Z")),
                order("b.test", "backoff", Some("no route to b.test"), next),
                order("c.test", "blocked", Some("visit a page"), None),
            ],
        }));
        let wanted = "
Sites
  a.test  ACME

Orders
  b.test  backoff  no route to b.test, next try 2026-07-01 12:10:00 UTC
  c.test  blocked  visit a page, waits for a change
";
        assert!(seen.ends_with(wanted), "{seen}");
    }

    #[test]
    fn a_shortage_is_shown_as_long_as_it_lasts() {
        let seen = text(&json!({
            "memory": { "bytes": 950 << 20, "limit": 1 << 30, "level": "shedding" },
            "descriptors_short": true,
        }));
        let wanted = "  short of memory, 950 of 1024 MiB: requests get 503
  short of descriptors: idle connections are closed
";
        assert!(seen.contains(wanted), "{seen}");
        let seen = text(&json!({ "memory": { "bytes": 9, "limit": null, "level": "ease" } }));
        assert!(!seen.contains("short"), "{seen}");
    }

    #[test]
    fn many_sites_are_counted() {
        let site = json!({ "name": "a", "hosts": ["a"], "certificate": null });
        let seen = text(&json!({ "sites": vec![site; 50] }));
        assert!(seen.contains("and 10 more: --json lists all"), "{seen}");
    }
}
