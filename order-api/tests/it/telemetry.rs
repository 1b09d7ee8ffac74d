//! Spans and metrics.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use reqwest::Method;
use test_support::{Fault, eventually};

use crate::otlp_collector::{OtlpCollector, attribute, hex};
use crate::support::{TRANSACT, World, an_order};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

async fn traced() -> (World, OtlpCollector) {
    let receiver = OtlpCollector::start().await;
    let world = World::with(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &receiver.url),
        // Milliseconds; the default is 5 seconds.
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ])
    .await;
    (world, receiver)
}

/// Waits for the span that `which` selects.
async fn span(receiver: &OtlpCollector, which: impl Fn(&Span) -> bool) -> Span {
    let find = async || {
        let spans = receiver.spans();
        let names: Vec<_> = spans.iter().map(|span| span.name.clone()).collect();
        spans.into_iter().find(&which).ok_or(names)
    };
    eventually(Duration::from_secs(10), find).await.unwrap()
}

fn status(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, |s| s.code())
}

#[tokio::test]
async fn the_callers_trace_is_continued_into_the_stored_event() {
    let (world, receiver) = traced().await;
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    // The first attempt is lost; the retry creates no second span.
    world.proxy.once(TRANSACT, Fault::Cut);
    let headers = [("traceparent", traceparent.as_str())];
    let answer = world.post_with(&headers, &an_order()).await;
    answer.assert_created();

    let server = span(&receiver, |span| span.name == "POST /orders").await;
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(hex(&server.trace_id), TRACE);
    assert_eq!(hex(&server.parent_span_id), CALLER);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/orders"),
        ("url.path", "/orders"),
        ("http.response.status_code", "201"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(&server, key), value, "{key}");
    }
    assert_eq!(status(&server), StatusCode::Unset);

    let producer = span(&receiver, |span| span.name == "create outbox").await;
    assert_eq!(producer.kind(), SpanKind::Producer);
    assert_eq!(producer.trace_id, server.trace_id);
    assert_eq!(producer.parent_span_id, server.span_id);
    let event = world.items("outbox").await.remove(0);
    assert_eq!(
        event["traceparent"].as_s().unwrap(),
        &format!("00-{TRACE}-{}-01", hex(&producer.span_id))
    );
    let sent = |span: &Span, error_type: &str| {
        span.name == "DynamoDB.TransactWriteItems"
            && span.parent_span_id == producer.span_id
            && attribute(span, "error.type") == error_type
    };
    let lost = span(&receiver, |span| sent(span, "_OTHER")).await;
    assert_eq!(status(&lost), StatusCode::Error);
    let request = span(&receiver, |span| sent(span, "")).await;
    assert_eq!(request.kind(), SpanKind::Client);
    assert_eq!(attribute(&request, "db.system.name"), "aws.dynamodb");
    assert_eq!(
        attribute(&request, "db.operation.name"),
        "TransactWriteItems"
    );
    assert_eq!(attribute(&request, "http.response.status_code"), "200");
    let producers = receiver.spans();
    let producers = producers.iter().filter(|s| s.name == "create outbox");
    assert_eq!(producers.count(), 1);
}

#[tokio::test]
async fn spans_of_a_disconnected_client_are_cancelled() {
    let (world, receiver) = traced().await;
    world.proxy.once(TRANSACT, Fault::Hold);
    let order = an_order();
    tokio::select! {
        answer = world.post(&order) => panic!("the request was answered: {answer:?}"),
        held = world.proxy.holds() => held.unwrap(),
    }
    for name in ["POST /orders", "create outbox"] {
        let cancelled = span(&receiver, |span| span.name == name).await;
        assert_eq!(status(&cancelled), StatusCode::Error, "{name}");
        assert_eq!(attribute(&cancelled, "error.type"), "cancelled", "{name}");
    }
    let metrics = world.admin_get("/metrics").await.body;
    assert!(metrics.contains(r#"error_type="cancelled""#), "{metrics}");
}

#[tokio::test]
async fn a_malformed_traceparent_starts_a_new_trace() {
    let world = World::start().await;
    let zeros = format!("00-{}-{CALLER}-01", "0".repeat(32));
    for malformed in [
        "nonsense",
        "",
        &zeros,
        &format!("00-{TRACE}-{CALLER}"),
        &format!("ff-{TRACE}-{CALLER}-01"),
        &format!("00-{}-{CALLER}-01", TRACE.to_uppercase()),
    ] {
        let headers = [("traceparent", malformed), ("tracestate", "vendor=1")];
        let answer = world.post_with(&headers, &an_order()).await;
        answer.assert_created();
    }
    let twice = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", twice.as_str()); 2];
    world
        .post_with(&headers, &an_order())
        .await
        .assert_created();

    let mut traces = std::collections::BTreeSet::new();
    for event in world.items("outbox").await {
        let traceparent = event["traceparent"].as_s().unwrap();
        let parts: Vec<_> = traceparent.split('-').collect();
        assert_eq!((parts[0].len(), parts[1].len()), (2, 32), "{traceparent}");
        assert_ne!(parts[1], TRACE);
        assert!(!event.contains_key("tracestate"));
        traces.insert(parts[1].to_owned());
    }
    assert_eq!(traces.len(), 7, "each event has a trace of its own");
}

#[tokio::test]
async fn a_tracestate_of_16_kib_is_not_stored() {
    let world = World::start().await;
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let member = |n: usize| format!("v{n}={}", "x".repeat(250));
    let long: Vec<_> = (0..64).map(member).collect();
    for (tracestate, stored) in [(long.join(","), None), (member(1), Some(member(1)))] {
        let headers = [
            ("traceparent", traceparent.as_str()),
            ("tracestate", tracestate.as_str()),
        ];
        let created = world.post_with(&headers, &an_order()).await;
        let id = created.assert_created()["order_id"].clone();
        let events = world.items("outbox").await;
        let event = events
            .iter()
            .find(|event| event["aggregate_id"].as_s().unwrap() == &id);
        let event = event.unwrap();
        assert!(event["traceparent"].as_s().unwrap().contains(TRACE));
        let tracestate = event.get("tracestate").map(|text| text.as_s().unwrap());
        assert_eq!(tracestate, stored.as_ref());
    }
}

#[tokio::test]
async fn failed_requests_have_error_spans_and_probes_have_none() {
    let (world, receiver) = traced().await;
    for path in ["/healthz", "/readyz"] {
        world.get(path).await;
        world.admin_get(path).await;
    }
    world.admin_get("/metrics").await;
    world.get("/nope").await;
    let unmatched = span(&receiver, |span| span.name == "GET").await;
    assert_eq!(attribute(&unmatched, "http.route"), "");
    assert_eq!(attribute(&unmatched, "http.response.status_code"), "404");
    assert_eq!(status(&unmatched), StatusCode::Unset);

    world
        .get("/orders/0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f")
        .await;
    span(&receiver, |span| span.name == "GET /orders/{id}").await;
    world.send(Method::PATCH, "/orders", &[], Vec::new()).await;
    span(&receiver, |span| span.name == "PATCH /orders").await;
    let method = Method::from_bytes(b"BREW").unwrap();
    world.send(method, "/orders", &[], Vec::new()).await;
    let made_up = span(&receiver, |span| span.name == "HTTP /orders").await;
    assert_eq!(attribute(&made_up, "http.request.method"), "_OTHER");

    world.always([(TRANSACT, Fault::refuse("ThrottlingException"))]);
    world.post(&an_order()).await;
    for name in ["POST /orders", "create outbox"] {
        let failed = span(&receiver, |span| span.name == name).await;
        assert_eq!(status(&failed), StatusCode::Error, "{name}");
        assert_eq!(attribute(&failed, "error.type"), "throttled", "{name}");
    }
    let untraced = |span: &Span| {
        let path = attribute(span, "url.path");
        ["/healthz", "/readyz", "/metrics"].contains(&path.as_str())
    };
    assert!(!receiver.spans().iter().any(untraced));
}

#[tokio::test]
async fn requests_are_measured_by_route_and_status() {
    let world = World::start().await;
    let before = world.admin_get("/metrics").await.body;
    assert!(before.contains("\norders_created_total 0\n"), "{before}");
    let order = world.post(&an_order()).await.assert_created();
    let id = order["order_id"].as_str().unwrap();
    world.get(&format!("/orders/{id}")).await;
    world.get("/orders/1").await;
    world.get("/nope").await;
    let metrics = world.admin_get("/metrics").await.body;
    assert!(metrics.contains("\norders_created_total 1\n"), "{metrics}");
    for labels in [
        r#"http_request_method="POST",http_response_status_code="201",http_route="/orders""#,
        r#"http_request_method="GET",http_response_status_code="200",http_route="/orders/{id}""#,
        r#"http_request_method="GET",http_response_status_code="404",http_route="/orders/{id}""#,
        r#"http_request_method="GET",http_response_status_code="404""#,
    ] {
        let labels = format!(r#"{labels},url_scheme="http""#);
        let line = format!("http_server_request_duration_seconds_count{{{labels}}} 1");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    let active = r#"http_server_active_requests{http_request_method="POST",url_scheme="http"} 0"#;
    assert!(metrics.contains(active), "{metrics}");
    assert!(!metrics.contains(id), "labels carry no ids");
}

#[tokio::test]
async fn an_order_contains_its_trace_id() {
    let world = World::start().await;
    for flags in ["01", "00"] {
        // Logs contain the id even if the trace is not sampled.
        let traceparent = format!("00-{TRACE}-{CALLER}-{flags}");
        let headers = [("traceparent", traceparent.as_str())];
        let created = world.post_with(&headers, &an_order()).await;
        let created = created.assert_created();
        assert_eq!(created["trace_id"], TRACE);
        let id = created["order_id"].as_str().unwrap();
        // The trace of the order, not that of the request that reads it.
        let read = world.get(&format!("/orders/{id}")).await.json();
        assert_eq!(read["trace_id"], TRACE);
    }

    let created = world.post(&an_order()).await.assert_created();
    let id = &created["order_id"];
    let events = world.items("outbox").await;
    let event = events
        .iter()
        .find(|event| event["aggregate_id"].as_s().unwrap() == id);
    let traceparent = event.unwrap()["traceparent"].as_s().unwrap();
    assert_eq!(traceparent.split('-').nth(1), created["trace_id"].as_str());
}

#[tokio::test]
async fn a_repeated_request_returns_the_trace_id_of_the_first() {
    let world = World::start().await;
    let key = ("idempotency-key", "k-1");
    let first = world.post_with(&[key], &an_order()).await.assert_created();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let again = [key, ("traceparent", traceparent.as_str())];
    let again = world.post_with(&again, &an_order()).await.assert_created();
    assert_eq!(again["trace_id"], first["trace_id"]);
    assert_ne!(again["trace_id"], TRACE);
}

#[tokio::test]
async fn log_lines_carry_the_trace_id_of_their_request() {
    let world = World::start().await;
    world.always([(TRANSACT, Fault::refuse("ThrottlingException"))]);
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", traceparent.as_str())];
    world.post_with(&headers, &an_order()).await;
    let line = eventually(Duration::from_secs(10), async || {
        let log = world.api.log();
        let line = log.lines().find(|line| line.contains("was not confirmed"));
        line.map(str::to_owned).ok_or(log)
    });
    let line: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    assert_eq!(line["trace_id"], TRACE, "{line}");
    assert_eq!(line["span_id"].as_str().unwrap().len(), 16, "{line}");
    assert_eq!(line["trace_flags"], "01", "{line}");
}
