//! Shards of the outbox table's stream, as they are listed and as leases refer to them.

use std::fmt;
use std::sync::Arc;

/// Id of a shard, unique within its stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub Arc<str>);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Position of a record within its shard. Opaque: only DynamoDB Streams can order two of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequenceNumber(pub Arc<str>);

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A listed shard. The listing does not show reliably whether the shard is closed; reading it to
/// its last record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub id: ShardId,
    pub parent: Option<ShardId>,
    /// Position of its first record, whether that is still available or not. `None` if the service
    /// does not report it.
    pub starts_at: Option<SequenceNumber>,
}
