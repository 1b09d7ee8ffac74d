//! How long a delivery is hidden from other workers.
//!
//! None of this is needed for correctness: a message that becomes visible too
//! early is worked on twice, and the second time is found to be a duplicate.

use std::convert::Infallible;
use std::time::Duration;

use aws_sdk_sqs::Client;
use shared::aws::error::describe;
use tokio::time::{Instant, MissedTickBehavior};

use crate::message::Delivery;

/// An extension is due after this part of the timeout, so that two may fail
/// before the message is seen by another worker.
const PARTS: u32 = 3;

/// Giving a message back may take this long: the process wants to end.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Extends the delivery's visibility for as long as it is polled.
pub(crate) async fn keep(sqs: &Client, delivery: &Delivery, timeout: Duration) -> Infallible {
    let every = timeout / PARTS;
    let mut due = tokio::time::interval_at(Instant::now() + every, every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        // A hanging request must not cost the next one its turn.
        if let Err(reason) = change(sqs, delivery, timeout, every).await {
            tracing::warn!(
                message_id = delivery.message_id,
                reason,
                "the visibility of a message could not be extended, it may be delivered twice"
            );
        }
    }
}

/// Lets the delivery be seen again after `delay`.
pub(crate) async fn give_back(sqs: &Client, delivery: &Delivery, delay: Duration) {
    if let Err(reason) = change(sqs, delivery, delay, RELEASE_WITHIN).await {
        tracing::warn!(
            message_id = delivery.message_id,
            reason,
            "a message could not be given back, it comes back after its visibility timeout"
        );
    }
}

async fn change(
    sqs: &Client,
    delivery: &Delivery,
    hidden_for: Duration,
    within: Duration,
) -> Result<(), String> {
    let request = sqs
        .change_message_visibility()
        .queue_url(&*delivery.queue_url)
        .receipt_handle(&delivery.receipt_handle)
        .visibility_timeout(seconds(hidden_for))
        .send();
    match tokio::time::timeout(within, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// SQS counts in whole seconds; 12 hours are far from this type's end.
pub(crate) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
