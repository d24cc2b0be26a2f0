//! Log lines: JSON on Lambda, readable text locally. `RUST_LOG` selects what is logged: a level, or
//! a list such as `warn,deliver=info`. The default is `info`. Release builds contain nothing below
//! `info`.
//!
//! # Spans
//!
//! The code that works on a request or a webhook runs inside a span ([`request_span`],
//! [`webhook_span`], [`message_span`]). Each line that is logged inside the span carries the span's
//! fields, and `[correlation_id] ` precedes its message. A log site therefore names neither:
//!
//! ```
//! use tracing::Instrument;
//!
//! # async fn handle(id: &str) {
//! let span = shared::logging::request_span(id, None);
//! async { tracing::warn!("Refused") }.instrument(span).await; // "[id] Refused"
//! # }
//! ```
//!
//! - Spans nest. The innermost span that has a field wins, and a field of the event itself wins
//!   over all spans.
//! - A spawned task does not inherit a span: instrument its future.
//!
//! Payloads and secrets are never logged. URLs are logged without query and userinfo.

mod line;

use std::io;

use tracing::{Span, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry,
    registry::LookupSpan,
    util::SubscriberInitExt,
};
use url::Url;

use crate::{
    applications::{id::ApplicationId, message::PublishedMessage},
    model::Webhook,
};

/// The target of the spans of this module. No `RUST_LOG` filters them out: a line would lose its
/// ids.
const SPAN_TARGET: &str = "posthaste::span";

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line on standard output, where Lambda reads it.
    Json,
    /// Text for people on standard error.
    Text,
}

/// Starts logging in this process. An invalid `RUST_LOG` is an error that names it. A second call
/// does nothing.
pub fn init(format: Format) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => {
            directives.trim().parse::<Targets>().map_err(|error| {
                format!("RUST_LOG is '{directives}', but {error}; example: warn,deliver=info")
            })?
        }
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    // Fails only if this process has a subscriber already, as when tests share a process.
    let _ = match format {
        Format::Json => registry().with(lines(format, filter, io::stdout, false)).try_init(),
        Format::Text => {
            // https://no-color.org: any value but the empty one turns colour off.
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colour = !no_color && io::IsTerminal::is_terminal(&io::stderr());
            registry().with(lines(format, filter, io::stderr, colour)).try_init()
        }
    };
    Ok(())
}

/// The layers that write the lines: one filters for both others, one keeps the fields of spans, and
/// one formats events. A filter for each layer would be asked again whenever a future enters or
/// leaves its span.
fn lines<S, W>(format: Format, filter: Targets, writer: W, colour: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter.with_target(SPAN_TARGET, LevelFilter::ERROR);
    // A line that cannot be written is dropped. A report of that on standard error would panic if
    // standard error is closed, too.
    let events = fmt::layer()
        .log_internal_errors(false)
        .with_ansi(colour)
        .with_writer(writer)
        .fmt_fields(line::NoFields)
        .event_format(line::Line { format });
    filter.and_then(line::KeepSpanFields).and_then(events)
}

/// The span of one HTTP request.
pub fn request_span(correlation_id: &str, xray_trace_id: Option<&str>) -> Span {
    // At the highest level, since a filter drops a span like an event of its level.
    tracing::error_span!(target: SPAN_TARGET, "request", correlation_id, xray_trace_id)
}

/// The span of the work on one webhook. That of a delivery names its application and its endpoint.
/// `xray_trace_id` is that of the invocation or the message,
/// if it has one.
pub fn webhook_span(webhook: &Webhook, xray_trace_id: Option<&str>) -> Span {
    let trace_id = webhook.trace.as_ref().map(|trace| trace.id.as_str());
    let application_id = webhook.application.as_ref().map(ApplicationId::as_str);
    let endpoint_id = webhook.id.endpoint.map(tracing::field::display);
    tracing::error_span!(
        target: SPAN_TARGET, "webhook", correlation_id = webhook.correlation_id,
        webhook_id = %webhook.id, application_id, endpoint_id, trace_id, xray_trace_id,
    )
}

/// The span of the work on one published message.
pub fn message_span(message: &PublishedMessage, xray_trace_id: Option<&str>) -> Span {
    let trace_id = message.trace.as_ref().map(|trace| trace.id.as_str());
    tracing::error_span!(
        target: SPAN_TARGET, "message", correlation_id = message.correlation_id,
        message_id = %message.id, application_id = message.application.as_str(), trace_id,
        xray_trace_id,
    )
}

/// A URL in the form in which it may be logged: without userinfo, query and fragment.
pub fn loggable_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Both fail only for URLs without a host, which have no userinfo either.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.into()
        }
        Err(_) => "(not a URL)".to_owned(),
    }
}

#[cfg(test)]
mod tests;
