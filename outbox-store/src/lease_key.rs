//! Names of the lease items that do not belong to a shard of the stream.
//!
//! The maintenance lease is stored beside the leases of the shards, under the name that older
//! releases use for the lease of their only sweeper, so that an older release and this one never
//! both hold it. All other items are in partitions that older releases do not read: they would take
//! them for shards.

use crate::shard::ShardId;

/// Sort key of the maintenance lease: its holder lists the stream's shards and counts the pending
/// events.
pub const MAINTENANCE: &str = "sweeper";

/// Number of sweeper leases. Each sweeper publishes its part of the pending events.
pub const SWEEPERS: u32 = 8;

const SWEEPER_PREFIX: &str = "sweeper#";
const MEMBER_PREFIX: &str = "member#";

/// Returns the id of the maintenance lease.
pub fn maintenance_id() -> ShardId {
    ShardId(MAINTENANCE.into())
}

/// Returns the id of the lease of sweeper `index`.
pub fn sweeper_id(index: u32) -> ShardId {
    ShardId(format!("{SWEEPER_PREFIX}{index}").into())
}

/// Returns the id of the item by which `instance` shows that it is alive.
pub fn member_id(instance: &str) -> ShardId {
    ShardId(format!("{MEMBER_PREFIX}{instance}").into())
}

impl ShardId {
    /// Returns `true` if this is a shard of the stream, not another kind of lease item.
    pub fn is_shard(&self) -> bool {
        *self.0 != *MAINTENANCE && !self.is_in_maintenance_partition()
    }

    /// Returns the index of the sweeper whose lease this is.
    pub fn sweeper_index(&self) -> Option<u32> {
        self.0.strip_prefix(SWEEPER_PREFIX)?.parse().ok()
    }

    /// Returns the name of the instance whose member item this is.
    pub fn member(&self) -> Option<&str> {
        self.0.strip_prefix(MEMBER_PREFIX)
    }

    /// Returns `true` if the item is stored in the partition that older releases do not read.
    pub fn is_in_maintenance_partition(&self) -> bool {
        self.0.starts_with(SWEEPER_PREFIX) || self.0.starts_with(MEMBER_PREFIX)
    }
}
