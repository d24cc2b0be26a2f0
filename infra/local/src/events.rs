//! The events that AWS would send to the functions, and what it makes of their answers.

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use serde_json::{Value, json};
use shared::{
    clock::Timestamp,
    queue::{Lane, Received},
};

/// The account and region of what has none.
const ACCOUNT: &str = "000000000000";
const REGION: &str = "local";

/// The event that SQS would send. What its messages do not know here (who sent them, when they were
/// first received, their MD5) is left out.
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

/// The event that EventBridge Scheduler sends to a target for which no input is set.
pub fn schedule(now: Timestamp) -> Value {
    // Whole seconds, as it has them.
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

/// A function's answer to a batch that is not what an event source mapping understands: the whole
/// batch has failed.
#[derive(Debug, thiserror::Error)]
pub enum MalformedAnswer {
    /// Not JSON.
    #[error("the function's answer is not JSON")]
    NotJson(#[from] serde_json::Error),
    /// JSON of another shape.
    #[error(
        "the function's answer does not name the failed messages as \
         {{\"batchItemFailures\":[{{\"itemIdentifier\":ID}}]}}"
    )]
    OtherShape,
}

/// Reads the answer to a batch as an event source mapping with partial batch responses does: null,
/// an empty object, and a list that is null or empty say that all is done.
pub fn batch_response(answer: &[u8]) -> Result<SqsBatchResponse, MalformedAnswer> {
    let failures = match serde_json::from_slice(answer)? {
        Value::Null => Value::Null,
        Value::Object(mut answer) => answer.remove("batchItemFailures").unwrap_or_default(),
        _ => return Err(MalformedAnswer::OtherShape),
    };
    let mut response = SqsBatchResponse::default();
    match failures {
        Value::Null => {}
        Value::Array(items) => {
            for item in items {
                let Some(id) = item.get("itemIdentifier").and_then(Value::as_str) else {
                    return Err(MalformedAnswer::OtherShape);
                };
                let mut failure = BatchItemFailure::default();
                id.clone_into(&mut failure.item_identifier);
                response.batch_item_failures.push(failure);
            }
        }
        _ => return Err(MalformedAnswer::OtherShape),
    }
    Ok(response)
}

/// Which of the batch's messages go back. An id that is none of theirs, an empty one too, says that
/// the answer is not to be trusted: all of them do.
pub fn split(
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

    fn back(answer: &str) -> Option<Vec<String>> {
        let messages = ["a", "b", "c"].map(received).to_vec();
        let (back, done) = split(messages, &batch_response(answer.as_bytes()).ok()?);
        assert_eq!(back.len() + done.len(), 3, "none is lost");
        Some(back.into_iter().map(|message| message.id).collect())
    }

    /// The rules of AWS Lambda's guide, "Reporting batch item failures for SQS".
    #[test]
    fn success_and_failure_are_told_apart_as_an_event_source_mapping_does() {
        let none: Vec<String> = Vec::new();
        for success in [
            "null",
            "{}",
            r#"{"batchItemFailures":null}"#,
            r#"{"batchItemFailures":[]}"#,
            r#"{"other":1}"#,
        ] {
            assert_eq!(back(success), Some(none.clone()), "{success}");
        }
        let item = |id: &str| {
            format!(
                r#"{{"batchItemFailures":[{{"itemIdentifier":"b"}},{{"itemIdentifier":{id}}}]}}"#
            )
        };
        assert_eq!(back(&item("\"c\"")).unwrap(), ["b", "c"]);
        assert_eq!(back(&item("\"b\"")).unwrap(), ["b"], "named twice");
        for unknown in ["\"x\"", "\"\""] {
            assert_eq!(back(&item(unknown)).unwrap(), ["a", "b", "c"], "{unknown}");
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
            assert_eq!(back(malformed), None, "{malformed}");
        }
        assert_eq!(back(&item("null")), None);
        assert_eq!(back(&item("7")), None);
    }

    /// The published types read them, which know what AWS sends.
    #[test]
    fn events_have_the_shape_that_aws_gives_them() {
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
