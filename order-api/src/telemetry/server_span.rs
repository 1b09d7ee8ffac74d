//! SERVER span of each request, by OpenTelemetry's HTTP conventions, as a continuation of the
//! caller's trace.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::trace::{Status, TraceContextExt};
use outbox::trace_context::TraceContext;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Instruments;
use crate::body::single_value;
use crate::problem::ErrorType;

/// Runs the request in its span, and records its duration.
pub(crate) async fn observe(
    State(instruments): State<Instruments>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = method_name(request.method());
    let route = route.as_ref().map(MatchedPath::as_str);
    let span = server_span(method, route, &request);

    let response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    // An error of the client is not an error of this server.
    if status.is_server_error() {
        let error_type = response.extensions().get::<ErrorType>();
        let error_type = error_type.map_or("_OTHER", |error_type| error_type.0);
        span.record("error.type", error_type);
        span.set_status(Status::error(error_type));
    }
    instruments.request_finished(method, route, status.as_u16(), started.elapsed());
    response
}

fn server_span(method: &'static str, route: Option<&str>, request: &Request) -> Span {
    let known = if method == OTHER { "HTTP" } else { method };
    let name = match route {
        Some(route) => format!("{known} {route}"),
        None => known.to_owned(),
    };
    let span = tracing::info_span!(
        "request",
        otel.name = name,
        otel.kind = "server",
        "http.request.method" = method,
        "http.route" = route,
        "url.path" = request.uri().path(),
        "url.scheme" = "http",
        "http.response.status_code" = field::Empty,
        "error.type" = field::Empty,
    );
    let parent = caller(request.headers()).to_context();
    if parent.span().span_context().is_valid()
        && let Err(error) = span.set_parent(parent)
    {
        tracing::debug!(%error, "the caller's trace cannot be continued; starting a new one");
    }
    span
}

/// Returns the caller's trace context. Repeated `traceparent` headers are ignored, like malformed
/// ones.
fn caller(headers: &HeaderMap) -> TraceContext {
    let traceparent = single_value(headers, &HeaderName::from_static("traceparent"))
        .and_then(Result::ok)
        .map(str::to_owned);
    // W3C Trace Context allows several `tracestate` headers.
    let lists: Vec<_> = headers
        .get_all("tracestate")
        .iter()
        .filter_map(|list| list.to_str().ok())
        .collect();
    TraceContext {
        traceparent,
        tracestate: Some(lists.join(",")).filter(|list| !list.is_empty()),
    }
}

const OTHER: &str = "_OTHER";

/// Returns the name of a standard method. Clients can send any number of others.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}
