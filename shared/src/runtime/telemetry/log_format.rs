//! Log lines with the ids of their trace and span.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt, TraceFlags, TraceId};
use outbox::timestamp::Timestamp;
use serde::ser::{SerializeMap, Serializer as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Formatter of log lines.
pub(super) enum WithTraceId {
    Text,
    Json,
}

impl<S, N> FormatEvent<S, N> for WithTraceId
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ids = current_ids();
        match self {
            Self::Text => {
                let metadata = event.metadata();
                write!(writer, "{} ", Timestamp::now())?;
                level(&mut writer, *metadata.level())?;
                write!(writer, " {}: ", metadata.target())?;
                context.format_fields(writer.by_ref(), event)?;
                if let Some(Ids { trace, span, .. }) = ids {
                    write!(writer, " trace_id={trace} span_id={span}")?;
                }
                writeln!(writer)
            }
            Self::Json => {
                let line = json_line(event, ids).map_err(|_| fmt::Error)?;
                writeln!(writer, "{line}")
            }
        }
    }
}

fn level(writer: &mut Writer<'_>, level: Level) -> fmt::Result {
    if !writer.has_ansi_escapes() {
        return write!(writer, "{level:>5}");
    }
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 36,
    };
    write!(writer, "\x1b[{colour}m{level:>5}\x1b[0m")
}

/// Ids of the current span.
struct Ids {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

fn current_ids() -> Option<Ids> {
    Context::map_current(|context| {
        let span = context.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| Ids {
            trace: span_context.trace_id(),
            span: span_context.span_id(),
            flags: span_context.trace_flags(),
        })
    })
}

fn json_line(event: &Event<'_>, ids: Option<Ids>) -> serde_json::Result<String> {
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &Timestamp::now())?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    map.serialize_entry("target", event.metadata().target())?;
    let has_ids = ids.is_some();
    if let Some(Ids { trace, span, flags }) = ids {
        map.serialize_entry("trace_id", &trace.to_string())?;
        map.serialize_entry("span_id", &span.to_string())?;
        map.serialize_entry("trace_flags", &format!("{:02x}", flags.to_u8()))?;
    }
    let mut fields = JsonFields {
        map,
        has_ids,
        outcome: Ok(()),
    };
    event.record(&mut fields);
    fields.outcome?;
    fields.map.end()?;
    // serde_json writes nothing but UTF-8.
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Keys of every line, and of lines inside a span.
const OWN_KEYS: [&str; 3] = ["timestamp", "level", "target"];
const ID_KEYS: [&str; 3] = ["trace_id", "span_id", "trace_flags"];

struct JsonFields<M: SerializeMap> {
    map: M,
    has_ids: bool,
    outcome: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonFields<M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        // Keys must be unique. A log line about another trace has its own `trace_id` field.
        let name = field.name();
        let doubled = OWN_KEYS.contains(&name) || self.has_ids && ID_KEYS.contains(&name);
        if self.outcome.is_ok() && !doubled {
            self.outcome = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for JsonFields<M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field, &format!("{value:?}"));
    }
}
