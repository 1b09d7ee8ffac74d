//! Passes requests on to dynoxide, each connection over one of its own, and
//! steps in where dynoxide differs from DynamoDB in a way that matters here:
//!
//! - `ClientRequestToken`s (which the SDKs send with every transaction) are kept by
//!   [`ClientRequestTokens`] instead. dynoxide looks at all of the last 10 minutes' tokens at every
//!   transaction: 4,400 transactions/s fall to 1,000/s by 20,000 tokens.
//! - `DescribeStream` is corrected by [`child_shards`].

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
use crate::upstream::{Answer, Body, Error, Upstream};

/// DynamoDB's own limit, which dynoxide keeps for what is passed on unread.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// What serves one connection.
#[derive(Clone)]
pub(crate) struct Interceptor {
    upstream: Arc<Upstream>,
    tokens: Arc<ClientRequestTokens>,
}

impl Interceptor {
    pub(crate) fn new(engine: SocketAddr, tokens: Arc<ClientRequestTokens>) -> Self {
        Self {
            upstream: Arc::new(Upstream::new(engine)),
            tokens,
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Error> {
        let target = request.headers().get("x-amz-target");
        match target.map(HeaderValue::as_bytes) {
            Some(b"DynamoDB_20120810.TransactWriteItems") => self.transact(request).await,
            Some(b"DynamoDBStreams_20120810.DescribeStream") => self.describe(request).await,
            _ => self.upstream.send(request.map(Either::Left)).await,
        }
    }

    async fn transact(self, request: Request<Incoming>) -> Result<Answer, Error> {
        let (parts, body) = match read(request).await {
            Ok(read) => read,
            Err(refusal) => return Ok(*refusal),
        };
        let Some(transaction) = Transaction::with_token(&body) else {
            return self.upstream.send(rebuilt(parts, body)).await;
        };
        // A transaction runs to its end and is remembered even if the client
        // gives up: its retry, with the same token, must not run it again.
        tokio::spawn(self.transact_once(parts, transaction)).await?
    }

    async fn transact_once(self, parts: Parts, sent: Transaction) -> Result<Answer, Error> {
        let claim = match self.tokens.claim(&sent) {
            Claim::Mismatch => return Ok(made(StatusCode::BAD_REQUEST, MISMATCH)),
            Claim::Turn(claim) => claim,
        };
        // Whoever comes second with the same token waits here for the first.
        let mut outcome = claim.outcome.lock().await;
        if let Some(done) = &*outcome {
            return Ok(made(StatusCode::OK, done.clone()));
        }
        let answer = self.upstream.send(rebuilt(parts, sent.body)).await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => {
                let (parts, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                // A copy: the bytes as they came keep a whole read buffer alive.
                *outcome = Some(Bytes::copy_from_slice(&body));
                Ok(Response::from_parts(parts, Either::Right(body.into())))
            }
            // What failed had no effect, so the token is free again.
            other => {
                self.tokens.forget(&sent.token, &claim);
                other
            }
        }
    }

    async fn describe(self, request: Request<Incoming>) -> Result<Answer, Error> {
        let (parts, asked) = match read(request).await {
            Ok(read) => read,
            Err(refusal) => return Ok(*refusal),
        };
        let answer = self.upstream.send(rebuilt(parts, asked.clone())).await?;
        if answer.status() != StatusCode::OK {
            return Ok(answer);
        }
        let (mut parts, body) = answer.into_parts();
        let body = child_shards::corrected(&asked, body.collect().await?.to_bytes());
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove("x-amz-crc32");
        Ok(Response::from_parts(parts, Either::Right(body.into())))
    }
}

impl Service<Request<Incoming>> for Interceptor {
    type Response = Answer;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

const MISMATCH: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException","Message":"The request uses the same client token as a previous, but non-identical request."}"#;

async fn read(request: Request<Incoming>) -> Result<(Parts, Bytes), Box<Answer>> {
    let (parts, body) = request.into_parts();
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(read) => Ok((parts, read.to_bytes())),
        Err(_) => Err(Box::new(made(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()))),
    }
}

/// A request with a body that may have another length than it came with.
fn rebuilt(mut parts: Parts, body: Bytes) -> Request<Body> {
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Request::from_parts(parts, Either::Right(body.into()))
}

fn made(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Right(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
