//! The tables in DynamoDB.
//!
//! [`DynamoDbOutboxTable`] is one type in several files: `outbox_table` and `event_mark` have what
//! the relay reads and changes, `event_list`, `event_lookup`, `event_count` and `event_change` what
//! operators do. So is [`DynamoDbLeaseTable`]: `lease_table` has the leases, and `consumer_group`
//! the items of the groups that own them.

mod attribute_value;
mod conditional_update;
mod consumer_group;
mod event_change;
mod event_count;
mod event_list;
mod event_lookup;
mod event_mark;
mod lease_error;
mod lease_item;
mod lease_table;
mod outbox_table;
mod stream_description;

pub use event_change::EventChange;
pub use event_count::Count;
pub use lease_table::DynamoDbLeaseTable;
pub use outbox_table::DynamoDbOutboxTable;
pub use stream_description::{DescribeStreamError, StreamDescriber};
