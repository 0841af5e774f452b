//! Error answers for people and for programs.

use serde::Serialize;

use super::STYLE;
use super::template::{Html, fill};

/// Media type of [`json`] (RFC 9457 §6.1).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A whole HTML document. `title` is the status's phrase, `sentence` what the reader can do or know;
/// `request_id` may be empty, and then is not shown.
#[must_use]
pub fn html(status: u16, title: &str, sentence: &str, request_id: &str) -> String {
    let footer = if request_id.is_empty() {
        String::new()
    } else {
        fill(
            "<footer>Request <span class=\"mono\">{{id}}</span></footer>\n",
            &[("id", Html::text(request_id))],
        )
    };
    fill(
        include_str!("error.html"),
        &[
            ("style", Html::markup(STYLE)),
            ("status", Html::text(&status.to_string())),
            ("title", Html::text(title)),
            ("sentence", Html::text(sentence)),
            ("request_id", Html::markup(&footer)),
        ],
    )
}

/// Problem details (RFC 9457): `title`, `status`, `detail`, and our `request_id`, left out when empty.
/// Without a `type` the problem is the status itself (§4.2.1).
#[must_use]
pub fn json(status: u16, title: &str, sentence: &str, request_id: &str) -> String {
    let problem = Problem { title, status, detail: sentence, request_id };
    // Numbers and strings always have a spelling.
    serde_json::to_string(&problem).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_status_sentence_and_request_id() {
        let page = html(502, "Bad Gateway", "The service did not answer <properly>.", "01J&2ZX");
        for part in [
            "<title>502 Bad Gateway</title>",
            "<h1>Bad Gateway</h1>",
            "The service did not answer &lt;properly&gt;.",
            "<span class=\"mono\">01J&amp;2ZX</span>",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert!(!page.contains("{{"));
        assert!(!html(404, "Not Found", "Nothing is here.", "").contains("<footer>"));
    }

    #[test]
    fn a_program_reads_problem_details() {
        let text = json(404, "Not Found", "Nothing \"here\".", "01J2ZX");
        let expected = serde_json::json!({
            "title": "Not Found", "status": 404, "detail": "Nothing \"here\".", "request_id": "01J2ZX",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        assert!(!json(404, "Not Found", "Nothing is here.", "").contains("request_id"));
    }
}
