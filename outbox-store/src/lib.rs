//! The outbox and lease tables as the relay and operators know them. Only this crate issues
//! requests to the two tables, and it writes the attributes that are added to an event after its
//! writer stored it.
//!
//! - [`outbox_table`]: [`OutboxTable`], what the relay does with events, and its delivery contract.
//! - [`lease_table`]: [`LeaseTable`], which instance reads which shard and how far, and its
//!   contract; [`lease_key`]: leases that do not belong to a shard.
//! - `item`: items of the outbox table and their keys.
//! - [`shard`]: shards of the outbox table's stream.
//! - `stored_event`: an event as the table has it, malformed or not; `event_filter` selects events
//!   of a list, `page_token` merges and continues lists.
//! - `error`: [`TableError`], the one error type of requests to the tables.
//! - [`dynamodb`]: both tables in DynamoDB, and the description of the outbox table's stream.
//!
//! The relay works with the two traits, so that its simulation can replace the tables. The admin
//! crate works with the DynamoDB types directly.

pub mod dynamodb;
mod error;
mod event_filter;
mod item;
pub mod lease_key;
pub mod lease_table;
pub mod outbox_table;
mod page_token;
pub mod shard;
mod stored_event;

pub use error::TableError;
pub use event_filter::{EventFilter, EventState, TypePattern};
pub use item::{EventKey, Item, is_number};
pub use lease_key::{MAINTENANCE, SWEEPERS, maintenance_id, member_id, sweeper_id};
pub use lease_table::{Lease, LeaseError, LeaseRequests, LeaseState, LeaseTable, Leases};
pub use outbox_table::{
    Deferral, EarlierEvent, Generation, MarkOutcome, OutboxTable, PendingCursor, PendingEntry,
    PendingPage, Published, Quarantine, StoredStatus,
};
pub use page_token::{EventPage, PageToken};
pub use shard::{SequenceNumber, Shard, ShardId};
pub use stored_event::{StoredEvent, StoredEventDetail};
