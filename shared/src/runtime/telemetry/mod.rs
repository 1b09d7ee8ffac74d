//! Logs, traces and metrics of a process.
//!
//! Spans are created with `tracing` (services) or the OpenTelemetry API (the relay, whose spans
//! have remote parents and links); one tracer provider receives both. Trace ids exist even if
//! nothing is exported, because they are stored with every event and appear in every log line.
//!
//! Everything is configured by OpenTelemetry's own variables:
//! `OTEL_EXPORTER_OTLP_ENDPOINT` (unset: nothing is exported; gRPC),
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`.

mod log_format;
pub mod metrics;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_resource_detectors::{
    ContainerResourceDetector, HostResourceDetector, OsResourceDetector, ProcessResourceDetector,
    ServiceInstanceIdResourceDetector,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::{
    EnvResourceDetector, ResourceDetector, SdkProvidedResourceDetector, TelemetryResourceDetector,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_semantic_conventions::attribute::{PROCESS_COMMAND_ARGS, SERVICE_VERSION};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use self::log_format::WithTraceId;
use self::metrics::Metrics;
use crate::runtime::env_check;

/// Format of the log lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text, for people
    Text,
    /// One JSON object per line, for programs
    Json,
}

/// Crates whose `tracing` spans become OpenTelemetry spans. The SDKs' own spans are excluded,
/// because they would double the size of every trace.
const TRACED_CRATES: [&str; 7] = [
    "outbox",
    "outbox_store",
    "outbox_admin",
    "shared",
    "order_api",
    "outbox_relay",
    "inventory_worker",
];

/// Log filter unless `RUST_LOG` is set. The embedded DynamoDB warns about every failed condition,
/// and conditions fail in normal operation.
const DEFAULT_FILTER: &str = "info,dynoxide=error";

/// The exporters of a running process.
#[derive(Clone, Debug)]
pub struct Telemetry {
    pub metrics: Metrics,
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
}

/// Installs the global subscriber and providers. Must be called once, at the start of a process.
/// `OTEL_SERVICE_NAME` overrides `service_name`.
///
/// # Errors
/// A sentence about the invalid variable.
pub fn init(service_name: &'static str, format: LogFormat) -> Result<Telemetry, String> {
    env_check::check_telemetry(env_check::variable)?;
    global::set_text_map_propagator(opentelemetry_sdk::propagation::TraceContextPropagator::new());
    let resource = resource(service_name);

    let mut tracers = SdkTracerProvider::builder().with_resource(resource.clone());
    let (metrics, mut meters) = Metrics::new(resource)?;
    if exporting() {
        let wrong = |error: &dyn std::fmt::Display| {
            format!("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used: {error}")
        };
        let spans = SpanExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| wrong(&error))?;
        tracers = tracers.with_batch_exporter(spans);
        let readings = MetricExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| wrong(&error))?;
        meters = meters.with_periodic_exporter(readings);
    }
    let tracers = tracers.build();
    let meters = meters.build();
    global::set_tracer_provider(tracers.clone());
    global::set_meter_provider(meters.clone());

    let filter =
        EnvFilter::try_from_default_env().or_else(|error| match std::env::var_os("RUST_LOG") {
            None => Ok(EnvFilter::new(DEFAULT_FILTER)),
            Some(value) if value.is_empty() => Ok(EnvFilter::new(DEFAULT_FILTER)),
            Some(_) => Err(format!("RUST_LOG cannot be parsed: {error}")),
        })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .event_format(WithTraceId::Text)
            .boxed(),
        LogFormat::Json => lines
            .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
            .event_format(WithTraceId::Json)
            .boxed(),
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer(service_name))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    let traced = TRACED_CRATES
        .into_iter()
        .map(|name| (name, tracing::Level::INFO))
        .collect::<Targets>();
    tracing_subscriber::registry()
        .with(spans.with_filter(traced))
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|error| format!("logging cannot start: {error}"))?;

    Ok(Telemetry {
        metrics,
        tracers,
        meters,
    })
}

impl Telemetry {
    /// Exports what is still buffered, within at most 5 seconds.
    pub async fn shutdown(&self) {
        let providers = Arc::new((self.tracers.clone(), self.meters.clone()));
        let flush = tokio::task::spawn_blocking(move || {
            let (tracers, meters) = &*providers;
            (
                tracers.shutdown_with_timeout(Duration::from_secs(3)),
                meters.shutdown_with_timeout(Duration::from_secs(3)),
            )
        });
        // An unavailable collector must not prevent the exit.
        match tokio::time::timeout(Duration::from_secs(5), flush).await {
            Ok(Ok((spans, readings))) => {
                if let Err(error) = spans.and(readings) {
                    tracing::warn!(%error, "flushing telemetry failed; the last spans and metrics are lost");
                }
            }
            _ => {
                tracing::warn!("flushing telemetry timed out; the last spans and metrics are lost")
            }
        }
    }
}

fn exporting() -> bool {
    env_check::OTLP_ENDPOINTS
        .into_iter()
        .any(|name| env_check::variable(name).is_some())
}

/// Returns what identifies the process. `OTEL_RESOURCE_ATTRIBUTES` has precedence over what is
/// detected.
fn resource(service_name: &'static str) -> Resource {
    let detected: [&dyn ResourceDetector; 5] = [
        &HostResourceDetector::default(),
        &OsResourceDetector,
        &ProcessResourceDetector,
        &ContainerResourceDetector,
        &ServiceInstanceIdResourceDetector,
    ];
    let detected = detected.into_iter().flat_map(|detector| {
        let resource = detector.detect();
        // Arguments can contain secrets.
        let public = resource
            .iter()
            .filter(|(key, _)| key.as_str() != PROCESS_COMMAND_ARGS);
        let public = public.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        public.collect::<Vec<_>>()
    });
    let builder = Resource::builder_empty()
        .with_attributes(detected)
        .with_attribute(KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")))
        .with_detectors(&[
            Box::new(SdkProvidedResourceDetector),
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => builder,
        _ => builder.with_service_name(service_name),
    }
    .build()
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    #[test]
    fn process_is_identified_without_its_arguments() {
        let resource = resource("test");
        let has = |name: &'static str| resource.get(&Key::from_static_str(name)).is_some();
        for name in [
            "service.name",
            "service.version",
            "service.instance.id",
            "host.name",
            "os.type",
            "process.pid",
        ] {
            assert!(has(name), "{name}: {resource:?}");
        }
        assert!(!has(PROCESS_COMMAND_ARGS), "{resource:?}");
    }
}
