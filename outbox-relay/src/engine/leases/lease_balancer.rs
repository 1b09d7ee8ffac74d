//! Lease balancer: requests a lease from an instance that has too many (the "balance" rule).

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::engine::context::ShardContext;
use crate::policy::lease_assignment::lease_to_request;
use crate::policy::lease_liveness::LeaseLiveness;
use crate::ports::{Lease, LeaseError, ShardId};

/// View of the leases that balancing is based on.
pub(super) struct LeaseBalancer<'a> {
    pub(super) ctx: &'a ShardContext,
    pub(super) liveness: &'a LeaseLiveness,
    pub(super) held: &'a BTreeSet<ShardId>,
}

impl LeaseBalancer<'_> {
    /// Requests one of `leases` if another instance has too many. The owner transfers it once its
    /// events in flight are settled. A failed request is repeated by the next poll.
    pub(super) async fn balance(&self, leases: &[Lease], now: Instant) {
        let config = &self.ctx.config;
        let held_count = self.held.iter().filter(|shard| shard.is_shard()).count();
        let lease = lease_to_request(
            leases,
            self.liveness,
            held_count,
            &config.instance,
            now,
            config.lease_duration,
        );
        let Some(lease) = lease else {
            return;
        };
        let table = &self.ctx.ports.leases;
        match table
            .request(&self.ctx.stream, lease, &config.instance)
            .await
        {
            Ok(()) => tracing::info!(
                shard = %lease.shard,
                owner = lease.owner,
                "shard requested from an instance with more shards"
            ),
            // The lease has another owner by now; the next poll reads it.
            Err(LeaseError::Lost(_)) => {}
            Err(error) => tracing::debug!(%error, "shard could not be requested; retrying"),
        }
    }
}
