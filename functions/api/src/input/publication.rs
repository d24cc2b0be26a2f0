//! A message as a publisher submits it.

use serde_json::value::RawValue;
use shared::{
    applications::event_type::EventType,
    clock::Timestamp,
    context::Context,
    id::{MessageId, ReferenceId, TaskId},
};

use crate::{
    input::{
        fields::{self, Fields, given},
        submission::{Reader, Reference, payload_too_large},
    },
    limits::MAX_PAYLOAD_DEPTH,
    problem::{FieldErrors, Problem},
};

/// The fields of a message.
pub(crate) const FIELDS: [&str; 4] = ["event_type", "payload", "reference_id", "deliver_at"];

/// The fields of a test message.
pub(crate) const TEST_FIELDS: [&str; 2] = ["event_type", "payload"];

/// The event type of a test message that names none.
pub(crate) const TEST_EVENT_TYPE: &str = "posthaste.test";

/// The payload of a test message that has none.
pub(crate) const TEST_PAYLOAD: &str = r#"{"test": true}"#;

/// A valid message, without the endpoints that it goes to.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) event_type: EventType,
    pub(crate) payload: Box<RawValue>,
    /// `None`: generated from the task ID.
    pub(crate) reference: Option<ReferenceId>,
    pub(crate) deliver_at: Option<Timestamp>,
}

impl Publication {
    /// Validates the fields of a request or of a batch's item. `prefix` precedes the names of the
    /// fields in errors.
    pub(crate) fn read(
        context: &Context,
        fields: &Fields<'_>,
        prefix: &str,
    ) -> Result<Self, Problem> {
        let mut field_errors = FieldErrors::default();
        let [event_type, payload, reference, deliver_at] =
            fields.pick(&FIELDS, prefix, &mut field_errors);
        let mut reader = Reader { prefix, field_errors };
        if payload.is_none() {
            reader.error("payload", "is required. It can be any JSON, including null.");
        }
        let payload = checked_payload(context, payload, &mut reader)?;
        if given(event_type).is_none() {
            reader.error("event_type", "is required.");
        }
        let event_type = given(event_type).and_then(|raw| reader.message_type(raw));
        let reference = given(reference).and_then(|raw| reader.reference(raw));
        let deliver_at =
            given(deliver_at).and_then(|raw| reader.deliver_at(raw, context.clock.now()));
        reader.field_errors.check()?;
        // Both are present if there was no error.
        let (Some(event_type), Some(payload)) = (event_type, payload) else {
            return Err(Problem::internal());
        };
        let reference = match reference {
            Some(Reference::Given(reference)) => Some(reference),
            Some(Reference::Generated | Reference::Test) | None => None,
        };
        Ok(Self { event_type, payload: payload.to_owned(), reference, deliver_at })
    }

    /// Validates the fields of a test message. Both are optional.
    pub(crate) fn test(context: &Context, fields: &Fields<'_>) -> Result<Self, Problem> {
        let mut field_errors = FieldErrors::default();
        let [event_type, payload] = fields.pick(&TEST_FIELDS, "", &mut field_errors);
        let mut reader = Reader { prefix: "", field_errors };
        let payload = match checked_payload(context, payload, &mut reader)? {
            Some(payload) => Some(payload.to_owned()),
            None => RawValue::from_string(TEST_PAYLOAD.to_owned()).ok(),
        };
        let event_type = match given(event_type) {
            Some(raw) => reader.message_type(raw),
            None => TEST_EVENT_TYPE.parse().ok(),
        };
        reader.field_errors.check()?;
        let (Some(event_type), Some(payload)) = (event_type, payload) else {
            return Err(Problem::internal());
        };
        Ok(Self { event_type, payload, reference: None, deliver_at: None })
    }

    /// The message's ID, which contains this task ID.
    pub(crate) fn id(&self, task: TaskId) -> MessageId {
        let reference = self.reference.clone();
        MessageId { reference: reference.unwrap_or_else(|| ReferenceId::generated(task)), task }
    }
}

/// The payload, if it has one that is not nested too deeply. One that is too large is a 413.
fn checked_payload<'a>(
    context: &Context,
    payload: Option<&'a RawValue>,
    reader: &mut Reader<'_>,
) -> Result<Option<&'a RawValue>, Problem> {
    let max_bytes = context.config.max_payload_bytes;
    if payload.is_some_and(|payload| payload.get().len() > max_bytes) {
        return Err(payload_too_large(reader.prefix, max_bytes));
    }
    if payload.is_some_and(|payload| depth(payload) > MAX_PAYLOAD_DEPTH) {
        let message =
            format!("must have at most {MAX_PAYLOAD_DEPTH} levels of arrays and objects.");
        reader.error("payload", message);
    }
    Ok(payload)
}

impl Reader<'_> {
    fn message_type(&mut self, raw: &RawValue) -> Option<EventType> {
        let Some(text) = fields::text(raw) else {
            self.error("event_type", "must be a string.");
            return None;
        };
        let parsed = text.parse::<EventType>();
        parsed.map_err(|invalid| self.error("event_type", invalid.to_string())).ok()
    }
}

/// The levels of arrays and objects in valid JSON. A scalar has none.
fn depth(json: &RawValue) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json.get().bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_within_strings_are_no_levels() {
        for (json, levels) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[1,{"b":[]}],"c":[]}"#, 4),
            (r#"["[[[","\"[[","\\"]"#, 1),
            (r#"{"{\\\"[":"}"}"#, 1),
            ("[[],[[]],[]]", 3),
        ] {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(depth(&raw), levels, "{json}");
        }
    }
}
