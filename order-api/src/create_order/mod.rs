//! `POST /orders`.
//!
//! - `commit`: sends the transaction until its outcome is known.
//! - `commit_outcome`: decides what an outcome means; pure.
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
use utoipa::{IntoParams, IntoResponses};

use self::commit::{Committed, SoughtOrder};
use self::idempotency::{Claim, IdempotencyKey};
use crate::auth::{Denied, Principal};
use crate::error::ApiError;
use crate::problem::{CommonErrors, Problem};
use crate::response::{NO_STORE, OrderView};
use crate::state::Api;
use crate::strict_json::Json as Document;
use crate::{body, schema, validate};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what `idempotency` reads")]
pub(crate) struct CreateOrderHeaders {
    /// Makes the request safe to repeat for 24 hours. The same key with the same order returns the
    /// first order again; with another order of the same customer the request is rejected (422).
    /// Keys of different customers are independent. The key may have the quotes of a structured
    /// field. A malformed or repeated header is rejected (400).
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = "^[!#-~][!-~]{0,254}$"
    )]
    idempotency_key: String,
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses")]
pub(crate) enum OrderCreated {
    /// The order, as it was created.
    #[response(
        status = 201,
        headers(
            ("Location" = String, description = "`/orders/{order_id}`"),
            ("Idempotency-Replayed" = String, description = "`true` if an earlier request with the same key created the order; absent otherwise."),
        )
    )]
    Created(schema::Order),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses")]
pub(crate) enum CreateOrderErrors {
    /// The body is not JSON or is incomplete (`not-json`, `body-incomplete`), or the key is
    /// malformed (`invalid-idempotency-key`).
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The body did not arrive in time (`body-too-slow`).
    #[response(status = 408, content_type = "application/problem+json")]
    BodyTooSlow(Problem),
    /// The body has more than 65536 bytes (`body-too-large`).
    #[response(status = 413, content_type = "application/problem+json")]
    BodyTooLarge(Problem),
    /// The content type is not `application/json`, or the body is encoded
    /// (`unsupported-media-type`, `unsupported-content-encoding`).
    #[response(status = 415, content_type = "application/problem+json")]
    ContentType(Problem),
    /// Fields are invalid (`invalid-order`; `errors` lists them), or the key belongs to another
    /// request (`idempotency-key-reused`).
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
}

/// Places an order.
///
/// The order and its `order.placed` event are stored together or not at all. With an
/// `Idempotency-Key` the request can be repeated for 24 hours and takes effect once.
#[utoipa::path(
    post,
    path = "/orders",
    tag = "orders",
    operation_id = "create_order",
    params(CreateOrderHeaders),
    request_body(content = schema::NewOrder, description = "The order, at most 65536 bytes."),
    security(("api_key" = []), ("token" = [])),
    responses(OrderCreated, CreateOrderErrors, CommonErrors),
)]
pub(crate) async fn create_order(
    State(api): State<Arc<Api>>,
    principal: Result<Principal, ApiError>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + api.request_timeout;
    let principal = match principal {
        Ok(principal) => principal,
        Err(denied) => {
            body::discard(&headers, body.into_data_stream(), deadline).await;
            return Err(denied);
        }
    };
    let bytes = body::read(&headers, body, deadline).await?;
    let _permit = api.permit()?;
    let key = IdempotencyKey::from_headers(&headers)?;
    let document = Document::parse(&bytes).map_err(ApiError::NotJson)?;
    let request = validate::order(document).map_err(ApiError::Invalid)?;
    if !principal.may_act_for(&request.customer_id) {
        return Err(Denied::OtherCustomer.into());
    }
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
    let mut sought = SoughtOrder::new(id);
    // On the heap, so that requests whose body is arriving are small.
    let commit = Box::pin(commit::commit(&api.store, order, event, claim, &mut sought));
    let commit = commit.instrument(staged.span.clone());
    let outcome = timeout_at(deadline, commit).await.unwrap_or_else(|_| {
        tracing::error!(order_id = %id, "an order was not confirmed in time");
        // A request is in flight.
        sought.outcome_unknown = true;
        Err(ApiError::Deadline)
    });
    match outcome {
        Ok(Committed::New(order)) => {
            staged.committed();
            api.instruments.order_created();
            Ok(created(&order).into_response())
        }
        Ok(Committed::Earlier(order)) => {
            staged.superseded();
            Ok(([(IDEMPOTENCY_REPLAYED, "true")], created(&order)).into_response())
        }
        Err(error) => {
            staged.record_error(error.kind());
            Err(sought.describe(error))
        }
    }
}

fn created(order: &Order) -> impl IntoResponse {
    let location = format!("/orders/{}", order.order_id);
    (
        StatusCode::CREATED,
        [NO_STORE],
        [(LOCATION, location)],
        Json(OrderView::from(order)).into_response(),
    )
}
