//! Monitors the number of messages in the queue and in its dead-letter queue, for the gauges.
//!
//! An operator has to learn of messages that were moved to the dead-letter queue, and only the
//! worker knows which queue that is. SQS's counts are approximate, and every worker of a queue
//! reports the same ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use serde::Deserialize;
use shared::aws::error::describe;
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
    /// Name and depth of the dead-letter queue.
    dead_letters: Option<(String, u64)>,
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
                if let Some((name, dead)) = &depths.last().dead_letters {
                    gauge.observe(*dead, &[KeyValue::new("queue", name.clone())]);
                }
            })
            .build();
    }

    fn last(&self) -> MutexGuard<'_, Depths> {
        // A panic in another task leaves numbers or none, and both remain valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl QueueDepthMonitor {
    pub(crate) fn new(sqs: Client, queue: Arc<Queue>, depths: QueueDepths) -> Self {
        Self {
            sqs,
            queue,
            dead_letters: None,
            depths,
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
                    "the depth of a queue is unknown; its gauge has no value until it is known"
                );
            }
            failing = measured.is_err();
        }
    }

    /// Sets those of `depths` that can be determined.
    async fn measure(&mut self, depths: &mut Depths) -> Result<(), String> {
        let sqs = &self.sqs;
        let (waiting, policy) = depth_and_redrive_policy(sqs, &self.queue).await?;
        depths.waiting = Some(waiting);
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
        let (dead, _) = depth_and_redrive_policy(sqs, dead_letters).await?;
        depths.dead_letters = Some((name, dead));
        Ok(())
    }
}

/// Returns the number of visible messages in `queue`, and its redrive policy.
async fn depth_and_redrive_policy(
    sqs: &Client,
    queue: &Queue,
) -> Result<(u64, Option<String>), String> {
    use QueueAttributeName::{ApproximateNumberOfMessages, RedrivePolicy};
    let url = queue.url().await.map_err(|error| error.to_string())?;
    let response = sqs
        .get_queue_attributes()
        .queue_url(&*url)
        .attribute_names(ApproximateNumberOfMessages)
        .attribute_names(RedrivePolicy)
        .send()
        .await
        .map_err(|error| {
            // The queue may be created again, with another URL.
            queue.forget_url();
            format!("queue `{}`: {}", queue.name(), describe(&error))
        })?;
    let mut attributes = response.attributes.unwrap_or_default();
    let waiting = attributes
        .get(&ApproximateNumberOfMessages)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| {
            format!(
                "queue `{}`: the response has no ApproximateNumberOfMessages",
                queue.name()
            )
        })?;
    Ok((waiting, attributes.remove(&RedrivePolicy)))
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
    fn the_dead_letter_queue_is_the_last_part_of_the_policy_s_arn() {
        let policy =
            r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:1:q-dlq","maxReceiveCount":"5"}"#;
        assert_eq!(dead_letter_queue(policy).as_deref(), Some("q-dlq"));
        for none in ["", "{}", r#"{"deadLetterTargetArn":"arn:aws:sqs:r:1:"}"#] {
            assert_eq!(dead_letter_queue(none), None, "{none}");
        }
    }
}
