//! Work of the holder of the maintenance lease: lists the stream's shards and counts the pending
//! events, once for the whole group.

use std::sync::Arc;

use super::lease_renewer::ShardSignals;
use super::lister::Lister;
use crate::engine::context::ShardContext;
use crate::engine::health::backlog_monitor::BacklogMonitor;

/// Does the work until dropped.
pub(super) async fn run(ctx: &ShardContext, signals: &ShardSignals, random: fastrand::Rng) {
    let lister = Lister::new(ctx.clone(), random);
    let table = Arc::clone(&ctx.ports.outbox);
    let backlog = BacklogMonitor::new(table, &ctx.config, ctx.status.clone());
    tokio::join!(
        lister.run(&signals.listing),
        backlog.run(),
        forward_sweep_requests(ctx, signals)
    );
}

/// Forwards requests for a sweep, which older releases write to the maintenance lease.
async fn forward_sweep_requests(ctx: &ShardContext, signals: &ShardSignals) {
    loop {
        signals.sweep.notified().await;
        if let Err(error) = ctx.ports.leases.request_sweep(&ctx.stream).await {
            tracing::warn!(%error, "sweep could not be requested; the next regular sweep publishes these events");
        }
    }
}
