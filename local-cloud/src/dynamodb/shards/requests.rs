//! Requests of clients: `DescribeStream`, `GetShardIterator` and `GetRecords`.

use std::sync::Arc;

use dynoxide::actions::describe_stream::DescribeStreamRequest;
use dynoxide::actions::get_records::{GetRecordsRequest, GetRecordsResponse, Record};
use dynoxide::actions::get_shard_iterator::encode_shard_iterator;
use dynoxide::errors::DynoxideError;
use dynoxide::streams;
use serde::Deserialize;
use serde_json::{Value, json};

use super::iterator::{ShardIterator, public, stored};
use super::tree::Shard;
use super::{Stream, VirtualShards, now};

/// DynamoDB's upper bound on the shards in a response.
const MAX_SHARDS_PER_PAGE: usize = 100;

/// DynamoDB's upper bounds on the records in a response.
const MAX_RECORDS: usize = 1_000;
const MAX_BYTES: i64 = 1024 * 1024;

/// Upper bound on the pages that one `GetRecords` reads from the database.
pub(super) const MAX_PAGES: usize = 4;

/// Error that a client receives.
#[derive(Debug)]
pub(crate) struct RequestError {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl RequestError {
    fn new(code: &str, message: &str) -> Self {
        let code = format!("com.amazonaws.dynamodb.v20120810#{code}");
        Self {
            status: 400,
            body: json!({"__type": code, "message": message}).to_string(),
        }
    }

    fn invalid(message: &str) -> Self {
        Self::new("ValidationException", message)
    }

    fn trimmed() -> Self {
        Self::new(
            "TrimmedDataAccessException",
            "The operation attempted to read past the oldest stream record in a shard.",
        )
    }

    fn no_shard(id: &str) -> Self {
        let message = format!("Requested resource not found: Shard: {id} not found");
        Self::new("ResourceNotFoundException", &message)
    }
}

impl From<DynoxideError> for RequestError {
    fn from(error: DynoxideError) -> Self {
        Self {
            status: error.status_code(),
            body: error.to_json(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeStream {
    stream_arn: String,
    exclusive_start_shard_id: Option<String>,
    limit: Option<usize>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    r#type: Option<String>,
    shard_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator {
    stream_arn: String,
    shard_id: String,
    shard_iterator_type: String,
    sequence_number: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords {
    shard_iterator: String,
    limit: Option<usize>,
}

/// Sequence numbers between the trim horizon and the records that are not visible yet.
#[derive(Clone, Copy)]
struct ReadableRange {
    first: i64,
    last: i64,
}

/// An operation on virtual shards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    DescribeStream,
    GetShardIterator,
    GetRecords,
}

impl VirtualShards {
    /// Returns the body of the response. Blocks for the duration of some statements of the
    /// database.
    pub(crate) fn respond(
        &self,
        operation: Operation,
        body: &[u8],
    ) -> Result<Vec<u8>, RequestError> {
        let answer = match operation {
            Operation::DescribeStream => serde_json::to_vec(&self.describe(parse(body)?)?),
            Operation::GetShardIterator => serde_json::to_vec(&self.iterator(parse(body)?)?),
            Operation::GetRecords => serde_json::to_vec(&self.records(parse(body)?)?),
        };
        answer.map_err(|error| DynoxideError::InternalServerError(error.to_string()).into())
    }

    fn describe(&self, request: DescribeStream) -> Result<Value, RequestError> {
        let limit = request.limit.unwrap_or(MAX_SHARDS_PER_PAGE);
        if !(1..=MAX_SHARDS_PER_PAGE).contains(&limit) {
            return Err(RequestError::invalid("Limit must be between 1 and 100"));
        }
        let described = self.database.describe_stream(DescribeStreamRequest {
            stream_arn: request.stream_arn.clone(),
            ..DescribeStreamRequest::default()
        })?;
        let parent = match request.shard_filter {
            None => None,
            Some(ShardFilter {
                r#type: Some(kind),
                shard_id: Some(parent),
            }) if kind == "CHILD_SHARDS" => Some(parent),
            Some(_) => {
                let message = "ShardFilter must have the type CHILD_SHARDS and a shard id";
                return Err(RequestError::invalid(message));
            }
        };
        let stream = self.stream(&request.stream_arn)?;
        let tree = stream.read();
        let mut matching = tree
            .listed(self.horizon(&tree, now()))
            .filter(|(id, shard)| {
                request.exclusive_start_shard_id.as_deref() < Some(id)
                    && (parent.is_none() || shard.parent == parent)
            });
        let page: Vec<_> = matching.by_ref().take(limit).collect();
        let has_more = matching.next().is_some();
        let mut answer = json!(described);
        let description = &mut answer["StreamDescription"];
        description["Shards"] = page.iter().map(|(id, shard)| listed(id, shard)).collect();
        if let (true, Some((last, _))) = (has_more, page.last()) {
            description["LastEvaluatedShardId"] = json!(last);
        }
        Ok(answer)
    }

    fn iterator(&self, request: GetShardIterator) -> Result<Value, RequestError> {
        let stream = self.stream(&request.stream_arn)?;
        let number = request.sequence_number.as_deref();
        let number = number
            .map(|text| stored(text).ok_or_else(|| RequestError::invalid("Invalid SequenceNumber")))
            .transpose()?;
        let tree = stream.read();
        let now = now();
        let horizon = self.horizon(&tree, now);
        let shard = tree
            .listed(horizon)
            .find(|(id, _)| *id == request.shard_id)
            .map(|(_, shard)| shard)
            .ok_or_else(|| RequestError::no_shard(&request.shard_id))?;
        let after = match (request.shard_iterator_type.as_str(), number) {
            ("TRIM_HORIZON", None) => shard.start.max(horizon.first()) - 1,
            ("LATEST", None) => match shard.ending() {
                Some(ending) => ending,
                None => self.last_record(&stream)?.max(shard.start - 1),
            },
            ("AT_SEQUENCE_NUMBER", Some(number)) => at(shard, number, horizon.first())? - 1,
            ("AFTER_SEQUENCE_NUMBER", Some(number)) => at(shard, number, horizon.first())?,
            _ => {
                let message = "ShardIteratorType is unknown or does not match SequenceNumber";
                return Err(RequestError::invalid(message));
            }
        };
        let iterator = ShardIterator {
            issued_at: now,
            after,
            shard: request.shard_id,
            stream_arn: request.stream_arn,
        };
        Ok(json!({"ShardIterator": iterator.to_string()}))
    }

    fn records(&self, request: GetRecords) -> Result<GetRecordsResponse, RequestError> {
        let limit = request.limit.unwrap_or(MAX_RECORDS);
        if !(1..=MAX_RECORDS).contains(&limit) {
            return Err(RequestError::invalid("Limit must be between 1 and 1000"));
        }
        let iterator: ShardIterator = request
            .shard_iterator
            .parse()
            .map_err(|_| RequestError::invalid("Invalid ShardIterator"))?;
        let now = now();
        if iterator.is_expired(now) {
            return Err(RequestError::new(
                "ExpiredIteratorException",
                "Iterator expired. The iterator was created more than 15 minutes ago.",
            ));
        }
        let stream = self.stream(&iterator.stream_arn)?;
        // Held while the records are read, so that the shard is not closed meanwhile.
        let tree = stream.read();
        let shard = tree
            .get(&iterator.shard)
            .ok_or_else(RequestError::trimmed)?;
        let range = ReadableRange {
            first: self.horizon(&tree, now).first(),
            last: self.visible(now),
        };
        let (records, after) = self.read(&stream, shard, &iterator, limit, range)?;
        drop(tree);
        Ok(GetRecordsResponse {
            records,
            next_shard_iterator: after.map(|after| {
                let next = ShardIterator {
                    issued_at: now,
                    after,
                    ..iterator
                };
                next.to_string()
            }),
        })
    }

    /// Reads up to `limit` records of `shard`. Returns them with the position after them, or `None`
    /// at the end of a closed shard.
    fn read(
        &self,
        stream: &Arc<Stream>,
        shard: &Shard,
        iterator: &ShardIterator,
        limit: usize,
        readable: ReadableRange,
    ) -> Result<(Vec<Record>, Option<i64>), RequestError> {
        let last = shard.end.map_or(i64::MAX, |end| end.last);
        let mut after = iterator.after;
        let mut taken = Vec::new();
        let mut bytes = 0;
        for _ in 0..MAX_PAGES {
            if after >= last {
                return Ok((taken, None));
            }
            let real = streams::shard_id(&stream.table);
            let page = self.database.get_records(GetRecordsRequest {
                shard_iterator: encode_shard_iterator(&stream.table, &real, after),
                limit: Some(MAX_RECORDS),
            })?;
            let is_last_page = page.records.len() < MAX_RECORDS;
            for record in page.records {
                let number = stored(&record.dynamodb.sequence_number).unwrap_or(i64::MAX);
                if number > last {
                    return Ok((taken, None));
                }
                if number > readable.last {
                    return Ok((taken, Some(after)));
                }
                if is_in(shard, stream, &record) {
                    if number < readable.first {
                        return Err(RequestError::trimmed());
                    }
                    bytes += record.dynamodb.size_bytes;
                    if taken.len() == limit || (bytes > MAX_BYTES && !taken.is_empty()) {
                        return Ok((taken, Some(after)));
                    }
                    taken.push(record);
                }
                after = number;
            }
            if is_last_page {
                let is_closed = shard.end.is_some();
                return Ok((taken, (!is_closed).then_some(after)));
            }
        }
        Ok((taken, Some(after)))
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| {
        let code = "SerializationException";
        RequestError::new(code, &error.to_string())
    })
}

/// Returns `true` if the partition key of `record` belongs to `shard`.
fn is_in(shard: &Shard, stream: &Stream, record: &Record) -> bool {
    let key = record.dynamodb.keys.get(&stream.partition_key);
    let key = key.and_then(|key| serde_json::to_string(key).ok());
    shard.contains_key(&key.unwrap_or_default())
}

/// Returns `number` if it is within the bounds of `shard`, and no record of the shard after it can
/// be trimmed.
fn at(shard: &Shard, number: i64, horizon: i64) -> Result<i64, RequestError> {
    if number.max(shard.opened_at) < horizon {
        return Err(RequestError::trimmed());
    }
    if number < shard.start || shard.ending().is_some_and(|ending| number > ending) {
        return Err(RequestError::invalid("Invalid SequenceNumber"));
    }
    Ok(number)
}

fn listed(id: &str, shard: &Shard) -> Value {
    let mut range = json!({"StartingSequenceNumber": public(shard.start)});
    if let Some(ending) = shard.ending() {
        range["EndingSequenceNumber"] = json!(public(ending));
    }
    let mut listed = json!({"ShardId": id, "SequenceNumberRange": range});
    if let Some(parent) = &shard.parent {
        listed["ParentShardId"] = json!(parent);
    }
    listed
}
