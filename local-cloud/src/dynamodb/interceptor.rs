//! Forwards requests to dynoxide, over one connection per client connection, and intercepts those
//! for which dynoxide differs from DynamoDB in a way that matters here:
//!
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
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::Service;

use super::child_shards;
use super::client_request_tokens::{Claim, ClientRequestTokens, Transaction};
use super::shards::{Operation, VirtualShards};
use crate::upstream::{Body, Error, Upstream, UpstreamResponse};

/// DynamoDB's limit. dynoxide enforces it for requests that are forwarded unread.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// The service of one client connection.
#[derive(Clone)]
pub(crate) struct Interceptor {
    upstream: Arc<Upstream>,
    tokens: Arc<ClientRequestTokens>,
    shards: Option<Arc<VirtualShards>>,
}

impl Interceptor {
    pub(crate) fn new(
        engine: SocketAddr,
        tokens: Arc<ClientRequestTokens>,
        shards: Option<Arc<VirtualShards>>,
    ) -> Self {
        Self {
            upstream: Arc::new(Upstream::new(engine)),
            tokens,
            shards,
        }
    }

    async fn handle(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let target = request.headers().get("x-amz-target");
        let target = target.map(HeaderValue::as_bytes);
        if let (Some(shards), Some(operation)) = (&self.shards, target.and_then(on_shards)) {
            return respond(Arc::clone(shards), operation, request).await;
        }
        match target {
            Some(b"DynamoDB_20120810.TransactWriteItems") => self.transact(request).await,
            Some(b"DynamoDBStreams_20120810.DescribeStream") => self.describe(request).await,
            _ => self.upstream.send(request.map(Either::Left)).await,
        }
    }

    async fn transact(self, request: Request<Incoming>) -> Result<UpstreamResponse, Error> {
        let (parts, body) = match read(request).await {
            Ok(read) => read,
            Err(rejection) => return Ok(*rejection),
        };
        let Some(transaction) = Transaction::with_token(&body) else {
            return self.upstream.send(rebuilt(parts, body)).await;
        };
        // A task of its own, so that the transaction completes and its response is kept even if the
        // client disconnects: a retry with the same token must not run it again.
        tokio::spawn(self.transact_once(parts, transaction)).await?
    }

    async fn transact_once(
        self,
        parts: Parts,
        sent: Transaction,
    ) -> Result<UpstreamResponse, Error> {
        let claim = match self.tokens.claim(&sent) {
            Claim::Mismatch => return Ok(json_response(StatusCode::BAD_REQUEST, MISMATCH)),
            Claim::Granted(claim) => claim,
        };
        // A concurrent request with the same token waits here for the first one.
        let mut outcome = claim.outcome.lock().await;
        if let Some(done) = &*outcome {
            return Ok(json_response(StatusCode::OK, done.clone()));
        }
        let response = self.upstream.send(rebuilt(parts, sent.body)).await;
        match response {
            Ok(response) if response.status() == StatusCode::OK => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                // A copy, because the received bytes keep a whole read buffer alive.
                *outcome = Some(Bytes::copy_from_slice(&body));
                Ok(Response::from_parts(parts, Either::Right(body.into())))
            }
            // A failed transaction has no effect, so its token can be used again.
            other => {
                self.tokens.release(&sent.token, &claim);
                other
            }
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
        let (mut parts, body) = response.into_parts();
        let body = child_shards::corrected(&requested, body.collect().await?.to_bytes());
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove("x-amz-crc32");
        Ok(Response::from_parts(parts, Either::Right(body.into())))
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

const MISMATCH: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException","Message":"The request uses the same client token as a previous, but non-identical request."}"#;

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
fn rebuilt(mut parts: Parts, body: Bytes) -> Request<Body> {
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Request::from_parts(parts, Either::Right(body.into()))
}

fn json_response(status: StatusCode, body: impl Into<Bytes>) -> UpstreamResponse {
    let mut response = Response::new(Either::Right(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
