//! Certificates for people: lines of at most 80 columns.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::status::{moment, plain, section, wrap};

/// `certs list`.
pub(super) fn list(answer: &Value) -> String {
    let all = answer["certificates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        return "no certificates\n".to_owned();
    }
    let widest = |cell: fn(&Value) -> String, most: usize| {
        all.iter().map(|one| cell(one).chars().count()).filter(|width| *width <= most).max()
    };
    let (name, from) = (widest(name, 34).unwrap_or(0), widest(issuer, 24).unwrap_or(0));
    all.iter().map(|one| entry(one, name, from)).collect()
}

fn name(one: &Value) -> String {
    plain(&one["name"])
}

/// A certificate in a line, and below it what else there is to say. Names that are too long for
/// their column have a line of their own.
fn entry(one: &Value, name_width: usize, from_width: usize) -> String {
    let mut out = String::new();
    let mut name = name(one);
    if name.chars().count() > name_width {
        let _ = writeln!(out, "{name}");
        name.clear();
    }
    let left = match one["percent_left"].as_u64() {
        Some(percent) => format!("{percent:>3} %"),
        None => "  -  ".to_owned(),
    };
    let line = format!("{name:<name_width$}  {:<from_width$}  {left}", issuer(one));
    wrap(&mut out, line, &validity_in_short(one), 4);
    for text in about(one) {
        wrap(&mut out, " ".repeat(3), &text, 4);
    }
    out
}

fn validity_in_short(one: &Value) -> String {
    let day = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
    match one["not_after"].as_str() {
        Some(_) if one["state"] == "expired" => {
            format!(" ended {}", day(moment(&one["not_after"])))
        }
        Some(_) => format!(" ends {}", day(moment(&one["not_after"]))),
        None => " no certificate yet".to_owned(),
    }
}

fn issuer(one: &Value) -> String {
    match one["source"].as_str() {
        Some("files") => "files".to_owned(),
        Some("imported") => "imported".to_owned(),
        Some("local_ca") => "local CA".to_owned(),
        _ => match one["profile"].as_str() {
            Some(_) => format!("{} ({})", plain(&one["authority"]), plain(&one["profile"])),
            None => plain(&one["authority"]),
        },
    }
}

/// What else there is to say in a list, a line each.
fn about(one: &Value) -> Vec<String> {
    let mut about = Vec::new();
    let others = others(one);
    if !others.is_empty() {
        about.push(format!("for {}", others.join(", ")));
    }
    let state = one["state"].as_str().unwrap_or_default();
    let is_told = matches!(state, "active" | "expired" | "missing" | "imported");
    let state = (!is_told).then(|| state.to_owned());
    let next = [state, next(one)].into_iter().flatten().collect::<Vec<_>>();
    if !next.is_empty() {
        about.push(next.join(", "));
    }
    let problem = plain(&one["problem"]);
    about.extend(match one["fails"].as_u64().unwrap_or_default() {
        0 if problem.is_empty() => None,
        0 => Some(problem),
        1 => Some(format!("failed: {problem}")),
        fails => Some(format!("failed {fails} times: {problem}")),
    });
    about
}

/// When it is ordered next.
fn next(one: &Value) -> Option<String> {
    match (one["source"].as_str(), one["next_at"].as_str(), one["state"].as_str()) {
        (Some("files"), ..) => None,
        (_, Some(_), _) => {
            Some(format!("next {}{}", moment(&one["next_at"]), because(&one["why"])))
        }
        (Some("acme"), None, Some("blocked")) => Some("waits for a change".to_owned()),
        _ => None,
    }
}

fn because(why: &Value) -> String {
    let words = match why.as_str() {
        None => return String::new(),
        Some("missing") => "there is none yet",
        Some("revoked") => "it is revoked or recalled",
        Some("expired") => "it has ended",
        Some("emergency") => "it is about to end",
        Some("ari") => "the authority wishes so",
        Some("backstop") => "by rule",
        Some("names_changed") => "its names have changed",
        Some("profile_changed") => "its profile has changed",
        Some("authority_changed") => "its authority has changed",
        Some("requested") => "asked for",
        Some("import_ends") => "the imported one makes way",
        Some(other) => other,
    };
    format!(" ({words})")
}

/// The names beside its own, with the form that people write where that is another.
fn others(one: &Value) -> Vec<String> {
    let own = one["name"].as_str().unwrap_or_default();
    let names = one["names"].as_array().into_iter().flatten();
    let unicode = one["names_unicode"].as_array().into_iter().flatten();
    let both = names.map(plain).zip(unicode.map(plain));
    both.filter(|(name, unicode)| name != own || name != unicode)
        .map(|(name, unicode)| match name == unicode {
            true => name,
            false => format!("{unicode} ({name})"),
        })
        .collect()
}

/// `certs show`.
pub(super) fn whole(one: &Value) -> String {
    let mut out = format!("{}\n", plain(&one["name"]));
    let mut line = |key: &str, text: String| {
        if !text.is_empty() {
            wrap(&mut out, format!("  {key:<11}"), &text, 14);
        }
    };
    line("issued by", issuer(one));
    line("directory", plain(&one["directory"]));
    let others = others(one);
    line("names", if others.is_empty() { String::new() } else { names(one) });
    line("state", state(one));
    line("valid", validity(one));
    line(
        "next",
        next(one).map(|text| text.trim_start_matches("next ").to_owned()).unwrap_or_default(),
    );
    line("held back", held_back(one));
    line("problem", problem(one));
    let leaf = &one["certificate"];
    line("signed by", plain(&leaf["issuer"]));
    line("serial", plain(&leaf["serial"]));
    line("SHA-256", plain(&leaf["fingerprint"]).replace(':', " "));
    for (key, path) in [("chain", "chain"), ("key", "key"), ("kept in", "directory_path")] {
        // A path is copied, and must not be cut.
        if one[path].is_string() {
            let _ = writeln!(out, "  {key:<11} {}", plain(&one[path]));
        }
    }
    out += &renewal_info(&one["renewal_info"]);
    out += &generations(one);
    out += &history(one);
    out
}

/// `certs dns-persist`. The records stand in lines of their own, however long, to be copied.
pub(super) fn lasting(answer: &Value) -> String {
    let mut out = String::new();
    let authorities = answer["authorities"].as_array().map(Vec::as_slice).unwrap_or_default();
    for authority in authorities {
        let _ = writeln!(out, "at {}:", plain(&authority["authority"]));
        let records = authority["records"].as_array().map(Vec::as_slice).unwrap_or_default();
        for record in records {
            let state = match record["state"].as_str() {
                Some("present") => "there".to_owned(),
                Some("missing") => format!("missing at {}", plain(&record["missing_at"])),
                _ => "the DNS does not say whether it is there".to_owned(),
            };
            let _ = writeln!(out, "{}", plain(&record["line"]));
            wrap(&mut out, " ".repeat(3), &state, 4);
        }
        if authority["problem"].is_string() {
            wrap(&mut out, " ".repeat(3), &plain(&authority["problem"]), 4);
        } else if records.is_empty() {
            out += "    addresses are not proven by the DNS\n";
        }
    }
    if answer["is_enabled"] == false {
        let text = "not used: `challenges` of `acme:` has no dns-persist-01";
        wrap(&mut out, String::new(), text, 4);
    }
    out
}

fn names(one: &Value) -> String {
    let own = one["names"].as_array().into_iter().flatten().map(plain);
    let unicode = one["names_unicode"].as_array().into_iter().flatten().map(plain);
    let both = own.zip(unicode).map(|(name, unicode)| match name == unicode {
        true => name,
        false => format!("{unicode} ({name})"),
    });
    both.collect::<Vec<_>>().join(", ")
}

fn state(one: &Value) -> String {
    match one["since"].as_str() {
        Some(_) => format!("{} since {}", plain(&one["state"]), moment(&one["since"])),
        None => plain(&one["state"]),
    }
}

fn validity(one: &Value) -> String {
    match one["percent_left"].as_u64() {
        Some(percent) => format!(
            "{} to {}, {percent} % left",
            moment(&one["not_before"]),
            moment(&one["not_after"])
        ),
        None => "there is no certificate yet".to_owned(),
    }
}

fn held_back(one: &Value) -> String {
    let mut about = Vec::new();
    if one["guard"].is_string() {
        about.push(held_back_by(&one["guard"]).to_owned());
    }
    if one["limited_until"].is_string() {
        about.push(format!("by a rate limit until {}", moment(&one["limited_until"])));
    }
    about.join(", ")
}

fn held_back_by(guard: &Value) -> &'static str {
    match guard.as_str() {
        Some("young") => "it is younger than a quarter of its life",
        _ => "its names were issued too often in seven days",
    }
}

fn problem(one: &Value) -> String {
    let last = &one["last_problem"];
    if !last["detail"].is_string() {
        return plain(&one["problem"]);
    }
    let fails = match one["fails"].as_u64().unwrap_or_default() {
        1 => "1 failure".to_owned(),
        fails => format!("{fails} failures"),
    };
    format!("{fails}, the last {}: {}", moment(&last["at"]), plain(&last["detail"]))
}

fn renewal_info(info: &Value) -> String {
    if !info.is_object() {
        return String::new();
    }
    let mut rows = Vec::new();
    if info["start"].is_string() {
        let window = format!("{} to {}", moment(&info["start"]), moment(&info["end"]));
        rows.push(vec!["window".to_owned(), window]);
        rows.push(vec!["picked".to_owned(), moment(&info["selected"])]);
    }
    if info["explanation_url"].is_string() {
        rows.push(vec!["why".to_owned(), plain(&info["explanation_url"])]);
    }
    let heard = match info["heard_at"].as_str() {
        Some(_) => moment(&info["heard_at"]),
        None => "no answer yet".to_owned(),
    };
    rows.push(vec!["answered".to_owned(), heard]);
    let errors = match info["errors"].as_u64().unwrap_or_default() {
        0 => String::new(),
        errors => format!(", after {errors} without an answer"),
    };
    rows.push(vec!["asked next".to_owned(), format!("{}{errors}", moment(&info["next_poll"]))]);
    section("The authority's wish (ARI)", (rows.len(), rows))
}

fn generations(one: &Value) -> String {
    let all = one["generations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |kept: &Value| {
        let number = kept["number"].as_u64().unwrap_or_default();
        let mark = if kept["current"] == true { "in service" } else { "" };
        let about = if kept["error"].is_string() {
            format!("cannot be served: {}", plain(&kept["error"]))
        } else {
            let why = plain(&kept["why"]).replace('_', " ");
            let (from, to) = (moment(&kept["not_before"]), moment(&kept["not_after"]));
            let why = if why.is_empty() { why } else { format!(", {why}") };
            format!("{from} to {to}{why}")
        };
        vec![format!("{number:06}"), mark.to_owned(), about]
    };
    section("Generations", (all.len(), all.iter().map(row).collect()))
}

fn history(one: &Value) -> String {
    let all = one["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |past: &Value| vec![moment(&past["at"]), plain(&past["why"]).replace('_', " ")];
    section("Issued in the last seven days", (all.len(), all.iter().rev().map(row).collect()))
}

/// `certs account show`.
pub(super) fn accounts(answer: &Value) -> String {
    let all = answer["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<String> = all.iter().map(account).collect();
    texts.join("\n")
}

fn account(one: &Value) -> String {
    let mut out = format!("{}\n", plain(&one["authority"]));
    let mut line = |key: &str, text: String| {
        if !text.is_empty() {
            wrap(&mut out, format!("  {key:<11}"), &text, 14);
        }
    };
    line("directory", plain(&one["directory"]));
    if !one["url"].is_string() {
        line("account", "none yet: the first order makes one".to_owned());
        return out;
    }
    line("account", plain(&one["url"]));
    line("status", plain(&one["status"]));
    line("problem", plain(&one["problem"]));
    line("made", moment(&one["made_at"]));
    line("deactivated", moment(&one["deactivated_at"]));
    line("email", plain(&one["email"]));
    line("bound to", plain(&one["external_account"]));
    line("key", plain(&one["thumbprint"]));
    // A path is copied, and must not be cut.
    let _ = writeln!(out, "  {:<11} {}", "kept in", plain(&one["path"]));
    if one["hint"].is_string() {
        wrap(&mut out, " ".to_owned(), &plain(&one["hint"]), 2);
    }
    out
}

/// What became of one certificate.
pub(super) fn outcome(result: &Value) -> String {
    let name = plain(&result["name"]);
    let until = || moment(&result["until"]);
    let error = || plain(&result["error"]);
    let mut text = match result["outcome"].as_str().unwrap_or_default() {
        "begun" => format!("{name}: begun; `wardgate certs show {name}` tells how it goes"),
        "early" if result["guard"] == "young" => format!(
            "{name}: not renewed, it is younger than a quarter of its life until {}; --force renews it all the same",
            until()
        ),
        "early" => format!(
            "{name}: not renewed, its names were issued too often in seven days, until {}; --force renews it all the same",
            until()
        ),
        "limited" => format!("{name}: limited until {}: {}", until(), error()),
        "blocked" => format!("{name}: blocked: {}", error()),
        "busy" => format!("{name}: busy: {}", error()),
        "unsaved" => format!("{name}: served, but it could not be saved: {}", error()),
        "failed" => format!("{name}: failed: {}", error()),
        done => format!("{name}: {done}"),
    };
    if result["link"].is_string() {
        let _ = write!(text, "; see {}", plain(&result["link"]));
    }
    if result["next_at"].is_string() {
        let word = if result["outcome"] == "failed" { "next try" } else { "next order" };
        let (at, why) = (moment(&result["next_at"]), because(&result["why"]));
        let _ = write!(text, "; {word} {at}{why}");
        if result["held_back"].is_string() {
            let guard = held_back_by(&result["held_back"]);
            let _ = write!(text, ", held back: {guard}; `certs renew --force` orders it now");
        }
    }
    if result["hint"].is_string() {
        let _ = write!(text, "; {}", plain(&result["hint"]));
    }
    text.push('\n');
    text
}

/// A text without what would move the cursor.
pub(super) fn harmless(text: &str) -> String {
    plain(&Value::from(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_tells_what_is_wrong_and_what_comes_next() {
        let one = |name: &str, more: Value| {
            let mut one = json!({
                "name": name, "source": "acme", "names": [name], "names_unicode": [name],
                "authority": "letsencrypt", "profile": null, "not_after": "2026-09-01T12:00:00Z",
                "percent_left": 66, "state": "active", "fails": 0, "problem": null,
                "next_at": "2026-08-01T12:00:00Z", "why": "ari",
            });
            for (key, value) in more.as_object().unwrap() {
                one[key] = value.clone();
            }
            one
        };
        let mut blocked = json!({ "not_after": null, "percent_left": null });
        blocked["state"] = "blocked".into();
        blocked["next_at"] = Value::Null;
        blocked["fails"] = 2.into();
        blocked["problem"] = "visit a page\u{1b}[2J".into();
        let long = "a-name-that-is-longer-than-its-column-may-ever-be.example.com";
        let seen = list(&json!({ "certificates": [
            one("a.test", json!({ "names": ["a.test", "xn--bcher-kva.test"], "names_unicode": ["a.test", "bücher.test"] })),
            one("b.test", blocked),
            one(long, json!({ "percent_left": 3, "state": "expired", "why": "expired" })),
            one("files.test", json!({ "source": "files", "next_at": null })),
        ] }));
        let wanted = "\
a.test      letsencrypt   66 %  ends 2026-09-01
    for bücher.test (xn--bcher-kva.test)
    next 2026-08-01 12:00:00 UTC (the authority wishes so)
b.test      letsencrypt    -    no certificate yet
    blocked, waits for a change
    failed 2 times: visit a page?[2J
a-name-that-is-longer-than-its-column-may-ever-be.example.com
            letsencrypt    3 %  ended 2026-09-01
    next 2026-08-01 12:00:00 UTC (it has ended)
files.test  files         66 %  ends 2026-09-01
";
        assert_eq!(seen, wanted, "{seen}");
    }

    #[test]
    fn an_outcome_is_a_line() {
        for (result, wanted) in [
            (
                json!({ "outcome": "renewed", "next_at": "2026-08-01T12:00:00Z", "why": "backstop" }),
                "a: renewed; next order 2026-08-01 12:00:00 UTC (by rule)\n",
            ),
            (
                json!({ "outcome": "limited", "until": "2026-08-01T12:00:00Z", "error": "too many" }),
                "a: limited until 2026-08-01 12:00:00 UTC: too many\n",
            ),
            (
                json!({ "outcome": "blocked", "error": "paused", "link": "https://x/" }),
                "a: blocked: paused; see https://x/\n",
            ),
            (
                json!({ "outcome": "failed", "error": "no", "next_at": "2026-08-01T12:00:00Z" }),
                "a: failed: no; next try 2026-08-01 12:00:00 UTC\n",
            ),
        ] {
            let mut result = result;
            result["name"] = "a".into();
            assert_eq!(outcome(&result), wanted);
        }
    }
}
