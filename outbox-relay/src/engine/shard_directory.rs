//! Shards of the stream as they are currently known.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ports::{Shard, ShardId};

/// Result of the last complete listing, and the children that were found since. Written by the
/// shard discovery and read by every shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardDirectory(Arc<Mutex<Directory>>);

#[derive(Debug, Default)]
struct Directory {
    shards: Vec<Shard>,
    /// Start of the listing.
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
        !directory.shards.iter().any(|listed| listed.id == *shard)
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
        directory.shards = shards;
        directory.listed_at = Some(listed_at);
    }

    /// Adds a shard. Returns `false` if it is known already.
    pub(crate) fn insert(&self, shard: &Shard) -> bool {
        let mut directory = self.0.lock();
        let is_new = !directory.shards.contains(shard);
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
