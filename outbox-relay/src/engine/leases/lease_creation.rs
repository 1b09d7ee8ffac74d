//! Creates the leases of new shards.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::engine::context::ShardContext;
use crate::policy::lease_assignment::generations;
use crate::ports::{Lease, LeaseError, SWEEPERS, ShardId, maintenance_id, sweeper_id};

/// Maximum number of lease requests in flight, for streams with many shards.
pub(super) const MAX_LEASE_REQUESTS: usize = 16;

/// Creates leases unless they exist, parents first: an instance starts a shard whose parent has no
/// lease.
pub(super) async fn create_leases(ctx: &ShardContext, new: Vec<Lease>) -> Result<(), LeaseError> {
    let table = &ctx.ports.leases;
    for generation in generations(new) {
        for new in generation.chunks(MAX_LEASE_REQUESTS) {
            let created = join_all(new.iter().map(|lease| table.create(&ctx.stream, lease))).await;
            created.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        ctx.directory.announce(&generation);
    }
    Ok(())
}

/// Creates the maintenance lease and those of the sweepers, unless they are among `existing`.
/// Returns `true` if one was missing.
pub(super) async fn create_maintenance_leases(
    ctx: &ShardContext,
    existing: &BTreeSet<&ShardId>,
) -> Result<bool, LeaseError> {
    let sweepers = (0..SWEEPERS).map(sweeper_id);
    let missing: Vec<_> = [maintenance_id()]
        .into_iter()
        .chain(sweepers)
        .filter(|id| !existing.contains(id))
        .map(|id| Lease::unread(id, None))
        .collect();
    let table = &ctx.ports.leases;
    let created = join_all(missing.iter().map(|lease| table.create(&ctx.stream, lease))).await;
    created.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(!missing.is_empty())
}
