//! A queue and its dead-letter queue.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName;
use outbox::message::MAX_MESSAGE_BYTES;
use serde_json::{Value, json};

use super::ProvisionError;
use crate::aws::Causes;
use crate::aws::error::{ErrorClass, classify, explain};

/// Receives without a delete after which a message moves to the dead-letter queue.
pub const MAX_RECEIVES: u32 = 5;

const FIFO_SUFFIX: &str = ".fifo";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Retention of messages in a new queue.
const RETENTION: Duration = DAY.saturating_mul(7);

/// Retention of messages in a new dead-letter queue: the longest that SQS has. A dead letter of a
/// standard queue keeps the time at which it was first sent, so that with the retention of the
/// queue itself it could be deleted soon after it arrives.
const DEAD_LETTER_RETENTION: Duration = DAY.saturating_mul(14);

/// Returns the name of a queue's dead-letter queue: `order-events` → `order-events-dlq`, and
/// `a.fifo` → `a-dlq.fifo`, because the dead-letter queue of a FIFO queue must be a FIFO queue.
pub fn dead_letter_queue_name(queue: &str) -> String {
    match queue.strip_suffix(FIFO_SUFFIX) {
        Some(stem) => format!("{stem}-dlq{FIFO_SUFFIX}"),
        None => format!("{queue}-dlq"),
    }
}

/// Creates the queue `name` and its dead-letter queue if they are missing, and sets the redrive
/// policy if there is none. Creates FIFO queues if the name ends in `.fifo`. Attributes of a queue
/// that exists are reported if they differ, and never changed. Returns the URL of the queue.
pub async fn queue(sqs: &Client, name: &str) -> Result<String, ProvisionError> {
    // The dead-letter queue first, so that every message that the queue accepts can be moved there.
    let dead_letters = dead_letter_queue_name(name);
    let dead_letters = Queue::find_or_create(sqs, &dead_letters, DEAD_LETTER_RETENTION).await?;
    let queue = Queue::find_or_create(sqs, name, RETENTION).await?;
    let policy = json!({
        "deadLetterTargetArn": dead_letters.arn()?,
        // As a number: AWS also accepts text, emulators do not.
        "maxReceiveCount": MAX_RECEIVES,
    });
    match queue.attributes.get(&QueueAttributeName::RedrivePolicy) {
        Some(found) if is_same_policy(found, &policy) => {}
        Some(found) => queue.report(&QueueAttributeName::RedrivePolicy, found, &policy),
        None => {
            sqs.set_queue_attributes()
                .queue_url(&queue.url)
                .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
                .send()
                .await
                .map_err(|error| request_error(name, "given its redrive policy", &error))?;
        }
    }
    Ok(queue.url)
}

/// A queue that exists.
struct Queue {
    name: String,
    url: String,
    attributes: HashMap<QueueAttributeName, String>,
}

impl Queue {
    /// Returns the queue `name`; creates it if it is missing, and reports attributes that differ
    /// from those of a new queue if it is not.
    async fn find_or_create(
        sqs: &Client,
        name: &str,
        retention: Duration,
    ) -> Result<Self, ProvisionError> {
        let retention = retention.as_secs().to_string();
        let found = sqs.get_queue_url().queue_name(name).send().await;
        let (url, is_new) = match found {
            Ok(found) => (found.queue_url, false),
            Err(error) if classify(&error) == ErrorClass::NotFound => {
                (create(sqs, name, &retention).await?, true)
            }
            Err(error) => return Err(request_error(name, "looked up", &error)),
        };
        let url = url.ok_or_else(|| incomplete(name, "looked up", "URL"))?;
        let attributes = sqs
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .map_err(|error| request_error(name, "described", &error))?
            .attributes;
        let queue = Self {
            name: name.to_owned(),
            url,
            attributes: attributes.unwrap_or_default(),
        };
        if is_new {
            allow_largest(sqs, &queue.url).await;
        } else {
            let expected = [
                (QueueAttributeName::MessageRetentionPeriod, retention),
                (
                    QueueAttributeName::MaximumMessageSize,
                    MAX_MESSAGE_BYTES.to_string(),
                ),
            ];
            for (attribute, expected) in expected {
                match queue.attributes.get(&attribute) {
                    Some(found) if *found != expected => queue.report(&attribute, found, &expected),
                    _ => {}
                }
            }
        }
        Ok(queue)
    }

    fn arn(&self) -> Result<&str, ProvisionError> {
        let arn = self.attributes.get(&QueueAttributeName::QueueArn);
        arn.map(String::as_str)
            .ok_or_else(|| incomplete(&self.name, "described", "ARN"))
    }

    fn report(
        &self,
        attribute: &QueueAttributeName,
        found: &str,
        expected: &impl std::fmt::Display,
    ) {
        tracing::warn!(
            queue = self.name,
            %attribute,
            found,
            recommended = %expected,
            "the queue exists with another value of an attribute; it is left unchanged"
        );
    }
}

/// Returns `true` if a stored redrive policy has the same values. The number may be stored as text.
fn is_same_policy(found: &str, policy: &Value) -> bool {
    let Ok(found) = serde_json::from_str::<Value>(found) else {
        return false;
    };
    let count = |policy: &Value| match &policy["maxReceiveCount"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    found["deadLetterTargetArn"] == policy["deadLetterTargetArn"] && count(&found) == count(policy)
}

/// Sets the largest message size. AWS has it by default for new queues. Emulators may support
/// 256 KiB only; then larger events are quarantined, and the queue is usable all the same.
async fn allow_largest(sqs: &Client, url: &str) {
    let outcome = sqs
        .set_queue_attributes()
        .queue_url(url)
        .attributes(
            QueueAttributeName::MaximumMessageSize,
            MAX_MESSAGE_BYTES.to_string(),
        )
        .send()
        .await;
    if let Err(error) = outcome {
        tracing::debug!(
            queue = url,
            error = %Causes(&error),
            "the queue rejects a MaximumMessageSize of 1 MiB; larger events will be quarantined"
        );
    }
}

async fn create(
    sqs: &Client,
    name: &str,
    retention: &str,
) -> Result<Option<String>, ProvisionError> {
    let mut request = sqs
        .create_queue()
        .queue_name(name)
        .attributes(QueueAttributeName::MessageRetentionPeriod, retention);
    if name.ends_with(FIFO_SUFFIX) {
        request = request.attributes(QueueAttributeName::FifoQueue, "true");
    }
    let created = request.send().await;
    let created = created.map_err(|error| request_error(name, "created", &error))?;
    Ok(created.queue_url)
}

fn incomplete(name: &str, action: &'static str, missing: &str) -> ProvisionError {
    ProvisionError::Request {
        what: format!("queue `{name}`"),
        action,
        reason: format!("the response has no {missing}"),
    }
}

fn request_error<E>(name: &str, action: &'static str, error: &SdkError<E>) -> ProvisionError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    ProvisionError::Request {
        what: format!("queue `{name}`"),
        action,
        reason: explain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_queue_has_a_fifo_dead_letter_queue() {
        assert_eq!(dead_letter_queue_name("order-events"), "order-events-dlq");
        assert_eq!(dead_letter_queue_name("a.fifo"), "a-dlq.fifo");
    }

    #[test]
    fn redrive_policies_are_compared_by_their_meaning() {
        let policy = json!({ "deadLetterTargetArn": "arn", "maxReceiveCount": 5 });
        let same = r#"{"maxReceiveCount":"5","deadLetterTargetArn":"arn"}"#;
        assert!(is_same_policy(same, &policy));
        assert!(is_same_policy(&policy.to_string(), &policy));
        for other in [
            r#"{"maxReceiveCount":"10","deadLetterTargetArn":"arn"}"#,
            r#"{"maxReceiveCount":5,"deadLetterTargetArn":"another"}"#,
            r#"{"deadLetterTargetArn":"arn"}"#,
            "",
        ] {
            assert!(!is_same_policy(other, &policy), "{other}");
        }
    }
}
