//! `POST /orders`.
//!
//! - `commit`: the one transaction, and what is done until its outcome is known.
//! - `transaction`: what an outcome means; pure.
//! - `idempotency`: the key, its record and the hash of a request.

mod commit;
mod commit_outcome;
mod idempotency;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use shared::order::Order;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use self::commit::Committed;
use self::idempotency::{Claim, IdempotencyKey};
use crate::error::ApiError;
use crate::response::OrderView;
use crate::router::Api;
use crate::strict_json::Json as Document;
use crate::{body, openapi, validate};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Places an order.
///
/// The order and its `order.placed` event are stored together or not at all.
/// With an `Idempotency-Key` the request can be repeated for 24 hours and takes
/// effect once.
#[utoipa::path(
    post,
    path = "/orders",
    tag = "orders",
    operation_id = "create_order",
    params(openapi::CreateOrderHeaders),
    request_body(content = openapi::NewOrder, description = "The order, at most 65536 bytes."),
    responses(openapi::OrderCreated, openapi::CreateOrderErrors, openapi::CommonErrors),
)]
pub(crate) async fn create_order(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + api.request_timeout;
    let bytes = body::read(&headers, body, deadline).await?;
    let key = IdempotencyKey::from_headers(&headers)?;
    let document = Document::parse(&bytes).map_err(ApiError::NotJson)?;
    let request = validate::order(document).map_err(ApiError::Invalid)?;
    let claim = key.map(|key| Claim::new(key, &request));
    let mut order = Order::create(request.customer_id, request.currency, request.items);

    let staged = order
        .placed()
        .and_then(|event| api.store.outbox.stage_with_span(event))
        .map_err(|error| {
            tracing::error!(%error, "the event of a valid order cannot be stored");
            ApiError::Internal
        })?;
    order.trace_id = staged.trace_context.trace_id();
    let id = order.order_id;
    let event = staged.item.clone();
    let commit = commit::commit(&api.store, order, event, claim).instrument(staged.span.clone());
    let outcome = timeout_at(deadline, commit).await.unwrap_or_else(|_| {
        tracing::error!(order_id = %id, "an order was not confirmed in time");
        Err(ApiError::Deadline)
    });
    match outcome {
        Ok(Committed::New(order)) => {
            api.instruments.order_created();
            Ok(created(&order).into_response())
        }
        Ok(Committed::Earlier(order)) => {
            // This request's event does not exist, and its span should not
            // look as if it did.
            staged.record_error("idempotency-key-used");
            Ok(([(IDEMPOTENCY_REPLAYED, "true")], created(&order)).into_response())
        }
        Err(error) => {
            staged.record_error(error.kind());
            Err(error)
        }
    }
}

fn created(order: &Order) -> impl IntoResponse {
    let location = format!("/orders/{}", order.order_id);
    (
        StatusCode::CREATED,
        [(LOCATION, location)],
        Json(OrderView::from(order)).into_response(),
    )
}
