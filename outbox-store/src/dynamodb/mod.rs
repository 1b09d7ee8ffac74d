//! The tables in DynamoDB.

mod lease_table;
mod outbox_table;
mod stream_description;

pub use lease_table::DynamoDbLeaseTable;
pub use outbox_table::DynamoDbOutboxTable;
pub use stream_description::{DescribeStreamError, StreamDescriber};
