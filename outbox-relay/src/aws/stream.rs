//! Reads DynamoDB Streams.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_dynamodbstreams::config::retry::RetryConfig;
use aws_sdk_dynamodbstreams::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodbstreams::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::primitives::{DateTime, DateTimeFormat};
use aws_sdk_dynamodbstreams::types::{
    AttributeValue as StreamValue, OperationType, Record as StreamRecord, ShardIteratorType,
};
use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::{DescribeStreamError, StreamDescriber};
use shared::aws::Clients;
use shared::aws::error::{Causes, ErrorClass, classify, explain};

use super::record_images::WithoutImages;
use crate::ports::{
    Change, Page, Position, Record, SequenceNumber, Shard, ShardId, ShardIterator, Stream,
    StreamError,
};

#[derive(Debug)]
pub(super) struct OutboxStream {
    client: aws_sdk_dynamodbstreams::Client,
    describer: StreamDescriber,
}

impl OutboxStream {
    pub(super) fn new(clients: Clients, table: String) -> Self {
        // The shard reader retries by itself, and the attempts of two layers multiply.
        let config = clients.streams.config().to_builder();
        let config = config.retry_config(RetryConfig::disabled()).build();
        Self {
            client: aws_sdk_dynamodbstreams::Client::from_conf(config),
            describer: StreamDescriber::new(clients, table),
        }
    }
}

impl From<DescribeStreamError> for StreamError {
    fn from(error: DescribeStreamError) -> Self {
        match error {
            DescribeStreamError::NotFound(reason) => Self::NotFound(reason),
            DescribeStreamError::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

#[async_trait]
impl Stream for OutboxStream {
    async fn locate(&self) -> Result<Arc<str>, StreamError> {
        Ok(self.describer.locate().await?)
    }

    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError> {
        Ok(self.describer.shards(stream, after).await?)
    }

    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError> {
        Ok(self.describer.children(stream, parent).await?)
    }

    async fn shard_iterator(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<ShardIterator, StreamError> {
        let request = self
            .client
            .get_shard_iterator()
            .stream_arn(stream)
            .shard_id(&*shard.0);
        let request = match position {
            Position::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Position::At(number) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .sequence_number(&*number.0),
            Position::After(number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .sequence_number(&*number.0),
        };
        request
            .send()
            .await
            .map_err(|error| match classify(&error) {
                ErrorClass::Rejected => StreamError::InvalidPosition(Causes(&error).to_string()),
                _ => stream_error("GetShardIterator", error),
            })?
            .shard_iterator
            .map(ShardIterator)
            .ok_or_else(|| {
                StreamError::Unavailable("the response has no shard iterator".to_owned())
            })
    }

    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError> {
        let date = ResponseDate::default();
        let response = self
            .client
            .get_records()
            .shard_iterator(&iterator.0)
            .customize()
            .interceptor(date.clone())
            .interceptor(WithoutImages)
            .send()
            .await
            .map_err(|error| match classify(&error) {
                ErrorClass::Rejected => StreamError::Expired,
                _ => stream_error("GetRecords", error),
            })?;
        let records = response.records.unwrap_or_default();
        let bytes = records.iter().filter_map(size).sum();
        let records = records
            .into_iter()
            .map(record)
            .collect::<Option<_>>()
            .ok_or_else(|| {
                StreamError::Unavailable("a record without a sequence number".to_owned())
            })?;
        Ok(Page {
            records,
            bytes,
            served_at: date.0.get().copied(),
            next: response.next_shard_iterator.map(ShardIterator),
        })
    }
}

/// Interceptor that keeps the `Date` of a response.
#[derive(Clone, Debug, Default)]
struct ResponseDate(Arc<OnceLock<Timestamp>>);

impl Intercept for ResponseDate {
    fn name(&self) -> &'static str {
        "ResponseDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|date| {
            DateTime::from_str(date, DateTimeFormat::HttpDate)
                .ok()?
                .to_millis()
                .ok()
        });
        if let Some(millis) = date {
            // A call has one response, since the client does not retry.
            let _ = self.0.set(Timestamp::from_millis(millis));
        }
        Ok(())
    }
}

fn stream_error<E>(operation: &str, error: SdkError<E>) -> StreamError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
    {
        Some("ExpiredIteratorException") => StreamError::Expired,
        Some("TrimmedDataAccessException") => StreamError::Trimmed,
        _ => match classify(&error) {
            ErrorClass::NotFound => {
                StreamError::NotFound("the stream or shard does not exist".to_owned())
            }
            class => {
                let reason = format!("{operation} failed: {}", explain(&error));
                match class {
                    ErrorClass::Throttled => StreamError::Throttled(reason),
                    ErrorClass::AccessDenied => StreamError::Denied(reason),
                    _ => StreamError::Unavailable(reason),
                }
            }
        },
    }
}

/// Returns the size of a record as the service counts it.
fn size(record: &StreamRecord) -> Option<usize> {
    usize::try_from(record.dynamodb.as_ref()?.size_bytes?).ok()
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

/// Converts an item: the two SDK crates have a type each for the same value.
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
        // Includes types that do not exist yet: no attribute of an event has one.
        _ => AttributeValue::Null(true),
    }
}
