//! Leases: discovers the stream's shards, and acquires, renews, transfers and releases their
//! leases (the "lineage", "fencing" and "balance" rules).

pub(crate) mod coordinator;
mod lease_balancer;
mod lease_renewer;
mod lease_sync;
mod shard_consumer;
mod shard_discovery;
