//! Source of an event: the stream or the outbox table.

use crate::ports::{SequenceNumber, ShardId};

/// Place from which an event was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A record of the stream.
    Stream {
        shard: ShardId,
        position: SequenceNumber,
    },
    /// The pending index of the table, or a query of one aggregate.
    Table,
}

impl EventSource {
    /// Returns the value of the metrics' label `path` and of the span attribute `outbox.path`.
    pub const fn path(&self) -> &'static str {
        match self {
            Self::Stream { .. } => "stream",
            Self::Table => "sweep",
        }
    }
}
