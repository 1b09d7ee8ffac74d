//! Requests sweeps from the instances that hold the sweepers' leases, for events that this instance
//! has deferred.

use std::convert::Infallible;
use std::time::Duration;

use crate::engine::context::ShardContext;

/// Minimum interval between two requests. A sweep continues while it makes progress anyway.
const INTERVAL: Duration = Duration::from_secs(1);

/// Passes the publisher's requests on to the lease table. It may be dropped at any time.
pub(crate) async fn run(ctx: &ShardContext) -> Infallible {
    loop {
        ctx.queues.sweep_requested().await;
        if let Err(error) = ctx.ports.leases.request_sweep(&ctx.stream).await {
            tracing::warn!(%error, "sweep could not be requested; the next regular sweep publishes deferred events");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
