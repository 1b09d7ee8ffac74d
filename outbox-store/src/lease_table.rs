//! The lease table: which instance reads which shard, and its checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use outbox::timestamp::Timestamp;

use crate::shard::{SequenceNumber, ShardId};

/// Lease of one shard of a stream, for one consumer group. The maintenance lease, the leases of the
/// sweepers and the items of the group's members are leases as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub shard: ShardId,
    pub parent: Option<ShardId>,
    /// Position of the shard's first record, if the group knew the parent of the shard before the
    /// shard existed: then every record from here on is the group's to read.
    pub start: Option<SequenceNumber>,
    /// Instance that reads the shard; `None` if the lease was released.
    pub owner: Option<String>,
    /// Incremented at every change of owner. Fences writes of earlier owners.
    pub epoch: u64,
    /// Incremented at every write of the owner, so that other instances see that it is alive.
    pub heartbeat: u64,
    /// Lease duration of the owner: it writes a heartbeat at least every third of it. `None` if an
    /// older release wrote the item last.
    pub lease_duration: Option<Duration>,
    /// Position up to which every event is published and marked; `None` before the first.
    pub checkpoint: Option<SequenceNumber>,
    pub state: LeaseState,
    /// Time before which the owner has processed every record of the shard. The stream no longer
    /// delivers an older pending event from this shard.
    pub low_watermark: Option<Timestamp>,
    /// Time at which the lister found that the stream no longer has the shard.
    pub unlisted_at: Option<Timestamp>,
    /// On the lease of a sweeper: number of deferred events by queue, as of its last pass.
    pub deferred: BTreeMap<String, u64>,
    /// Requests of other instances to the owner.
    pub requests: LeaseRequests,
}

/// Requests to the owner of a lease, stored in its lease item.
///
/// Apart from `requested_by`, a request is a value that differs from that of the previous request:
/// the owner handles each value once. The value stays in the item, so that a lost response loses no
/// request; a change of owner removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequests {
    /// Instance of an older release that has too few shards and requests this one. Stays until the
    /// owner changes.
    pub requested_by: Option<String>,
    /// On the lease of a sweeper: there are events that only a sweep finds.
    pub sweep: Option<String>,
    /// On the maintenance lease: there may be shards that the next regular listing finds too late.
    pub listing: Option<String>,
}

/// State of the shard of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// More records may follow.
    Open,
    /// The shard is closed, and all of its events are published and marked.
    Ended,
}

impl Lease {
    /// Returns the lease of a shard that no instance has read yet.
    pub fn unread(shard: ShardId, parent: Option<ShardId>) -> Self {
        Self {
            shard,
            parent,
            start: None,
            owner: None,
            epoch: 0,
            heartbeat: 0,
            lease_duration: None,
            checkpoint: None,
            state: LeaseState::Open,
            low_watermark: None,
            unlisted_at: None,
            deferred: BTreeMap::new(),
            requests: LeaseRequests::default(),
        }
    }

    /// Returns `true` if both are the same write of the same owner.
    pub fn is_same_write(&self, other: &Self) -> bool {
        (&self.owner, self.epoch, self.heartbeat) == (&other.owner, other.epoch, other.heartbeat)
    }
}

/// Leases as a list returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    pub leases: Vec<Lease>,
    /// Items that exist and cannot be parsed.
    pub unreadable: BTreeSet<ShardId>,
}

/// Error of a request to the lease table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The condition failed: another instance has changed the lease. Contains the item as it is
    /// stored now; `None` if there is none or the service did not return it.
    #[error("the lease belongs to another owner or epoch")]
    Lost(Option<Box<Lease>>),
    /// The table did not answer, or the error may be transient. A write may have taken effect.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads and writes the leases of one consumer group; `stream` is an ARN.
///
/// Every write is conditional, changes one item and no attributes that it does not know. It is one
/// request: a write whose response was lost may have taken effect, at that time or later. Repeating
/// [`LeaseTable::renew`] with the next heartbeat is harmless, and repeating [`LeaseTable::acquire`]
/// returns [`LeaseError::Lost`].
#[async_trait]
pub trait LeaseTable: Send + Sync {
    /// Records that the consumer group reads `stream` now. Returns the stream that it read before
    /// if this call changed the record, so that exactly one of many instances receives it.
    async fn register_stream(&self, stream: &str) -> Result<Option<String>, LeaseError>;

    /// Returns the stream that the group read before the present one, unless it is forgotten.
    async fn previous_stream(&self) -> Result<Option<String>, LeaseError>;

    /// Forgets `previous`, once its leases are deleted.
    async fn forget_previous_stream(&self, previous: &str) -> Result<(), LeaseError>;

    /// Registers this consumer group as the one that reads the table of `stream`, if none is
    /// registered or `stopped` is. Returns the registered group if it is another one.
    async fn register_group(
        &self,
        stream: &str,
        stopped: Option<&str>,
    ) -> Result<Option<String>, LeaseError>;

    /// Returns all leases of another consumer group on `stream`. Strongly consistent.
    async fn list_of_group(&self, stream: &str, group: &str) -> Result<Leases, LeaseError>;

    /// Returns the leases of the shards of `stream` and the maintenance lease, sorted by id, those
    /// before `from` left out. Strongly consistent.
    async fn list(&self, stream: &str, from: Option<&ShardId>) -> Result<Leases, LeaseError>;

    /// Returns the leases of the sweepers and the members of the group. Strongly consistent.
    async fn list_maintenance(&self, stream: &str) -> Result<Leases, LeaseError>;

    /// Creates a lease unless its item exists.
    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError>;

    /// Writes owner, epoch, heartbeat and lease duration of `new` if owner, epoch and heartbeat are
    /// still those of `seen`. Requests to the previous owner are removed.
    async fn acquire(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError>;

    /// Writes what the owner of a lease reports if the owner is still `holder`, the epoch is
    /// unchanged, and the stored heartbeat is lower: a request that arrives late changes nothing.
    /// `lease.owner` may be `None`, to release the lease, or another instance, to transfer it.
    /// Returns the requests that the item has.
    async fn renew(
        &self,
        stream: &str,
        holder: &str,
        lease: &Lease,
    ) -> Result<LeaseRequests, LeaseError>;

    /// Requests the lease for `instance` if owner and epoch are still those of `seen`. An owner of
    /// an older release receives the request at its next write.
    async fn request(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError>;

    /// Requests a sweep from every sweeper. Leases that do not exist are skipped: their first owner
    /// begins with a sweep.
    async fn request_sweep(&self, stream: &str) -> Result<(), LeaseError>;

    /// Requests a listing of the stream's shards from the holder of the maintenance lease.
    async fn request_listing(&self, stream: &str) -> Result<(), LeaseError>;

    /// Records since when the stream no longer has a shard, or with `None`, that it has it.
    async fn mark_unlisted(
        &self,
        stream: &str,
        shard: &ShardId,
        since: Option<Timestamp>,
    ) -> Result<(), LeaseError>;

    /// Deletes a lease if its owner, epoch and heartbeat are still those of `seen`.
    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError>;
}
