//! The routes and the middleware around them.

use std::any::Any;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::create_order::*;
use crate::error::ApiError;
use crate::get_order::*;
use crate::openapi::{self, Document};
use crate::state::Api;
use crate::telemetry::{Instruments, observe};

/// Returns the routes of orders, with their part of the document.
fn order_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(create_order))
        .routes(routes!(get_order))
}

/// Returns the routes of the API. `probes` are not traced.
pub(crate) fn router(api: Arc<Api>, probes: Router) -> Router {
    let instruments = api.instruments.clone();
    let schemes = api.guard.schemes();
    let (orders, document) = order_routes().split_for_parts();
    let routes = orders
        .with_state(api)
        .merge(openapi::pages(document, schemes))
        .fallback(async || ApiError::NoSuchPath)
        .method_not_allowed_fallback(async || ApiError::Method);
    surround(routes, instruments)
        .merge(probes)
        .method_not_allowed_fallback(async || ApiError::Method)
}

/// Wraps `routes`, from the outside in: span and duration, panics. Requests that fail are thereby
/// traced and measured as well.
fn surround(routes: Router, instruments: Instruments) -> Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(middleware::from_fn_with_state(instruments, observe))
            .layer(CatchPanicLayer::custom(panicked)),
    )
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has printed the message.
    tracing::error!("a request panicked; responding with 500");
    ApiError::Internal.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_500_problem_without_internals() {
        let panics = Router::new().route("/", get(async || -> () { panic!("a secret") }));
        let routes = surround(panics, Instruments::new());
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            body.contains("internal") && !body.contains("secret"),
            "{body}"
        );
    }
}
