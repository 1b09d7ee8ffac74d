//! What an operator sees and does: the outbox table and the leases, read and
//! changed from outside a relay. The terminal (`commands`) and the relay's own
//! pages show the same values.
//!
//! - [`event`]: one stored event as an operator sees it, malformed ones too.
//! - [`list`]: events by state, aggregate or type, a page at a time; `filter` says which, `cursor`
//!   where a page goes on.
//! - [`show`]: one event or aggregate, by the name a person has at hand.
//! - [`change`]: retry, discard and replay, one event at a time.
//! - [`bulk`]: the same for many, in order per aggregate.
//! - [`shards`]: leases, and whether their owners are alive.
//! - [`status`]: everything at once, and whether it is well.
//! - [`aggregate`]: what became of an event at its consumer.
//!
//! Whatever is pending or failed is found by Queries of the index, never by a
//! Scan. Every change is conditional on the state it starts from: a repeated or
//! concurrent one changes nothing and says so.

pub mod aggregate;
pub mod bulk;
pub mod change;
pub mod event;
mod filter;
pub mod leases;
pub mod list;
pub mod lookup;
mod page_token;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

pub use aggregate::{AggregateState, AggregateTables};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
pub use change::Acted;
pub use event::{EventDetail, EventView};
pub use filter::{Filter, State, TypePattern};
pub use leases::{LeaseView, Life, Observer};
pub use list::Listing;
pub use lookup::{AggregateView, Shown};
use outbox_store::dynamodb::{DynamoDbLeaseTable, StreamDescriber};
pub use page_token::Cursor;
use shared::aws::{Causes, Clients};
pub use status::{Count, Limits, StatusReport};

use crate::settings::Settings;

/// Acts on one outbox table and the leases of one consumer group.
#[derive(Clone, Debug)]
pub struct Operator {
    dynamodb: Client,
    leases: Arc<DynamoDbLeaseTable>,
    stream: StreamDescriber,
    outbox_table: String,
    leases_table: String,
    consumer_group: String,
    lease_duration: Duration,
    aggregate_tables: AggregateTables,
    jaeger_ui_url: Option<String>,
}

/// Why something could not be seen or done. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    /// One event has no room for the change, and is as it was.
    #[error("{0}")]
    TooLarge(String),
    /// No answer, or one that says to try later. A change may have happened;
    /// repeating it is harmless.
    #[error("{0}")]
    Unavailable(String),
}

impl Operator {
    /// Uses the tables and the consumer group of `settings`.
    pub fn new(clients: &Clients, settings: &Settings) -> Self {
        Self {
            dynamodb: clients.dynamodb.clone(),
            leases: Arc::new(DynamoDbLeaseTable::new(
                &clients.dynamodb,
                settings.leases_table.clone(),
                settings.consumer_group.clone(),
                settings.lease_duration,
            )),
            stream: StreamDescriber::new(clients.clone(), settings.outbox_table.clone()),
            outbox_table: settings.outbox_table.clone(),
            leases_table: settings.leases_table.clone(),
            consumer_group: settings.consumer_group.clone(),
            lease_duration: settings.lease_duration,
            aggregate_tables: settings.aggregate_tables.clone(),
            jaeger_ui_url: settings.jaeger_ui_url.clone(),
        }
    }
}

/// What a failed request to `table` means to an operator.
fn failed<E>(table: &str, error: &SdkError<E>) -> OperateError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error.code() {
        Some("ResourceNotFoundException") => OperateError::Refused(format!(
            "table `{table}` does not exist in this account and region; \
             check OUTBOX_TABLE, LEASES_TABLE, AWS_REGION and AWS_ENDPOINT_URL_DYNAMODB"
        )),
        Some("ValidationException") => OperateError::Refused(format!(
            "DynamoDB refused the request on table `{table}`: {}",
            error.message().unwrap_or("no reason given")
        )),
        Some(code @ ("AccessDeniedException" | "UnrecognizedClientException")) => {
            OperateError::Refused(format!(
                "these credentials may not use table `{table}`: {code}: {}",
                error.message().unwrap_or("no reason given")
            ))
        }
        _ => OperateError::Unavailable(format!(
            "DynamoDB cannot be asked for table `{table}`: {}",
            Causes(error)
        )),
    }
}
