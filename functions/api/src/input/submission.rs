//! A webhook as a caller submits it. Each field is validated on its own, so that one response names
//! every wrong field.

use std::borrow::Cow;

use serde_json::value::RawValue;
use shared::{
    clock::Timestamp,
    context::Context,
    id::{ReferenceId, TaskId, WebhookId},
    model::Content,
    retry_override::RetryOverride,
    sender::{AddressGuard, check_header, destination_key},
    traffic::target::path_hash,
    transition::NewWebhook,
};
use url::Url;

use crate::{
    app::Call,
    input::fields::{self, Fields, given, integer},
    limits::{MAX_EVENT_TYPE_BYTES, MAX_HEADERS, MAX_HEADERS_BYTES, MAX_SCHEDULE_AHEAD},
    problem::{FieldErrors, Problem, ProblemKind},
};

/// The fields of a webhook.
pub(crate) const FIELDS: [&str; 7] =
    ["url", "payload", "reference_id", "headers", "event_type", "deliver_at", "retry"];

/// The fields of `retry`.
pub(crate) const RETRY_FIELDS: [&str; 6] =
    ["max_attempts", "base_delay_ms", "factor", "max_delay_ms", "jitter", "schedule_ms"];

/// The origin of a webhook's reference ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The caller's.
    Given(ReferenceId),
    /// Generated from the task ID.
    Generated,
    /// Generated from the task ID for a test webhook. Lists can filter by it.
    Test,
}

/// A valid webhook.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) content: Content,
    pub(crate) destination: String,
    pub(crate) path_hash: String,
    pub(crate) reference: Reference,
    pub(crate) event_type: Option<String>,
    pub(crate) deliver_at: Option<Timestamp>,
    pub(crate) retry: Option<RetryOverride>,
}

impl Submission {
    /// Validates the fields of a request or of a batch's item. `prefix` precedes the names of the
    /// fields in errors.
    pub(crate) fn read(
        context: &Context,
        fields: &Fields<'_>,
        prefix: &str,
    ) -> Result<Self, Problem> {
        let mut field_errors = FieldErrors::default();
        let [url, payload, reference, headers, event_type, deliver_at, retry] =
            fields.pick(&FIELDS, prefix, &mut field_errors);
        let mut reader = Reader { prefix, field_errors };
        let max_bytes = context.config.max_payload_bytes;
        if payload.is_some_and(|payload| payload.get().len() > max_bytes) {
            return Err(payload_too_large(prefix, max_bytes));
        }
        if payload.is_none() {
            reader.error("payload", "is required. It can be any JSON, including null.");
        }
        let url = reader.url(&context.guard, url);
        let reference =
            given(reference).map_or(Some(Reference::Generated), |raw| reader.reference(raw));
        let headers = given(headers).map_or_else(Vec::new, |raw| reader.headers(raw));
        let event_type = given(event_type).and_then(|raw| reader.event_type(raw));
        let deliver_at =
            given(deliver_at).and_then(|raw| reader.deliver_at(raw, context.clock.now()));
        let retry = given(retry).and_then(|raw| reader.retry(raw));
        reader.field_errors.check()?;
        // All three are present if there was no error.
        let (Some(payload), Some((url, checked)), Some(reference)) = (payload, url, reference)
        else {
            return Err(Problem::internal());
        };
        Ok(Self {
            content: Content { url, headers, payload: payload.to_owned() },
            destination: destination_key(&checked),
            path_hash: path_hash(checked.path()),
            reference,
            event_type,
            deliver_at,
            retry,
        })
    }

    /// A test webhook, which has a URL and a payload only. `field` is the name of the URL's
    /// parameter.
    pub(crate) fn test(
        context: &Context,
        field: &str,
        url: &str,
        payload: &RawValue,
    ) -> Result<Self, Problem> {
        let max_bytes = context.config.max_payload_bytes;
        if payload.get().len() > max_bytes {
            return Err(payload_too_large("", max_bytes));
        }
        let checked = context.guard.check_url(url).map_err(|refused| {
            Problem::about(ProblemKind::InvalidFields, field, refused.to_string())
        })?;
        Ok(Self {
            content: Content {
                url: url.to_owned(),
                headers: Vec::new(),
                payload: payload.to_owned(),
            },
            destination: destination_key(&checked),
            path_hash: path_hash(checked.path()),
            reference: Reference::Test,
            event_type: None,
            deliver_at: None,
            retry: None,
        })
    }

    /// The webhook's ID, which contains this task ID.
    pub(crate) fn id(&self, task: TaskId) -> WebhookId {
        let reference = match &self.reference {
            Reference::Given(reference) => reference.clone(),
            Reference::Generated => ReferenceId::generated(task),
            Reference::Test => ReferenceId::test(task),
        };
        WebhookId::direct(reference, task)
    }

    /// The input of the create transition.
    pub(crate) fn to_new(&self, task: TaskId, call: &Call) -> NewWebhook {
        NewWebhook {
            id: self.id(task),
            referenced: self.reference != Reference::Generated,
            correlation_id: call.correlation_id.as_ref().to_owned(),
            trace: call.trace.clone(),
            event_type: self.event_type.clone(),
            destination: self.destination.clone(),
            path_hash: Some(self.path_hash.clone()),
            retry: self.retry.clone(),
            deliver_at: self.deliver_at,
        }
    }
}

pub(super) fn payload_too_large(prefix: &str, max_bytes: usize) -> Problem {
    Problem::about(
        ProblemKind::TooLarge,
        &format!("{prefix}payload"),
        format!("is larger than {max_bytes} bytes."),
    )
}

/// Reads one field at a time and collects the errors. A field that is `None` has an error.
pub(super) struct Reader<'a> {
    pub(super) prefix: &'a str,
    pub(super) field_errors: FieldErrors,
}

impl Reader<'_> {
    pub(super) fn error(&mut self, field: &str, message: impl Into<Cow<'static, str>>) {
        self.field_errors.add(&format!("{}{field}", self.prefix), message);
    }

    /// The URL as the caller wrote it, and parsed.
    fn url(&mut self, guard: &AddressGuard, raw: Option<&RawValue>) -> Option<(String, Url)> {
        let Some(raw) = raw else {
            self.error("url", "is required.");
            return None;
        };
        let Some(text) = fields::text(raw) else {
            self.error("url", "must be a string.");
            return None;
        };
        match guard.check_url(&text) {
            Ok(url) => Some((text.into_owned(), url)),
            Err(refused) => {
                self.error("url", refused.to_string());
                None
            }
        }
    }

    pub(super) fn reference(&mut self, raw: &RawValue) -> Option<Reference> {
        let Some(text) = fields::text(raw) else {
            self.error("reference_id", "must be a string.");
            return None;
        };
        match text.parse::<ReferenceId>() {
            // A generated ID leads to its one webhook without an index. If other webhooks had the
            // same one, lists would not find them.
            Ok(reference) if reference.generated_for().is_some() => {
                self.error(
                    "reference_id",
                    "is reserved for generated IDs. Choose another or omit it.",
                );
                None
            }
            Ok(reference) => Some(Reference::Given(reference)),
            Err(invalid) => {
                self.error("reference_id", invalid.to_string());
                None
            }
        }
    }

    fn headers(&mut self, raw: &RawValue) -> Vec<(String, String)> {
        let Some(fields) = Fields::of(raw) else {
            self.error("headers", "must be an object of strings.");
            return Vec::new();
        };
        if fields.count > MAX_HEADERS {
            self.error("headers", format!("must contain at most {MAX_HEADERS} headers."));
            return Vec::new();
        }
        let mut headers: Vec<(String, String)> = Vec::with_capacity(fields.count);
        for (name, raw) in &fields.entries {
            let field = format!("headers.{name}");
            let Some(value) = fields::text(raw) else {
                self.error(&field, "must be a string.");
                continue;
            };
            if let Err(refused) = check_header(name, &value) {
                self.error(&field, refused.to_string());
            } else if headers.iter().any(|(seen, _)| seen.eq_ignore_ascii_case(name)) {
                self.error(
                    &field,
                    "is repeated. Header names are case-insensitive. Send each one once.",
                );
            } else {
                headers.push((name.clone().into_owned(), value.into_owned()));
            }
        }
        if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            > MAX_HEADERS_BYTES
        {
            self.error(
                "headers",
                format!("must contain at most {MAX_HEADERS_BYTES} bytes in total."),
            );
        }
        headers
    }

    fn event_type(&mut self, raw: &RawValue) -> Option<String> {
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let text = fields::text(raw)
            .filter(|text| (1..=MAX_EVENT_TYPE_BYTES).contains(&text.len()))
            .filter(|text| text.bytes().all(printable));
        if text.is_none() {
            self.error(
                "event_type",
                format!(
                    "must be a string of 1 to {MAX_EVENT_TYPE_BYTES} printable ASCII characters."
                ),
            );
        }
        text.map(Cow::into_owned)
    }

    /// A time in the past means now.
    pub(super) fn deliver_at(&mut self, raw: &RawValue, now: Timestamp) -> Option<Timestamp> {
        let Some(time) = fields::text(raw).and_then(|text| Timestamp::parse_rfc3339(&text)) else {
            self.error("deliver_at", "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z.");
            return None;
        };
        if time > now.plus(MAX_SCHEDULE_AHEAD) {
            self.error(
                "deliver_at",
                format!(
                    "must be at most {} days in the future.",
                    MAX_SCHEDULE_AHEAD.as_secs() / (24 * 3600)
                ),
            );
            return None;
        }
        Some(time)
    }

    fn retry(&mut self, raw: &RawValue) -> Option<RetryOverride> {
        let overrides = read_retry(raw, self.prefix, &mut self.field_errors)?;
        for invalid in overrides.check() {
            self.error(&format!("retry.{}", invalid.field), invalid.message);
        }
        (overrides != RetryOverride::default()).then_some(overrides)
    }
}

/// Reads the fields of `retry`, without a check of their bounds. `None`: it is not an object.
/// `prefix` precedes `retry` in errors.
pub(crate) fn read_retry(
    raw: &RawValue,
    prefix: &str,
    field_errors: &mut FieldErrors,
) -> Option<RetryOverride> {
    let Some(fields) = Fields::of(raw) else {
        field_errors.add(&format!("{prefix}retry"), "must be an object.");
        return None;
    };
    let prefix = format!("{prefix}retry.");
    let picked = fields.pick(&RETRY_FIELDS, &prefix, field_errors);
    let [max_attempts, base_delay_ms, factor, max_delay_ms, jitter, schedule_ms] = picked;
    let mut reader = RetryReader { prefix: &prefix, field_errors };
    Some(RetryOverride {
        max_attempts: reader.field(
            max_attempts,
            "max_attempts",
            "must be an integer from 1 to 50.",
            |raw| integer(raw)?.try_into().ok(),
        ),
        base_delay_ms: reader.field(
            base_delay_ms,
            "base_delay_ms",
            "must be an integer number of milliseconds.",
            integer,
        ),
        factor: reader.field(factor, "factor", "must be a number from 1 to 100.", fields::value),
        max_delay_ms: reader.field(
            max_delay_ms,
            "max_delay_ms",
            "must be an integer number of milliseconds.",
            integer,
        ),
        jitter: reader.field(jitter, "jitter", "must be a number from 0 to 1.", fields::value),
        schedule_ms: reader.field(
            schedule_ms,
            "schedule_ms",
            "must be an array of integer numbers of milliseconds.",
            all_integers,
        ),
    })
}

struct RetryReader<'a> {
    prefix: &'a str,
    field_errors: &'a mut FieldErrors,
}

impl RetryReader<'_> {
    fn field<T>(
        &mut self,
        raw: Option<&RawValue>,
        name: &str,
        message: &'static str,
        read: impl Fn(&RawValue) -> Option<T>,
    ) -> Option<T> {
        let raw = given(raw)?;
        let value = read(raw);
        if value.is_none() {
            self.field_errors.add(&format!("{}{name}", self.prefix), message);
        }
        value
    }
}

fn all_integers(raw: &RawValue) -> Option<Vec<u64>> {
    serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok()?.into_iter().map(integer).collect()
}
