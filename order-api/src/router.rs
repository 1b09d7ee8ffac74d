//! The routes, and what surrounds them.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router, middleware};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::openapi;
use crate::store::Store;
use crate::telemetry::{Instruments, observe};

/// What the handlers work with.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) instruments: Instruments,
    /// From the start of a request to its answer.
    pub(crate) request_timeout: Duration,
}

/// Everything that is served. `health` is neither traced nor ever shed: under
/// load it is needed most.
pub(crate) fn router(api: Arc<Api>, max_concurrency: usize, health: Router) -> Router {
    let instruments = api.instruments.clone();
    let (orders, document) = openapi::routes().split_for_parts();
    let routes = orders
        .with_state(api)
        .merge(openapi::pages(document))
        .fallback(async || ApiError::NoSuchPath)
        .method_not_allowed_fallback(async || ApiError::Method);
    surround(routes, instruments, max_concurrency)
        .merge(health)
        .method_not_allowed_fallback(async || ApiError::Method)
}

/// From the outside in: span and duration, load shedding, panics. Refused and
/// failed requests are thereby seen as well.
fn surround(routes: Router, instruments: Instruments, max_concurrency: usize) -> Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(middleware::from_fn_with_state(instruments, observe))
            .layer(HandleErrorLayer::new(async |_: BoxError| {
                ApiError::Overloaded
            }))
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::new(max_concurrency))
            .layer(CatchPanicLayer::custom(panicked)),
    )
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has printed the message.
    tracing::error!("a request ended in a panic");
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
    async fn a_panic_is_a_problem_that_shows_nothing_of_it() {
        let panics = Router::new().route(
            "/",
            get(async || -> () { panic!("a secret that is nobody's business") }),
        );
        let routes = surround(panics, Instruments::new(), 1);
        for _ in 0..2 {
            // Twice: the panic gave its place back.
            let request = Request::get("/").body(Body::empty()).unwrap();
            let answer = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            let body = axum::body::to_bytes(answer.into_body(), 10_000)
                .await
                .unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(
                body.contains("internal") && !body.contains("secret"),
                "{body}"
            );
        }
    }
}
