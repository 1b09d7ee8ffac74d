//! Log lines with the trace id of their span.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
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
        let trace_id = current_trace_id();
        match self {
            Self::Text => {
                let metadata = event.metadata();
                write!(writer, "{} ", Timestamp::now())?;
                level(&mut writer, *metadata.level())?;
                write!(writer, " {}: ", metadata.target())?;
                context.format_fields(writer.by_ref(), event)?;
                if let Some(trace_id) = trace_id {
                    write!(writer, " trace_id={trace_id}")?;
                }
                writeln!(writer)
            }
            Self::Json => {
                let line = json_line(event, trace_id.as_deref()).map_err(|_| fmt::Error)?;
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

fn current_trace_id() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let span_context = span.span_context();
        span_context
            .is_valid()
            .then(|| span_context.trace_id().to_string())
    })
}

fn json_line(event: &Event<'_>, trace_id: Option<&str>) -> serde_json::Result<String> {
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &Timestamp::now())?;
    map.serialize_entry("level", event.metadata().level().as_str())?;
    map.serialize_entry("target", event.metadata().target())?;
    if let Some(trace_id) = trace_id {
        map.serialize_entry("trace_id", trace_id)?;
    }
    let mut fields = JsonFields {
        map,
        has_trace_id: trace_id.is_some(),
        outcome: Ok(()),
    };
    event.record(&mut fields);
    fields.outcome?;
    fields.map.end()?;
    // serde_json writes nothing but UTF-8.
    Ok(String::from_utf8_lossy(&line).into_owned())
}

struct JsonFields<M: SerializeMap> {
    map: M,
    has_trace_id: bool,
    outcome: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonFields<M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        // A log line about another trace has its own `trace_id` field, and keys must be unique.
        let doubled = field.name() == "trace_id" && self.has_trace_id;
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
