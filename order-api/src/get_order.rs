//! `GET /orders/{id}`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use utoipa::IntoResponses;

use crate::auth::Principal;
use crate::error::ApiError;
use crate::problem::{CommonErrors, Problem};
use crate::response::{NO_STORE, OrderView};
use crate::schema;
use crate::state::Api;

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses")]
pub(crate) enum NoSuchOrder {
    /// The order does not exist, or is of another customer (`no-such-order`).
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
}

/// Returns an order in its current state.
///
/// `status` is `CREATED` until the stock was reserved (`PROCESSED`) or found insufficient
/// (`REJECTED`).
#[utoipa::path(
    get,
    path = "/orders/{id}",
    tag = "orders",
    operation_id = "get_order",
    params(("id" = String, Path, format = "uuid", description = "The order's `order_id`.", example = "0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f")),
    security(("api_key" = []), ("token" = [])),
    responses(
        (status = 200, description = "The order.", body = schema::Order),
        NoSuchOrder,
        CommonErrors,
    ),
)]
pub(crate) async fn get_order(
    State(api): State<Arc<Api>>,
    principal: Principal,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // A malformed identifier names no order.
    let id = id
        .ok()
        .and_then(|Path(id)| id.parse().ok())
        .ok_or(ApiError::NoSuchOrder)?;
    let _permit = api.permit()?;
    let order = tokio::time::timeout(api.request_timeout, api.store.order(id))
        .await
        .map_err(|_| ApiError::Deadline)??
        // Which orders others have placed is not revealed.
        .filter(|order| principal.may_act_for(&order.customer_id))
        .ok_or(ApiError::NoSuchOrder)?;
    Ok(([NO_STORE], Json(OrderView::from(&order))).into_response())
}
