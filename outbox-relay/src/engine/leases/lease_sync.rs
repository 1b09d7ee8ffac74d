//! Keeps the rows of the lease table: one for every shard that is found, none
//! for those that are long gone.

use futures::future::join_all;
use tokio::time::Instant;

use crate::engine::leases::coordinator::{Coordinator, LEASE_REQUESTS};
use crate::engine::leases::shard_discovery::LISTING_INTERVAL;
use crate::policy::lease_assignment::{removable, unregistered};
use crate::ports::{Lease, LeaseError};

/// How long a row is kept once its shard is done with and not listed any more:
/// longer than another instance can be at a listing that still has it.
const KEPT: std::time::Duration = LISTING_INTERVAL.saturating_mul(2);

impl Coordinator {
    /// All rows, after adding those of new shards and removing those that say
    /// nothing any more.
    pub(crate) async fn rows(&mut self) -> Result<Vec<Lease>, LeaseError> {
        let leases = self.list().await?;
        if let Some(listed_at) = self.listing.listed_at() {
            self.remove_old(&leases, listed_at).await;
        }
        let mut found = self.listing.found().to_vec();
        found.extend(self.shards().pop());
        let new: Vec<_> = unregistered(&found, &leases)
            .into_iter()
            .map(|shard| Lease::unread(shard.id.clone(), shard.parent.clone()))
            .collect();
        if new.is_empty() {
            self.listing.registered();
            return Ok(leases);
        }
        let (table, stream) = (&self.around.ports.leases, &self.around.stream);
        for new in new.chunks(LEASE_REQUESTS) {
            let created = join_all(new.iter().map(|lease| table.create(stream, lease))).await;
            created.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        self.listing.registered();
        self.list().await
    }

    async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        self.around.ports.leases.list(&self.around.stream).await
    }

    async fn remove_old(&self, leases: &[Lease], listed_at: Instant) {
        let (table, stream) = (&self.around.ports.leases, &self.around.stream);
        let old = removable(leases, &self.observations, listed_at, KEPT);
        for old in old.chunks(LEASE_REQUESTS) {
            let removed = old.iter().map(|lease| table.remove(stream, lease));
            for outcome in join_all(removed).await {
                if let Err(LeaseError::Unavailable(reason)) = outcome {
                    tracing::debug!(reason, "an old lease could not be removed");
                }
            }
        }
    }
}
