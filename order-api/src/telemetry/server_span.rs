//! SERVER span of each request, by OpenTelemetry's HTTP conventions, as a continuation of the
//! caller's trace.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE, URL_PATH, URL_SCHEME,
};
use outbox::trace_context::TraceContext;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Instruments;
use super::metrics::{Ended, SCHEME};
use crate::headers::single_value;
use crate::problem::ErrorType;

/// Runs the request in its span, and records its duration.
pub(crate) async fn observe(
    State(instruments): State<Instruments>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = method_name(request.method());
    let span = server_span(method, route.as_ref().map(MatchedPath::as_str), &request);
    let served = Served::new(instruments, method, route, span.clone());

    let response = next.run(request).instrument(span).await;

    let status = response.status();
    // An error of the client is not an error of this server.
    let error_type = status.is_server_error().then(|| {
        let error_type = response.extensions().get::<ErrorType>();
        error_type.map_or(OTHER, |error_type| error_type.0)
    });
    served.end(Ended {
        status: Some(status.as_u16()),
        error_type,
    });
    response
}

/// A request that is being served. If it is dropped before its end, the client has disconnected.
struct Served {
    instruments: Instruments,
    started: Instant,
    method: &'static str,
    route: Option<MatchedPath>,
    span: Span,
    ended: Ended,
}

impl Served {
    fn new(
        instruments: Instruments,
        method: &'static str,
        route: Option<MatchedPath>,
        span: Span,
    ) -> Self {
        instruments.request_started(method);
        Self {
            instruments,
            started: Instant::now(),
            method,
            route,
            span,
            ended: Ended {
                status: None,
                error_type: Some("cancelled"),
            },
        }
    }

    fn end(mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Ended { status, error_type } = self.ended;
        if let Some(status) = status {
            self.span.record(HTTP_RESPONSE_STATUS_CODE, status);
        }
        if let Some(error_type) = error_type {
            self.span.record(ERROR_TYPE, error_type);
            self.span.set_status(Status::error(error_type));
        }
        let route = self.route.as_ref().map(MatchedPath::as_str);
        let took = self.started.elapsed();
        self.instruments
            .request_ended(self.method, route, self.ended, took);
    }
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
        { HTTP_REQUEST_METHOD } = method,
        { HTTP_ROUTE } = route,
        { URL_PATH } = request.uri().path(),
        { URL_SCHEME } = SCHEME,
        { HTTP_RESPONSE_STATUS_CODE } = field::Empty,
        { ERROR_TYPE } = field::Empty,
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
