//! One log line: an event with the fields of its spans.

use std::{
    fmt::{self, Write as _},
    mem,
};

use serde::ser::{SerializeMap, Serializer as _};
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::Context,
    registry::LookupSpan,
};

use super::Format;

/// The field that precedes each message.
const CORRELATION_ID: &str = "correlation_id";

/// The fields of one event or span, in their order.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, FieldValue)>);

#[derive(Clone, Debug)]
struct FieldValue {
    value: Value,
    /// Text quotes strings, but not values that are logged by their `Display`.
    quoted: bool,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&FieldValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn push(&mut self, field: &Field, value: Value, quoted: bool) {
        self.0.push((field.name(), FieldValue { value, quoted }));
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into(), false);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into(), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into(), false);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into(), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into(), true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into(), false);
    }
}

/// Keeps the fields of each span for the lines that are logged inside it.
pub(super) struct KeepSpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepSpanFields {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }
}

/// Formats events.
pub(super) struct Line {
    pub(super) format: Format,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let inherited = inherited(ctx, &fields);
        let correlation_id = fields.get(CORRELATION_ID).or_else(|| inherited.get(CORRELATION_ID));
        let prefix = correlation_id
            .and_then(|field| field.value.as_str())
            .map(|id| format!("[{id}] "))
            .filter(|prefix| !message(&fields).starts_with(prefix.as_str()));
        let prefix = prefix.unwrap_or_default();
        match self.format {
            Format::Json => write_json(&mut writer, event, &prefix, fields, &inherited)?,
            Format::Text => {
                write_time_and_level(&mut writer, *event.metadata().level())?;
                writer.write_str(&escaped(&prefix))?;
                ctx.format_fields(writer.by_ref(), event)?;
                write_text_fields(&mut writer, &inherited)?;
            }
        }
        writeln!(writer)
    }
}

fn message(event: &Fields) -> &str {
    event.get("message").and_then(|field| field.value.as_str()).unwrap_or_default()
}

/// The fields of the event's spans that the event does not have itself; those of inner spans win.
fn inherited<S, N>(ctx: &FmtContext<'_, S, N>, event: &Fields) -> Fields
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut inherited = Fields::default();
    for span in ctx.event_scope().into_iter().flatten() {
        let extensions = span.extensions();
        let Some(Fields(fields)) = extensions.get() else { continue };
        for (name, value) in fields {
            if event.get(name).is_none() && inherited.get(name).is_none() {
                inherited.0.push((name, value.clone()));
            }
        }
    }
    inherited
}

fn write_json(
    writer: &mut Writer<'_>,
    event: &Event<'_>,
    prefix: &str,
    mut fields: Fields,
    inherited: &Fields,
) -> fmt::Result {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    if let Some((_, message)) = fields.0.iter_mut().find(|(name, _)| *name == "message")
        && let Value::String(text) = &mut message.value
        && !prefix.is_empty()
    {
        *text = format!("{prefix}{}", mem::take(text));
    }
    let mut line = Vec::with_capacity(512);
    let write = |line: &mut Vec<u8>| -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &time)?;
        map.serialize_entry("level", event.metadata().level().as_str())?;
        for (name, field) in fields.0.iter().chain(&inherited.0) {
            map.serialize_entry(name, &field.value)?;
        }
        map.serialize_entry("target", event.metadata().target())?;
        map.end()
    };
    write(&mut line).map_err(|_| fmt::Error)?;
    writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
}

fn write_time_and_level(writer: &mut Writer<'_>, level: Level) -> fmt::Result {
    let colour = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    };
    if !writer.has_ansi_escapes() {
        SystemTime.format_time(writer)?;
        return write!(writer, " {level:>5} ");
    }
    writer.write_str("\x1b[2m")?;
    SystemTime.format_time(writer)?;
    write!(writer, "\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m ")
}

/// ` name=value` for each field, in the look of the event's own fields.
fn write_text_fields(writer: &mut Writer<'_>, fields: &Fields) -> fmt::Result {
    for (name, field) in &fields.0 {
        if writer.has_ansi_escapes() {
            write!(writer, " \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(writer, " {name}=")?;
        }
        match &field.value {
            Value::String(text) if field.quoted => write!(writer, "{text:?}")?,
            Value::String(text) => writer.write_str(&escaped(text))?,
            other => write!(writer, "{other}")?,
        }
    }
    Ok(())
}

/// Text without control characters, which a terminal would obey.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "{}", character.escape_debug());
        } else {
            escaped.push(character);
        }
    }
    escaped
}
