//! A queue and its dead-letter queue.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use outbox::message::MAX_MESSAGE_BYTES;

use super::ProvisionError;
use crate::aws::Causes;

/// Receives without a delete after which a message moves to the dead-letter queue.
pub const MAX_RECEIVES: u32 = 5;

const FIFO_SUFFIX: &str = ".fifo";

/// Returns the name of a queue's dead-letter queue: `order-events` → `order-events-dlq`, and
/// `a.fifo` → `a-dlq.fifo`, because the dead-letter queue of a FIFO queue must be a FIFO queue.
pub fn dead_letter_queue_name(queue: &str) -> String {
    match queue.strip_suffix(FIFO_SUFFIX) {
        Some(stem) => format!("{stem}-dlq{FIFO_SUFFIX}"),
        None => format!("{queue}-dlq"),
    }
}

/// Creates the queue `name` and its dead-letter queue if they are missing, and sets the redrive
/// policy. Creates FIFO queues if the name ends in `.fifo`. Returns the URL of the queue.
pub async fn queue(sqs: &Client, name: &str) -> Result<String, ProvisionError> {
    let dead_letters = dead_letter_queue_name(name);
    let dead_letters_url = create(sqs, &dead_letters).await?;
    let arn = arn(sqs, &dead_letters, &dead_letters_url).await?;
    let url = create(sqs, name).await?;
    // `maxReceiveCount` as a number: AWS also accepts text, emulators do not.
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
    // The dead-letter queue first, so that every message that the queue accepts can be moved there.
    for url in [&dead_letters_url, &url] {
        allow_largest(sqs, url).await;
    }
    Ok(url)
}

/// Sets the largest message size. AWS has it by default for new queues, and accepts it for older
/// ones. Emulators may support 256 KiB only; then larger events are quarantined, and the queue is
/// usable all the same.
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

async fn create(sqs: &Client, name: &str) -> Result<String, ProvisionError> {
    let mut request = sqs.create_queue().queue_name(name);
    if name.ends_with(FIFO_SUFFIX) {
        request = request.attributes(QueueAttributeName::FifoQueue, "true");
    }
    match request.send().await {
        Ok(response) => response.queue_url.ok_or_else(|| ProvisionError::Request {
            what: format!("queue `{name}`"),
            action: "created",
            reason: "the response has no URL".to_owned(),
        }),
        // It may exist with other attributes, such as the redrive policy set above: then it is used
        // as it is.
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
            reason: "the response has no ARN".to_owned(),
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
