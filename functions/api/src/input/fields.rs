//! A JSON object as the raw texts of its fields. Each field is validated on its own, so that one
//! response can name every wrong field, and a payload keeps its bytes.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use shared::applications::endpoint::Given;

use crate::problem::{FieldErrors, Problem, ProblemKind};

/// Up to this value, an `f64` represents every integer exactly.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The fields of one object that are kept. Further fields are only counted.
const MAX_FIELDS: usize = 64;

/// The fields of an object, in the order of the text.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    /// The first [`MAX_FIELDS`].
    pub(crate) entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The total number.
    pub(crate) count: usize,
}

/// The elements of an array.
#[derive(Debug)]
pub(crate) struct Elements<'a, const MAX: usize> {
    /// The first `MAX`.
    pub(crate) items: Vec<&'a RawValue>,
    /// The total number.
    pub(crate) count: usize,
}

/// A string, borrowed if it contains no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Parses a whole body. The error names the place of a syntax error, or states what is `expected`.
pub(crate) fn parse<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    expected: &'static str,
) -> Result<T, Problem> {
    // UTF-8 is checked once for the whole body, so that no value is checked again.
    let text = std::str::from_utf8(body).map_err(|error| {
        let lines: Vec<&[u8]> = body[..error.valid_up_to()].split(|byte| *byte == b'\n').collect();
        malformed("it is not UTF-8", lines.len(), lines.last().map_or(0, |line| line.len()) + 1)
    })?;
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // Valid JSON can be something else than an object. serde_json reports a number out of range as
    // a syntax error. Half a surrogate pair in a name is valid grammar but has no meaning.
    let is_object = text.trim_start().starts_with('{');
    let syntax = match serde_json::from_str::<IgnoredAny>(text) {
        Err(syntax) => Some(syntax),
        Ok(_) if error.is_data() || !is_object => None,
        Ok(_) => Some(error),
    };
    Err(match syntax {
        Some(error) => malformed(
            if error.is_eof() { "unexpected end" } else { "syntax error" },
            error.line(),
            error.column(),
        ),
        None => Problem::about(ProblemKind::InvalidFields, "body", expected),
    })
}

fn malformed(fault: &str, line: usize, column: usize) -> Problem {
    Problem::new(
        ProblemKind::MalformedJson,
        format!("The body is not valid JSON: {fault} at line {line} column {column}."),
    )
}

/// The value of a string.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// The value, if it is a `T`.
pub(crate) fn value<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The field, unless it is null. Many clients send `null` for a field that they omit.
pub(crate) fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// A field that a change can remove. A value that `read` refuses adds an error, and counts as
/// absent.
pub(crate) fn optional<'a, T>(
    raw: Option<&'a RawValue>,
    field: &str,
    message: &'static str,
    field_errors: &mut FieldErrors,
    read: impl FnOnce(&'a RawValue) -> Option<T>,
) -> Given<T> {
    let Some(raw) = raw else { return Given::Absent };
    if raw.get() == "null" {
        return Given::Null;
    }
    read(raw).map_or_else(
        || {
            field_errors.add(field, message);
            Given::Absent
        },
        Given::Value,
    )
}

/// A non-negative integer. `5.0` is one too: JSON Schema, and languages with a single type of
/// numbers, do not distinguish it from `5`.
pub(crate) fn integer(raw: &RawValue) -> Option<u64> {
    let exact = |number: &f64| number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(number);
    value(raw).or_else(|| value(raw).filter(exact).map(|number: f64| number as u64))
}

/// The fields of a body that may be omitted or null.
pub(crate) fn parse_or_empty(body: &[u8]) -> Result<Fields<'_>, Problem> {
    let is_omitted = matches!(body.trim_ascii(), b"" | b"null");
    parse(if is_omitted { b"{}" } else { body }, "must be an object")
}

impl<'a> Fields<'a> {
    /// The fields of an object within the body. `None` if the value is not an object.
    pub(crate) fn of(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// The values of the `known` fields. An unknown field is an error, because a mistyped name must
    /// not be dropped silently. A repeated field is an error, because it is unclear which value is
    /// meant.
    pub(crate) fn pick<const N: usize>(
        &self,
        known: &[&str; N],
        prefix: &str,
        field_errors: &mut FieldErrors,
    ) -> [Option<&'a RawValue>; N] {
        let mut values = [None; N];
        for (name, raw) in &self.entries {
            match known.iter().position(|known| known == name) {
                Some(index) if values[index].is_some() => {
                    field_errors.add(&format!("{prefix}{name}"), "is repeated. Send it once.");
                }
                Some(index) => values[index] = Some(*raw),
                None => field_errors.add(
                    &format!("{prefix}{name}"),
                    format!("is not a known field. Expected one of {}.", known.join(", ")),
                ),
            }
        }
        values
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields { entries: Vec::with_capacity(8), count: 0 };
                while let Some(Text(name)) = map.next_key()? {
                    fields.count += 1;
                    if fields.entries.len() < MAX_FIELDS {
                        fields.entries.push((name, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Elements<'de, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array<const MAX: usize>;

        impl<'de, const MAX: usize> Visitor<'de> for Array<MAX> {
            type Value = Elements<'de, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Elements<'de, MAX>, A::Error> {
                let mut elements = Elements { items: Vec::new(), count: 0 };
                while elements.items.len() < MAX {
                    let Some(item) = seq.next_element()? else { return Ok(elements) };
                    elements.items.push(item);
                    elements.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    elements.count += 1;
                }
                Ok(elements)
            }
        }

        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &[u8]) -> Result<Fields<'_>, String> {
        parse(body, "must be an object").map_err(|problem| serde_json::to_string(&problem).unwrap())
    }

    #[test]
    fn a_value_keeps_its_bytes_and_a_name_loses_its_escapes() {
        let body = br#" { "a\u0062" : {"x":1.0, "y":"\u00e9"} , "n":null } "#;
        let fields = fields(body).unwrap();
        let shown: Vec<_> =
            fields.entries.iter().map(|(name, raw)| (name.as_ref(), raw.get())).collect();
        assert_eq!(shown, [("ab", r#"{"x":1.0, "y":"\u00e9"}"#), ("n", "null")]);
        assert!(given(Some(fields.entries[1].1)).is_none());
    }

    #[test]
    fn malformed_json_is_reported_with_its_place() {
        for (body, place) in [
            (&b""[..], "line 1 column 0"),
            (b"{\"a\":1,\n \"b\":}", "line 2 column 6"),
            (b"[1,}", "line 1 column 4"),
            (b"{} x", "line 1 column 4"),
            (b"{\"a\":\n\"\xff\"}", "line 2 column 2"),
            (b"{\"a\":NaN}", "line 1 column 6"),
        ] {
            let error = fields(body).unwrap_err();
            assert!(error.contains("malformed-json") && error.contains(place), "{error}");
        }
        for body in [&b"[]"[..], b"1", b"\"x\"", b"null", b"[{\"url\":1}]"] {
            assert!(fields(body).unwrap_err().contains("must be an object"));
        }
    }

    #[test]
    fn many_fields_and_deep_values_cost_little() {
        let many = format!(
            "{{{}}}",
            (0..5000).map(|n| format!("\"{n}\":{n}")).collect::<Vec<_>>().join(",")
        );
        let fields = fields(many.as_bytes()).unwrap();
        assert_eq!((fields.entries.len(), fields.count), (MAX_FIELDS, 5000));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse::<Fields<'_>>(deep.as_bytes(), "").unwrap().count, 1);
        let long = format!("[{}1]", "1,".repeat(5000));
        let elements: Elements<'_, 3> = serde_json::from_str(&long).unwrap();
        assert_eq!((elements.items.len(), elements.count), (3, 5001));
    }

    #[test]
    fn unknown_and_repeated_fields_are_named() {
        let body = br#"{"url":1,"ulr":2,"url":3}"#;
        let mut field_errors = FieldErrors::default();
        let [url, payload] =
            fields(body).unwrap().pick(&["url", "payload"], "w.", &mut field_errors);
        assert_eq!((url.map(RawValue::get), payload.is_none()), (Some("1"), true));
        let json = serde_json::to_string(&field_errors.check().unwrap_err()).unwrap();
        assert!(json.contains("w.ulr") && json.contains("w.url"), "{json}");
    }
}
