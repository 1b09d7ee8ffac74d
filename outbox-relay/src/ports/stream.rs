//! The outbox table's stream.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::timestamp::Timestamp;
use outbox_store::{SequenceNumber, Shard, ShardId};

/// Where to start reading a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest record that is still there.
    TrimHorizon,
    After(SequenceNumber),
}

/// A shard iterator. Expires after 15 minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// The answer to one read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In shard order. May be empty although more records follow.
    pub records: Vec<Record>,
    /// `None`: the shard is closed and read to its end.
    pub next: Option<Cursor>,
}

/// One change of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub sequence_number: SequenceNumber,
    /// When the change was made, by the service's clock, to the second.
    pub created_at: Option<Timestamp>,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new item, as it was written.
    Insert(HashMap<String, AttributeValue>),
    /// Modified or removed: never an event.
    Other,
}

/// Why a stream request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The cursor is too old; take a new one from the last position.
    #[error("the shard iterator has expired")]
    Expired,
    /// The position is older than what the stream still has. What lies
    /// between is only in the table.
    #[error("the position has been trimmed from the stream")]
    Trimmed,
    /// The stream or shard is gone or has not come to be.
    #[error("{0}")]
    NotFound(String),
    /// Throttled, unreachable, refused: may work later.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads the stream.
///
/// Delivery: every change once per read from a position, in order per item.
/// Between items there is no order, not even for two items of one
/// transaction. Reading again from a position delivers again. An error leaves
/// nothing behind and undecided.
#[async_trait]
pub trait Stream: Send + Sync {
    /// Names the current stream of the outbox table. It changes when the
    /// stream is disabled and enabled, or the table is created again.
    async fn locate(&self) -> Result<Arc<str>, StreamError>;

    /// Some shards of `stream`, in any order, and where to go on: a listing of
    /// thousands takes many calls, and one that fails goes on where it was.
    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError>;

    /// The children of a shard, or `None` where the service cannot tell them
    /// apart from the rest.
    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError>;

    /// A cursor at `position` of `shard`.
    async fn cursor(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<Cursor, StreamError>;

    /// The records at `cursor`, at most 1,000 and 1 MB of them.
    async fn read(&self, cursor: &Cursor) -> Result<Page, StreamError>;
}
