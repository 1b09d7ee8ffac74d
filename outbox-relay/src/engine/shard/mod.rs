//! Reads one shard and passes its events on in order.

pub(crate) mod shard_reader;
