//! The ports in AWS.

mod queue;
mod record_images;
mod stream;

use std::sync::Arc;

use outbox_store::dynamodb::{DynamoDbLeaseTable, DynamoDbOutboxTable};
use shared::aws::Clients;

use crate::config::Config;
use crate::ports::Ports;

/// Returns the ports of a relay with this configuration.
pub fn ports(clients: &Clients, config: &Config) -> Ports {
    Ports {
        stream: Arc::new(stream::OutboxStream::new(
            clients.clone(),
            config.outbox_table.clone(),
        )),
        queue: Arc::new(queue::Sqs::new(&clients.sqs)),
        outbox: Arc::new(DynamoDbOutboxTable::new(
            clients.dynamodb.clone(),
            config.outbox_table.clone(),
            config.outbox_buckets,
        )),
        leases: Arc::new(DynamoDbLeaseTable::new(
            &clients.dynamodb,
            config.leases_table.clone(),
            config.consumer_group.clone(),
            config.lease_duration,
        )),
    }
}
