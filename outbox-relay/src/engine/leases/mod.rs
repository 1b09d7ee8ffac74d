//! Leases: acquires, renews and releases them, and discovers the shards of the stream.

pub(crate) mod coordinator;
pub(crate) mod lease_sync;
pub(crate) mod shard_consumer;
pub(crate) mod shard_discovery;
