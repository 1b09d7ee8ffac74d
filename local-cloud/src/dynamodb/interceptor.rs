//! Forwards requests to dynoxide, over one connection per client connection, and intercepts those
//! for which dynoxide differs from DynamoDB in a way that matters here:
//!
//! - Writes are in `writes`: a write of an item inside a running transaction conflicts with it.
//! - `ClientRequestToken`s, which the SDKs send with every transaction, are kept by
//!   [`ClientRequestTokens`] instead. At every transaction dynoxide reads all tokens of the last 10
//!   minutes: 4,400 transactions/s fall to 1,000/s by 20,000 tokens.
//! - `DescribeStream` is corrected by [`child_shards`].
//!
//! With [`VirtualShards`], these answer `DescribeStream`, `GetShardIterator` and `GetRecords`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dynoxide::Database;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::Incoming;
use hyper::service::Service;

use super::child_shards;
use super::client_request_tokens::ClientRequestTokens;
use super::key_schemas::KeySchemas;
use super::responses::json_response;
use super::running_transactions::RunningTransactions;
use super::shards::{Operation, VirtualShards};
use super::writes::Write;
use crate::fidelity::Fidelity;
use crate::upstream::{Body, Error, Upstream, UpstreamResponse};

/// DynamoDB's limit. dynoxide enforces it for requests that are forwarded unread.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What the connections of all clients share.
pub(super) struct Shared {
    pub(super) tokens: ClientRequestTokens,
    pub(super) schemas: KeySchemas,
    pub(super) running: Arc<RunningTransactions>,
    pub(super) fidelity: Fidelity,
    pub(super) shards: Option<Arc<VirtualShards>>,
}

impl Shared {
    pub(super) fn new(
        database: Database,
        fidelity: Fidelity,
        shards: Option<Arc<VirtualShards>>,
    ) -> Self {
        Self {
            tokens: ClientRequestTokens::default(),
            schemas: KeySchemas::new(database),
            running: Arc::default(),
            fidelity,
            shards,
        }
    }
}

/// The service of one client connection.
#[derive(Clone)]
pub(super) struct Interceptor {
    pub(super) upstream: Arc<Upstream>,
    pub(super) shared: Arc<Shared>,
}

impl Interceptor {
    pub(super) fn new(engine: SocketAddr, shared: Arc<Shared>) -> Self {
        Self {
            upstream: Arc::new(Upstream::new(engine)),
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
            b"DynamoDB_20120810.CreateTable" | b"DynamoDB_20120810.DeleteTable" => {
                let response = self.upstream.send(request.map(Either::Left)).await;
                self.shared.schemas.clear();
                response
            }
            _ => self.upstream.send(request.map(Either::Left)).await,
        }
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
        Ok(body) => json_response(StatusCode::OK, body),
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
