use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::{clock::Timestamp, trace::Trace, transition::testing};

/// Collects what is written.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `log` writes under this `RUST_LOG`.
fn logged(format: Format, rust_log: &str, log: impl FnOnce()) -> Vec<String> {
    let buffer = Buffer::default();
    let writer = {
        let buffer = buffer.clone();
        move || buffer.clone()
    };
    let subscriber = registry().with(lines(format, rust_log.parse().unwrap(), writer, false));
    tracing::subscriber::with_default(subscriber, log);
    let bytes = buffer.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn json_lines(rust_log: &str, log: impl FnOnce()) -> Vec<Value> {
    let lines = logged(Format::Json, rust_log, log);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A line without its time.
fn untimed(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

fn webhook() -> Webhook {
    let mut webhook = testing::webhook(Timestamp::from_millis(0));
    webhook.trace = Some(Trace { id: "4bf9".to_owned(), sampled: true, state: None });
    webhook
}

#[test]
fn a_line_of_json_has_the_fields_of_its_span_and_the_correlation_id_before_its_message() {
    let webhook = webhook();
    let lines = json_lines("info", || {
        let _span = webhook_span(&webhook, Some("Root=1")).entered();
        tracing::info!(attempt = 2, "Successfully delivered webhook for reference_id={}", "r");
        tracing::warn!(target: "elsewhere", error = "no", "Other");
    });
    let id = webhook.id.to_string();
    assert_eq!(lines.len(), 2);
    for (line, (level, message)) in lines.iter().zip([
        ("INFO", "[cor-1] Successfully delivered webhook for reference_id=r"),
        ("WARN", "[cor-1] Other"),
    ]) {
        assert_eq!((&line["level"], &line["message"]), (&json!(level), &json!(message)));
        assert_eq!(
            [&line["correlation_id"], &line["webhook_id"], &line["trace_id"]],
            [&json!("cor-1"), &json!(id), &json!("4bf9")]
        );
        assert_eq!(line["xray_trace_id"], "Root=1");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert_eq!((&lines[0]["attempt"], &lines[1]["error"]), (&json!(2), &json!("no")));
    assert_eq!(lines[1]["target"], "elsewhere");
}

#[test]
fn the_lines_of_a_delivery_and_of_a_message_name_the_application() {
    let message = crate::store::golden::applications::published();
    let endpoint = crate::store::golden::applications::endpoint(1);
    let delivery = crate::transition::Rules::delivery(&message, endpoint).unwrap();
    let lines = json_lines("info", || {
        webhook_span(&delivery, None).in_scope(|| tracing::info!("of a delivery"));
        message_span(&message, Some("Root=1")).in_scope(|| tracing::info!("of a message"));
        webhook_span(&webhook(), None).in_scope(|| tracing::info!("of a direct webhook"));
    });
    let ids = |line: &Value| {
        ["webhook_id", "message_id", "application_id", "endpoint_id"]
            .map(|field| line[field].as_str().map(ToOwned::to_owned))
    };
    let (app, ep) = (Some("cust-7".to_owned()), Some(endpoint.to_string()));
    assert_eq!(ids(&lines[0]), [Some(delivery.id.to_string()), None, app.clone(), ep]);
    assert_eq!(ids(&lines[1]), [None, Some(message.id.to_string()), app, None]);
    assert_eq!(ids(&lines[2]), [Some(webhook().id.to_string()), None, None, None]);
    assert_eq!(lines[1]["message"], "[cor-20] of a message");
    assert_eq!(lines[1]["xray_trace_id"], "Root=1");
}

#[test]
fn a_line_of_text_has_the_same() {
    let webhook = webhook();
    let lines = logged(Format::Text, "info", || {
        let _span = webhook_span(&webhook, None).entered();
        tracing::info!(attempt = 2, "Successfully delivered webhook for reference_id={}", "r");
    });
    assert_eq!(
        untimed(&lines[0]),
        format!(
            " INFO [cor-1] Successfully delivered webhook for reference_id=r attempt=2 \
             correlation_id=\"cor-1\" webhook_id={} trace_id=\"4bf9\"",
            webhook.id
        )
    );
}

#[test]
fn the_innermost_field_wins_and_stands_once() {
    let log = || {
        let _request = request_span("outer", Some("Root=1")).entered();
        let _webhook = webhook_span(&webhook(), None).entered();
        tracing::info!("of the span");
        tracing::info!(correlation_id = "own", "of the event");
    };
    let json = logged(Format::Json, "info", log);
    let text = logged(Format::Text, "info", log);
    let expected = ["[cor-1] of the span", "[own] of the event"];
    for (index, message) in expected.into_iter().enumerate() {
        let line: Value = serde_json::from_str(&json[index]).unwrap();
        assert_eq!((&line["message"], &line["xray_trace_id"]), (&json!(message), &json!("Root=1")));
        for field in ["\"correlation_id\":", "\"webhook_id\":", "\"xray_trace_id\":"] {
            assert_eq!(json[index].matches(field).count(), 1, "{}", json[index]);
        }
        let line = untimed(&text[index]);
        assert!(line.starts_with(&format!(" INFO {message} ")), "{line}");
        for field in [" correlation_id=", " webhook_id=", " xray_trace_id="] {
            assert_eq!(line.matches(field).count(), 1, "{line}");
        }
    }
}

#[test]
fn no_filter_takes_the_ids_from_a_line() {
    for rust_log in ["other=error", "error,shared=off", "off,other=error"] {
        let lines = json_lines(rust_log, || {
            let _span = request_span("cor-1", None).entered();
            tracing::warn!(target: "other", "filtered out");
            tracing::error!(target: "shared::logging", "filtered out, too");
            tracing::error!(target: "other", "logged");
        });
        let line = lines.last().unwrap();
        let expected = (&json!("[cor-1] logged"), &json!("cor-1"));
        assert_eq!((&line["message"], &line["correlation_id"]), expected, "{rust_log}");
        assert_eq!(lines.len(), 1, "{rust_log}: {lines:?}");
    }
}

#[test]
fn lines_without_a_span_have_no_prefix() {
    let log = || tracing::info!(count = 1_u64, ratio = 0.5, "Started");
    assert_eq!(untimed(&logged(Format::Text, "info", log)[0]), " INFO Started count=1 ratio=0.5");
    let line = json_lines("info", log).remove(0);
    assert_eq!((&line["message"], &line["count"]), (&json!("Started"), &json!(1)));
    assert_eq!(line.get("correlation_id"), None);
}

#[test]
fn no_id_commands_the_terminal() {
    let lines = logged(Format::Text, "info", || {
        let _span = request_span("a\x1b[2Jb", None).entered();
        tracing::info!("Message");
    });
    assert!(!lines[0].contains('\x1b'), "{lines:?}");
}

#[test]
fn a_logged_url_holds_no_secret() {
    assert_eq!(
        loggable_url("https://user:pass@example.com/a/b?token=1#x"),
        "https://example.com/a/b"
    );
    assert_eq!(loggable_url("token=1"), "(not a URL)");
}
