//! One set of instruments, read by Prometheus and, if an endpoint is configured, pushed over OTLP.

use std::sync::Arc;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};
use prometheus::{Encoder, Registry, TextEncoder};

/// Upper bounds, in seconds, of the buckets of duration histograms: from a
/// local call to the age of an event after a long outage.
pub const DURATION_BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0,
    86_400.0,
];

/// The metrics of `/metrics`. Instruments have OpenTelemetry's dotted names and UCUM units;
/// Prometheus shows `http.server.request.duration` in `s` as
/// `http_server_request_duration_seconds`, and counters with the suffix `_total`.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// Content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Creates the registry, and a provider that fills it.
    pub(super) fn new(resource: Resource) -> Result<(Self, MeterProviderBuilder), String> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| format!("metrics cannot start: {error}"))?;
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(exporter);
        Ok((
            Self {
                registry: Arc::new(registry),
            },
            provider,
        ))
    }

    /// Returns all metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "encoding metrics failed; the response is incomplete");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
