//! The OpenAPI 3.1 document and the page that shows it.
//!
//! Bodies are read and written by `validate` and `view`; the types here only
//! describe them. A test holds the numbers against the domain's bounds.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::create_order::*;
use crate::error::ApiError;
use crate::get_order::*;
use crate::problem::Problem;
use crate::router::Api;

/// The order routes, with their part of the document.
pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(create_order))
        .routes(routes!(get_order))
}

/// `/openapi.json`, and `/docs` with all of its files from this program.
pub(crate) fn pages(document: utoipa::openapi::OpenApi) -> Router {
    let config = Config::default()
        // Otherwise the page asks a public service whether the document is valid.
        .validator_url("none")
        .try_it_out_enabled(true);
    let page = SwaggerUi::new("/docs")
        .url("/openapi.json", document)
        .config(config);
    Router::from(page).layer(map_response(async |answer: Response| {
        if answer.status() == StatusCode::NOT_FOUND {
            ApiError::NoSuchPath.into_response()
        } else {
            answer
        }
    }))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "order-api",
        description = "Takes orders. An order and its `order.placed` event are stored in one \
            transaction; the inventory is asked afterwards, so an order is `CREATED` first and \
            `PROCESSED` or `REJECTED` a moment later.\n\n\
            Every error is `application/problem+json` (RFC 9457); its `type` is stable. A \
            `traceparent` header (W3C Trace Context) is continued."
    ),
    tags(
        (name = "orders", description = "Placing and reading orders."),
        (name = "operation", description = "For orchestrators and monitoring."),
    ),
    paths(healthz, readyz, metrics),
    components(schemas(Order, Problem)),
)]
struct Document;

/// What is ordered. Other members are refused.
#[derive(ToSchema)]
#[schema(example = json!({
    "customer_id": "c-1",
    "currency": "EUR",
    "items": [{"sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999}]
}))]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `validate` reads")]
pub(crate) struct NewOrder {
    /// Who orders.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    customer_id: String,
    /// ISO 4217.
    #[schema(min_length = 3, max_length = 3, pattern = "^[A-Z]{3}$")]
    currency: String,
    /// No SKU twice.
    #[schema(min_items = 1, max_items = 50)]
    items: Vec<Line>,
}

/// One line of an order.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `validate` reads")]
pub(crate) struct Line {
    /// What is ordered.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9._-]{1,64}$",
        example = "WIDGET-1"
    )]
    sku: String,
    #[schema(minimum = 1, maximum = 1_000_000, example = 2)]
    quantity: u32,
    /// Price of one piece, in the currency's minor unit.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_u64, example = 1999)]
    unit_price_minor: u64,
}

/// Where an order stands.
#[derive(ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "describes what is answered")]
pub(crate) enum OrderStatus {
    Created,
    Processed,
    Rejected,
}

/// A stored order.
#[derive(ToSchema)]
#[schema(example = json!({
    "order_id": "0197f2f0-7b1c-7c3e-9d2a-3f1b5c7d9e0f",
    "customer_id": "c-1",
    "status": "CREATED",
    "items": [{"sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999}],
    "currency": "EUR",
    "total_minor": 3998,
    "version": 1,
    "created_at": "2026-01-31T08:15:30.123Z",
    "updated_at": "2026-01-31T08:15:30.123Z",
    "trace_id": "0af7651916cd43dd8448eb211c80319c"
}))]
#[expect(dead_code, reason = "describes what `view` writes")]
pub(crate) struct Order {
    #[schema(format = "uuid")]
    order_id: String,
    customer_id: String,
    status: OrderStatus,
    items: Vec<Line>,
    currency: String,
    /// Sum of the lines, in the currency's minor unit; up to 5 × 10^19, which
    /// is more than 64 bits hold.
    #[schema(minimum = 0)]
    total_minor: u128,
    /// 1 when created, one more at every change.
    #[schema(minimum = 1)]
    version: u64,
    /// RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    created_at: String,
    /// RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime)]
    updated_at: String,
    /// Why no stock was moved; only when `REJECTED`.
    #[schema(required = false, nullable = false)]
    rejection_reason: Option<String>,
    /// The W3C trace id under which placing and processing the order is traced.
    #[schema(required = false, nullable = false, pattern = "^[0-9a-f]{32}$")]
    trace_id: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `idempotency` reads")]
pub(crate) struct CreateOrderHeaders {
    /// Makes the request safe to repeat for 24 hours: the same key with the
    /// same order is answered with the first order again, with another order it
    /// is refused (422). Given twice or malformed it is refused (400).
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]{1,255}$",
        example = "5f7c2a9e-order-42"
    )]
    idempotency_key: String,
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum OrderCreated {
    /// The order, as it was created.
    #[response(
        status = 201,
        headers(
            ("Location" = String, description = "`/orders/{order_id}`"),
            ("Idempotency-Replayed" = String, description = "`true` when an earlier request with the same key created the order; absent otherwise."),
        )
    )]
    Created(Order),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum CreateOrderErrors {
    /// The body is not JSON or incomplete (`not-json`, `body-incomplete`), or
    /// the key is malformed (`invalid-idempotency-key`).
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The body did not arrive in time (`body-too-slow`).
    #[response(status = 408, content_type = "application/problem+json")]
    BodyTooSlow(Problem),
    /// The body has more than 65536 bytes (`body-too-large`).
    #[response(status = 413, content_type = "application/problem+json")]
    BodyTooLarge(Problem),
    /// The body is not announced as plain `application/json`
    /// (`unsupported-media-type`, `unsupported-content-encoding`).
    #[response(status = 415, content_type = "application/problem+json")]
    ContentType(Problem),
    /// Fields are not valid (`invalid-order`; `errors` has every one of them),
    /// or the key belongs to another order (`idempotency-key-reused`).
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum NoSuchOrder {
    /// There is no such order (`no-such-order`).
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum CommonErrors {
    /// The path does not know the method (`method-not-allowed`).
    #[response(
        status = 405,
        content_type = "application/problem+json",
        headers(("Allow" = String, description = "The methods of the path."))
    )]
    Method(Problem),
    /// Internal error (`internal`).
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// The database throttles or is away, or the API sheds load (`throttled`,
    /// `unavailable`, `overloaded`). Safe to repeat with the same key.
    #[response(
        status = 503,
        content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds to wait before trying again."))
    )]
    Unavailable(Problem),
    /// The request took too long (`deadline-exceeded`). Safe to repeat with the
    /// same key.
    #[response(status = 504, content_type = "application/problem+json")]
    Deadline(Problem),
}

/// The outcome of all checks.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `shared::runtime::health::Report`")]
struct HealthReport {
    /// `ok` or `unhealthy`.
    #[schema(example = "ok")]
    status: String,
    checks: Vec<HealthCheck>,
}

/// One thing that was looked at.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `shared::runtime::health::Check`")]
struct HealthCheck {
    #[schema(example = "table orders")]
    name: String,
    ok: bool,
    /// Only when it is not well.
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
}

/// Liveness: whether the process works.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    responses((status = 200, description = "It works.", body = HealthReport)),
)]
#[expect(dead_code, reason = "served by `shared::runtime::health`")]
fn healthz() {}

/// Readiness: whether the tables can be reached.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "All tables can be reached.", body = HealthReport),
        (status = 503, description = "Some cannot; `reason` says why.", body = HealthReport),
    ),
)]
#[expect(dead_code, reason = "served by `shared::runtime::health`")]
fn readyz() {}

/// Metrics, in the Prometheus text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain")),
)]
#[expect(dead_code, reason = "served by `shared::runtime::health`")]
fn metrics() {}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use shared::order::{MAX_LINES, MAX_QUANTITY, MAX_UNIT_PRICE_MINOR};

    use super::*;

    #[test]
    fn the_documented_bounds_are_the_real_ones() {
        let document = serde_json::to_value(routes().split_for_parts().1).unwrap();
        let bound = |pointer: &str| {
            let schemas = &document["components"]["schemas"];
            schemas.pointer(pointer).and_then(Value::as_u64)
        };
        let lines = Some(MAX_LINES as u64);
        assert_eq!(bound("/NewOrder/properties/items/maxItems"), lines);
        let quantity = Some(u64::from(MAX_QUANTITY));
        assert_eq!(bound("/Line/properties/quantity/maximum"), quantity);
        let price = Some(MAX_UNIT_PRICE_MINOR);
        assert_eq!(bound("/Line/properties/unit_price_minor/maximum"), price);
    }
}
