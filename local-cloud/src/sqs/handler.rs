//! Stands before rustack's handler and makes up for where it differs from SQS in
//! a way that would mislead a developer, or that a request could bring a queue
//! down with:
//!
//! - Settings and bounds: [`settings`].
//! - What a message may hold, and how large a batch may be: [`contents`].

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

type Answer = Result<Response<SqsResponseBody>, SqsError>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

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
    fn handle_operation(&self, op: SqsOperation, body: Bytes) -> Answering {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match op {
                SqsOperation::SendMessage => match message_validation::refused_message(&body) {
                    Some(refusal) => Ok(refusal),
                    None => inner.handle_operation(op, body).await,
                },
                SqsOperation::SendMessageBatch => match message_validation::sifted_batch(&body)? {
                    None => inner.handle_operation(op, body).await,
                    Some(sifted) => {
                        let answer = match sifted.accepted {
                            Some(body) => Some(inner.handle_operation(op, body).await?),
                            None => None,
                        };
                        message_validation::with_failures(answer, sifted.failed).await
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
