//! The OpenAPI 3.1 document and the page that shows it.
//!
//! Handlers document themselves (`utoipa::path`), and `router` adds them to the document.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::{OpenApi, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::auth::{self, Schemes};
use crate::error::ApiError;
use crate::problem::Problem;
use crate::schema::Order;

/// Headers of the page, into which users enter their keys: it loads and sends nothing elsewhere,
/// and is not shown within other pages. Its library sets styles in its elements.
const PAGE_HEADERS: [(HeaderName, &str); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
];

/// Returns the routes `/openapi.json` and `/docs`. All files of the page are part of this program.
///
/// The document is serialised once and, like the files of the page, shared by all responses:
/// clients that read slowly hold no copies.
pub(crate) fn pages(mut document: utoipa::openapi::OpenApi, schemes: Schemes) -> Router {
    auth::describe(&mut document, schemes);
    let document =
        serde_json::to_vec(&document).expect("a document has no key that is not a string");
    let document = Bytes::from(document);
    let document = get(async move || ([(CONTENT_TYPE, "application/json")], document));
    let config = Config::from("/openapi.json")
        // Otherwise the page sends the document to a public validator.
        .validator_url("none")
        .try_it_out_enabled(true);
    let page = SwaggerUi::new("/docs").config(config);
    let pages = Router::from(page).route("/openapi.json", document);
    pages.layer(map_response(async |response: Response| {
        let mut response = if response.status() == StatusCode::NOT_FOUND {
            ApiError::NoSuchPath.into_response()
        } else {
            response
        };
        let headers = PAGE_HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
        response.headers_mut().extend(headers);
        response
    }))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "order-api",
        description = "Accepts orders. An order and its `order.placed` event are stored in one \
            transaction; the stock is reserved afterwards, so an order is `CREATED` first and \
            `PROCESSED` or `REJECTED` a moment later.\n\n\
            Clients authenticate with an API key or a bearer token, which permits orders of one \
            customer or of all. An API on a developer's machine may accept requests without.\n\n\
            Every error is `application/problem+json` (RFC 9457); its `type` is stable. A \
            `traceparent` header (W3C Trace Context) is continued."
    ),
    tags(
        (name = "orders", description = "Placing and reading orders."),
        (name = "operation", description = "For orchestrators and monitoring."),
    ),
    paths(healthz, readyz),
    components(schemas(Order, Problem)),
)]
pub(crate) struct Document;

/// Results of all checks.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents `shared::runtime::health::Report`")]
struct HealthReport {
    /// `ok` or `unhealthy`.
    #[schema(example = "ok")]
    status: String,
    checks: Vec<HealthCheck>,
}

/// Result of one check.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents `shared::runtime::health::Check`")]
struct HealthCheck {
    #[schema(example = "table orders")]
    name: String,
    ok: bool,
    /// Reason of a failure; absent if the check passed.
    #[schema(required = false, nullable = false)]
    reason: Option<String>,
}

/// Liveness of the process.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    responses((status = 200, description = "The process is alive.", body = HealthReport)),
)]
#[expect(dead_code, reason = "served by `shared::runtime::health`")]
fn healthz() {}

/// Readiness: the tables exist and respond, and the process is not stopping.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "All tables exist and respond.", body = HealthReport),
        (status = 503, description = "The process is stopping, or a table does not exist or does not respond; `reason` states which.", body = HealthReport),
    ),
)]
#[expect(dead_code, reason = "served by `shared::runtime::health`")]
fn readyz() {}
