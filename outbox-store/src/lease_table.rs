//! The lease table: which instance reads which shard, and its checkpoint.

use std::collections::BTreeSet;

use async_trait::async_trait;
use outbox::timestamp::Timestamp;

use crate::shard::{SequenceNumber, Shard, ShardId};

/// Lease of one shard of a stream, for one consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub shard: ShardId,
    pub parent: Option<ShardId>,
    /// Instance that reads the shard; `None` if the lease was released.
    pub owner: Option<String>,
    /// Incremented at every change of owner. Fences writes of earlier owners.
    pub epoch: u64,
    /// Incremented at every write of the owner, so that other instances see that it is alive.
    pub heartbeat: u64,
    /// Position up to which every event is published and marked; `None` before the first.
    pub checkpoint: Option<SequenceNumber>,
    pub state: LeaseState,
    /// Time before which the owner has processed every record of the shard. The stream no longer
    /// delivers an older pending event from this shard.
    pub low_watermark: Option<Timestamp>,
    /// Requests of other instances to the owner.
    pub requests: LeaseRequests,
}

/// Requests to the owner of a lease, stored in its lease item. The owner receives them at its next
/// write, which removes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequests {
    /// Instance that has too few shards and requests this one.
    pub requested_by: Option<String>,
    /// On the sweeper's lease: there are events that only a sweep finds.
    pub sweep: bool,
}

/// Key of the sweeper's lease, which is stored beside those of the shards.
pub const SWEEPER: &str = "sweeper";

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
            owner: None,
            epoch: 0,
            heartbeat: 0,
            checkpoint: None,
            state: LeaseState::Open,
            low_watermark: None,
            requests: LeaseRequests::default(),
        }
    }
}

/// Error of a request to the lease table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The condition failed: another instance has changed the lease.
    #[error("the lease belongs to another owner or epoch")]
    Lost,
    /// The table did not answer, or the error may be transient. A write may have taken effect.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads and writes the leases of one consumer group; `stream` is an ARN.
///
/// Every write is conditional and changes one item. A write whose response was lost may have taken
/// effect: repeating [`LeaseTable::renew`] is harmless, and repeating [`LeaseTable::acquire`]
/// returns [`LeaseError::Lost`].
#[async_trait]
pub trait LeaseTable: Send + Sync {
    /// Records that the consumer group reads `stream` now. Returns the stream that it read before
    /// if this call changed the record, so that exactly one of many instances receives it.
    async fn register_stream(&self, stream: &str) -> Result<Option<String>, LeaseError>;

    /// Returns all leases of `stream`. Strongly consistent.
    async fn list(&self, stream: &str) -> Result<Vec<Lease>, LeaseError>;

    /// Creates a lease unless it exists.
    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError>;

    /// Writes `new` if owner, epoch and heartbeat are still those of `seen`.
    async fn acquire(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError>;

    /// Writes `lease` if the owner is still `holder` and the epoch is unchanged. `lease.owner` may
    /// be `None`, to release the lease, or another instance, to transfer it. Returns the
    /// requests that the item had; the write removes them.
    async fn renew(
        &self,
        stream: &str,
        holder: &str,
        lease: &Lease,
    ) -> Result<LeaseRequests, LeaseError>;

    /// Requests the lease for `instance` if owner and epoch are still those of `seen`. The owner
    /// receives the request at its next write.
    async fn request(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError>;

    /// Requests a sweep from the instance that holds the sweeper's lease. If that lease does not
    /// exist, nothing is written: its first owner begins with a sweep.
    async fn request_sweep(&self, stream: &str) -> Result<(), LeaseError>;

    /// Deletes the lease of a shard that is no longer listed, if it has no owner and its epoch is
    /// still that of `seen`.
    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError>;
}

/// Returns `shards` and, in addition, the shards that other instances have registered in the lease
/// table since they were listed. Without these an instance would request leases that it then does
/// not acquire, and the sweeper would pass events that are still in those shards.
///
/// A lease whose parent is known belongs to an existing shard, because no shard is trimmed before
/// its parent. Any other lease may belong to a shard that no longer exists.
pub fn with_registered(mut shards: Vec<Shard>, leases: &[Lease]) -> Vec<Shard> {
    let mut known: BTreeSet<_> = shards.iter().map(|shard| shard.id.clone()).collect();
    loop {
        let before = shards.len();
        for lease in leases {
            if let Some(parent) = &lease.parent
                && known.contains(parent)
                && known.insert(lease.shard.clone())
            {
                shards.push(Shard {
                    id: lease.shard.clone(),
                    parent: lease.parent.clone(),
                });
            }
        }
        // Leases are sorted by shard id, which is mostly the order of generations: few passes.
        if shards.len() == before {
            return shards;
        }
    }
}
