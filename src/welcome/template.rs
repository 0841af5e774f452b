//! HTML with slots. Text becomes [`Html`] by being escaped, and only [`Html`] goes into a slot.

use std::borrow::Cow;

/// A piece of HTML that may go into a page as it is.
pub(super) struct Html<'a>(Cow<'a, str>);

impl<'a> Html<'a> {
    /// What a peer or an operator wrote, safe in an element and in a quoted attribute. Control
    /// characters, which HTML forbids, become U+FFFD.
    pub(super) fn text(text: &'a str) -> Self {
        let is_special =
            |char: char| matches!(char, '&' | '<' | '>' | '"' | '\'') || char.is_control();
        if !text.contains(is_special) {
            return Self(text.into());
        }
        let mut html = String::with_capacity(text.len() + 32);
        for char in text.chars() {
            match char {
                '&' => html.push_str("&amp;"),
                '<' => html.push_str("&lt;"),
                '>' => html.push_str("&gt;"),
                '"' => html.push_str("&quot;"),
                '\'' => html.push_str("&#39;"),
                _ if char.is_control() => html.push(char::REPLACEMENT_CHARACTER),
                _ => html.push(char),
            }
        }
        Self(html.into())
    }

    /// Markup of ours, or what [`fill`] returned.
    pub(super) fn markup(html: &'a str) -> Self {
        Self(html.into())
    }
}

/// Puts each value where `{{name}}` stands in `template`. A value is not searched for slots. A slot
/// without a value stays empty.
pub(super) fn fill(template: &str, values: &[(&str, Html<'_>)]) -> String {
    let room: usize = values.iter().map(|(_, value)| value.0.len()).sum();
    let mut out = String::with_capacity(template.len() + room);
    let mut rest = template;
    while let Some((before, slot)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, after)) = slot.split_once("}}") else {
            rest = slot;
            break;
        };
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
            out.push_str(&value.0);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element_or_attribute() {
        let table = [
            ("plain", "plain"),
            ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#39;"),
            ("a\0b\x1b\n", "a\u{fffd}b\u{fffd}\u{fffd}"),
            ("grüß", "grüß"),
        ];
        for (text, expected) in table {
            assert_eq!(Html::text(text).0, expected);
        }
    }

    #[test]
    fn values_fill_their_slots_and_are_not_searched() {
        let values = [("a", Html::text("{{b}}")), ("b", Html::markup("<i>"))];
        assert_eq!(fill("x{{a}}y{{b}}z{{c}}!", &values), "x{{b}}y<i>z!");
        assert_eq!(fill("{{a", &[]), "a");
    }
}
