//! A queue and its dead-letter queue.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use outbox::message::MAX_MESSAGE_BYTES;

use super::ProvisionError;
use crate::aws::Causes;

/// A message that was received this often without being deleted moves to the
/// dead-letter queue.
pub const MAX_RECEIVES: u32 = 5;

const FIFO_SUFFIX: &str = ".fifo";

/// `order-events` → `order-events-dlq`; `a.fifo` → `a-dlq.fifo`, because the
/// dead-letter queue of a FIFO queue must be one too.
pub fn dead_letter_queue_name(queue: &str) -> String {
    match queue.strip_suffix(FIFO_SUFFIX) {
        Some(stem) => format!("{stem}-dlq{FIFO_SUFFIX}"),
        None => format!("{queue}-dlq"),
    }
}

/// Creates `name` with its dead-letter queue where they are missing, and sets
/// the redrive policy. FIFO when the name ends in `.fifo`. Returns the URL.
pub async fn queue(sqs: &Client, name: &str) -> Result<String, ProvisionError> {
    let dead_letters = dead_letter_queue_name(name);
    let dead_letters_url = create(sqs, &dead_letters).await?;
    let arn = arn(sqs, &dead_letters, &dead_letters_url).await?;
    let url = create(sqs, name).await?;
    // `maxReceiveCount` as a number: AWS takes both, emulators only this.
    let policy = serde_json::json!({
        "deadLetterTargetArn": arn,
        "maxReceiveCount": MAX_RECEIVES,
    });
    sqs.set_queue_attributes()
        .queue_url(&url)
        .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
        .send()
        .await
        .map_err(|error| request_error(name, "given its redrive policy", &error))?;
    // Dead letters first, so that what was taken can always be moved there.
    for url in [&dead_letters_url, &url] {
        allow_largest(sqs, url).await;
    }
    Ok(url)
}

/// AWS gives new queues the largest size by itself, and older ones take it.
/// Emulators may know 256 KiB only; then larger events are quarantined, which
/// is no reason to do without the queue.
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
            "the queue does not take a MaximumMessageSize of 1 MiB"
        );
    }
}

async fn create(sqs: &Client, name: &str) -> Result<String, ProvisionError> {
    let mut request = sqs.create_queue().queue_name(name);
    if name.ends_with(FIFO_SUFFIX) {
        request = request.attributes(QueueAttributeName::FifoQueue, "true");
    }
    match request.send().await {
        Ok(answer) => answer.queue_url.ok_or_else(|| ProvisionError::Request {
            what: format!("queue `{name}`"),
            action: "created",
            reason: "the answer has no URL".to_owned(),
        }),
        // It exists with attributes of its own, such as the redrive policy
        // set below: then it is used as it is.
        Err(error) => match sqs.get_queue_url().queue_name(name).send().await {
            Ok(found) if found.queue_url.is_some() => Ok(found.queue_url.unwrap_or_default()),
            _ => Err(request_error(name, "created", &error)),
        },
    }
}

async fn arn(sqs: &Client, name: &str, url: &str) -> Result<String, ProvisionError> {
    sqs.get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(|error| request_error(name, "described", &error))?
        .attributes
        .and_then(|mut attributes| attributes.remove(&QueueAttributeName::QueueArn))
        .ok_or_else(|| ProvisionError::Request {
            what: format!("queue `{name}`"),
            action: "described",
            reason: "the answer has no ARN".to_owned(),
        })
}

fn request_error(
    name: &str,
    action: &'static str,
    error: &(impl std::error::Error + 'static),
) -> ProvisionError {
    ProvisionError::Request {
        what: format!("queue `{name}`"),
        action,
        reason: Causes(error).to_string(),
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
}
