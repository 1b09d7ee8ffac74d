//! Writers that put aggregates with many events directly into the outbox, as any program may, and
//! the consumer of their queue. An order has one event, so only these aggregates show that
//! per-aggregate order holds.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use outbox::{Aggregate, NewEvent, Outbox};
use serde_json::{Value, json};
use shared::aws::Clients;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::error::NotWritten;
use super::history::{Delivery, Step};
use super::recorder::Recorder;

/// Number of aggregates that are written concurrently.
const WRITERS: u32 = 8;

/// Maximum number of events of an aggregate.
const MAX_STEPS: u64 = 30;

/// Attempts to write one event: more than fit into the time for which partitions are throttled. No
/// proxy is between the writers and the service, so there are no other faults to retry.
const ATTEMPTS: u32 = 100;

/// Delay between attempts, and after a failed poll.
const PAUSE: Duration = Duration::from_millis(100);

/// Number of concurrent polls; each receives up to ten messages.
const CONSUMERS: usize = 4;

/// Writes events until it is stopped.
#[derive(Clone, Debug)]
pub(super) struct SequenceWorkload {
    pub(super) clients: Clients,
    pub(super) outbox_table: String,
    pub(super) recorder: Arc<Recorder>,
    pub(super) seed: u64,
}

impl SequenceWorkload {
    /// Writes about `rate` events a second.
    ///
    /// # Errors
    /// An event could not be written. This cancels `stop`, because the run cannot pass any
    /// more.
    pub(super) async fn run(self, rate: u32, stop: CancellationToken) -> Result<(), NotWritten> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(self.clone().write(writer, rate, stop.clone()));
        }
        let mut written = Ok(());
        while let Some(ended) = writers.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    stop.cancel();
                    // The other writers record what they have written.
                    written = written.and(Err(error));
                }
                Err(error) => tracing::error!(%error, "a writer of events panicked"),
            }
        }
        written
    }

    async fn write(
        self,
        writer: u32,
        rate: u32,
        stop: CancellationToken,
    ) -> Result<(), NotWritten> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (u64::from(writer) << 48));
        let outbox = Outbox::new(&self.outbox_table);
        let mut due = tokio::time::interval(Duration::from_secs(1) * WRITERS / rate.max(1));
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for aggregate in 1_u64.. {
            let aggregate_id = format!("steps-{writer}-{aggregate}");
            for sequence in 1..=random.u64(1..=MAX_STEPS) {
                // Some events follow each other without a pause.
                if random.u8(..4) > 0 {
                    tokio::select! {
                        _ = due.tick() => {}
                        () = stop.cancelled() => {}
                    }
                }
                if stop.is_cancelled() {
                    return Ok(());
                }
                let at = self.recorder.now();
                self.commit(&outbox, &aggregate_id, sequence).await?;
                let took_ms = self.recorder.now().saturating_sub(at);
                self.recorder.write(|history| {
                    history.steps.push(Step {
                        at,
                        took_ms,
                        event_id: format!("{aggregate_id}:{sequence}"),
                        aggregate_id: aggregate_id.clone(),
                        sequence,
                    });
                });
            }
        }
        Ok(())
    }

    /// Writes one event, in a transaction of its own.
    async fn commit(
        &self,
        outbox: &Outbox,
        aggregate_id: &str,
        sequence: u64,
    ) -> Result<(), NotWritten> {
        let not_written = |reason: String| NotWritten {
            aggregate_id: aggregate_id.to_owned(),
            sequence,
            reason,
        };
        let payload = json!({"step": sequence});
        let aggregate = Aggregate {
            kind: "chaos",
            id: aggregate_id,
        };
        let event = NewEvent::new(aggregate, sequence, "chaos.step", &payload)
            .map_err(|error| not_written(error.to_string()))?;
        let staged = outbox
            .stage_with_span(event)
            .map_err(|error| not_written(error.to_string()))?;
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let sent = self
                .clients
                .dynamodb
                .transact_write_items()
                .transact_items(staged.item.clone())
                .send()
                .instrument(staged.span.clone())
                .await;
            match sent {
                Ok(_) => {
                    staged.committed();
                    return Ok(());
                }
                // An earlier attempt took effect.
                Err(error) if already_exists(&error) => {
                    staged.committed();
                    return Ok(());
                }
                Err(error) => reason = DisplayErrorContext(&error).to_string(),
            }
            tokio::time::sleep(PAUSE).await;
        }
        staged.record_error("transaction");
        Err(not_written(reason))
    }
}

fn already_exists(error: &SdkError<TransactWriteItemsError>) -> bool {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .any(|reason| reason.code() == Some("ConditionalCheckFailed")),
        _ => false,
    }
}

/// Consumer of the events.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) queue_url: String,
    pub(super) recorder: Arc<Recorder>,
}

impl Consumer {
    /// Receives events until `stop`, which takes effect within one poll.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut polls = JoinSet::new();
        for _ in 0..CONSUMERS {
            polls.spawn(self.clone().poll(stop.clone()));
        }
        while polls.join_next().await.is_some() {}
    }

    async fn poll(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(reason) = self.round().await {
                tracing::warn!(
                    queue = self.queue_url,
                    reason,
                    "receiving events failed; retrying"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn round(&self) -> Result<(), String> {
        let answer = self
            .sqs
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(10)
            .wait_time_seconds(1)
            .send()
            .await
            .map_err(|error| DisplayErrorContext(&error).to_string())?;
        let messages = answer.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(());
        }
        let at = self.recorder.now();
        let ids = messages.iter().filter_map(|message| {
            let body: Value = serde_json::from_str(message.body.as_deref()?).ok()?;
            body["id"].as_str().map(str::to_owned)
        });
        // Recorded before the messages are deleted: the next events of these aggregates are
        // delivered only after that.
        self.recorder.write(|history| {
            history.deliveries.extend(ids.map(|event_id| Delivery {
                at,
                consumer: "chaos".to_owned(),
                event_id,
                injected: None,
            }));
        });
        let entries = messages.iter().enumerate().map(|(n, message)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(n.to_string())
                .receipt_handle(message.receipt_handle.as_deref().unwrap_or_default())
                .build()
                .expect("the id and the receipt handle are set")
        });
        self.sqs
            .delete_message_batch()
            .queue_url(&self.queue_url)
            .set_entries(Some(entries.collect()))
            .send()
            .await
            .map(drop)
            .map_err(|error| DisplayErrorContext(&error).to_string())
    }
}
