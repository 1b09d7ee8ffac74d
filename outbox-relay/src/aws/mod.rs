//! The ports over AWS.

mod leases;
mod outbox;
mod queue;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use shared::aws::{ATTEMPT_TIMEOUT, Clients};

use crate::config::Config;
use crate::ports::Ports;

/// The ports of a relay configured by `config`.
pub fn ports(clients: &Clients, config: &Config) -> Ports {
    Ports {
        stream: Arc::new(stream::OutboxStream::new(
            clients.clone(),
            config.outbox_table.clone(),
        )),
        queue: Arc::new(queue::Sqs::new(&clients.sqs)),
        outbox: Arc::new(outbox::Outbox::new(
            clients.dynamodb.clone(),
            config.outbox_table.clone(),
        )),
        leases: Arc::new(leases::Leases::new(
            hurried(&clients.dynamodb, config.lease_duration),
            config.leases_table.clone(),
            config.consumer_group.clone(),
        )),
    }
}

/// A client for leases. A beat is due after a third of the lease; when a
/// request gets no answer, the SDK's second attempt must still be in time.
fn hurried(dynamodb: &aws_sdk_dynamodb::Client, lease: Duration) -> aws_sdk_dynamodb::Client {
    let config = dynamodb.config();
    let timeouts = config
        .timeout_config()
        .map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT.min(lease / 4))
        .build();
    let config = config.to_builder().timeout_config(timeouts).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}
