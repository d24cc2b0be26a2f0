//! One log line: an event with the fields of its spans.
//!
//! Two lines are logged for each delivery, so a line is written without copies of its fields.

use std::{error::Error, fmt};

use serde::ser::{SerializeMap, Serializer as _};
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    field::{RecordFields, VisitOutput},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, DefaultVisitor, Writer},
        time::{FormatTime, SystemTime},
    },
    layer::Context,
    registry::LookupSpan,
};

use super::{Format, SPAN_TARGET};

/// The field that precedes each message.
const CORRELATION_ID: &str = "correlation_id";

/// The field with the text of an event.
const MESSAGE: &str = "message";

/// The fields of one span, in their order.
#[derive(Debug)]
struct SpanFields(Vec<(&'static str, FieldValue)>);

#[derive(Debug)]
struct FieldValue {
    value: Value,
    /// Text quotes strings, but not values that are logged by their `Display`.
    quoted: bool,
}

impl SpanFields {
    fn push(&mut self, field: &Field, value: Value, quoted: bool) {
        self.0.push((field.name(), FieldValue { value, quoted }));
    }
}

impl Visit for SpanFields {
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

/// Keeps the fields of each of our spans for the lines that are logged inside it.
pub(super) struct KeepSpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepSpanFields {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if attributes.metadata().target() != SPAN_TARGET {
            return;
        }
        let Some(span) = ctx.span(id) else { return };
        let mut fields = SpanFields(Vec::with_capacity(attributes.fields().len()));
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }
}

/// Formats no fields of spans: [`KeepSpanFields`] keeps them.
pub(super) struct NoFields;

impl<'writer> FormatFields<'writer> for NoFields {
    fn format_fields<R: RecordFields>(&self, _: Writer<'writer>, _: R) -> fmt::Result {
        Ok(())
    }
}

/// Formats events.
pub(super) struct Line {
    pub(super) format: Format,
}

impl<S> FormatEvent<S, NoFields> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, NoFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut own = OwnFields::default();
        event.record(&mut own);
        match self.format {
            Format::Json => write_json(&mut writer, ctx, event, own)?,
            Format::Text => {
                write_time_and_level(&mut writer, *event.metadata().level())?;
                if let Some(id) = correlation_id(ctx, &own) {
                    writer.write_char('[')?;
                    write_escaped(&mut writer, &id)?;
                    writer.write_str("] ")?;
                }
                write_own_fields(&mut writer, event, &own)?;
                for_each_inherited(ctx, own, |name, field| {
                    write_text_field(&mut writer, name, field)
                })?;
            }
        }
        writeln!(writer)
    }
}

/// The names of an event's own fields, and its correlation ID and message if it has them.
#[derive(Debug, Default)]
struct OwnFields {
    names: Vec<&'static str>,
    correlation_id: Option<String>,
    message: Option<String>,
}

impl OwnFields {
    fn push(&mut self, field: &Field, text: impl FnOnce() -> String) {
        self.names.push(field.name());
        match field.name() {
            CORRELATION_ID => self.correlation_id = Some(text()),
            MESSAGE => self.message = Some(text()),
            _ => {}
        }
    }
}

impl Visit for OwnFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, || value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, || format!("{value:?}"));
    }
}

/// The event's own correlation ID, or that of its innermost span with one.
fn correlation_id<S>(ctx: &FmtContext<'_, S, NoFields>, own: &OwnFields) -> Option<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    own.correlation_id.clone().or_else(|| {
        ctx.event_scope().into_iter().flatten().find_map(|span| {
            let extensions = span.extensions();
            let SpanFields(fields) = extensions.get()?;
            let (_, field) = fields.iter().find(|(name, _)| *name == CORRELATION_ID)?;
            field.value.as_str().map(str::to_owned)
        })
    })
}

/// Calls `write` with each field of the event's spans that the event does not have itself. Fields
/// of inner spans win.
fn for_each_inherited<S, E>(
    ctx: &FmtContext<'_, S, NoFields>,
    own: OwnFields,
    mut write: impl FnMut(&'static str, &FieldValue) -> Result<(), E>,
) -> Result<(), E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut written = own.names;
    for span in ctx.event_scope().into_iter().flatten() {
        let extensions = span.extensions();
        let Some(SpanFields(fields)) = extensions.get() else { continue };
        for (name, field) in fields {
            if !written.contains(name) {
                write(name, field)?;
                written.push(name);
            }
        }
    }
    Ok(())
}

fn write_json<S>(
    writer: &mut Writer<'_>,
    ctx: &FmtContext<'_, S, NoFields>,
    event: &Event<'_>,
    mut own: OwnFields,
) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    let mut message = own.message.take().unwrap_or_default();
    if let Some(id) = correlation_id(ctx, &own) {
        message = format!("[{id}] {message}");
    }
    let mut line = Vec::with_capacity(512);
    let write = |line: &mut Vec<u8>| -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &time)?;
        map.serialize_entry("level", event.metadata().level().as_str())?;
        let mut entries = JsonEntries { map: &mut map, message, result: Ok(()) };
        event.record(&mut entries);
        entries.result?;
        for_each_inherited(ctx, own, |name, field| map.serialize_entry(name, &field.value))?;
        map.serialize_entry("target", event.metadata().target())?;
        map.end()
    };
    write(&mut line).map_err(|_| fmt::Error)?;
    writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
}

/// Writes the event's own fields as entries of a map, with this message.
struct JsonEntries<'a, M: SerializeMap> {
    map: &'a mut M,
    message: String,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonEntries<'_, M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_ok() {
            self.result = self.map.serialize_entry(field.name(), value);
        }
    }

    fn write_message(&mut self, field: &Field) {
        let message = std::mem::take(&mut self.message);
        self.entry(field, &message);
    }
}

impl<M: SerializeMap> Visit for JsonEntries<'_, M> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.write_message(field);
        } else {
            self.entry(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            self.write_message(field);
        } else {
            self.entry(field, &format!("{value:?}"));
        }
    }
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

/// The message and the event's other fields. `DefaultFields` looks at each character of a message
/// by itself, so a message without control characters does not go through it.
fn write_own_fields(writer: &mut Writer<'_>, event: &Event<'_>, own: &OwnFields) -> fmt::Result {
    match (own.names.first(), &own.message) {
        (Some(&MESSAGE), Some(message)) if !message.contains(char::is_control) => {
            writer.write_str(message)?;
            let mut others = OtherFields(DefaultVisitor::new(writer.by_ref(), false));
            event.record(&mut others);
            others.0.finish()
        }
        _ => DefaultFields::new().format_fields(writer.by_ref(), event),
    }
}

/// Visits the fields other than the message.
struct OtherFields<'a>(DefaultVisitor<'a>);

impl Visit for OtherFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if field.name() != MESSAGE {
            self.0.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != MESSAGE {
            self.0.record_debug(field, value);
        }
    }
}

/// ` name=value`, in the look of the event's own fields.
fn write_text_field(
    writer: &mut Writer<'_>,
    name: &'static str,
    field: &FieldValue,
) -> fmt::Result {
    if writer.has_ansi_escapes() {
        write!(writer, " \x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
    } else {
        write!(writer, " {name}=")?;
    }
    match &field.value {
        Value::String(text) if field.quoted => write!(writer, "{text:?}"),
        Value::String(text) => write_escaped(writer, text),
        other => write!(writer, "{other}"),
    }
}

/// Writes text without control characters, which a terminal would obey.
fn write_escaped(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    if !text.contains(char::is_control) {
        return writer.write_str(text);
    }
    for character in text.chars() {
        if character.is_control() {
            write!(writer, "{}", character.escape_debug())?;
        } else {
            writer.write_char(character)?;
        }
    }
    Ok(())
}
