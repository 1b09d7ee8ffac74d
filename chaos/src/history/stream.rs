//! What passed between relays and the stream.

use serde::{Deserialize, Serialize};

/// An event's record in a page that the stream answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub at: u64,
    pub shard: String,
    pub aggregate_id: String,
    pub sequence: u64,
    /// It was taken away before a relay could read it.
    pub trimmed: bool,
}

/// From then on this relay reads a shard: it has the lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardReader {
    pub at: u64,
    pub shard: String,
    /// The process, as in [`super::Life::process`].
    pub relay: String,
    pub incarnation: u32,
}

/// What a relay had counted in `outbox_stream_gaps_total` when it was asked last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GapCount {
    /// When it was asked.
    pub at: u64,
    pub relay: String,
    pub incarnation: u32,
    pub counted: u64,
}

/// A relay was told that its position in the stream is trimmed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TrimmedRead {
    pub at: u64,
    pub relay: String,
    pub incarnation: u32,
}
