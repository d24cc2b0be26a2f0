//! The events that AWS sends to functions, and how it reads their responses.

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use serde_json::{Value, json};
use shared::{
    clock::Timestamp,
    queue::{Lane, Received},
};

/// The account and region in local ARNs.
const ACCOUNT: &str = "000000000000";
const REGION: &str = "local";

/// The event that SQS sends. It lacks the attributes that local messages do not have: the sender,
/// the time of the first receive and the MD5.
pub fn sqs(lane: Lane, messages: &[Received]) -> SqsEvent {
    let mut event = SqsEvent::default();
    event.records = messages.iter().map(|message| record(lane, message)).collect();
    event
}

fn record(lane: Lane, received: &Received) -> SqsMessage {
    let queue = match lane {
        Lane::Webhooks => "webhooks",
        Lane::DeadLetters => "dead-letters",
    };
    let mut message = SqsMessage::default();
    message.message_id = Some(received.id.clone());
    message.receipt_handle = Some(received.receipt.clone());
    message.body = Some(received.body.clone());
    message.event_source = Some("aws:sqs".to_owned());
    message.event_source_arn = Some(format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"));
    message.aws_region = Some(REGION.to_owned());
    message.attributes.insert("ApproximateReceiveCount".to_owned(), received.receives.to_string());
    message.attributes.insert("SentTimestamp".to_owned(), received.sent_at.as_millis().to_string());
    message
}

/// The event that EventBridge Scheduler sends to a target without an input.
pub fn schedule(now: Timestamp) -> Value {
    // Scheduler times have whole seconds.
    let time = Timestamp::from_millis(now.as_seconds() * 1000).to_string().replace(".000Z", "Z");
    json!({
        "version": "0",
        "id": format!("local-{}", now.as_millis()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": time,
        "region": REGION,
        "resources": [format!("arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/sweep")],
        "detail": "{}",
    })
}

/// A function's response to a batch that an event source mapping cannot interpret: the whole batch
/// has failed.
#[derive(Debug, thiserror::Error)]
pub enum MalformedResponse {
    /// Not JSON.
    #[error("the function's response is not JSON")]
    NotJson(#[from] serde_json::Error),
    /// JSON of another shape.
    #[error(
        "the function's response does not list the failed messages as \
         {{\"batchItemFailures\":[{{\"itemIdentifier\":ID}}]}}"
    )]
    OtherShape,
}

/// Reads the response to a batch as an event source mapping with partial batch responses does.
/// Null, an empty object, and a list that is null or empty mean that no message failed.
pub fn batch_response(response_json: &[u8]) -> Result<SqsBatchResponse, MalformedResponse> {
    let failures = match serde_json::from_slice(response_json)? {
        Value::Null => Value::Null,
        Value::Object(mut response) => response.remove("batchItemFailures").unwrap_or_default(),
        _ => return Err(MalformedResponse::OtherShape),
    };
    let mut response = SqsBatchResponse::default();
    match failures {
        Value::Null => {}
        Value::Array(items) => {
            for item in items {
                let Some(id) = item.get("itemIdentifier").and_then(Value::as_str) else {
                    return Err(MalformedResponse::OtherShape);
                };
                response.add_failure(id);
            }
        }
        _ => return Err(MalformedResponse::OtherShape),
    }
    Ok(response)
}

/// Divides a batch into failed and processed messages. If the response names an unknown or empty
/// ID, the mapping does not trust it, and all messages have failed.
pub fn partition(
    messages: Vec<Received>,
    response: &SqsBatchResponse,
) -> (Vec<Received>, Vec<Received>) {
    let failed: Vec<&str> = response
        .batch_item_failures
        .iter()
        .map(|failure| failure.item_identifier.as_str())
        .collect();
    if failed.iter().any(|id| !messages.iter().any(|message| message.id == *id)) {
        return (messages, Vec::new());
    }
    messages.into_iter().partition(|message| failed.contains(&message.id.as_str()))
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::event::eventbridge::EventBridgeEvent;

    use super::*;

    fn received(id: &str) -> Received {
        let text = |text: &str| text.to_owned();
        Received {
            id: text(id),
            receipt: text("r"),
            body: text("b"),
            receives: 3,
            sent_at: Timestamp::from_millis(1_700_000_000_123),
        }
    }

    fn failed(response: &str) -> Option<Vec<String>> {
        let messages = ["a", "b", "c"].map(received).to_vec();
        let (failed, done) = partition(messages, &batch_response(response.as_bytes()).ok()?);
        assert_eq!(failed.len() + done.len(), 3, "none is lost");
        Some(failed.into_iter().map(|message| message.id).collect())
    }

    /// The rules of AWS Lambda's guide, "Reporting batch item failures for SQS".
    #[test]
    fn responses_are_read_as_an_event_source_mapping_reads_them() {
        let none: Vec<String> = Vec::new();
        for success in [
            "null",
            "{}",
            r#"{"batchItemFailures":null}"#,
            r#"{"batchItemFailures":[]}"#,
            r#"{"other":1}"#,
        ] {
            assert_eq!(failed(success), Some(none.clone()), "{success}");
        }
        let item = |id: &str| {
            format!(
                r#"{{"batchItemFailures":[{{"itemIdentifier":"b"}},{{"itemIdentifier":{id}}}]}}"#
            )
        };
        assert_eq!(failed(&item("\"c\"")).unwrap(), ["b", "c"]);
        assert_eq!(failed(&item("\"b\"")).unwrap(), ["b"], "named twice");
        for unknown in ["\"x\"", "\"\""] {
            assert_eq!(failed(&item(unknown)).unwrap(), ["a", "b", "c"], "{unknown}");
        }
        for malformed in [
            "",
            "done",
            "true",
            "[]",
            "\"done\"",
            r#"{"batchItemFailures":{}}"#,
            r#"{"batchItemFailures":["b"]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":"b"}]"#,
            r#"{"batchItemFailures":[{"ItemIdentifier":"b"}]}"#,
        ] {
            assert_eq!(failed(malformed), None, "{malformed}");
        }
        assert_eq!(failed(&item("null")), None);
        assert_eq!(failed(&item("7")), None);
    }

    /// Tested with the published event types.
    #[test]
    fn events_have_the_shape_of_those_from_aws() {
        let event = serde_json::to_value(sqs(Lane::DeadLetters, &[received("m")])).unwrap();
        let record = &event["Records"][0];
        assert_eq!(
            (&record["messageId"], &record["receiptHandle"], &record["body"]),
            (&json!("m"), &json!("r"), &json!("b"))
        );
        let attributes = json!({"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123"});
        assert_eq!(
            (&record["attributes"], &record["eventSource"]),
            (&attributes, &json!("aws:sqs"))
        );
        assert_eq!(record["eventSourceARN"], "arn:aws:sqs:local:000000000000:dead-letters");

        let event = schedule(Timestamp::from_millis(1_700_000_000_123));
        let read: EventBridgeEvent = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(
            (read.detail_type.as_str(), read.source.as_str()),
            ("Scheduled Event", "aws.scheduler")
        );
        assert_eq!(
            (&event["time"], &event["detail"]),
            (&json!("2023-11-14T22:13:20Z"), &json!("{}"))
        );
        assert!(read.time.is_some());
    }
}
