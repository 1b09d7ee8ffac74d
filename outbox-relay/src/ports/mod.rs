//! The four remote systems the engine works with, as it sees them.
//!
//! Every method may take long or never answer as far as the engine is
//! concerned; implementations bound each call by a timeout. Implemented over
//! AWS in [`crate::aws`].

mod queue;
mod stream;

use std::sync::Arc;

pub use outbox_store::{
    Asked, EventKey, Item, Lease, LeaseError, LeaseState, LeaseTable, MarkOutcome, OutboxTable,
    PendingCursor, PendingPage, Published, Quarantine, SWEEPER, SequenceNumber, Shard, ShardId,
    TableError,
};
pub use queue::{EntryFailure, Queue, SendEntry, SendError};
pub use stream::{Change, Cursor, Page, Position, Record, Stream, StreamError};

/// All four.
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
