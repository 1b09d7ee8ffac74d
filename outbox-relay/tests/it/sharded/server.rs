//! DynamoDB Streams over HTTP, as far as the relay uses them.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::shards::{Refusal, Shards};

/// Server of one stream, whatever the ARN of a request.
pub(crate) struct StreamsServer {
    shards: Arc<Mutex<Shards>>,
    url: String,
    serving: JoinHandle<()>,
}

impl StreamsServer {
    pub(crate) async fn start(shards: Shards) -> Self {
        let shards = Arc::new(Mutex::new(shards));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shards));
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            shards,
            url,
            serving,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Locks the stream, to read or to change it. The guard must not be held across an await.
    pub(crate) fn shards(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().unwrap()
    }
}

impl Drop for StreamsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    State(shards): State<Arc<Mutex<Shards>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let operation = headers
        .get("x-amz-target")
        .and_then(|target| {
            target
                .to_str()
                .ok()?
                .strip_prefix("DynamoDBStreams_20120810.")
        })
        .unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or_default();
    let answer = operate(&mut shards.lock().unwrap(), operation, &request);
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => (StatusCode::BAD_REQUEST, refused(&refusal)),
    };
    let json = [(header::CONTENT_TYPE, "application/x-amz-json-1.0")];
    (status, json, body.to_string()).into_response()
}

fn operate(shards: &mut Shards, operation: &str, request: &Value) -> Result<Value, Refusal> {
    let text = |name: &str| request[name].as_str();
    let limit = request["Limit"]
        .as_u64()
        .and_then(|limit| usize::try_from(limit).ok());
    match operation {
        "DescribeStream" => {
            if !shards.throttle.allows_describe_stream() {
                return Err(Refusal::LimitExceeded);
            }
            let filter = &request["ShardFilter"];
            let (listed, last) = if filter["Type"] == "CHILD_SHARDS" {
                let parent = filter["ShardId"].as_str();
                let parent = parent.ok_or(Refusal::Invalid("ShardId is needed"))?;
                (shards.children(parent), None)
            } else {
                shards.list(text("ExclusiveStartShardId"), limit)
            };
            let mut description = json!({
                "StreamArn": request["StreamArn"],
                "StreamStatus": "ENABLED",
                "StreamViewType": "NEW_IMAGE",
                "TableName": "outbox",
                "Shards": listed,
            });
            if let Some(last) = last {
                description["LastEvaluatedShardId"] = last.into();
            }
            Ok(json!({ "StreamDescription": description }))
        }
        "GetShardIterator" => {
            let shard = text("ShardId").ok_or(Refusal::Invalid("ShardId is needed"))?;
            let kind = text("ShardIteratorType").unwrap_or_default();
            shards.throttle.record("GetShardIterator", true);
            let position = shards.position(shard, kind, text("SequenceNumber"))?;
            Ok(json!({ "ShardIterator": iterator(shard, position) }))
        }
        "GetRecords" => {
            let (shard, position) = text("ShardIterator")
                .and_then(|iterator| {
                    let (shard, position) = iterator.split_once('|')?;
                    Some((shard, position.parse().ok()?))
                })
                .ok_or(Refusal::Invalid("not an iterator"))?;
            let (records, next) = shards.read(shard, position, limit)?;
            let mut answer = json!({ "Records": records });
            if let Some(next) = next {
                answer["NextShardIterator"] = iterator(shard, next).into();
            }
            Ok(answer)
        }
        _ => Err(Refusal::Invalid("no such operation")),
    }
}

fn iterator(shard: &str, position: u64) -> String {
    format!("{shard}|{position}")
}

fn refused(refusal: &Refusal) -> Value {
    let (code, message) = match refusal {
        Refusal::Trimmed => (
            "com.amazonaws.dynamodb.v20120810#TrimmedDataAccessException",
            "The operation attempted to read past the oldest stream record in a shard",
        ),
        Refusal::NoSuchShard => (
            "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException",
            "Requested resource not found: no such shard",
        ),
        Refusal::LimitExceeded => (
            "com.amazonaws.dynamodb.v20120810#LimitExceededException",
            "Rate of requests exceeds the allowed throughput",
        ),
        Refusal::Invalid(reason) => ("com.amazon.coral.validate#ValidationException", *reason),
    };
    json!({ "__type": code, "message": message })
}
