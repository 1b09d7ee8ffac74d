//! Monitors the number of messages in the queue and in its dead-letter queue, for the gauges.
//!
//! An operator has to learn of messages that were moved to the dead-letter queue, and only the
//! worker knows which queue that is. SQS's counts are approximate, and every worker of a queue
//! reports the same ones.
//!
//! A dead letter is deleted when its retention ends, so its age matters as well. SQS has no request
//! for it: while there are dead letters, some are received without hiding them, and the oldest of
//! these counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use outbox::timestamp::Timestamp;
use serde::Deserialize;
use shared::aws::QueueUrlError;
use shared::aws::error::describe;
use shared::runtime::denials::Denials;
use tokio::time::MissedTickBehavior;

use crate::queue::Queue;

/// Interval between two measurements, of two requests each. The alerts on these gauges wait for
/// minutes.
const INTERVAL: Duration = Duration::from_secs(15);

/// Depths of the queues at the last measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueDepths(Arc<Mutex<Depths>>);

/// `None` is unknown.
#[derive(Debug, Default)]
struct Depths {
    waiting: Option<u64>,
    dead_letters: Option<DeadLetters>,
}

#[derive(Debug)]
struct DeadLetters {
    queue: String,
    count: u64,
    /// Time at which the oldest message was first sent.
    oldest: Option<Timestamp>,
}

impl QueueDepths {
    /// Creates the gauges. An unknown depth has no sample: 0 would mean that the queue is empty.
    pub(crate) fn register_gauges(&self, meter: &Meter, queue_name: &str) {
        let (depths, name) = (self.clone(), queue_name.to_owned());
        meter
            .u64_observable_gauge("worker.queue.messages")
            .with_unit("{message}")
            .with_description("Approximate number of messages in the queue.")
            .with_callback(move |gauge| {
                if let Some(waiting) = depths.last().waiting {
                    gauge.observe(waiting, &[KeyValue::new("queue", name.clone())]);
                }
            })
            .build();
        let depths = self.clone();
        meter
            .u64_observable_gauge("worker.dead_letters")
            .with_unit("{message}")
            .with_description("Approximate number of messages in the dead-letter queue.")
            .with_callback(move |gauge| {
                if let Some(dead) = &depths.last().dead_letters {
                    gauge.observe(dead.count, &[KeyValue::new("queue", dead.queue.clone())]);
                }
            })
            .build();
        let depths = self.clone();
        meter
            .u64_observable_gauge("worker.dead_letter.age")
            .with_unit("s")
            .with_description(
                "Age of the oldest of some dead letters, since they were first sent; 0 without any.",
            )
            .with_callback(move |gauge| {
                if let Some(dead) = &depths.last().dead_letters
                    && let Some(age) = dead.age_seconds(Timestamp::now())
                {
                    gauge.observe(age, &[KeyValue::new("queue", dead.queue.clone())]);
                }
            })
            .build();
    }

    fn last(&self) -> MutexGuard<'_, Depths> {
        // A panic in another task leaves numbers or none, and both remain valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetters {
    /// Returns the age of the oldest message; `None` if it is unknown.
    fn age_seconds(&self, now: Timestamp) -> Option<u64> {
        if self.count == 0 {
            return Some(0);
        }
        let millis = now.as_millis() - self.oldest?.as_millis();
        Some(u64::try_from(millis / 1000).unwrap_or_default())
    }
}

/// Measures both queues at intervals.
#[derive(Debug)]
pub(crate) struct QueueDepthMonitor {
    sqs: Client,
    queue: Arc<Queue>,
    /// The dead-letter queue that the queue's redrive policy named last.
    dead_letters: Option<Queue>,
    depths: QueueDepths,
    denials: Arc<Denials>,
}

impl QueueDepthMonitor {
    pub(crate) fn new(
        sqs: Client,
        queue: Arc<Queue>,
        depths: QueueDepths,
        denials: Arc<Denials>,
    ) -> Self {
        Self {
            sqs,
            queue,
            dead_letters: None,
            depths,
            denials,
        }
    }

    /// Runs until dropped; no error ends the loop.
    pub(crate) async fn run(mut self) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            interval.tick().await;
            let mut depths = Depths::default();
            let measured = self.measure(&mut depths).await;
            *self.depths.last() = depths;
            // Logged once, not every time: a permission may be missing for good.
            if let Err(reason) = &measured
                && !failing
            {
                tracing::warn!(
                    reason,
                    "the depth or the age of a queue is unknown; its gauge has no value until it \
                     is known"
                );
            }
            failing = measured.is_err();
        }
    }

    /// Sets those of `depths` that can be determined.
    async fn measure(&mut self, depths: &mut Depths) -> Result<(), String> {
        let sqs = &self.sqs;
        let denials = &self.denials;
        let (depth, policy) = depth_and_redrive_policy(sqs, &self.queue, denials).await?;
        depths.waiting = Some(depth.visible);
        let Some(name) = policy.as_deref().and_then(dead_letter_queue) else {
            self.dead_letters = None;
            return Err(format!(
                "queue `{}` has no dead-letter queue; a message that cannot be read is redelivered \
                 until its retention ends; set a redrive policy",
                self.queue.name()
            ));
        };
        if self.dead_letters.as_ref().map(Queue::configured) != Some(&name) {
            self.dead_letters = None;
        }
        let dead_letters = self
            .dead_letters
            .get_or_insert_with(|| Queue::new(sqs.clone(), name.clone()));
        let (depth, _) = depth_and_redrive_policy(sqs, dead_letters, denials).await?;
        // Listing dead letters hides them for a moment.
        let count = depth.visible + depth.hidden;
        let dead = depths.dead_letters.insert(DeadLetters {
            queue: name,
            count,
            oldest: None,
        });
        if count > 0 {
            dead.oldest = oldest(sqs, dead_letters, denials).await?;
        }
        Ok(())
    }
}

/// Depth of a queue.
struct Depth {
    visible: u64,
    /// Messages that were received and not deleted.
    hidden: u64,
}

/// Returns the depth of `queue`, and its redrive policy.
async fn depth_and_redrive_policy(
    sqs: &Client,
    queue: &Queue,
    denials: &Denials,
) -> Result<(Depth, Option<String>), String> {
    use QueueAttributeName::{
        ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, RedrivePolicy,
    };
    let url = url(queue, denials).await?;
    let response = sqs
        .get_queue_attributes()
        .queue_url(&*url)
        .attribute_names(ApproximateNumberOfMessages)
        .attribute_names(ApproximateNumberOfMessagesNotVisible)
        .attribute_names(RedrivePolicy)
        .send()
        .await
        .map_err(|error| {
            denials.record("GetQueueAttributes", &error);
            // The queue may be created again, with another URL.
            queue.forget_url();
            format!("queue `{}`: {}", queue.name(), describe(&error))
        })?;
    let mut attributes = response.attributes.unwrap_or_default();
    let count = |name: QueueAttributeName| {
        let count = attributes.get(&name).and_then(|count| count.parse().ok());
        count.ok_or_else(|| format!("queue `{}`: the response has no {name}", queue.name()))
    };
    let depth = Depth {
        visible: count(ApproximateNumberOfMessages)?,
        hidden: count(ApproximateNumberOfMessagesNotVisible)?,
    };
    Ok((depth, attributes.remove(&RedrivePolicy)))
}

/// Returns the URL of `queue`.
async fn url(queue: &Queue, denials: &Denials) -> Result<Arc<str>, String> {
    queue.url().await.map_err(|error| {
        let reason = error.to_string();
        if let QueueUrlError::Denied(reason) = error {
            denials.record_reason("GetQueueUrl", reason);
        }
        reason
    })
}

/// Returns the time at which the oldest of up to ten messages of `queue` was first sent. The
/// messages stay visible.
async fn oldest(
    sqs: &Client,
    queue: &Queue,
    denials: &Denials,
) -> Result<Option<Timestamp>, String> {
    let url = url(queue, denials).await?;
    let response = sqs
        .receive_message()
        .queue_url(&*url)
        .max_number_of_messages(10)
        .visibility_timeout(0)
        .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
        .send()
        .await
        .map_err(|error| {
            denials.record("ReceiveMessage", &error);
            format!("queue `{}`: {}", queue.name(), describe(&error))
        })?;
    let sent = response.messages().iter().filter_map(|message| {
        let sent = message
            .attributes()?
            .get(&MessageSystemAttributeName::SentTimestamp)?;
        sent.parse().ok().map(Timestamp::from_millis)
    });
    Ok(sent.min())
}

/// Returns the name of the dead-letter queue, which is in the same account and region.
fn dead_letter_queue(policy: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Policy {
        dead_letter_target_arn: String,
    }
    let policy: Policy = serde_json::from_str(policy).ok()?;
    let (_, name) = policy.dead_letter_target_arn.rsplit_once(':')?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_an_empty_queue_is_zero_and_an_unknown_age_has_no_value() {
        let now = Timestamp::from_millis(100_000);
        let age = |count, oldest: Option<i64>| {
            let oldest = oldest.map(Timestamp::from_millis);
            let queue = "q".to_owned();
            DeadLetters {
                queue,
                count,
                oldest,
            }
            .age_seconds(now)
        };
        assert_eq!(age(0, None), Some(0));
        assert_eq!(age(1, None), None);
        assert_eq!(age(1, Some(90_500)), Some(9));
        // Clocks differ.
        assert_eq!(age(1, Some(200_000)), Some(0));
    }

    #[test]
    fn the_dead_letter_queue_is_the_last_part_of_the_policy_s_arn() {
        let policy =
            r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:1:q-dlq","maxReceiveCount":"5"}"#;
        assert_eq!(dead_letter_queue(policy).as_deref(), Some("q-dlq"));
        for none in ["", "{}", r#"{"deadLetterTargetArn":"arn:aws:sqs:r:1:"}"#] {
            assert_eq!(dead_letter_queue(none), None, "{none}");
        }
    }
}
