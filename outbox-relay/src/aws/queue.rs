//! Sends batches to SQS.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use parking_lot::Mutex;
use shared::aws::error::{ErrorClass, classify};
use shared::aws::{Causes, QueueUrlError};

use crate::ports::{EntryFailure, Queue, SendEntry, SendError};
use crate::routes::QueueRef;

#[derive(Debug)]
pub(super) struct Sqs {
    client: Client,
    /// URL of each configured queue. Removed when the queue does not exist, because it may be
    /// created again with another URL.
    urls: Mutex<HashMap<QueueRef, Arc<str>>>,
}

impl Sqs {
    pub(super) fn new(client: &Client) -> Self {
        // The engine checks the fence before every attempt. A process that was paused past its
        // lease must not send again, so that the SDK must not retry by itself.
        let config = client.config().to_builder();
        let config = config.retry_config(RetryConfig::disabled()).build();
        let client = Client::from_conf(config);
        Self {
            client,
            urls: Mutex::default(),
        }
    }

    async fn url(&self, queue: &QueueRef) -> Result<Arc<str>, SendError> {
        let known = self.urls.lock().get(queue).cloned();
        if let Some(url) = known {
            return Ok(url);
        }
        let url: Arc<str> = shared::aws::queue_url(&self.client, queue.as_str())
            .await
            .map_err(|error| SendError::Unavailable {
                kind: match error {
                    QueueUrlError::DoesNotExist(_) => "QueueDoesNotExist".to_owned(),
                    QueueUrlError::Denied(_) | QueueUrlError::Unavailable(_) => {
                        "queue_url".to_owned()
                    }
                },
                message: error.to_string(),
            })?
            .into();
        self.urls.lock().insert(queue.clone(), Arc::clone(&url));
        Ok(url)
    }
}

#[async_trait]
impl Queue for Sqs {
    async fn send(
        &self,
        queue: &QueueRef,
        entries: &[SendEntry<'_>],
    ) -> Result<Vec<Result<String, EntryFailure>>, SendError> {
        let url = self.url(queue).await?;
        let requests = entries
            .iter()
            .enumerate()
            .map(|(n, entry)| request(n, entry, queue.is_fifo()))
            .collect();
        let response = self
            .client
            .send_message_batch()
            .queue_url(&*url)
            .set_entries(Some(requests))
            .send()
            .await;
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                if classify(&error) == ErrorClass::NotFound {
                    self.urls.lock().remove(queue);
                }
                return Err(send_error(&error));
            }
        };
        // An entry that the response does not contain may or may not have been sent.
        let mut outcomes: Vec<_> = entries
            .iter()
            .map(|_| {
                Err(EntryFailure {
                    code: "NoAnswer".to_owned(),
                    message: "the response does not contain the entry".to_owned(),
                    sender_fault: false,
                })
            })
            .collect();
        for sent in response.successful {
            if let Some(outcome) = place(&mut outcomes, &sent.id) {
                *outcome = Ok(sent.message_id);
            }
        }
        for failed in response.failed {
            if let Some(outcome) = place(&mut outcomes, &failed.id) {
                *outcome = Err(EntryFailure {
                    code: failed.code,
                    message: failed.message.unwrap_or_default(),
                    sender_fault: failed.sender_fault,
                });
            }
        }
        Ok(outcomes)
    }
}

fn place<'a, T>(outcomes: &'a mut [T], id: &str) -> Option<&'a mut T> {
    outcomes.get_mut(id.parse::<usize>().ok()?)
}

fn request(n: usize, entry: &SendEntry<'_>, fifo: bool) -> SendMessageBatchRequestEntry {
    let attributes = entry
        .message
        .attributes
        .iter()
        .map(|(name, value)| {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .expect("the data type is set");
            ((*name).to_owned(), value)
        })
        .collect();
    SendMessageBatchRequestEntry::builder()
        .id(n.to_string())
        .message_body(&entry.message.body)
        .set_message_attributes(Some(attributes))
        .set_message_group_id(fifo.then(|| entry.group.to_owned()))
        .set_message_deduplication_id(fifo.then(|| entry.deduplication.to_owned()))
        .build()
        .expect("id and body are set")
}

fn send_error(error: &SdkError<SendMessageBatchError>) -> SendError {
    let code = error.code();
    let unavailable = |kind: &str| SendError::Unavailable {
        kind: kind.to_owned(),
        message: Causes(error).to_string(),
    };
    match (classify(error), error) {
        (ErrorClass::Timeout, _) => unavailable("timeout"),
        (ErrorClass::Unavailable, SdkError::DispatchFailure(_)) => unavailable("connection"),
        (ErrorClass::Unavailable, SdkError::ResponseError(_)) => unavailable("response"),
        (ErrorClass::Unavailable, SdkError::ServiceError(_)) => {
            unavailable(code.unwrap_or("unknown"))
        }
        // The service rejected the request itself.
        (_, SdkError::ServiceError(service)) => SendError::Refused {
            code: code.unwrap_or("unknown").to_owned(),
            message: service.err().message().unwrap_or_default().to_owned(),
        },
        _ => unavailable("client"),
    }
}
