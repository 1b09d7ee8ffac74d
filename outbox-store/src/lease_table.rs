//! The lease table: who reads which shard, and how far.

use async_trait::async_trait;
use outbox::timestamp::Timestamp;

use crate::shard::{SequenceNumber, ShardId};

/// One row: a shard of a stream, for one consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub shard: ShardId,
    pub parent: Option<ShardId>,
    /// The instance that reads the shard; `None` when it was given back.
    pub owner: Option<String>,
    /// Goes up by one at every change of owner. Fences writes of earlier ones.
    pub epoch: u64,
    /// Changes at every write by the owner: proof of life.
    pub beat: u64,
    /// Everything up to here is published and marked. `None`: nothing yet.
    pub checkpoint: Option<SequenceNumber>,
    pub state: LeaseState,
    /// Every record made before this is done with, by the owner's word: what
    /// is pending in the table and older is no longer in this shard.
    pub passed: Option<Timestamp>,
    /// What others ask of the owner.
    pub asked: Asked,
}

/// What the owner of a lease is asked, by a note on its row. It sees it at its
/// next write, which removes the note.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// An instance with too few shards asks for this one.
    pub wanted_by: Option<String>,
    /// On the sweeper's row: somebody knows of events that only a sweep finds.
    pub sweep: bool,
}

/// The lease of the sweeper, among those of the shards.
pub const SWEEPER: &str = "sweeper";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// There may be more to read.
    Open,
    /// The shard is closed and everything in it is published and marked.
    Ended,
}

impl Lease {
    /// A shard that nobody has read yet.
    pub fn unread(shard: ShardId, parent: Option<ShardId>) -> Self {
        Self {
            shard,
            parent,
            owner: None,
            epoch: 0,
            beat: 0,
            checkpoint: None,
            state: LeaseState::Open,
            passed: None,
            asked: Asked::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The row is not as it was expected to be: another instance has it.
    #[error("the lease belongs to another owner or epoch")]
    Lost,
    /// No answer, or one that says to try later. A write may have happened.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads and writes lease rows of one consumer group; `stream` is an ARN.
///
/// All writes are conditional and single-row. A write whose answer was lost
/// may have happened: repeating [`LeaseTable::renew`] is harmless, and a
/// repeated [`LeaseTable::take`] says [`LeaseError::Lost`].
#[async_trait]
pub trait LeaseTable: Send + Sync {
    /// Notes that the consumer group reads `stream` now. Returns the one that
    /// it read before when this call has changed it, so that of many instances
    /// one is told.
    async fn enter(&self, stream: &str) -> Result<Option<String>, LeaseError>;

    /// All rows of `stream`. Strongly consistent.
    async fn list(&self, stream: &str) -> Result<Vec<Lease>, LeaseError>;

    /// Adds a row unless there is one.
    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError>;

    /// Writes `new` if owner, epoch and beat are still those of `seen`.
    async fn take(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError>;

    /// Writes `lease` if owner and epoch are still `holder` and its epoch.
    /// `lease.owner` may be `None`, to give it back, or another instance, to
    /// hand it over. Returns what had been asked; the write forgets it.
    async fn renew(&self, stream: &str, holder: &str, lease: &Lease) -> Result<Asked, LeaseError>;

    /// Notes that `instance` wants the lease, if owner and epoch are still
    /// those of `seen`. The owner sees it at its next write.
    async fn ask(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError>;

    /// Asks whoever sweeps to do it soon. Without a sweeper's row nothing is
    /// noted: the first to sweep does it at once anyway.
    async fn ask_for_sweep(&self, stream: &str) -> Result<(), LeaseError>;

    /// Removes the row of a shard that is no longer listed, if nobody owns it
    /// and its epoch is still that of `seen`.
    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError>;
}
