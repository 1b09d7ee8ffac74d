//! Requests between relays and the stream.

use serde::{Deserialize, Serialize};

/// Record of an event in a page returned by the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StreamRecord {
    pub at: u64,
    pub shard: String,
    pub aggregate_id: String,
    pub sequence: u64,
    /// The record was trimmed before a relay could read it.
    pub trimmed: bool,
}

/// Start of the reading of a shard by a relay, which owns the lease from then on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardReader {
    pub at: u64,
    pub shard: String,
    /// The process, as in [`super::Life::process`].
    pub relay: String,
    pub incarnation: u32,
}

/// Last value of `outbox_stream_gaps_total` of a relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GapCount {
    /// Time of the poll.
    pub at: u64,
    pub relay: String,
    pub incarnation: u32,
    pub counted: u64,
}

/// Events that a relay deferred: an increase of its `outbox_events_deferred_total`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deferral {
    /// Time of the poll.
    pub at: u64,
    pub relay: String,
    pub incarnation: u32,
    pub queue: String,
    pub events: u64,
}

/// A response to a relay that its position in the stream is trimmed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TrimmedRead {
    pub at: u64,
    pub shard: String,
    /// `true` if the relay read the shard from its oldest record and had not received any: it
    /// cannot know that records are lost.
    pub is_first: bool,
    pub relay: String,
    pub incarnation: u32,
}
