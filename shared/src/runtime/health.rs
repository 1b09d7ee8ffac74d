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
use tokio_util::sync::CancellationToken;

use super::telemetry::metrics::Metrics;
use crate::aws::error::{ErrorClass, classify, explain};

/// Time limit for one health check. A check that exceeds it is reported as failing.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Health checks of a service. Both serve HTTP requests, so they should return within two seconds.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Checks that the process makes progress. A failure requests a restart.
    async fn live(&self) -> Report;
    /// Checks that the process can do its work now. A failure requests no restart, only no traffic.
    async fn ready(&self) -> Report;
}

/// Results of several checks; healthy if all of them passed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

/// Result of one check, with the reason if it failed.
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

    /// Checks that a DynamoDB table exists and DynamoDB responds. Sends one `DescribeTable`.
    pub async fn table(dynamodb: &aws_sdk_dynamodb::Client, table: &str) -> Self {
        let name = format!("table {table}");
        let described = dynamodb.describe_table().table_name(table).send();
        match timeout(CHECK_TIMEOUT, described).await {
            Err(_) => Self::fail(name, "DynamoDB does not respond"),
            Ok(Ok(_)) => Self::pass(name),
            Ok(Err(error)) => {
                let reason = match classify(&error) {
                    ErrorClass::NotFound => format!(
                        "table `{table}` does not exist in this account and region; \
                         `all-in-one provision` creates it"
                    ),
                    _ => format!("DescribeTable failed: {}", explain(&error)),
                };
                Self::fail(name, reason)
            }
        }
    }

    /// Checks that an SQS queue (a name or a URL) exists. Sends one request.
    pub async fn queue(sqs: &aws_sdk_sqs::Client, queue: &str) -> Self {
        let name = format!("queue {queue}");
        match timeout(CHECK_TIMEOUT, crate::aws::queue_url(sqs, queue)).await {
            Err(_) => Self::fail(name, "SQS does not respond"),
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

/// Returns the routes of an admin port: those of [`probes`], and `/metrics`.
pub fn router(health: Arc<dyn Health>, metrics: Metrics, stop: CancellationToken) -> Router {
    let metrics =
        get(|| async move { ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.render()) });
    Router::new()
        .route("/metrics", metrics)
        .layer(map_response(disable_sniffing))
        .merge(probes(health, stop))
}

/// Returns the routes `/healthz` and `/readyz`. Once `stop` is cancelled the process is not ready,
/// so that load balancers move its traffic to other instances.
pub fn probes(health: Arc<dyn Health>, stop: CancellationToken) -> Router {
    let ready = |State(health): State<Arc<dyn Health>>| async move {
        if stop.is_cancelled() {
            return Report::new([Check::fail("running", "the process is stopping")]);
        }
        health.ready().await
    };
    Router::new()
        .route(
            "/healthz",
            get(|State(health): State<Arc<dyn Health>>| async move { health.live().await }),
        )
        .route("/readyz", get(ready))
        .layer(map_response(disable_sniffing))
        .with_state(health)
}

/// Keeps browsers from guessing another content type than the declared one.
async fn disable_sniffing(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    struct Healthy;

    #[async_trait]
    impl Health for Healthy {
        async fn live(&self) -> Report {
            Report::new([Check::pass("serving")])
        }

        async fn ready(&self) -> Report {
            Report::new([Check::pass("table")])
        }
    }

    #[tokio::test]
    async fn a_stopping_process_is_live_and_not_ready() {
        let stop = CancellationToken::new();
        let probes = probes(Arc::new(Healthy), stop.clone());
        let status = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            probes.clone().oneshot(request).await.unwrap().status()
        };
        assert_eq!(status("/readyz").await, StatusCode::OK);
        stop.cancel();
        assert_eq!(status("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/healthz").await, StatusCode::OK);
    }
}
