//! Shards of the outbox table's stream, as they are listed and as leases refer to them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::Lease;

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
