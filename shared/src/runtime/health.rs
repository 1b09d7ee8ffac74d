//! `/healthz`, `/readyz` and `/metrics`, the same for every service.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::time::timeout;

use super::telemetry::metrics::Metrics;
use crate::aws::Causes;

/// Who asks for health does not wait for long, and has an answer all the same.
const CHECK_WITHIN: Duration = Duration::from_secs(1);

/// What a service says about itself. Both answers are asked for by HTTP, so
/// they should come within a second or two.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Whether the process makes progress. Red asks for a restart.
    async fn live(&self) -> Report;
    /// Whether the process can do its work now. Red asks for patience.
    async fn ready(&self) -> Report;
}

/// The outcome of several checks; healthy when all of them passed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

/// One thing that was looked at, and the reason when it is not well.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    pub fn pass(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: true,
            reason: None,
        }
    }

    pub fn fail(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok: false,
            reason: Some(reason.into()),
        }
    }

    /// Whether a DynamoDB table exists and takes requests. One `DescribeTable`.
    pub async fn table(dynamodb: &aws_sdk_dynamodb::Client, table: &str) -> Self {
        let name = format!("table {table}");
        let described = dynamodb.describe_table().table_name(table).send();
        match timeout(CHECK_WITHIN, described).await {
            Err(_) => Self::fail(name, "DynamoDB does not answer"),
            Ok(Ok(_)) => Self::pass(name),
            Ok(Err(error)) => {
                let reason = match error.as_service_error() {
                    Some(e) if e.is_resource_not_found_exception() => {
                        format!("table `{table}` does not exist in this account and region")
                    }
                    _ => "DynamoDB does not answer".to_owned(),
                };
                tracing::debug!(table, error = %Causes(&error), "readiness check failed");
                Self::fail(name, reason)
            }
        }
    }

    /// Whether an SQS queue (a name or a URL) exists. One request.
    pub async fn queue(sqs: &aws_sdk_sqs::Client, queue: &str) -> Self {
        let name = format!("queue {queue}");
        match timeout(CHECK_WITHIN, crate::aws::queue_url(sqs, queue)).await {
            Err(_) => Self::fail(name, "SQS does not answer"),
            Ok(Ok(_)) => Self::pass(name),
            Ok(Err(error)) => Self::fail(name, error.to_string()),
        }
    }
}

impl Report {
    pub fn new(checks: impl IntoIterator<Item = Check>) -> Self {
        Self {
            checks: checks.into_iter().collect(),
        }
    }

    pub fn healthy(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

impl IntoResponse for Report {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            status: &'static str,
            #[serde(flatten)]
            report: Report,
        }
        let (code, status) = if self.healthy() {
            (StatusCode::OK, "ok")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
        };
        let body = Body {
            status,
            report: self,
        };
        (code, Json(body)).into_response()
    }
}

/// The three routes.
pub fn router(health: Arc<dyn Health>, metrics: Metrics) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|State(health): State<Arc<dyn Health>>| async move { health.live().await }),
        )
        .route(
            "/readyz",
            get(|State(health): State<Arc<dyn Health>>| async move { health.ready().await }),
        )
        .route(
            "/metrics",
            get(|| async move { ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.render()) }),
        )
        .layer(map_response(not_guessed))
        .with_state(health)
}

/// What an answer is its type says: no browser takes it for a page.
async fn not_guessed(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}
