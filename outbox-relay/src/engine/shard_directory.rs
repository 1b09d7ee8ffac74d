//! Shard directory: what the lease items of the group show of the stream's shards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::policy::lease_liveness::MIN_CHECKPOINT_INTERVAL;
use crate::ports::{Lease, ShardId};

/// State of all shards that the tasks of an instance share. Written by the coordinator after each
/// list of the leases.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardDirectory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    directory: Mutex<Directory>,
    /// Leases were created, so the coordinator should list them at once.
    has_new_leases: Notify,
}

#[derive(Debug)]
struct Directory {
    /// Shards that have a child.
    parents: BTreeSet<ShardId>,
    /// Shards that the lister of the group no longer found in the stream.
    unlisted: BTreeSet<ShardId>,
    checkpoint_interval: Duration,
    is_listing_requested: bool,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            parents: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            checkpoint_interval: MIN_CHECKPOINT_INTERVAL,
            is_listing_requested: false,
        }
    }
}

impl ShardDirectory {
    /// Returns `true` if the lister no longer found `shard` in the stream. Requests a listing
    /// otherwise.
    ///
    /// A holder of the maintenance lease of an older release records nothing of its listings: until
    /// an instance of this release holds the lease, no shard counts as deleted, and its reader
    /// retries. To list the stream in each instance meanwhile would exceed its DescribeStream
    /// limit, which the older instances already use.
    pub(crate) fn is_deleted(&self, shard: &ShardId) -> bool {
        let mut directory = self.0.directory.lock();
        let is_deleted = directory.unlisted.contains(shard);
        directory.is_listing_requested |= !is_deleted;
        is_deleted
    }

    /// Requests a listing before the next regular one, and a look-up of the stream.
    pub(crate) fn request_listing(&self) {
        self.0.directory.lock().is_listing_requested = true;
    }

    /// Returns `true` if a listing was requested since the last call.
    pub(crate) fn take_listing_request(&self) -> bool {
        std::mem::take(&mut self.0.directory.lock().is_listing_requested)
    }

    /// Stores the shards of `leases`, and the interval of checkpoints.
    pub(crate) fn replace(&self, leases: &[Lease], checkpoint_interval: Duration) {
        let parents = leases.iter().filter_map(|lease| lease.parent.clone());
        let parents = parents.collect();
        let unlisted = leases.iter().filter(|lease| lease.unlisted_at.is_some());
        let unlisted = unlisted.map(|lease| lease.shard.clone()).collect();
        let mut directory = self.0.directory.lock();
        directory.parents = parents;
        directory.unlisted = unlisted;
        directory.checkpoint_interval = checkpoint_interval;
    }

    /// Returns the minimum interval between two checkpoints of a shard.
    pub(crate) fn checkpoint_interval(&self) -> Duration {
        self.0.directory.lock().checkpoint_interval
    }

    /// Returns those of `shards` of which no child is known.
    pub(crate) fn without_children(&self, shards: &[ShardId]) -> Vec<ShardId> {
        let directory = self.0.directory.lock();
        let has_none = |shard: &&ShardId| !directory.parents.contains(*shard);
        shards.iter().filter(has_none).cloned().collect()
    }

    /// Announces that `leases` were created.
    pub(crate) fn announce(&self, leases: &[Lease]) {
        let parents = leases.iter().filter_map(|lease| lease.parent.clone());
        self.0.directory.lock().parents.extend(parents);
        self.0.has_new_leases.notify_one();
    }

    /// Waits until leases were created by this instance.
    pub(crate) async fn new_leases(&self) {
        self.0.has_new_leases.notified().await;
    }
}
