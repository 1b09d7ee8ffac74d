//! An HTTP handler that stores an invoice and its event in one transaction, and continues the
//! caller's trace.
//!
//! ```sh
//! cargo run -p axum-handler
//! curl -i -X POST localhost:3000/invoices/i-1 -d 1999
//! ```

use std::sync::Arc;

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use outbox::{Aggregate, NewEvent, Outbox, TraceContext};

struct App {
    dynamodb: Client,
    outbox: Outbox,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let app = App {
        dynamodb: Client::new(&config),
        outbox: Outbox::new("outbox"),
    };
    let router = Router::new()
        .route("/invoices/{id}", post(issue))
        .with_state(Arc::new(app));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, router).await
}

/// Issues an invoice over the amount in the body, in cents.
async fn issue(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Result<StatusCode, (StatusCode, String)> {
    let total: u64 = body.trim().parse().map_err(|_| {
        (
            StatusCode::BAD_REQUEST,
            "the body must be a number".to_owned(),
        )
    })?;
    commit(&app, &id, total, trace_context(&headers))
        .await
        .map_err(|error| {
            eprintln!(
                "invoice {id} was not stored: {}",
                DisplayErrorContext(&*error)
            );
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the invoice was not stored; try again".to_owned(),
            )
        })?;
    Ok(StatusCode::CREATED)
}

/// Stores the invoice and its event, or neither.
async fn commit(
    app: &App,
    id: &str,
    total: u64,
    trace_context: TraceContext,
) -> Result<(), Box<dyn std::error::Error>> {
    let put = Put::builder()
        .table_name("invoices")
        .item("invoice_id", AttributeValue::S(id.to_owned()))
        .item("total_minor", AttributeValue::N(total.to_string()))
        .condition_expression("attribute_not_exists(invoice_id)")
        .build()?;
    let payload = serde_json::json!({ "invoice_id": id, "total_minor": total });
    let invoice = Aggregate {
        kind: "invoice",
        id,
    };
    let event =
        NewEvent::new(invoice, 1, "invoice.issued", &payload)?.with_trace_context(trace_context);
    app.dynamodb
        .transact_write_items()
        .transact_items(TransactWriteItem::builder().put(put).build())
        .transact_items(app.outbox.stage(event)?)
        .send()
        .await?;
    Ok(())
}

/// Returns the caller's trace context. A service that traces itself enables the feature `tracing`
/// of `outbox` and calls `stage_with_span` instead.
fn trace_context(headers: &HeaderMap) -> TraceContext {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
    TraceContext {
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
    }
}
