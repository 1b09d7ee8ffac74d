//! The operator's service: reads and changes the outbox table and the leases from outside a relay.
//! The command line and the console show the same values.
//!
//! - [`event`]: one stored event as an operator sees it, malformed or not.
//! - [`list`]: events by state, aggregate or type, a page at a time.
//! - [`lookup`]: one event or aggregate, by an id.
//! - [`change`]: retry, discard and replay, one event at a time.
//! - [`bulk`]: the same for many events, in order per aggregate.
//! - [`leases`]: leases of shards, sweepers and instances.
//! - [`lease_observer`]: whether the owners of leases are alive.
//! - [`status`]: all of it in one report, and whether it is healthy.
//! - [`dead_letters`]: the dead-letter queues of the routes' queues.
//! - [`aggregate`]: the consumer's result, from the aggregate's own table.
//!
//! Requests to the outbox and lease tables are in `outbox-store`. Every change is conditional on
//! the state it starts from: a repeated or concurrent one changes nothing and reports so.

pub mod aggregate;
pub mod bulk;
pub mod change;
pub mod dead_letters;
pub mod event;
pub mod lease_observer;
pub mod leases;
pub mod list;
pub mod lookup;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

pub use aggregate::AggregateState;
use aws_sdk_dynamodb::Client;
pub use event::{EventDetail, EventView};
pub use lease_observer::{LeaseObserver, Liveness};
pub use leases::{LeaseKind, LeaseView};
pub use list::Listing;
pub use lookup::{AggregateView, Shown};
use outbox_store::TableError;
use outbox_store::dynamodb::{DynamoDbLeaseTable, DynamoDbOutboxTable, StreamDescriber};
use shared::aws::Clients;
pub use status::{Limits, StatusReport};

use crate::settings::{AggregateTables, Settings};

/// Acts on one outbox table and the leases of one consumer group.
#[derive(Clone, Debug)]
pub struct Operator {
    /// For the tables of aggregates only.
    dynamodb: Client,
    sqs: aws_sdk_sqs::Client,
    outbox: DynamoDbOutboxTable,
    leases: Arc<DynamoDbLeaseTable>,
    stream: StreamDescriber,
    outbox_table: String,
    consumer_group: String,
    lease_duration: Duration,
    failed_events_block: bool,
    aggregate_tables: AggregateTables,
    queues: Vec<String>,
    jaeger_ui_url: Option<String>,
}

/// Error of an operation. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// The arguments are invalid.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    /// The change does not fit into one event, which is unchanged.
    #[error("{0}")]
    TooLarge(String),
    /// DynamoDB did not answer, or the error may be transient. A change may have taken effect;
    /// repeating it is harmless.
    #[error("{0}")]
    Unavailable(String),
}

impl Operator {
    /// Uses the tables and the consumer group of `settings`.
    pub fn new(clients: &Clients, settings: &Settings) -> Self {
        Self {
            dynamodb: clients.dynamodb.clone(),
            sqs: clients.sqs.clone(),
            outbox: DynamoDbOutboxTable::new(
                clients.dynamodb.clone(),
                settings.outbox_table.clone(),
                settings.buckets,
            ),
            leases: Arc::new(DynamoDbLeaseTable::new(
                &clients.dynamodb,
                settings.leases_table.clone(),
                settings.consumer_group.clone(),
                settings.lease_duration,
            )),
            stream: StreamDescriber::new(clients.clone(), settings.outbox_table.clone()),
            outbox_table: settings.outbox_table.clone(),
            consumer_group: settings.consumer_group.clone(),
            lease_duration: settings.lease_duration,
            failed_events_block: settings.failed_events_block,
            aggregate_tables: settings.aggregate_tables.clone(),
            queues: settings.queues.clone(),
            jaeger_ui_url: settings.jaeger_ui_url.clone(),
        }
    }
}

impl From<TableError> for OperateError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::TableNotFound { .. } => Self::Refused(format!(
                "{error}; check OUTBOX_TABLE, LEASES_TABLE, AWS_REGION and AWS_ENDPOINT_URL_DYNAMODB"
            )),
            TableError::AccessDenied { .. }
            | TableError::Rejected { .. }
            | TableError::IndexUnusable { .. } => Self::Refused(error.to_string()),
            TableError::ItemTooLarge(_) => Self::TooLarge(error.to_string()),
            TableError::NotIndexed | TableError::InvalidPageToken => {
                Self::Invalid(error.to_string())
            }
            TableError::Unavailable { .. } => Self::Unavailable(error.to_string()),
        }
    }
}
