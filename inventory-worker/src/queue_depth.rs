//! How many messages wait in the queue, and in the dead-letter queue behind it:
//! an operator has to hear of a message that was given up, and nobody but the
//! worker knows where it went. SQS's counts are approximate, and every worker
//! of a queue reports the same ones.

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

/// Two requests each time. Alerts on what is counted here wait for minutes.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// What was found at the last look; `None` is not known.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueDepths(Arc<Mutex<Depths>>);

#[derive(Debug, Default)]
struct Depths {
    waiting: Option<u64>,
    /// With the queue's name.
    dead: Option<(String, u64)>,
}

impl QueueDepths {
    /// Makes the gauges. What is not known is not there: 0 would say that all
    /// is well.
    pub(crate) fn observe(&self, meter: &Meter, queue_name: &str) {
        let (depths, name) = (self.clone(), queue_name.to_owned());
        meter
            .u64_observable_gauge("worker_queue_messages")
            .with_description("Messages that wait in the queue, about, when last looked.")
            .with_callback(move |gauge| {
                if let Some(waiting) = depths.seen().waiting {
                    gauge.observe(waiting, &[KeyValue::new("queue", name.clone())]);
                }
            })
            .build();
        let depths = self.clone();
        meter
            .u64_observable_gauge("worker_dead_letters")
            .with_description("Messages in the dead-letter queue, about, when last looked.")
            .with_callback(move |gauge| {
                if let Some((name, dead)) = &depths.seen().dead {
                    gauge.observe(*dead, &[KeyValue::new("queue", name.clone())]);
                }
            })
            .build();
    }

    fn seen(&self) -> MutexGuard<'_, Depths> {
        // A panic elsewhere leaves numbers or none, both fine.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at both queues from time to time.
#[derive(Debug)]
pub(crate) struct QueueDepthMonitor {
    sqs: Client,
    queue: Arc<Queue>,
    /// The last one that the queue named.
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

    /// Runs until dropped; no error ends it.
    pub(crate) async fn run(mut self) {
        let mut turns = tokio::time::interval(LOOK_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            turns.tick().await;
            let mut seen = Depths::default();
            let looked = self.look(&mut seen).await;
            *self.depths.seen() = seen;
            // Once, not every time: a permission may be missing for good.
            if let Err(reason) = &looked
                && !failing
            {
                tracing::warn!(reason, "the depth of a queue is not known");
            }
            failing = looked.is_err();
        }
    }

    /// Fills in what can be found out.
    async fn look(&mut self, seen: &mut Depths) -> Result<(), String> {
        let sqs = &self.sqs;
        let (waiting, policy) = ask(sqs, &self.queue).await?;
        seen.waiting = Some(waiting);
        let Some(name) = policy.as_deref().and_then(dead_letter_queue) else {
            self.dead_letters = None;
            return Err(format!(
                "queue `{}` has no dead-letter queue; a message that cannot be read comes back for ever",
                self.queue.name()
            ));
        };
        if self.dead_letters.as_ref().map(Queue::configured) != Some(&name) {
            self.dead_letters = None;
        }
        let dead_letters = self
            .dead_letters
            .get_or_insert_with(|| Queue::new(sqs.clone(), name.clone()));
        let (dead, _) = ask(sqs, dead_letters).await?;
        seen.dead = Some((name, dead));
        Ok(())
    }
}

/// How many messages wait in `queue`, and its redrive policy.
async fn ask(sqs: &Client, queue: &Queue) -> Result<(u64, Option<String>), String> {
    use QueueAttributeName::{ApproximateNumberOfMessages, RedrivePolicy};
    let url = queue.url().await.map_err(|error| error.to_string())?;
    let answer = sqs
        .get_queue_attributes()
        .queue_url(&*url)
        .attribute_names(ApproximateNumberOfMessages)
        .attribute_names(RedrivePolicy)
        .send()
        .await
        .map_err(|error| {
            // It may be created again, under another URL.
            queue.forget();
            format!("queue `{}`: {}", queue.name(), describe(&error))
        })?;
    let mut attributes = answer.attributes.unwrap_or_default();
    let waiting = attributes
        .get(&ApproximateNumberOfMessages)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| format!("queue `{}` does not say how deep it is", queue.name()))?;
    Ok((waiting, attributes.remove(&RedrivePolicy)))
}

/// The name of the dead-letter queue, which is in the same account and region.
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
