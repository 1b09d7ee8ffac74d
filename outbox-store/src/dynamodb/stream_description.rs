//! The outbox table's stream: its ARN and its shards. Reading records is the relay's task.

use std::sync::Arc;

use aws_sdk_dynamodb::types::StreamViewType;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{Shard as StreamShard, ShardFilter, ShardFilterType};
use shared::aws::Clients;
use shared::aws::error::{ErrorClass, classify, explain};

use crate::{SequenceNumber, Shard, ShardId};

/// Error of a request that describes the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescribeStreamError {
    /// The table or its stream does not exist, or the stream does not show new items.
    #[error("{0}")]
    NotFound(String),
    /// DynamoDB did not answer, or the error may be transient.
    #[error("{0}")]
    Unavailable(String),
}

/// Describes the stream of one outbox table.
#[derive(Clone, Debug)]
pub struct StreamDescriber {
    clients: Clients,
    table: String,
}

impl StreamDescriber {
    /// Describes the stream of `table`.
    pub fn new(clients: Clients, table: String) -> Self {
        Self { clients, table }
    }

    /// Returns the ARN of the table's current stream. It changes when the stream is disabled and
    /// enabled, or the table is created again.
    pub async fn locate(&self) -> Result<Arc<str>, DescribeStreamError> {
        let table = self
            .clients
            .dynamodb
            .describe_table()
            .table_name(&self.table)
            .send()
            .await
            .map_err(|error| match classify(&error) {
                ErrorClass::NotFound => DescribeStreamError::NotFound(format!(
                    "table `{}` does not exist in this account and region; `all-in-one provision` \
                     creates it",
                    self.table
                )),
                _ => unavailable("DescribeTable", &error),
            })?
            .table;
        let not_usable = |problem: &str| {
            DescribeStreamError::NotFound(format!(
                "table `{}` {problem}; `all-in-one provision` enables one with the view type NEW_IMAGE",
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
                "has a stream of the view type {}, which does not show new items; disable it",
                view.as_ref().map_or("(none)", StreamViewType::as_str)
            ))),
        }
    }

    /// Returns one page of the shards of `stream`, after the shard `after`, and the last shard of
    /// the page if more follow. Shards are in no particular order.
    pub async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), DescribeStreamError> {
        let description = self
            .clients
            .streams
            .describe_stream()
            .stream_arn(stream)
            .set_exclusive_start_shard_id(after.map(ToString::to_string))
            .send()
            .await
            .map_err(describe_error)?
            .stream_description
            .ok_or_else(|| {
                DescribeStreamError::Unavailable(
                    "the response has no stream description".to_owned(),
                )
            })?;
        let next = description
            .last_evaluated_shard_id
            .map(|id| ShardId(id.into()));
        Ok((shards(description.shards), next))
    }

    /// Returns every shard of `stream`; one request per 100 shards.
    pub async fn all_shards(&self, stream: &str) -> Result<Vec<Shard>, DescribeStreamError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (shards, next) = self.shards(stream, after.as_ref()).await?;
            all.extend(shards);
            match next {
                None => return Ok(all),
                next => after = next,
            }
        }
    }

    /// Returns the children of a shard, or `None` if the service does not support the filter.
    pub async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, DescribeStreamError> {
        let filter = ShardFilter::builder()
            .r#type(ShardFilterType::ChildShards)
            .shard_id(&*parent.0)
            .build();
        let response = self
            .clients
            .streams
            .describe_stream()
            .stream_arn(stream)
            .shard_filter(filter)
            .send()
            .await;
        match response {
            Ok(response) => {
                let listed = shards(
                    response
                        .stream_description
                        .and_then(|description| description.shards),
                );
                // A service that does not know the filter ignores it and lists all shards.
                let filtered = listed
                    .iter()
                    .all(|shard| shard.parent.as_ref() == Some(parent));
                Ok(filtered.then_some(listed))
            }
            // Or rejects it.
            Err(error) if classify(&error) == ErrorClass::Rejected => Ok(None),
            Err(error) => Err(describe_error(error)),
        }
    }
}

fn describe_error<E>(error: SdkError<E>) -> DescribeStreamError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match classify(&error) {
        ErrorClass::NotFound => {
            DescribeStreamError::NotFound("the stream or shard does not exist".to_owned())
        }
        _ => unavailable("DescribeStream", &error),
    }
}

fn unavailable<E>(operation: &str, error: &SdkError<E>) -> DescribeStreamError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    DescribeStreamError::Unavailable(format!("{operation} failed: {}", explain(error)))
}

fn shards(listed: Option<Vec<StreamShard>>) -> Vec<Shard> {
    listed
        .unwrap_or_default()
        .into_iter()
        .filter_map(|shard| {
            Some(Shard {
                id: ShardId(shard.shard_id?.into()),
                parent: shard.parent_shard_id.map(|id| ShardId(id.into())),
                starts_at: shard
                    .sequence_number_range
                    .and_then(|range| range.starting_sequence_number)
                    .map(|number| SequenceNumber(number.into())),
            })
        })
        .collect()
}
