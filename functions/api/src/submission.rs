//! What a caller asks to be delivered: each field judged on its own, so that one answer names every
//! wrong one.

use std::time::Duration;

use serde_json::value::RawValue;
use shared::{
    clock::Timestamp,
    context::Context,
    id::{ReferenceId, TaskId, WebhookId},
    model::Content,
    retry_override::RetryOverride,
    sender::{AddressGuard, check_header, destination_key},
    transition::NewWebhook,
};

use crate::{
    app::Call,
    fields::{self, Fields, given},
    problem::{FieldErrors, Kind, Problem},
};

/// The most headers of the caller's own.
pub(crate) const MAX_HEADERS: usize = 32;

/// Their size in all, names and values.
pub(crate) const MAX_HEADERS_BYTES: usize = 8 * 1024;

/// The longest event type.
pub(crate) const MAX_EVENT_TYPE_BYTES: usize = 128;

/// How far ahead `deliver_at` may be: 365 days.
pub(crate) const MAX_SCHEDULE_AHEAD: Duration = Duration::from_secs(365 * 24 * 3600);

/// Up to here every whole number is a floating-point number of its own.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// What a request or a batch's item may have.
pub(crate) const FIELDS: [&str; 7] =
    ["url", "payload", "reference_id", "headers", "event_type", "deliver_at", "retry"];

/// What `retry` may have.
pub(crate) const RETRY_FIELDS: [&str; 6] =
    ["max_attempts", "base_delay_ms", "factor", "max_delay_ms", "jitter", "schedule_ms"];

/// Where a webhook's reference id comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The caller.
    Given(ReferenceId),
    /// Its task id.
    MadeUp,
    /// Its task id, in the form of test webhooks, which are listed by it.
    Test,
}

/// A webhook that may be accepted.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) content: Content,
    pub(crate) destination: String,
    pub(crate) reference: Reference,
    pub(crate) event_type: Option<String>,
    pub(crate) deliver_at: Option<Timestamp>,
    pub(crate) retry: Option<RetryOverride>,
}

impl Submission {
    /// Judges the fields of a request or of a batch's item, whose fields are named with `prefix`
    /// before them.
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
            reader.fault("payload", "is missing; it may be any JSON, also null");
        }
        let url = reader.url(&context.guard, url);
        let reference =
            given(reference).map_or(Some(Reference::MadeUp), |raw| reader.reference(raw));
        let headers = given(headers).map_or_else(Vec::new, |raw| reader.headers(raw));
        let event_type = given(event_type).and_then(|raw| reader.event_type(raw));
        let deliver_at =
            given(deliver_at).and_then(|raw| reader.deliver_at(raw, context.clock.now()));
        let retry = given(retry).and_then(|raw| reader.retry(raw));
        reader.field_errors.check()?;
        // Each of the three is there if there was no fault.
        let (Some(payload), Some((url, destination)), Some(reference)) = (payload, url, reference)
        else {
            return Err(Problem::new(Kind::Internal, "Something went wrong."));
        };
        let carried = Content { url, headers, payload: payload.to_owned() };
        Ok(Self { content: carried, destination, reference, event_type, deliver_at, retry })
    }

    /// A test webhook, which has a URL and a payload only. `field` names where the URL stood.
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
            let mut field_errors = FieldErrors::default();
            field_errors.add(field, refused.to_string());
            field_errors
                .check()
                .err()
                .unwrap_or_else(|| Problem::new(Kind::InvalidFields, "The URL is refused."))
        })?;
        Ok(Self {
            content: Content {
                url: url.to_owned(),
                headers: Vec::new(),
                payload: payload.to_owned(),
            },
            destination: destination_key(&checked),
            reference: Reference::Test,
            event_type: None,
            deliver_at: None,
            retry: None,
        })
    }

    /// The id that it has as this task.
    pub(crate) fn id(&self, task: TaskId) -> WebhookId {
        let reference = match &self.reference {
            Reference::Given(reference) => reference.clone(),
            Reference::MadeUp => ReferenceId::generated(task),
            Reference::Test => ReferenceId::test(task),
        };
        WebhookId { reference, task }
    }

    /// What create is told.
    pub(crate) fn to_new(&self, task: TaskId, call: &Call) -> NewWebhook {
        NewWebhook {
            id: self.id(task),
            referenced: self.reference != Reference::MadeUp,
            correlation_id: call.correlation_id.as_ref().to_owned(),
            trace: call.trace.clone(),
            event_type: self.event_type.clone(),
            destination: self.destination.clone(),
            retry: self.retry.clone(),
            deliver_at: self.deliver_at,
        }
    }
}

fn payload_too_large(prefix: &str, max_bytes: usize) -> Problem {
    Problem::about(
        Kind::TooLarge,
        &format!("{prefix}payload"),
        format!("is larger than {max_bytes} bytes"),
    )
}

/// Reads one field at a time, and remembers every fault. `None` is returned with a fault only.
struct Reader<'a> {
    prefix: &'a str,
    field_errors: FieldErrors,
}

impl Reader<'_> {
    fn fault(&mut self, field: &str, message: impl Into<std::borrow::Cow<'static, str>>) {
        self.field_errors.add(&format!("{}{field}", self.prefix), message);
    }

    /// The URL as the caller wrote it, and its destination.
    fn url(&mut self, guard: &AddressGuard, raw: Option<&RawValue>) -> Option<(String, String)> {
        let Some(raw) = raw else {
            self.fault("url", "is missing");
            return None;
        };
        let Some(text) = fields::text(raw) else {
            self.fault("url", "must be a string");
            return None;
        };
        match guard.check_url(&text) {
            Ok(url) => Some((text.into_owned(), destination_key(&url))),
            Err(refused) => {
                self.fault("url", refused.to_string());
                None
            }
        }
    }

    fn reference(&mut self, raw: &RawValue) -> Option<Reference> {
        let Some(text) = fields::text(raw) else {
            self.fault("reference_id", "must be a string");
            return None;
        };
        match text.parse::<ReferenceId>() {
            // A made-up one leads to its one webhook without an index; shared with others, it would
            // hide those.
            Ok(reference) if reference.made_up_for().is_some() => {
                self.fault(
                    "reference_id",
                    "must not be one that Posthaste made up; give a name of your own, or none",
                );
                None
            }
            Ok(reference) => Some(Reference::Given(reference)),
            Err(invalid) => {
                self.fault("reference_id", invalid.to_string());
                None
            }
        }
    }

    fn headers(&mut self, raw: &RawValue) -> Vec<(String, String)> {
        let Some(fields) = Fields::of(raw) else {
            self.fault("headers", "must be an object of strings");
            return Vec::new();
        };
        if fields.count > MAX_HEADERS {
            self.fault("headers", format!("must be at most {MAX_HEADERS}"));
            return Vec::new();
        }
        let mut headers: Vec<(String, String)> = Vec::with_capacity(fields.count);
        for (name, raw) in &fields.entries {
            let field = format!("headers.{name}");
            let Some(value) = fields::text(raw) else {
                self.fault(&field, "must be a string");
                continue;
            };
            if let Err(refused) = check_header(name, &value) {
                self.fault(&field, refused.to_string());
            } else if headers.iter().any(|(seen, _)| seen.eq_ignore_ascii_case(name)) {
                self.fault(&field, "is given twice; the case of letters makes no difference");
            } else {
                headers.push((name.clone().into_owned(), value.into_owned()));
            }
        }
        if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            > MAX_HEADERS_BYTES
        {
            self.fault("headers", format!("must have at most {MAX_HEADERS_BYTES} bytes in all"));
        }
        headers
    }

    fn event_type(&mut self, raw: &RawValue) -> Option<String> {
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let text = fields::text(raw)
            .filter(|text| (1..=MAX_EVENT_TYPE_BYTES).contains(&text.len()))
            .filter(|text| text.bytes().all(printable));
        if text.is_none() {
            self.fault(
                "event_type",
                format!(
                    "must be a string of 1 to {MAX_EVENT_TYPE_BYTES} printable ASCII characters"
                ),
            );
        }
        text.map(std::borrow::Cow::into_owned)
    }

    /// A time that has passed means now.
    fn deliver_at(&mut self, raw: &RawValue, now: Timestamp) -> Option<Timestamp> {
        let Some(time) = fields::text(raw).and_then(|text| Timestamp::parse_rfc3339(&text)) else {
            self.fault("deliver_at", "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z");
            return None;
        };
        if time > now.plus(MAX_SCHEDULE_AHEAD) {
            self.fault(
                "deliver_at",
                format!(
                    "must be at most {} days ahead",
                    MAX_SCHEDULE_AHEAD.as_secs() / (24 * 3600)
                ),
            );
            return None;
        }
        Some(time)
    }

    fn retry(&mut self, raw: &RawValue) -> Option<RetryOverride> {
        let Some(fields) = Fields::of(raw) else {
            self.fault("retry", "must be an object");
            return None;
        };
        let prefix = format!("{}retry.", self.prefix);
        let picked = fields.pick(&RETRY_FIELDS, &prefix, &mut self.field_errors);
        let [max_attempts, base_delay_ms, factor, max_delay_ms, jitter, schedule_ms] = picked;
        let overrides = RetryOverride {
            max_attempts: self.wish(
                max_attempts,
                "max_attempts",
                "must be a whole number from 1 to 50",
                |raw| whole(raw)?.try_into().ok(),
            ),
            base_delay_ms: self.wish(
                base_delay_ms,
                "base_delay_ms",
                "must be a whole number of milliseconds",
                whole,
            ),
            factor: self.wish(factor, "factor", "must be a number from 1 to 100", fields::value),
            max_delay_ms: self.wish(
                max_delay_ms,
                "max_delay_ms",
                "must be a whole number of milliseconds",
                whole,
            ),
            jitter: self.wish(jitter, "jitter", "must be a number from 0 to 1", fields::value),
            schedule_ms: self.wish(
                schedule_ms,
                "schedule_ms",
                "must be an array of whole numbers of milliseconds",
                all_whole,
            ),
        };
        for fault in overrides.check() {
            self.fault(&format!("retry.{}", fault.field), fault.message);
        }
        (overrides != RetryOverride::default()).then_some(overrides)
    }

    fn wish<T>(
        &mut self,
        raw: Option<&RawValue>,
        name: &str,
        message: &'static str,
        read: impl Fn(&RawValue) -> Option<T>,
    ) -> Option<T> {
        let raw = given(raw)?;
        let value = read(raw);
        if value.is_none() {
            self.fault(&format!("retry.{name}"), message);
        }
        value
    }
}

/// A whole number from 0 on, also if it is written with a fraction of zero: to JSON Schema, and to
/// languages with one sort of numbers, `5.0` is the same as `5`.
fn whole(raw: &RawValue) -> Option<u64> {
    let exact = |number: &f64| number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(number);
    fields::value(raw).or_else(|| fields::value(raw).filter(exact).map(|number: f64| number as u64))
}

fn all_whole(raw: &RawValue) -> Option<Vec<u64>> {
    serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok()?.into_iter().map(whole).collect()
}
