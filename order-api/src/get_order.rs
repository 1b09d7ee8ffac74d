//! `GET /orders/{id}`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};

use crate::error::ApiError;
use crate::openapi;
use crate::response::OrderView;
use crate::router::Api;

/// One order, as it is now.
///
/// `status` is `CREATED` until the inventory has been asked, then `PROCESSED`
/// or `REJECTED`.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    tag = "orders",
    operation_id = "get_order",
    params(("id" = String, Path, format = "uuid", description = "The order's `order_id`.", example = "0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f")),
    responses(
        (status = 200, description = "The order.", body = openapi::Order),
        openapi::NoSuchOrder,
        openapi::CommonErrors,
    ),
)]
pub(crate) async fn get_order(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    // What is no identifier names no order.
    let id = id
        .ok()
        .and_then(|Path(id)| id.parse().ok())
        .ok_or(ApiError::NoSuchOrder)?;
    let order = tokio::time::timeout(api.request_timeout, api.store.order(id))
        .await
        .map_err(|_| ApiError::Deadline)??
        .ok_or(ApiError::NoSuchOrder)?;
    Ok(Json(OrderView::from(&order)).into_response())
}
