//! The HTTP API that accepts orders.
//!
//! An order, its event and its idempotency record are written in **one** DynamoDB transaction, so
//! they exist together or not at all, and a client whose request got no response may repeat it with
//! the same `Idempotency-Key`.
//!
//! # Map
//!
//! ```text
//! request ─▶ telemetry (span, duration) ─▶ router (load shedding, panics)
//!              │    auth (rate limits, API key or token) ─▶ principal
//!              ├─ POST /orders      create_order: body ─▶ strict_json ─▶ validate
//!              │                      ─▶ commit ─▶ commit_outcome (what an error means)
//!              ├─ GET /orders/{id}  get_order ─▶ store
//!              ├─ /docs, /openapi.json           openapi
//!              └─ /healthz /readyz /metrics      readiness
//! every failure ─▶ error ─▶ problem (the one mapping to HTTP)
//! ```
//!
//! - `config`: [`Config`], the options.
//! - `router`: the routes and the middleware around them; `state`: what the handlers share.
//! - `auth`: authentication, and rate limits by principal and by address; `admission` applies it.
//! - `create_order`: `POST /orders`. Its `commit` sends the transaction and retries,
//!   `commit_outcome` decides what an outcome means, `idempotency` is the key, its record and the
//!   hash of a request.
//! - `get_order`: `GET /orders/{id}`.
//! - `headers`, `body`, `strict_json`, `validate`: from bytes to a valid order, with all errors
//!   found at once.
//! - `store`: the tables.
//! - `response`: the order as clients receive it.
//! - `error`, `problem`: the errors, and their responses.
//! - `openapi`, `schema`: the OpenAPI document and the schemas of bodies.
//! - `readiness`, `telemetry`: health checks, spans and metrics.

mod admission;
mod auth;
mod body;
mod config;
mod create_order;
mod error;
mod get_order;
mod headers;
mod openapi;
mod problem;
mod readiness;
mod response;
mod router;
mod schema;
mod state;
mod store;
mod strict_json;
mod telemetry;
mod validate;

use std::sync::Arc;

pub use auth::{Anonymous, AuthOptions, KeyLocation, Rate};
pub use config::{Config, UnscopedKeys};
use shared::runtime::denials::Denials;
use shared::runtime::health;
use shared::runtime::server::{self, Limits, Server};
use shared::runtime::service::{Context, RunError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::Guard;
use crate::readiness::Readiness;
use crate::state::Api;
use crate::store::Store;
use crate::telemetry::Instruments;

/// Serves the API until `context.stop` is cancelled and `context.drain_delay` has passed, then lets
/// the requests in flight finish, for at most `context.grace`.
///
/// # Errors
/// [`RunError::Usage`] if the options contradict each other or a file of keys is invalid, and
/// [`RunError::Failed`] if an address cannot be bound.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    config.check()?;
    let guard = Arc::new(Guard::new(&config.auth).await.map_err(RunError::Usage)?);
    let (listener, admin_listener) =
        server::bind_with_admin(config.listen, config.admin_listen).await?;
    let denials = Arc::new(Denials::default());
    let api = Api {
        guard: Arc::clone(&guard),
        store: Store::new(&config, &context.clients.dynamodb, Arc::clone(&denials)),
        instruments: Instruments::new(),
        request_timeout: config.request_timeout,
        in_flight: Semaphore::new(config.max_concurrency as usize),
    };
    let dynamodb = context.clients.dynamodb;
    let readiness = Readiness::new(&config, Arc::clone(&guard), dynamodb, denials);
    let readiness = Arc::new(readiness);
    let stop = &context.stop;
    let admin = Server {
        listener: admin_listener,
        router: health::router(readiness.clone(), context.telemetry.metrics, stop.clone()),
        limits: Limits::ADMIN,
        draining: CancellationToken::new(),
        stop: CancellationToken::new(),
    };
    // It answers health checks until the process ends.
    let _admin = AbortOnDropHandle::new(tokio::spawn(admin.serve()));

    let drained = CancellationToken::new();
    let server = Server {
        listener,
        router: router::router(Arc::new(api), health::probes(readiness, stop.clone())),
        limits: config.limits(),
        draining: stop.clone(),
        stop: drained.clone(),
    };
    let overdue = async {
        stop.cancelled().await;
        tracing::info!(
            drain_delay = %humantime::format_duration(context.drain_delay),
            "stopping; not ready, and accepting requests until the drain delay has passed"
        );
        tokio::time::sleep(context.drain_delay).await;
        drained.cancel();
        tokio::time::sleep(context.grace).await;
    };
    tokio::select! {
        () = server.serve() => {}
        // Never returns.
        () = guard.keep_current() => {}
        () = overdue => {
            // No order is left incomplete: a transaction takes effect as a whole or not at all.
            tracing::warn!("the grace period ended; closing the connections that are still open");
        }
    }
    Ok(())
}
