//! Leases: enters the group, discovers the stream's shards, and acquires, renews, and releases
//! their leases (the "lineage", "fencing" and "balance" rules).

mod coordinator;
mod group_claim;
mod lease_balancer;
mod lease_creation;
mod lease_reader;
mod lease_renewer;
mod lister;
mod maintenance;
mod membership;
pub(crate) mod session;
mod shard_consumer;
