//! Extends and ends the visibility timeout of deliveries.
//!
//! None of this is needed for correctness: a message that becomes visible too early is handled
//! twice, and the second time its order is processed already.

use std::convert::Infallible;
use std::time::Duration;

use aws_sdk_sqs::Client;
use shared::aws::error::describe;
use tokio::time::{Instant, MissedTickBehavior};

use crate::message::Delivery;

/// Extensions per timeout: two may fail before another worker receives the message.
const EXTENSIONS_PER_TIMEOUT: u32 = 3;

/// Time limit for releasing a message, which happens while the process stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Extends the delivery's visibility timeout for as long as the future is polled.
pub(crate) async fn keep_extending(
    sqs: &Client,
    delivery: &Delivery,
    timeout: Duration,
) -> Infallible {
    let every = timeout / EXTENSIONS_PER_TIMEOUT;
    let mut due = tokio::time::interval_at(Instant::now() + every, every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        // Limited to the interval, so that a hanging request does not delay the next one.
        if let Err(reason) = change(sqs, delivery, timeout, every).await {
            tracing::warn!(
                message_id = delivery.message_id,
                reason,
                "visibility timeout not extended; the message may be delivered twice"
            );
        }
    }
}

/// Makes the delivery visible again after `delay`.
pub(crate) async fn release(sqs: &Client, delivery: &Delivery, delay: Duration) {
    if let Err(reason) = change(sqs, delivery, delay, RELEASE_TIMEOUT).await {
        tracing::warn!(
            message_id = delivery.message_id,
            reason,
            "message not released; it will be redelivered after its visibility timeout"
        );
    }
}

async fn change(
    sqs: &Client,
    delivery: &Delivery,
    hidden_for: Duration,
    time_limit: Duration,
) -> Result<(), String> {
    let request = sqs
        .change_message_visibility()
        .queue_url(&*delivery.queue_url)
        .receipt_handle(&delivery.receipt_handle)
        .visibility_timeout(seconds(hidden_for))
        .send();
    match tokio::time::timeout(time_limit, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("the request timed out".to_owned()),
    }
}

/// Returns whole seconds, as SQS counts them; 12 hours are far from this type's end.
pub(crate) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
