//! Checks requests before rustack's handler, where rustack differs from SQS in a way that would
//! mislead a developer, or where a request could make a queue fail:
//!
//! - Attributes and bounds: [`queue_attributes`].
//! - Contents of messages and size of batches: [`message_validation`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use rustack_sqs_core::handler::RustackSqsHandler;
use rustack_sqs_http::body::SqsResponseBody;
use rustack_sqs_http::dispatch::SqsHandler;
use rustack_sqs_model::error::SqsError;
use rustack_sqs_model::operations::SqsOperation;

use super::{message_validation, queue_attributes};

type HandlerResult = Result<Response<SqsResponseBody>, SqsError>;
type HandlerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// rustack's handler behind the checks.
#[derive(Debug)]
pub(crate) struct CheckedSqs {
    inner: Arc<RustackSqsHandler>,
}

impl CheckedSqs {
    pub(crate) fn new(inner: RustackSqsHandler) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl SqsHandler for CheckedSqs {
    fn handle_operation(&self, op: SqsOperation, body: Bytes) -> HandlerFuture {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match op {
                SqsOperation::SendMessage => match message_validation::rejection(&body) {
                    Some(rejection) => Ok(rejection),
                    None => inner.handle_operation(op, body).await,
                },
                SqsOperation::SendMessageBatch => match message_validation::partial_batch(&body)? {
                    None => inner.handle_operation(op, body).await,
                    Some(batch) => {
                        let response = match batch.accepted {
                            Some(body) => Some(inner.handle_operation(op, body).await?),
                            None => None,
                        };
                        message_validation::with_failures(response, batch.failed).await
                    }
                },
                _ => {
                    inner
                        .handle_operation(op, queue_attributes::checked(op, body)?)
                        .await
                }
            }
        })
    }
}
