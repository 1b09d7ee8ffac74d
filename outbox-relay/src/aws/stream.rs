//! DynamoDB Streams.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, StreamViewType};
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{
    AttributeValue as StreamValue, OperationType, Record as StreamRecord, Shard as StreamShard,
    ShardFilter, ShardFilterType, ShardIteratorType,
};
use outbox::timestamp::Timestamp;
use shared::aws::{Causes, Clients};

use crate::ports::{
    Change, Cursor, Page, Position, Record, SequenceNumber, Shard, ShardId, Stream, StreamError,
};

#[derive(Debug)]
pub(super) struct OutboxStream {
    clients: Clients,
    table: String,
}

impl OutboxStream {
    pub(super) fn new(clients: Clients, table: String) -> Self {
        Self { clients, table }
    }
}

#[async_trait]
impl Stream for OutboxStream {
    async fn locate(&self) -> Result<Arc<str>, StreamError> {
        let table = self
            .clients
            .dynamodb
            .describe_table()
            .table_name(&self.table)
            .send()
            .await
            .map_err(|error| match error.as_service_error() {
                Some(e) if e.is_resource_not_found_exception() => StreamError::NotFound(format!(
                    "table `{}` does not exist in this account and region",
                    self.table
                )),
                _ => StreamError::Unavailable(Causes(&error).to_string()),
            })?
            .table;
        let not_usable = |what: &str| {
            StreamError::NotFound(format!(
                "table `{}` {what}; enable one with the view type NEW_IMAGE",
                self.table
            ))
        };
        let (Some(specification), Some(stream)) = table
            .map(|table| (table.stream_specification, table.latest_stream_arn))
            .unwrap_or_default()
        else {
            return Err(not_usable("has no stream"));
        };
        if !specification.stream_enabled {
            return Err(not_usable("has no stream"));
        }
        match specification.stream_view_type {
            Some(StreamViewType::NewImage | StreamViewType::NewAndOldImages) => Ok(stream.into()),
            view => Err(not_usable(&format!(
                "has a stream of the view type {}, which does not show new items",
                view.as_ref().map_or("(none)", StreamViewType::as_str)
            ))),
        }
    }

    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError> {
        let description = self
            .clients
            .streams
            .describe_stream()
            .stream_arn(stream)
            .set_exclusive_start_shard_id(after.map(ToString::to_string))
            .send()
            .await
            .map_err(stream_error)?
            .stream_description
            .ok_or_else(|| StreamError::Unavailable("an empty answer".to_owned()))?;
        let next = description
            .last_evaluated_shard_id
            .map(|id| ShardId(id.into()));
        Ok((shards(description.shards), next))
    }

    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError> {
        let filter = ShardFilter::builder()
            .r#type(ShardFilterType::ChildShards)
            .shard_id(&*parent.0)
            .build();
        let answer = self
            .clients
            .streams
            .describe_stream()
            .stream_arn(stream)
            .shard_filter(filter)
            .send()
            .await;
        match answer {
            Ok(answer) => {
                let listed = shards(
                    answer
                        .stream_description
                        .and_then(|description| description.shards),
                );
                // Services that do not know the filter ignore it and list all.
                let filtered = listed
                    .iter()
                    .all(|shard| shard.parent.as_ref() == Some(parent));
                Ok(filtered.then_some(listed))
            }
            // Or refuse it.
            Err(error) if error.code() == Some("ValidationException") => Ok(None),
            Err(error) => Err(stream_error(error)),
        }
    }

    async fn cursor(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<Cursor, StreamError> {
        let request = self
            .clients
            .streams
            .get_shard_iterator()
            .stream_arn(stream)
            .shard_id(&*shard.0);
        let request = match position {
            Position::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Position::After(number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .sequence_number(&*number.0),
        };
        request
            .send()
            .await
            .map_err(stream_error)?
            .shard_iterator
            .map(Cursor)
            .ok_or_else(|| StreamError::Unavailable("an answer without an iterator".to_owned()))
    }

    async fn read(&self, cursor: &Cursor) -> Result<Page, StreamError> {
        let answer = self
            .clients
            .streams
            .get_records()
            .shard_iterator(&cursor.0)
            .send()
            .await
            .map_err(stream_error)?;
        let records = answer
            .records
            .unwrap_or_default()
            .into_iter()
            .map(record)
            .collect::<Option<_>>()
            .ok_or_else(|| {
                StreamError::Unavailable("a record without a sequence number".to_owned())
            })?;
        Ok(Page {
            records,
            next: answer.next_shard_iterator.map(Cursor),
        })
    }
}

fn stream_error<E>(error: SdkError<E>) -> StreamError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
    {
        Some("ExpiredIteratorException") => StreamError::Expired,
        Some("TrimmedDataAccessException") => StreamError::Trimmed,
        Some("ResourceNotFoundException") => {
            StreamError::NotFound("the stream or shard does not exist".to_owned())
        }
        _ => StreamError::Unavailable(Causes(&error).to_string()),
    }
}

fn shards(listed: Option<Vec<StreamShard>>) -> Vec<Shard> {
    listed
        .unwrap_or_default()
        .into_iter()
        .filter_map(|shard| {
            Some(Shard {
                id: ShardId(shard.shard_id?.into()),
                parent: shard.parent_shard_id.map(|id| ShardId(id.into())),
            })
        })
        .collect()
}

fn record(record: StreamRecord) -> Option<Record> {
    let is_insert = record.event_name == Some(OperationType::Insert);
    let data = record.dynamodb?;
    let change = match data.new_image {
        Some(image) if is_insert => Change::Insert(item(image)),
        _ => Change::Other,
    };
    Some(Record {
        sequence_number: SequenceNumber(data.sequence_number?.into()),
        created_at: data
            .approximate_creation_date_time
            .and_then(|at| at.to_millis().ok())
            .map(Timestamp::from_millis),
        change,
    })
}

/// The two SDK crates have a type each for the same value.
fn item(image: HashMap<String, StreamValue>) -> HashMap<String, AttributeValue> {
    image
        .into_iter()
        .map(|(name, value)| (name, attribute(value)))
        .collect()
}

fn attribute(value: StreamValue) -> AttributeValue {
    match value {
        StreamValue::S(text) => AttributeValue::S(text),
        StreamValue::N(number) => AttributeValue::N(number),
        StreamValue::Bool(flag) => AttributeValue::Bool(flag),
        StreamValue::B(bytes) => AttributeValue::B(bytes),
        StreamValue::Ss(set) => AttributeValue::Ss(set),
        StreamValue::Ns(set) => AttributeValue::Ns(set),
        StreamValue::Bs(set) => AttributeValue::Bs(set),
        StreamValue::L(list) => AttributeValue::L(list.into_iter().map(attribute).collect()),
        StreamValue::M(map) => AttributeValue::M(item(map)),
        // Also types that do not exist yet: no event attribute has one.
        _ => AttributeValue::Null(true),
    }
}
