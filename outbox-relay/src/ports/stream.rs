//! The outbox table's stream.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::timestamp::Timestamp;
use outbox_store::{SequenceNumber, Shard, ShardId};

/// Position at which reading of a shard starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest record that is not trimmed.
    TrimHorizon,
    /// The record with this number, or the first one after it.
    At(SequenceNumber),
    /// The first record after the one with this number.
    After(SequenceNumber),
}

/// A shard iterator. Expires after 15 minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIterator(pub String);

/// Response to one read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Records in shard order. May be empty although more records follow.
    pub records: Vec<Record>,
    /// Size of the records as the service counts it; 0 if it does not report it.
    pub bytes: usize,
    /// Time of the response by the service's clock, to the second.
    pub served_at: Option<Timestamp>,
    /// `None` if the shard is closed and fully read.
    pub next: Option<ShardIterator>,
}

/// One change of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub sequence_number: SequenceNumber,
    /// Time of the change by the service's clock, to the second.
    pub created_at: Option<Timestamp>,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new item, as it was written.
    Insert(HashMap<String, AttributeValue>),
    /// A modified or removed item, which is never an event.
    Other,
}

/// Error of a request to the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The iterator is too old or not valid; request a new one at the last position.
    #[error("the shard iterator has expired")]
    Expired,
    /// The service does not accept the position.
    #[error("the position is not valid: {0}")]
    InvalidPosition(String),
    /// The position is older than the oldest record of the stream. Events between the two are only
    /// in the table.
    #[error("the position has been trimmed from the stream")]
    Trimmed,
    /// The stream or shard was deleted, or does not exist yet.
    #[error("{0}")]
    NotFound(String),
    /// The rate of requests exceeds a limit; a later one succeeds.
    #[error("{0}")]
    Throttled(String),
    /// The credentials lack a permission; an operator may grant it.
    #[error("{0}")]
    Denied(String),
    /// The request was rejected, or got no response; a later one may succeed.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads the stream.
///
/// Delivery: every change once per read from a position, in order per item. There is no order
/// between items, not even between two items of one transaction. Reading again from a position
/// delivers the same changes again. A failed request has no effect: the same iterator can be read
/// again, except after [`StreamError::Expired`] and [`StreamError::Trimmed`].
#[async_trait]
pub trait Stream: Send + Sync {
    /// Returns the ARN of the outbox table's current stream. It changes when the stream is disabled
    /// and enabled, or the table is created again.
    async fn locate(&self) -> Result<Arc<str>, StreamError>;

    /// Returns one page of the shards of `stream`, in any order, and the last shard of the page if
    /// more follow. Listing thousands of shards takes many calls; after a failed one the listing
    /// continues at the last page.
    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError>;

    /// Returns the children of a shard, or `None` if the service does not support the filter.
    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError>;

    /// Returns an iterator at `position` of `shard`.
    async fn shard_iterator(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<ShardIterator, StreamError>;

    /// Returns the records at `iterator`, at most 1,000 and 1 MB of them.
    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError>;
}
