//! Forwards requests to dynoxide, over one connection per client connection, and intercepts those
//! for which dynoxide differs from DynamoDB in a way that matters here:
//!
//! - Writes are in `writes`: they conflict with running transactions and are throttled.
//! - Queries of indexes are answered by an [`IndexReplica`](super::index_replica::IndexReplica) if
//!   indexes are delayed. It has the same tables.
//! - `ClientRequestToken`s, which the SDKs send with every transaction, are kept by
//!   [`ClientRequestTokens`] instead. At every transaction dynoxide reads all tokens of the last 10
//!   minutes: 4,400 transactions/s fall to 1,000/s by 20,000 tokens.
//! - `DescribeStream` is corrected by [`child_shards`], and `GetRecords` by [`user_identity`].
//!
//! With [`VirtualShards`], these answer `DescribeStream`, `GetShardIterator` and `GetRecords`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Deserialize;
use serde_json::Value;

use super::item_id::table_name;
use super::responses::json_response;
use super::shards::{Operation, VirtualShards};
use super::shared::Shared;
use super::write_operation::Write;
use super::{child_shards, user_identity};
use crate::upstream::{Body, Error, Upstream, UpstreamResponse};

/// DynamoDB's limit. dynoxide enforces it for requests that are forwarded unread.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// The service of one client connection.
#[derive(Clone)]
pub(super) struct Interceptor {
    pub(super) upstream: Arc<Upstream>,
    /// The replica with delayed indexes.
    indexes: Option<Arc<Upstream>>,
    pub(super) shared: Arc<Shared>,
}

/// Addresses of the embedded databases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Engines {
    pub(super) tables: SocketAddr,
    /// The replica with delayed indexes, if there is one.
    pub(super) indexes: Option<SocketAddr>,
}

/// A `Query` or `Scan`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Read {
    table_name: String,
    index_name: Option<String>,
}

impl Interceptor {
    pub(super) fn new(engines: Engines, shared: Arc<Shared>) -> Self {
        let upstream = |engine| Arc::new(Upstream::new(engine));
        Self {
            upstream: upstream(engines.tables),
            indexes: engines.indexes.map(upstream),
            shared,
        }
    }

    async fn handle(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let target = request.headers().get("x-amz-target");
        let target = target.map_or(&b""[..], HeaderValue::as_bytes);
        if let (Some(shards), Some(operation)) = (&self.shared.shards, on_shards(target)) {
            return respond(Arc::clone(shards), operation, request).await;
        }
        if let Some(write) = Write::of(target) {
            return match read(request).await {
                Ok((parts, body)) => self.write(write, parts, body).await,
                Err(rejection) => Ok(*rejection),
            };
        }
        match target {
            b"DynamoDBStreams_20120810.DescribeStream" => self.describe(request).await,
            b"DynamoDBStreams_20120810.GetRecords" => self.records(request).await,
            b"DynamoDB_20120810.CreateTable"
            | b"DynamoDB_20120810.UpdateTable"
            | b"DynamoDB_20120810.DeleteTable"
            | b"DynamoDB_20120810.UpdateTimeToLive" => self.change_table(request).await,
            b"DynamoDB_20120810.Query" | b"DynamoDB_20120810.Scan"
                if self.indexes_are_delayed() =>
            {
                self.query(request).await
            }
            _ => self.upstream.send(request.map(Either::Left)).await,
        }
    }

    fn indexes_are_delayed(&self) -> bool {
        let delay = self.shared.fidelity.get().index_delay;
        self.indexes.is_some() && delay.is_some_and(|delay| !delay.is_zero())
    }

    /// Sends a query of an index to the replica.
    async fn query(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let (parts, body) = match read(request).await {
            Ok(read) => read,
            Err(rejection) => return Ok(*rejection),
        };
        let mut upstream = &self.upstream;
        // A local secondary index is updated with its table, in DynamoDB too.
        if let Ok(Read {
            table_name: table,
            index_name: Some(index),
        }) = serde_json::from_slice(&body)
            && let Some(replica) = &self.indexes
            && let Some(schema) = self.shared.schemas.get(table_name(&table)).await
            && schema.indexes.iter().any(|known| known.name == index)
        {
            upstream = replica;
        }
        upstream.send(rebuilt(parts, body)).await
    }

    /// Changes a table, and in the same way its replica.
    async fn change_table(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let (parts, body) = match read(request).await {
            Ok(read) => read,
            Err(rejection) => return Ok(*rejection),
        };
        let response = self.forward(parts.clone(), body.clone()).await?;
        self.shared.schemas.clear();
        if let (Some(replica), true) = (&self.indexes, response.status() == StatusCode::OK)
            && let Ok(Value::Object(mut change)) = serde_json::from_slice(&body)
        {
            // Its stream would have no reader.
            change.remove("StreamSpecification");
            let body = Value::Object(change).to_string().into();
            let changed = replica.send(rebuilt(parts, body)).await?;
            let status = changed.status();
            changed.into_body().collect().await?;
            tracing::debug!(%status, "table changed in the replica of the indexes");
        }
        Ok(response)
    }

    async fn records(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let response = self.upstream.send(request.map(Either::Left)).await?;
        if response.status() != StatusCode::OK {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        Ok(json_response(
            StatusCode::OK,
            user_identity::corrected(body),
        ))
    }

    async fn describe(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let (parts, requested) = match read(request).await {
            Ok(read) => read,
            Err(rejection) => return Ok(*rejection),
        };
        let response = self
            .upstream
            .send(rebuilt(parts, requested.clone()))
            .await?;
        if response.status() != StatusCode::OK {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        let body = child_shards::corrected(&requested, body);
        Ok(json_response(StatusCode::OK, body))
    }
}

impl Service<Request<Incoming>> for Interceptor {
    type Response = UpstreamResponse;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<UpstreamResponse, Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().handle(request))
    }
}

/// Returns the operation that virtual shards answer.
fn on_shards(target: &[u8]) -> Option<Operation> {
    match target {
        b"DynamoDBStreams_20120810.DescribeStream" => Some(Operation::DescribeStream),
        b"DynamoDBStreams_20120810.GetShardIterator" => Some(Operation::GetShardIterator),
        b"DynamoDBStreams_20120810.GetRecords" => Some(Operation::GetRecords),
        _ => None,
    }
}

async fn respond(
    shards: Arc<VirtualShards>,
    operation: Operation,
    request: Request<Incoming>,
) -> Result<UpstreamResponse, Error> {
    let (_, body) = match read(request).await {
        Ok(read) => read,
        Err(rejection) => return Ok(*rejection),
    };
    // It waits for the database.
    let answer = tokio::task::spawn_blocking(move || shards.respond(operation, &body)).await?;
    Ok(match answer {
        Ok(body) => json_response(StatusCode::OK, user_identity::corrected(body.into())),
        Err(error) => json_response(StatusCode::from_u16(error.status)?, error.body),
    })
}

async fn read(request: Request<Incoming>) -> Result<(Parts, Bytes), Box<UpstreamResponse>> {
    let (parts, body) = request.into_parts();
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(read) => Ok((parts, read.to_bytes())),
        Err(_) => Err(Box::new(json_response(
            StatusCode::PAYLOAD_TOO_LARGE,
            Bytes::new(),
        ))),
    }
}

/// Returns a request with `body`, whose length may differ from that of the received one.
pub(super) fn rebuilt(mut parts: Parts, body: Bytes) -> Request<Body> {
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Request::from_parts(parts, Either::Right(body.into()))
}
