//! The lease table in DynamoDB.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use shared::aws::ATTEMPT_TIMEOUT;
use shared::aws::error::{Causes, ErrorClass, classify};

use crate::{
    Lease, LeaseError, LeaseRequests, LeaseState, LeaseTable, SWEEPER, SequenceNumber, ShardId,
    TableError,
};

/// Attribute names.
mod attribute {
    pub(super) const STREAM: &str = "stream";
    pub(super) const LEASE: &str = "lease";
    pub(super) const OWNER: &str = "owner";
    pub(super) const EPOCH: &str = "epoch";
    pub(super) const HEARTBEAT: &str = "beat";
    pub(super) const CHECKPOINT: &str = "checkpoint";
    pub(super) const PARENT: &str = "parent";
    pub(super) const STATE: &str = "state";
    pub(super) const PASSED: &str = "passed";
    pub(super) const WANTED_BY: &str = "wanted_by";
    pub(super) const SWEEP_REQUESTED: &str = "sweep_requested";
    pub(super) const STREAM_ARN: &str = "stream_arn";
}

/// Sort key of the item, in a partition named like the consumer group, that records which stream
/// the group reads.
const GROUP: &str = "group";

const OPEN: &str = "OPEN";
const ENDED: &str = "ENDED";

#[derive(Debug)]
pub struct DynamoDbLeaseTable {
    client: Client,
    table: String,
    group: String,
}

impl DynamoDbLeaseTable {
    /// Uses `table` for the leases of the consumer group `group`.
    pub fn new(client: &Client, table: String, group: String, lease_duration: Duration) -> Self {
        Self {
            client: with_short_timeouts(client, lease_duration),
            table,
            group,
        }
    }

    fn partition(&self, stream: &str) -> String {
        format!("{}|{stream}", self.group)
    }

    /// Returns all leases of `stream`, as [`LeaseTable::list`] does, with an error that tells a
    /// missing table or permission from a failed request.
    pub async fn leases(&self, stream: &str) -> Result<Vec<Lease>, TableError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#stream = :stream")
            .expression_attribute_names("#stream", attribute::STREAM)
            .expression_attribute_values(":stream", AttributeValue::S(self.partition(stream)))
            .into_paginator()
            .send();
        let mut leases = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| TableError::of(&self.table, &error))?;
            for item in page.items.unwrap_or_default() {
                match from_item(&item) {
                    Some(lease) => leases.push(lease),
                    None => {
                        tracing::warn!("ignoring an item of the lease table that cannot be parsed")
                    }
                }
            }
        }
        Ok(leases)
    }

    /// Replaces a lease item if `condition` holds, and returns the requests that it had. Attributes
    /// that [`Lease`] does not have are lost; there are none.
    async fn put(
        &self,
        stream: &str,
        lease: &Lease,
        condition: Condition<'_>,
    ) -> Result<LeaseRequests, SdkError<PutItemError>> {
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .return_values(ReturnValue::AllOld)
            .set_item(Some(to_item(self.partition(stream), lease)));
        let request = match condition {
            Condition::Absent => request
                .condition_expression("attribute_not_exists(#lease)")
                .expression_attribute_names("#lease", attribute::LEASE),
            Condition::Held { owner, epoch } => request
                .condition_expression("#owner = :owner AND #epoch = :epoch")
                .expression_attribute_names("#owner", attribute::OWNER)
                .expression_attribute_names("#epoch", attribute::EPOCH)
                .expression_attribute_values(":owner", AttributeValue::S(owner.to_owned()))
                .expression_attribute_values(":epoch", AttributeValue::N(epoch.to_string())),
            Condition::AsSeen(seen) => {
                let request = request
                    .expression_attribute_names("#owner", attribute::OWNER)
                    .expression_attribute_names("#epoch", attribute::EPOCH)
                    .expression_attribute_names("#heartbeat", attribute::HEARTBEAT)
                    .expression_attribute_values(
                        ":epoch",
                        AttributeValue::N(seen.epoch.to_string()),
                    )
                    .expression_attribute_values(
                        ":heartbeat",
                        AttributeValue::N(seen.heartbeat.to_string()),
                    );
                match &seen.owner {
                    None => request.condition_expression(
                        "attribute_not_exists(#owner) AND #epoch = :epoch AND #heartbeat = :heartbeat",
                    ),
                    Some(owner) => request
                        .condition_expression(
                            "#owner = :owner AND #epoch = :epoch AND #heartbeat = :heartbeat",
                        )
                        .expression_attribute_values(":owner", AttributeValue::S(owner.clone())),
                }
            }
        };
        let old = request.send().await?.attributes.unwrap_or_default();
        Ok(requests(&old))
    }
}

/// Condition on the stored lease under which it is replaced.
enum Condition<'a> {
    Absent,
    Held { owner: &'a str, epoch: u64 },
    AsSeen(&'a Lease),
}

#[async_trait]
impl LeaseTable for DynamoDbLeaseTable {
    async fn register_stream(&self, stream: &str) -> Result<Option<String>, LeaseError> {
        let noted = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, AttributeValue::S(self.group.clone()))
            .key(attribute::LEASE, AttributeValue::S(GROUP.to_owned()))
            .condition_expression("attribute_not_exists(#arn) OR #arn <> :arn")
            .update_expression("SET #arn = :arn")
            .expression_attribute_names("#arn", attribute::STREAM_ARN)
            .expression_attribute_values(":arn", AttributeValue::S(stream.to_owned()))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await;
        match fenced(noted) {
            Ok(noted) => Ok(text(
                &noted.attributes.unwrap_or_default(),
                attribute::STREAM_ARN,
            )),
            Err(LeaseError::Lost) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, stream: &str) -> Result<Vec<Lease>, LeaseError> {
        let leases = self.leases(stream).await;
        leases.map_err(|error| LeaseError::Unavailable(error.to_string()))
    }

    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError> {
        match self.put(stream, lease, Condition::Absent).await {
            Err(error) if classify(&error) != ErrorClass::ConditionFailed => {
                Err(unavailable(&error))
            }
            _ => Ok(()),
        }
    }

    async fn acquire(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError> {
        fenced(self.put(stream, new, Condition::AsSeen(seen)).await).map(drop)
    }

    async fn renew(
        &self,
        stream: &str,
        holder: &str,
        lease: &Lease,
    ) -> Result<LeaseRequests, LeaseError> {
        let condition = Condition::Held {
            owner: holder,
            epoch: lease.epoch,
        };
        fenced(self.put(stream, lease, condition).await)
    }

    async fn request(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError> {
        let owner = seen.owner.clone().unwrap_or_default();
        let requested = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, AttributeValue::S(self.partition(stream)))
            .key(attribute::LEASE, AttributeValue::S(seen.shard.to_string()))
            .condition_expression("#owner = :owner AND #epoch = :epoch")
            .update_expression("SET #wanted_by = :me")
            .expression_attribute_names("#owner", attribute::OWNER)
            .expression_attribute_names("#epoch", attribute::EPOCH)
            .expression_attribute_names("#wanted_by", attribute::WANTED_BY)
            .expression_attribute_values(":owner", AttributeValue::S(owner))
            .expression_attribute_values(":epoch", AttributeValue::N(seen.epoch.to_string()))
            .expression_attribute_values(":me", AttributeValue::S(instance.to_owned()))
            .send()
            .await;
        fenced(requested).map(drop)
    }

    async fn request_sweep(&self, stream: &str) -> Result<(), LeaseError> {
        let now = outbox::timestamp::Timestamp::now().to_string();
        let requested = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, AttributeValue::S(self.partition(stream)))
            .key(attribute::LEASE, AttributeValue::S(SWEEPER.to_owned()))
            .condition_expression("attribute_exists(#lease)")
            .update_expression("SET #sweep_requested = :now")
            .expression_attribute_names("#lease", attribute::LEASE)
            .expression_attribute_names("#sweep_requested", attribute::SWEEP_REQUESTED)
            .expression_attribute_values(":now", AttributeValue::S(now))
            .send()
            .await;
        match fenced(requested) {
            Ok(_) | Err(LeaseError::Lost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError> {
        let removed = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(attribute::STREAM, AttributeValue::S(self.partition(stream)))
            .key(attribute::LEASE, AttributeValue::S(seen.shard.to_string()))
            .condition_expression("attribute_not_exists(#owner) AND #epoch = :epoch")
            .expression_attribute_names("#owner", attribute::OWNER)
            .expression_attribute_names("#epoch", attribute::EPOCH)
            .expression_attribute_values(":epoch", AttributeValue::N(seen.epoch.to_string()))
            .send()
            .await;
        fenced(removed).map(drop)
    }
}

/// Returns a client whose attempts time out early enough for leases: a heartbeat is due after a
/// third of the lease duration, and if a request gets no response, the SDK's second attempt must
/// still be in time.
fn with_short_timeouts(client: &Client, lease_duration: Duration) -> Client {
    let config = client.config();
    let timeouts = config
        .timeout_config()
        .map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT.min(lease_duration / 4))
        .build();
    let config = config.to_builder().timeout_config(timeouts).build();
    Client::from_conf(config)
}

fn fenced<T, E>(written: Result<T, SdkError<E>>) -> Result<T, LeaseError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    written.map_err(|error| {
        if classify(&error) == ErrorClass::ConditionFailed {
            LeaseError::Lost
        } else {
            unavailable(&error)
        }
    })
}

fn unavailable(error: &(impl std::error::Error + 'static)) -> LeaseError {
    LeaseError::Unavailable(Causes(error).to_string())
}

fn to_item(partition: String, lease: &Lease) -> HashMap<String, AttributeValue> {
    let mut item = HashMap::from([
        (attribute::STREAM.to_owned(), AttributeValue::S(partition)),
        (
            attribute::LEASE.to_owned(),
            AttributeValue::S(lease.shard.to_string()),
        ),
        (
            attribute::EPOCH.to_owned(),
            AttributeValue::N(lease.epoch.to_string()),
        ),
        (
            attribute::HEARTBEAT.to_owned(),
            AttributeValue::N(lease.heartbeat.to_string()),
        ),
        (
            attribute::STATE.to_owned(),
            AttributeValue::S(
                match lease.state {
                    LeaseState::Open => OPEN,
                    LeaseState::Ended => ENDED,
                }
                .to_owned(),
            ),
        ),
    ]);
    let optional = [
        (attribute::OWNER, lease.owner.clone()),
        (
            attribute::CHECKPOINT,
            lease.checkpoint.as_ref().map(ToString::to_string),
        ),
        (
            attribute::PARENT,
            lease.parent.as_ref().map(ToString::to_string),
        ),
        (
            attribute::PASSED,
            lease.low_watermark.as_ref().map(ToString::to_string),
        ),
        (attribute::WANTED_BY, lease.requests.requested_by.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            item.insert(name.to_owned(), AttributeValue::S(value));
        }
    }
    item
}

fn text(item: &HashMap<String, AttributeValue>, name: &str) -> Option<String> {
    item.get(name).and_then(|value| value.as_s().ok()).cloned()
}

fn requests(item: &HashMap<String, AttributeValue>) -> LeaseRequests {
    LeaseRequests {
        requested_by: text(item, attribute::WANTED_BY),
        sweep: item.contains_key(attribute::SWEEP_REQUESTED),
    }
}

fn from_item(item: &HashMap<String, AttributeValue>) -> Option<Lease> {
    let text = |name: &str| text(item, name);
    let number = |name: &str| item.get(name)?.as_n().ok()?.parse().ok();
    Some(Lease {
        shard: ShardId(text(attribute::LEASE)?.into()),
        parent: text(attribute::PARENT).map(|id| ShardId(id.into())),
        owner: text(attribute::OWNER),
        epoch: number(attribute::EPOCH)?,
        heartbeat: number(attribute::HEARTBEAT)?,
        checkpoint: text(attribute::CHECKPOINT).map(|number| SequenceNumber(number.into())),
        state: match text(attribute::STATE)?.as_str() {
            OPEN => LeaseState::Open,
            ENDED => LeaseState::Ended,
            _ => return None,
        },
        low_watermark: text(attribute::PASSED).and_then(|at| at.parse().ok()),
        requests: requests(item),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_back_as_it_was_written() {
        let mut lease = Lease::unread(ShardId("s".into()), Some(ShardId("p".into())));
        for owner in [None, Some("me".to_owned())] {
            lease.owner = owner;
            lease.epoch += 1;
            lease.checkpoint = Some(SequenceNumber("17".into()));
            lease.state = LeaseState::Ended;
            lease.low_watermark = Some(outbox::timestamp::Timestamp::from_millis(5));
            lease.requests.requested_by = Some("other".to_owned());
            let item = to_item("group|arn".to_owned(), &lease);
            assert_eq!(from_item(&item), Some(lease.clone()));
        }
    }
}
