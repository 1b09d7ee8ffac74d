//! Synchronises the lease table with the stream: creates a lease for each new shard and deletes
//! leases of expired shards.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::shard_discovery::{LISTING_INTERVAL, ShardDiscovery};
use crate::engine::context::ShardContext;
use crate::policy::lease_assignment::{deletable, generations, without_lease};
use crate::policy::lease_liveness::LeaseLiveness;
use crate::policy::lineage::Lineage;
use crate::ports::{Lease, LeaseError, Leases, SWEEPERS, Shard, maintenance_id, sweeper_id};

/// Maximum number of lease requests in flight, for streams with many shards.
pub(super) const MAX_LEASE_REQUESTS: usize = 16;

/// Time for which a lease is kept after its shard was last listed: longer than another instance
/// can take to process a listing that still contains it.
const KEPT: Duration = LISTING_INTERVAL.saturating_mul(2);

/// Returns the pseudo-shards of the maintenance lease and of the sweepers' leases.
pub(super) fn duties() -> impl Iterator<Item = Shard> {
    let ids = [maintenance_id()]
        .into_iter()
        .chain((0..SWEEPERS).map(sweeper_id));
    ids.map(|id| Shard {
        id,
        parent: None,
        starts_at: None,
    })
}

/// Returns all leases. Those of the sweepers are left out while an older release holds the
/// maintenance lease, because it sweeps all events.
async fn list(ctx: &ShardContext) -> Result<Leases, LeaseError> {
    let (table, stream) = (&ctx.ports.leases, &ctx.stream);
    let (mut all, duties) =
        tokio::try_join!(table.list(stream, None), table.list_maintenance(stream))?;
    let is_older = |lease: &Lease| {
        lease.shard == maintenance_id() && lease.owner.is_some() && lease.lease_duration.is_none()
    };
    if !all.leases.iter().any(is_older) {
        all.leases.extend(duties.leases);
    }
    all.unreadable.extend(duties.unreadable);
    Ok(all)
}

/// Returns all leases, after creating those of new shards and deleting expired ones.
pub(super) async fn sync_leases(
    ctx: &ShardContext,
    discovery: &mut ShardDiscovery,
    liveness: &LeaseLiveness,
    is_lister: bool,
) -> Result<Vec<Lease>, LeaseError> {
    let (table, stream) = (&ctx.ports.leases, &ctx.stream);
    let Leases { leases, unreadable } = list(ctx).await?;
    if let Some(listed_at) = discovery.listed_at()
        && is_lister
    {
        delete_expired(ctx, liveness, &leases, listed_at).await;
    }
    let mut found = discovery.found().to_vec();
    found.extend(duties());
    let mut new = without_lease(&found, &leases);
    new.retain(|shard| !unreadable.contains(&shard.id));
    if new.is_empty() {
        discovery.clear_found();
        return Ok(leases);
    }
    let lineage = Lineage::new(&found, &leases);
    let new = new.into_iter().map(|shard| Lease {
        start: lineage.start_of(shard),
        ..Lease::unread(shard.id.clone(), shard.parent.clone())
    });
    // Parents first: an instance that does not list the stream starts a shard whose parent has no
    // lease.
    for generation in generations(new.collect()) {
        for new in generation.chunks(MAX_LEASE_REQUESTS) {
            let created = join_all(new.iter().map(|lease| table.create(stream, lease))).await;
            created.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
    }
    discovery.clear_found();
    Ok(list(ctx).await?.leases)
}

async fn delete_expired(
    ctx: &ShardContext,
    liveness: &LeaseLiveness,
    leases: &[Lease],
    listed_at: Instant,
) {
    let (table, stream) = (&ctx.ports.leases, &ctx.stream);
    let expired = deletable(leases, liveness, listed_at, KEPT);
    for expired in expired.chunks(MAX_LEASE_REQUESTS) {
        let deletions = expired.iter().map(|lease| table.remove(stream, lease));
        for outcome in join_all(deletions).await {
            if let Err(LeaseError::Unavailable(reason)) = outcome {
                tracing::debug!(reason, "expired lease could not be deleted; retrying later");
            }
        }
    }
}
