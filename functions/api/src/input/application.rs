//! An application and an application key as a caller submits them.

use shared::{
    applications::{
        change::ApplicationInput,
        endpoint::Given,
        keys::{KeyName, Scopes},
    },
    clock::Timestamp,
};

use crate::{
    input::fields::{self, Fields},
    problem::{FieldErrors, Problem},
};

/// The fields of an application.
pub(crate) const FIELDS: [&str; 3] = ["name", "keep_unmatched", "metadata"];

/// The fields of a new key.
pub(crate) const KEY_FIELDS: [&str; 3] = ["name", "scopes", "expires_at"];

/// Reads the settings of an application. A null field counts as omitted.
pub(crate) fn read(fields: &Fields<'_>) -> Result<ApplicationInput, Problem> {
    let mut errors = FieldErrors::default();
    let [name, keep_unmatched, metadata] = fields.pick(&FIELDS, "", &mut errors);
    let input = ApplicationInput {
        name: fields::optional(name, "name", "must be a string.", &mut errors, fields::value),
        keep_unmatched: fields::optional(
            keep_unmatched,
            "keep_unmatched",
            "must be true or false.",
            &mut errors,
            fields::value,
        ),
        metadata: fields::optional(
            metadata,
            "metadata",
            "must be an object of strings.",
            &mut errors,
            fields::value,
        ),
    };
    errors.check().map(|()| input)
}

/// A new key of an application.
#[derive(Debug)]
pub(crate) struct NewKey {
    pub(crate) name: KeyName,
    pub(crate) scopes: Scopes,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Reads a new key. That `expires_at` is in the future is checked when the key is made.
pub(crate) fn read_key(fields: &Fields<'_>) -> Result<NewKey, Problem> {
    let mut errors = FieldErrors::default();
    let [name, scopes, expires_at] = fields.pick(&KEY_FIELDS, "", &mut errors);
    let (no_name, no_scopes) = (is_missing(name), is_missing(scopes));
    let name: Given<String> =
        fields::optional(name, "name", "must be a string.", &mut errors, fields::value);
    let scopes: Given<Vec<String>> =
        fields::optional(scopes, "scopes", "must be an array of strings.", &mut errors, |raw| {
            fields::value(raw)
        });
    let expires_at = fields::optional(
        expires_at,
        "expires_at",
        "must be an RFC 3339 time, such as 2027-01-31T12:00:00Z.",
        &mut errors,
        |raw| Timestamp::parse_rfc3339(&fields::text(raw)?),
    );
    if no_name {
        errors.add("name", "is required.");
    }
    if no_scopes {
        errors.add("scopes", "is required.");
    }
    let name = name.value().and_then(|name| {
        let read = KeyName::try_from(name.clone());
        read.map_err(|invalid| errors.add("name", invalid.to_string())).ok()
    });
    let scopes = scopes.value().and_then(|names| {
        Scopes::parse(names).map_err(|invalid| errors.add("scopes", invalid.to_string())).ok()
    });
    errors.check()?;
    // Both are present if there was no error.
    let (Some(name), Some(scopes)) = (name, scopes) else { return Err(Problem::internal()) };
    Ok(NewKey { name, scopes, expires_at: expires_at.value().copied() })
}

fn is_missing(raw: Option<&serde_json::value::RawValue>) -> bool {
    fields::given(raw).is_none()
}
