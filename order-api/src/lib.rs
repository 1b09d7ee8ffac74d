//! The HTTP API that takes orders.
//!
//! An order, its event and its idempotency record are written in **one**
//! DynamoDB transaction, so they exist together or not at all, and a client
//! that was left without an answer may repeat its request with the same
//! `Idempotency-Key`.
//!
//! # Map
//!
//! ```text
//! request ─▶ telemetry (span, duration) ─▶ router (load shedding, panics)
//!              ├─ POST /orders      create_order: body ─▶ json ─▶ validate
//!              │                      ─▶ commit ─▶ transaction (what an error means)
//!              ├─ GET /orders/{id}  get_order ─▶ store
//!              ├─ /docs, /openapi.json           openapi
//!              └─ /healthz /readyz /metrics      readiness
//! every failure ─▶ error ─▶ problem (the one mapping to HTTP)
//! ```
//!
//! - `config`: [`Config`], the options.
//! - `router`: routes and what surrounds them, [`run`]'s main part.
//! - `create_order`: `POST /orders`; its `commit` is the transaction with its retries,
//!   `transaction` decides what an outcome means, `idempotency` is the key, its record and the hash
//!   of a request.
//! - `get_order`: `GET /orders/{id}`.
//! - `body`, `json`, `validate`: from bytes to a valid order, with every problem found at once.
//! - `store`: the tables and what DynamoDB's errors are to this API.
//! - `view`: the order as clients see it.
//! - `error`, `problem`: what can go wrong, and how it is said.
//! - `readiness`, `telemetry`, `openapi`: what the process says about itself.

mod body;
mod config;
mod create_order;
mod error;
mod get_order;
mod openapi;
mod problem;
mod readiness;
mod response;
mod router;
mod store;
mod strict_json;
mod telemetry;
mod validate;

use std::sync::Arc;

pub use config::Config;
use shared::runtime::service::{Context, RunError};

use crate::readiness::Readiness;
use crate::router::Api;
use crate::store::Store;
use crate::telemetry::Instruments;

/// Serves the API until `context.stop` is cancelled, then lets the requests
/// that run finish, for at most `context.grace`.
///
/// # Errors
/// [`RunError::Usage`] when the options contradict each other, and
/// [`RunError::Failed`] when the address cannot be listened on.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    config.check()?;
    let api = Api {
        store: Store::new(&config, &context.clients.dynamodb),
        instruments: Instruments::new(),
        request_timeout: config.request_timeout,
    };
    let readiness = Readiness::new(&config, context.clients.dynamodb);
    let health = shared::runtime::health::router(Arc::new(readiness), context.telemetry.metrics);
    let router = router::router(Arc::new(api), config.max_concurrency as usize, health);

    let listener = shared::runtime::server::bind(config.listen).await?;
    let serving = shared::runtime::server::serve(listener, router, context.stop.clone());
    let overdue = async {
        context.stop.cancelled().await;
        tokio::time::sleep(context.grace).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| RunError::Failed(error.to_string())),
        () = overdue => {
            // Nothing is left half done: a transaction happens or it does not.
            tracing::warn!("connections still open at the end of the grace period are cut");
            Ok(())
        }
    }
}
