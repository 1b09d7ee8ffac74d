//! The four remote systems that the engine works with, as traits. Those of the two tables are in
//! `outbox-store`, which implements them in DynamoDB; [`crate::aws`] implements the stream and the
//! queues.
//!
//! The engine makes no assumption about the duration of a call, and any call may fail.
//! Implementations bound each call by a timeout.

mod queue;
mod stream;

use std::sync::Arc;

pub use outbox_store::{
    Deferral, EarlierEvent, EventKey, Generation, Item, Lease, LeaseError, LeaseRequests,
    LeaseState, LeaseTable, Leases, MAINTENANCE, MarkOutcome, OutboxTable, PendingCursor,
    PendingEntry, PendingPage, Published, Quarantine, SWEEPERS, SequenceNumber, Shard, ShardId,
    StoredStatus, TableError, maintenance_id, member_id, sweeper_id,
};
pub use queue::{EntryFailure, Queue, SendEntry, SendError};
pub use stream::{Change, Page, Position, Record, ShardIterator, Stream, StreamError};

/// The four remote systems.
#[derive(Clone)]
pub struct Ports {
    pub stream: Arc<dyn Stream>,
    pub queue: Arc<dyn Queue>,
    pub outbox: Arc<dyn OutboxTable>,
    pub leases: Arc<dyn LeaseTable>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}
