//! Shards of the stream as they are currently known.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ports::{Lease, Shard, ShardId};

/// Shards as the lister of the group listed them, or as other instances know them from the lease
/// table, and the children that were found since. Written by the coordinator and read by every
/// shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardDirectory(Arc<Mutex<Directory>>);

#[derive(Debug, Default)]
struct Directory {
    shards: Vec<Shard>,
    /// Shards of the last complete listing of this instance.
    listed: BTreeSet<ShardId>,
    /// Start of that listing.
    listed_at: Option<Instant>,
    /// A listing was requested before the next regular one.
    is_listing_requested: bool,
}

impl ShardDirectory {
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.0.lock().shards.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().shards.len()
    }

    /// Returns `true` if a listing that started after `since` does not contain `shard`. Requests
    /// such a listing if there is none yet.
    pub(crate) fn is_deleted(&self, shard: &ShardId, since: Instant) -> bool {
        let mut directory = self.0.lock();
        if directory.listed_at.is_none_or(|at| at <= since) {
            directory.is_listing_requested = true;
            return false;
        }
        !directory.listed.contains(shard)
    }

    /// Requests a listing before the next regular one.
    pub(crate) fn request_listing(&self) {
        self.0.lock().is_listing_requested = true;
    }

    pub(crate) fn is_listing_requested(&self) -> bool {
        self.0.lock().is_listing_requested
    }

    /// Withdraws the request when a listing starts.
    pub(crate) fn clear_request(&self) {
        self.0.lock().is_listing_requested = false;
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Directory::default();
    }

    /// Stores a complete listing that started at `listed_at`.
    pub(crate) fn replace(&self, shards: Vec<Shard>, listed_at: Instant) {
        let mut directory = self.0.lock();
        directory.listed = shards.iter().map(|shard| shard.id.clone()).collect();
        directory.shards = shards;
        directory.listed_at = Some(listed_at);
    }

    /// Stores the shards that have a lease, in an instance that does not list the stream.
    pub(crate) fn replace_by_leases(&self, leases: &[Lease]) {
        let shards = leases.iter().filter(|lease| lease.shard.is_shard());
        let shards = shards.map(|lease| Shard {
            id: lease.shard.clone(),
            parent: lease.parent.clone(),
            starts_at: lease.start.clone(),
        });
        self.0.lock().shards = shards.collect();
    }

    /// Adds a shard. Returns `false` if it is known already.
    pub(crate) fn insert(&self, shard: &Shard) -> bool {
        let mut directory = self.0.lock();
        let is_new = directory.shards.iter().all(|known| known.id != shard.id);
        if is_new {
            directory.shards.push(shard.clone());
        }
        is_new
    }

    /// Returns those of `parents` of which no child is known.
    pub(crate) fn without_children(&self, parents: &[ShardId]) -> Vec<ShardId> {
        let directory = self.0.lock();
        let known: BTreeSet<_> = directory
            .shards
            .iter()
            .filter_map(|shard| shard.parent.as_ref())
            .collect();
        parents
            .iter()
            .filter(|parent| !known.contains(parent))
            .cloned()
            .collect()
    }
}
