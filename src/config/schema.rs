//! The JSON Schema of gateway.yaml, for editors.
//!
//! Answers "what may stand where?" from the same tables that the readers use. Called by
//! `wardgate schema`. Never stricter than the readers, and looser where only they can tell.

use serde_json::{Map, Value, json};

use super::grammar::ROOT;
use super::grammar_filter::FILTER;
use super::section::{Absent, Key, Scalar, Section, Shape};

/// The schema, in the dialect of 2020-12.
#[must_use]
pub fn json() -> Value {
    let mut schema = section(&ROOT);
    if let Value::Object(object) = &mut schema {
        let dialect = "https://json-schema.org/draft/2020-12/schema";
        object.insert("$schema".to_owned(), dialect.into());
        // It may stand in three places, each as a list or alone.
        object.insert("$defs".to_owned(), json!({ "filter": section(&FILTER) }));
    }
    schema
}

fn section(section: &Section) -> Value {
    let property = |found: &'static Key| (found.name.to_owned(), key(found));
    let properties: Map<String, Value> = section.supported().map(property).collect();
    let is_required = |key: &&Key| key.default == Absent::Required;
    let required: Vec<&str> = section.supported().filter(is_required).map(|key| key.name).collect();
    let mut schema = json!({
        "title": section.title,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if !section.one_of.is_empty() {
        let choice = |name: &&str| json!({ "required": [name] });
        schema["oneOf"] = section.one_of.iter().map(choice).collect();
    }
    schema
}

fn key(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    schema["description"] = key.doc.into();
    if let Absent::Text(default) = key.default {
        let is_number =
            matches!(default.parse::<u64>(), Ok(number) if number.to_string() == default);
        schema["default"] = match default {
            "true" => true.into(),
            "false" => false.into(),
            _ if is_number => default.parse::<u64>().unwrap_or_default().into(),
            _ => default.into(),
        };
    }
    schema
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::One(scalar) => self::scalar(*scalar),
        Shape::Choice(words, _) => {
            json!({ "enum": words.iter().flat_map(spellings).collect::<Vec<_>>() })
        }
        Shape::Count(min, max) => or_reference(json!({
            "type": "integer", "minimum": min, "maximum": max
        })),
        Shape::List(item) => {
            let item = self::shape(item);
            json!({ "anyOf": [{ "type": "array", "items": item, "minItems": 1 }, item] })
        }
        Shape::Section(section) if std::ptr::eq(*section, &FILTER) => {
            json!({ "$ref": "#/$defs/filter" })
        }
        Shape::Section(section) => or_nothing(section, self::section(section)),
        Shape::Named(section) => {
            let entry = or_nothing(section, self::section(section));
            json!({ "type": ["object", "null"], "additionalProperties": entry })
        }
        Shape::Values(value) => {
            json!({ "type": ["object", "null"], "additionalProperties": self::shape(value) })
        }
        Shape::Any(shapes) => {
            json!({ "anyOf": shapes.iter().map(self::shape).collect::<Vec<_>>() })
        }
        Shape::Later => json!(false),
    }
}

/// A section without required keys may be left empty: `limits:`.
fn or_nothing(section: &Section, mut schema: Value) -> Value {
    let needs_a_key = section.keys.iter().any(|key| key.default == Absent::Required);
    if !needs_a_key && section.one_of.is_empty() {
        schema["type"] = json!(["object", "null"]);
    }
    schema
}

/// A word as YAML may hand it to an editor: `1.2` is a number there unless it is quoted.
fn spellings(word: &&str) -> Vec<Value> {
    let mut spellings = vec![Value::from(*word)];
    if let Ok(number) = word.parse::<u64>() {
        spellings.push(number.into());
    } else if let Ok(number) = word.parse::<f64>() {
        spellings.push(number.into());
    }
    spellings
}

fn scalar(scalar: Scalar) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": format!("{pattern}|\\$\\{{") });
    match scalar {
        Scalar::Text => json!({ "type": ["string", "number", "boolean"] }),
        Scalar::Secret => json!({ "type": "string", "minLength": 1 }),
        Scalar::Duration => text("^[0-9]+(ms|s|m|h|d)$"),
        Scalar::Size => text("^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB|GB)$"),
        Scalar::Speed => text("^[0-9]+(B|KiB|MiB|GiB|kB|KB|MB|GB)/s$"),
        Scalar::Boolean => or_reference(json!({ "type": "boolean" })),
        Scalar::Address => text("^([0-9.]+|\\[[0-9A-Fa-f:.]+\\])?:[0-9]{1,5}$"),
        Scalar::Method => text("^[A-Z0-9!#$%&'*+.^_`|~-]+$"),
        Scalar::Block => text("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"),
        Scalar::PathPattern => text("^/"),
        Scalar::Target => text("^/"),
        Scalar::Percent => text("^[0-9]{1,3}%$"),
        Scalar::Rate => text("^[0-9]+/(s|min|h)$"),
        Scalar::RateKey => text("^(client_ip|(header|cookie):[^:]+)$"),
        Scalar::FieldName => text("^[A-Za-z0-9!#$%&'+.^_`|~-]+$"),
        Scalar::MediaType => text("^[^/*;]+/([^/*;]+|\\*)$"),
        Scalar::Statuses => json!({
            "type": ["string", "integer"],
            "minimum": 200,
            "maximum": 599,
            "pattern": "^ *[2-5][0-9]{2}(-[2-5][0-9]{2})?( *, *[2-5][0-9]{2}(-[2-5][0-9]{2})?)* *$|\\$\\{",
        }),
        Scalar::RetryStatus => json!({
            "type": ["string", "integer"],
            "minimum": 429,
            "maximum": 599,
            "pattern": "^(429|5[0-9]{2})$|\\$\\{",
        }),
        Scalar::Url => text("^[hH][tT][tT][pP][sS]?://"),
        Scalar::Regex => json!({ "type": "string", "format": "regex" }),
        Scalar::Path | Scalar::Storage | Scalar::HostPattern | Scalar::Template => {
            json!({ "type": "string", "minLength": 1 })
        }
    }
}

/// A value that may come from `${env:…}` or `${file:…}` instead.
fn or_reference(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{|^[0-9]+$|^(true|false)$" }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_key_is_described_and_no_other() {
        fn walk(section: &Section, schema: &Value) {
            for key in section.keys {
                let property = &schema["properties"][key.name];
                assert_eq!(property.is_null(), matches!(key.shape, Shape::Later), "{}", key.name);
                if !property.is_null() {
                    assert!(!property["description"].as_str().unwrap().is_empty(), "{}", key.name);
                }
                if let Shape::Section(inner) = &key.shape {
                    walk(inner, property);
                }
            }
        }
        walk(&ROOT, &json());
    }

    #[test]
    fn defaults_have_the_type_of_their_key() {
        let schema = json();
        let limits = &schema["properties"]["limits"]["properties"];
        assert_eq!(limits["connections"]["default"], 10_000);
        assert_eq!(limits["idle_timeout"]["default"], "75s");
    }
}
