//! The relay: publishes every event that a transaction committed to its queue.
//!
//! - [`config`], [`routes`]: its options, and the routing of events to queues.
//! - [`ports`]: the four remote systems, as traits; `outbox-store` implements the two tables,
//!   [`aws`] the stream and the queues.
//! - [`policy`]: its decisions, as pure functions.
//! - [`engine`]: acquires leases, reads shards, publishes, marks, checkpoints.
//! - [`cli`]: the program's command line, with the operator's sub-commands of `outbox-admin`.
//! - `admin_server`: `/healthz`, `/readyz`, `/metrics` and the console of `outbox-admin`.
//!
//! A record flows `ports::Stream` → `engine::shard` → `policy::record_classifier` →
//! `policy::send_scheduler` → `ports::Queue`, then back as a mark to
//! `ports::OutboxTable`, and at last into the checkpoint in
//! `ports::LeaseTable`.

mod admin_server;
pub mod aws;
pub mod cli;
pub mod config;
pub mod console_options;
pub mod engine;
pub mod policy;
pub mod ports;
pub mod routes;
mod suspend;

pub use config::Config;
use engine::{Engine, EngineConfig};
use outbox::timestamp::Timestamp;
use shared::runtime::service::{Context, RunError};

/// Upper bound on the events between reading and marking, in KiB: several thousand small ones.
/// Memory usage does not exceed it, however long the backlog.
const BUFFER_KIB: usize = 8 * 1024;

/// Runs one relay instance until `context.stop`.
#[allow(
    clippy::disallowed_methods,
    reason = "this is where the wall clock is injected into the engine"
)]
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    config.check()?;
    let instance = config.instance();
    tracing::info!(
        instance,
        consumer_group = config.consumer_group,
        "relay starting"
    );
    let engine = Engine::new(
        aws::ports(&context.clients, &config),
        EngineConfig {
            instance: instance.clone(),
            outbox_table: config.outbox_table.clone(),
            buckets: config.outbox_buckets,
            routes: config.routes.clone(),
            on_failure: config.on_failure,
            lease_duration: config.lease_duration,
            poll_min: config.poll_min,
            poll_max: config.poll_max,
            retention: config.retention,
            sweep_interval: config.sweep_interval,
            sweep_after: config.sweep_after,
            buffer_kib: BUFFER_KIB,
            clock: Timestamp::now,
            suspended: suspend::suspended,
            seed: fastrand::u64(..),
        },
        &opentelemetry::global::meter("outbox-relay"),
    );
    let admin = admin_server::serve(&config, &context, instance, engine.status()).await?;
    let grace_ended = async {
        context.stop.cancelled().await;
        tokio::time::sleep(context.grace).await;
    };
    tokio::select! {
        outcome = engine.run(context.stop.clone()) => {
            admin.abort();
            outcome.map_err(|error| RunError::Usage(error.to_string()))
        }
        () = grace_ended => {
            tracing::warn!("the grace period ended; events in flight may be sent again");
            admin.abort();
            Ok(())
        }
    }
}
