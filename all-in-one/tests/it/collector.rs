//! An OTLP receiver over gRPC that keeps the received spans and metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A received span; ids in hexadecimal, an empty parent id for a root span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) parent: String,
    /// Links, as (trace id, span id).
    pub(crate) links: Vec<(String, String)>,
    /// Attributes; numbers as text.
    pub(crate) attributes: HashMap<String, String>,
}

/// Key of a metric: (service, name).
type MetricName = (String, String);

/// A metric, as exported.
#[derive(Clone, Debug)]
struct Metric {
    /// Type in the terms of Prometheus.
    kind: &'static str,
    /// Labels in the spelling of Prometheus.
    labels: BTreeSet<String>,
}

/// The receiver; it stops when dropped.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    received: Arc<Received>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    metrics: Mutex<BTreeMap<MetricName, Metric>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Received::default());
        let serving = Server::builder()
            .add_service(TraceServiceServer::from_arc(Arc::clone(&received)))
            .add_service(MetricsServiceServer::from_arc(Arc::clone(&received)))
            .serve_with_incoming(TcpIncoming::from(listener));
        Self {
            endpoint,
            received,
            server: tokio::spawn(async move { serving.await.unwrap() }),
        }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().unwrap().clone()
    }

    /// Returns (service, name, kind, labels) of every received metric.
    pub(crate) fn metrics(&self) -> BTreeSet<(String, String, String, BTreeSet<String>)> {
        let metrics = self.received.metrics.lock().unwrap().clone();
        metrics
            .into_iter()
            .map(|((service, name), metric)| (service, name, metric.kind.to_owned(), metric.labels))
            .collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let service = service_name(resource.resource.as_ref());
            let received = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            spans.extend(received.map(|span| {
                Span {
                    service: service.clone(),
                    kind: span.kind(),
                    name: span.name,
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: span
                        .links
                        .iter()
                        .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                        .collect(),
                    attributes: texts(&span.attributes),
                }
            }));
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut metrics = self.metrics.lock().unwrap();
        for resource in request.into_inner().resource_metrics {
            let service = service_name(resource.resource.as_ref());
            let received = resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics);
            for metric in received {
                let (kind, labels) = kind_and_labels(metric.data.as_ref().unwrap());
                let name = prometheus_name(&metric.name, &metric.unit, kind);
                let known = metrics.entry((service.clone(), name));
                let known = known.or_insert_with(|| Metric {
                    kind,
                    labels: BTreeSet::new(),
                });
                known.labels.extend(labels);
            }
        }
        Ok(Response::new(Default::default()))
    }
}

/// Returns the name that Prometheus shows.
fn prometheus_name(name: &str, unit: &str, kind: &str) -> String {
    let unit = match unit {
        "s" => "_seconds",
        "1" if kind == "gauge" => "_ratio",
        // Units such as `{event}` are annotations.
        _ => "",
    };
    let suffix = if kind == "counter" { "_total" } else { "" };
    format!("{}{unit}{suffix}", name.replace('.', "_"))
}

fn kind_and_labels(data: &Data) -> (&'static str, Vec<String>) {
    let (kind, attributes): (_, Vec<_>) = match data {
        Data::Gauge(gauge) => (
            "gauge",
            gauge
                .data_points
                .iter()
                .flat_map(|p| &p.attributes)
                .collect(),
        ),
        Data::Sum(sum) => (
            if sum.is_monotonic { "counter" } else { "gauge" },
            sum.data_points.iter().flat_map(|p| &p.attributes).collect(),
        ),
        Data::Histogram(histogram) => (
            "histogram",
            histogram
                .data_points
                .iter()
                .flat_map(|p| &p.attributes)
                .collect(),
        ),
        other => panic!("{other:?}"),
    };
    let labels = attributes.iter().map(|a| a.key.replace('.', "_")).collect();
    (kind, labels)
}

fn service_name(resource: Option<&Resource>) -> String {
    resource
        .map(|resource| texts(&resource.attributes))
        .and_then(|mut attributes| attributes.remove("service.name"))
        .unwrap_or_default()
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        _ => None,
    };
    attributes
        .iter()
        .filter_map(|attribute| Some((attribute.key.clone(), text(attribute)?)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
