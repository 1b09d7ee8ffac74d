//! Requests to one dead-letter queue and to the queues in front of it.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName as System,
    QueueAttributeName,
};
use serde::Deserialize;
use shared::aws::error::{ErrorClass, classify, describe};
use shared::aws::{QueueUrlError, queue_url};

use crate::service::OperateError;

/// Time for which received messages are hidden, far longer than an operation on a few takes.
pub(super) const HIDDEN_FOR: Duration = Duration::from_secs(120);

/// Wait time of a receive request. SQS queries all its servers for a request with a wait time, so
/// that no message is missed.
const WAIT: Duration = Duration::from_secs(1);

/// The most entries that SQS accepts in one request.
const MAX_BATCH: usize = 10;

/// A dead-letter queue, and the queues in front of it.
#[derive(Debug)]
pub(super) struct DeadLetterQueue {
    sqs: Client,
    pub(super) name: String,
    url: String,
    sources: Vec<Source>,
}

/// A queue in front of a dead-letter queue.
#[derive(Debug)]
struct Source {
    arn: String,
    url: String,
}

impl DeadLetterQueue {
    /// Finds the dead-letter queues of `sources`. Returns them, and those sources that have none.
    pub(super) async fn of(
        sqs: &Client,
        sources: &[String],
    ) -> Result<(Vec<Self>, Vec<String>), OperateError> {
        let mut queues: Vec<Self> = Vec::new();
        let mut without = Vec::new();
        for name in sources {
            let (source, dead_letters) = Source::find(sqs, name).await?;
            let Some(dead_letters) = dead_letters else {
                without.push(name.clone());
                continue;
            };
            // Several queues can have the same one, and a route can name a queue by its URL.
            let known = queues.iter_mut().find(|queue| queue.name == dead_letters);
            match known {
                Some(queue) if queue.sources.iter().any(|known| known.arn == source.arn) => {}
                Some(queue) => queue.sources.push(source),
                None => queues.push(Self {
                    sqs: sqs.clone(),
                    url: queue_url(sqs, &dead_letters).await?,
                    name: dead_letters,
                    sources: vec![source],
                }),
            }
        }
        Ok((queues, without))
    }

    pub(super) fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    /// Returns the name of the queue that a message came from.
    pub(super) fn source_name(&self, message: &Message) -> Option<String> {
        let arn = self.source_arn(message)?;
        Some(last_part(arn).to_owned())
    }

    /// Returns the ARN of the queue that a message came from. A message that was sent to the
    /// dead-letter queue itself belongs to the queue in front of it, if there is just one.
    fn source_arn<'a>(&'a self, message: &'a Message) -> Option<&'a str> {
        let attributes = message.attributes();
        let moved = attributes.and_then(|all| all.get(&System::DeadLetterQueueSourceArn));
        moved
            .or(match self.sources.as_slice() {
                [only] => Some(&only.arn),
                _ => None,
            })
            .map(String::as_str)
    }

    /// Receives up to ten messages, and hides them.
    pub(super) async fn receive(&self) -> Result<Vec<Message>, OperateError> {
        let response = self
            .sqs
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(MAX_BATCH).unwrap_or(1))
            .visibility_timeout(seconds(HIDDEN_FOR))
            .wait_time_seconds(seconds(WAIT))
            .message_attribute_names("All")
            .message_system_attribute_names(System::All)
            .send()
            .await
            .map_err(|error| request_error(&self.name, "read", &error))?;
        Ok(response.messages.unwrap_or_default())
    }

    /// Sends a message to the queue it came from, with its body and its attributes, and deletes it
    /// from the dead-letter queue. Returns the id of the message that was sent.
    pub(super) async fn redrive(&self, message: &Message) -> Result<Option<String>, OperateError> {
        let arn = self.source_arn(message);
        let source = self.sources.iter().find(|s| Some(s.arn.as_str()) == arn);
        let Some(source) = source else {
            let queue = arn.map_or("an unknown queue".to_owned(), |arn| {
                format!("queue `{}`", last_part(arn))
            });
            return Err(OperateError::Refused(format!(
                "it came from {queue}, which RELAY_ROUTES does not name; redrive it with the AWS CLI"
            )));
        };
        let is_fifo = self.is_fifo();
        let attributes = message.attributes();
        let group = attributes.and_then(|all| all.get(&System::MessageGroupId));
        // The id of the dead letter: the message's own would be a duplicate if it was sent within
        // the last five minutes, and a repeated redrive is one.
        let deduplication = is_fifo.then(|| message.message_id().unwrap_or_default());
        let sent = self
            .sqs
            .send_message()
            .queue_url(&source.url)
            .message_body(message.body().unwrap_or_default())
            .set_message_attributes(message.message_attributes.clone())
            .set_message_group_id(group.cloned())
            .set_message_deduplication_id(deduplication.map(str::to_owned))
            .send()
            .await
            .map_err(|error| request_error(last_part(&source.arn), "sent to", &error))?;
        self.delete(message).await?;
        Ok(sent.message_id)
    }

    /// Deletes a message.
    pub(super) async fn delete(&self, message: &Message) -> Result<(), OperateError> {
        self.sqs
            .delete_message()
            .queue_url(&self.url)
            .set_receipt_handle(message.receipt_handle.clone())
            .send()
            .await
            .map_err(|error| request_error(&self.name, "changed", &error))?;
        Ok(())
    }

    /// Makes messages visible again. If that fails, they are visible after [`HIDDEN_FOR`].
    pub(super) async fn make_visible(&self, receipt_handles: &[String]) {
        for batch in receipt_handles.chunks(MAX_BATCH) {
            let entries = batch.iter().enumerate().map(|(n, handle)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(n.to_string())
                    .receipt_handle(handle)
                    .visibility_timeout(0)
                    .build()
                    .expect("id and receipt handle are set")
            });
            let request = self
                .sqs
                .change_message_visibility_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.collect()));
            if let Err(error) = request.send().await {
                tracing::warn!(
                    queue = self.name,
                    reason = describe(&error),
                    "dead letters are hidden for another {} s",
                    HIDDEN_FOR.as_secs()
                );
                return;
            }
        }
    }
}

impl Source {
    /// Finds a queue. Returns it, and the name of its dead-letter queue.
    async fn find(sqs: &Client, name: &str) -> Result<(Self, Option<String>), OperateError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Policy {
            dead_letter_target_arn: String,
        }
        let url = queue_url(sqs, name).await?;
        let response = sqs
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::QueueArn)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send()
            .await
            .map_err(|error| request_error(name, "read", &error))?;
        let mut attributes = response.attributes.unwrap_or_default();
        let policy = attributes.get(&QueueAttributeName::RedrivePolicy);
        let policy = policy.and_then(|policy| serde_json::from_str::<Policy>(policy).ok());
        let dead_letters =
            policy.map(|policy| last_part(&policy.dead_letter_target_arn).to_owned());
        let arn = attributes.remove(&QueueAttributeName::QueueArn);
        let arn = arn.unwrap_or_else(|| last_part(name).to_owned());
        Ok((Self { arn, url }, dead_letters))
    }
}

/// Returns the name at the end of an ARN or of a URL.
fn last_part(name: &str) -> &str {
    name.rsplit([':', '/']).next().unwrap_or(name)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

fn request_error<E>(queue: &str, action: &str, error: &SdkError<E>) -> OperateError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let text = format!("queue `{queue}` cannot be {action}: {}", describe(error));
    match classify(error) {
        ErrorClass::NotFound | ErrorClass::AccessDenied | ErrorClass::Rejected => {
            OperateError::Refused(text)
        }
        _ => OperateError::Unavailable(text),
    }
}

impl From<QueueUrlError> for OperateError {
    fn from(error: QueueUrlError) -> Self {
        match error {
            QueueUrlError::DoesNotExist(_) => {
                Self::Refused(format!("{error}; check RELAY_ROUTES and AWS_REGION"))
            }
            QueueUrlError::Denied(_) | QueueUrlError::Unavailable(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
