//! An endpoint as a caller submits or changes it.

use std::str::FromStr;

use serde_json::value::RawValue;
use shared::{
    applications::{
        endpoint::{EndpointInput, EndpointPatch, Given},
        id::{ApplicationId, EndpointId},
        secrets::EndpointSecret,
    },
    context::Context,
    retry_override::RetryOverride,
    sealing::Binding,
};

use crate::{
    edit::master_keys,
    input::{
        fields::{self, Fields, integer},
        submission::read_retry,
    },
    problem::{FieldErrors, Problem},
};

/// The fields of a new endpoint. A change has all of them but `secret`.
pub(crate) const FIELDS: [&str; 9] = [
    "url",
    "event_types",
    "headers",
    "secret",
    "retry",
    "timeout_ms",
    "description",
    "metadata",
    "enabled",
];

const OBJECT_OF_STRINGS: &str = "must be an object of strings.";

/// A new endpoint.
#[derive(Debug)]
pub(crate) struct NewEndpoint {
    pub(crate) patch: EndpointPatch,
    /// The secret that the caller gives.
    pub(crate) secret: Option<EndpointSecret>,
}

/// Reads a new endpoint. Its header values are sealed for this ID.
pub(crate) fn read_new(
    context: &Context,
    fields: &Fields<'_>,
    place: (&ApplicationId, EndpointId),
) -> Result<NewEndpoint, Problem> {
    let (mut reader, input, secret) = Reader::read(context, fields);
    let secret = match reader.given(secret, "secret", "must be a string.", string) {
        Given::Value(text) => match EndpointSecret::from_str(&text) {
            Ok(secret) => Some(secret),
            Err(invalid) => {
                reader.errors.add("secret", invalid.to_string());
                None
            }
        },
        Given::Absent | Given::Null => None,
    };
    if input.url == Given::Absent && !reader.url_is_refused {
        reader.errors.add("url", "is required.");
    }
    Ok(NewEndpoint { patch: reader.check(input, place)?, secret })
}

/// Reads a change of an endpoint. `null` removes a field.
pub(crate) fn read_patch(
    context: &Context,
    fields: &Fields<'_>,
    place: (&ApplicationId, EndpointId),
) -> Result<EndpointPatch, Problem> {
    let (mut reader, input, secret) = Reader::read(context, fields);
    if secret.is_some() {
        reader.errors.add(
            "secret",
            "cannot be changed, because rotation is not available yet. Create another endpoint \
             with the new secret, then delete this one.",
        );
    }
    reader.check(input, place)
}

/// Reads one field at a time and collects the errors. A field with an error counts as absent.
struct Reader<'a> {
    context: &'a Context,
    errors: FieldErrors,
    url_is_refused: bool,
}

impl<'a> Reader<'a> {
    /// The fields, and the raw `secret`.
    fn read<'b>(
        context: &'a Context,
        fields: &Fields<'b>,
    ) -> (Self, EndpointInput, Option<&'b RawValue>) {
        let mut errors = FieldErrors::default();
        let [url, event_types, headers, secret, retry, timeout_ms, description, metadata, enabled] =
            fields.pick(&FIELDS, "", &mut errors);
        let mut reader = Self { context, errors, url_is_refused: false };
        let input = EndpointInput {
            url: reader.url(url),
            event_types: reader.given(
                event_types,
                "event_types",
                "must be an array of strings.",
                fields::value,
            ),
            headers: reader.headers(headers),
            retry: reader.retry(retry),
            timeout_ms: reader.given(
                timeout_ms,
                "timeout_ms",
                "must be an integer number of milliseconds.",
                integer,
            ),
            description: reader.given(description, "description", "must be a string.", string),
            metadata: reader.given(metadata, "metadata", OBJECT_OF_STRINGS, fields::value),
            enabled: reader.given(enabled, "enabled", "must be true or false.", fields::value),
        };
        (reader, input, secret)
    }

    fn given<'b, T>(
        &mut self,
        raw: Option<&'b RawValue>,
        field: &str,
        message: &'static str,
        read: impl FnOnce(&'b RawValue) -> Option<T>,
    ) -> Given<T> {
        fields::optional(raw, field, message, &mut self.errors, read)
    }

    fn url(&mut self, raw: Option<&RawValue>) -> Given<String> {
        let url = self.given(raw, "url", "must be a string.", string);
        self.url_is_refused = raw.is_some() && url == Given::Absent;
        let Given::Value(text) = &url else { return url };
        if let Err(refused) = self.context.guard.check_url(text) {
            self.errors.add("url", refused.to_string());
            self.url_is_refused = true;
            return Given::Absent;
        }
        url
    }

    fn headers(&mut self, raw: Option<&RawValue>) -> Given<Vec<(String, String)>> {
        let Given::Value(fields) = self.given(raw, "headers", OBJECT_OF_STRINGS, Fields::of) else {
            return if raw.is_some_and(|raw| raw.get() == "null") {
                Given::Null
            } else {
                Given::Absent
            };
        };
        let mut headers = Vec::with_capacity(fields.entries.len());
        for (name, raw) in &fields.entries {
            match fields::text(raw) {
                Some(value) => headers.push((name.clone().into_owned(), value.into_owned())),
                None => self.errors.add(&format!("headers.{name}"), "must be a string."),
            }
        }
        Given::Value(headers)
    }

    /// An empty object is the same as none.
    fn retry(&mut self, raw: Option<&RawValue>) -> Given<RetryOverride> {
        match raw {
            None => Given::Absent,
            Some(raw) if raw.get() == "null" => Given::Null,
            Some(raw) => match read_retry(raw, "", &mut self.errors) {
                None => Given::Absent,
                Some(retry) if retry == RetryOverride::default() => Given::Null,
                Some(retry) => Given::Value(retry),
            },
        }
    }

    /// Checks the bounds of all fields, and seals the header values.
    fn check(
        mut self,
        input: EndpointInput,
        (application, endpoint): (&ApplicationId, EndpointId),
    ) -> Result<EndpointPatch, Problem> {
        let has_headers = input.headers.value().is_some_and(|headers| !headers.is_empty());
        let keys = if has_headers { Some(master_keys(self.context)?) } else { None };
        let binding = Binding::headers(application, endpoint);
        let max_timeout_ms = u64::try_from(self.context.config.delivery_timeout.as_millis());
        let checked = input.check(max_timeout_ms.unwrap_or(u64::MAX), |value| {
            let sealed = keys
                .and_then(|keys| keys.seal(value.as_bytes(), &binding, &*self.context.random).ok());
            sealed.unwrap_or_else(|| unreachable!("a header is shorter than what can be sealed"))
        });
        match checked {
            Ok(patch) => self.errors.check().map(|()| patch),
            Err(errors) => {
                self.errors.add_all(errors);
                Err(self.errors.check().err().unwrap_or_else(Problem::internal))
            }
        }
    }
}

fn string(raw: &RawValue) -> Option<String> {
    fields::text(raw).map(std::borrow::Cow::into_owned)
}
