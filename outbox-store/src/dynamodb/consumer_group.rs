//! The items of the lease table that record which stream a consumer group reads, and which group
//! reads a table.

use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{
    ReturnValue, ReturnValuesOnConditionCheckFailure as OnConditionFailure,
};

use super::lease_error::{ignore_lost, unavailable, update_error};
use super::lease_item::{Update, attribute, text, text_value};
use super::lease_table::DynamoDbLeaseTable;
use crate::LeaseError;

/// Sort key of the item, in a partition named like the consumer group, that records which stream
/// the group reads.
const GROUP: &str = "group";

/// Sort key of the item, in a partition named like the table's ARN, that records which consumer
/// group reads the table.
const REGISTRATION: &str = "registration";

impl DynamoDbLeaseTable {
    /// Records that the group reads `stream`, as [`crate::LeaseTable::register_stream`] does.
    pub(super) async fn record_stream(&self, stream: &str) -> Result<Option<String>, LeaseError> {
        let registered: Result<UpdateItemOutput, _> = self
            .writer
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, text_value(&self.group))
            .key(attribute::LEASE, text_value(GROUP))
            .condition_expression("attribute_not_exists(#arn) OR #arn <> :arn")
            .update_expression("SET #previous = if_not_exists(#arn, :arn), #arn = :arn")
            .expression_attribute_names("#arn", attribute::STREAM_ARN)
            .expression_attribute_names("#previous", attribute::PREVIOUS_STREAM)
            .expression_attribute_values(":arn", text_value(stream))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await;
        match registered.map_err(update_error) {
            Ok(output) => Ok(text(
                &output.attributes.unwrap_or_default(),
                attribute::STREAM_ARN,
            )),
            Err(LeaseError::Lost(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the stream that the group read before, as [`crate::LeaseTable::previous_stream`]
    /// does.
    pub(super) async fn read_previous_stream(&self) -> Result<Option<String>, LeaseError> {
        // The relay's permissions include Query and not GetItem.
        let read = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("#stream = :stream AND #lease = :lease")
            .expression_attribute_names("#stream", attribute::STREAM)
            .expression_attribute_names("#lease", attribute::LEASE)
            .expression_attribute_values(":stream", text_value(&self.group))
            .expression_attribute_values(":lease", text_value(GROUP))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| unavailable(&error))?;
        let item = read.items.unwrap_or_default().into_iter().next();
        Ok(item.and_then(|item| text(&item, attribute::PREVIOUS_STREAM)))
    }

    /// Removes the record of the previous stream, as [`crate::LeaseTable::forget_previous_stream`]
    /// does.
    pub(super) async fn remove_previous_stream(&self, previous: &str) -> Result<(), LeaseError> {
        let update = Update::default()
            .remove(attribute::PREVIOUS_STREAM)
            .when_text(attribute::PREVIOUS_STREAM, Some(previous));
        let removed = self.update_item(self.group.clone(), GROUP, update).await;
        ignore_lost(removed)
    }

    /// Records that the group reads the table, as [`crate::LeaseTable::register_group`] does.
    pub(super) async fn record_group(
        &self,
        stream: &str,
        stopped: Option<&str>,
    ) -> Result<Option<String>, LeaseError> {
        let mut request = self
            .writer
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, text_value(table_of(stream)))
            .key(attribute::LEASE, text_value(REGISTRATION))
            .update_expression("SET #owner = :own")
            .expression_attribute_names("#owner", attribute::OWNER)
            .expression_attribute_values(":own", text_value(&self.group))
            .return_values_on_condition_check_failure(OnConditionFailure::AllOld);
        request = match stopped {
            None => request.condition_expression("attribute_not_exists(#owner) OR #owner = :own"),
            Some(stopped) => request
                .condition_expression("#owner IN (:own, :stopped)")
                .expression_attribute_values(":stopped", text_value(stopped)),
        };
        let error = match request.send().await {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        let UpdateItemError::ConditionalCheckFailedException(failed) =
            (match error.as_service_error() {
                Some(error) => error,
                None => return Err(unavailable(&error)),
            })
        else {
            return Err(unavailable(&error));
        };
        let registered = failed
            .item
            .as_ref()
            .and_then(|item| text(item, attribute::OWNER));
        registered.map(Some).ok_or_else(|| {
            LeaseError::Unavailable(format!(
                "the item `{REGISTRATION}` of `{}` in table `{}` names no group that can be read; delete it, and a relay creates it again",
                table_of(stream),
                self.table,
            ))
        })
    }
}

/// Returns the ARN of the table whose stream this is.
fn table_of(stream: &str) -> &str {
    stream
        .split_once("/stream/")
        .map_or(stream, |(table, _)| table)
}
