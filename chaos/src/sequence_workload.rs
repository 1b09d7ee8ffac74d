//! A second kind of writer, which puts aggregates with many events straight
//! into the outbox, as any program may; and the consumer of their queue. Orders
//! have one event each, so only these can show that order is kept.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use outbox::{NewEvent, Outbox};
use serde_json::{Value, json};
use shared::aws::Clients;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::history::{Delivery, Step};
use super::recorder::Recorder;

/// Aggregates that are written to at the same time.
const WRITERS: u32 = 8;

/// The longest an aggregate becomes, in events.
const MAX_STEPS: u64 = 30;

/// Attempts to write one event. Nothing stands between writer and service, so
/// these are not about injected faults.
const ATTEMPTS: u32 = 5;

/// Between attempts, and between two polls that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Polls at once: each hands over ten messages at most.
const CONSUMERS: usize = 4;

/// Writes events until it is told to stop.
#[derive(Clone, Debug)]
pub(super) struct SequenceWorkload {
    pub(super) clients: Clients,
    pub(super) outbox_table: String,
    pub(super) recorder: Arc<Recorder>,
    pub(super) seed: u64,
}

/// An event could not be written, so the order of its aggregate is over.
#[derive(Debug, thiserror::Error)]
#[error("event {aggregate_id}:{sequence} could not be written: {reason}")]
pub struct NotWritten {
    aggregate_id: String,
    sequence: u64,
    reason: String,
}

impl SequenceWorkload {
    /// Writes about `rate` events a second.
    ///
    /// # Errors
    /// When the service does not take one, which cancels `stop`: there is no
    /// use in going on.
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
                    // The others note what they have written.
                    written = written.and(Err(error));
                }
                Err(error) => tracing::error!(%error, "a writer of events failed"),
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
                // Some follow each other as fast as they can be written.
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
        let event = NewEvent::new("chaos", aggregate_id, sequence, "chaos.step", &payload)
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
                Ok(_) => return Ok(()),
                // An earlier attempt took effect.
                Err(error) if is_there(&error) => return Ok(()),
                Err(error) => reason = DisplayErrorContext(&error).to_string(),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(not_written(reason))
    }
}

fn is_there(error: &SdkError<TransactWriteItemsError>) -> bool {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .any(|reason| reason.code() == Some("ConditionalCheckFailed")),
        _ => false,
    }
}

/// Takes events from their queue.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) queue_url: String,
    pub(super) recorder: Arc<Recorder>,
}

impl Consumer {
    /// Takes what comes until `stop`, which ends it within a poll.
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
                tracing::warn!(queue = self.queue_url, reason, "events could not be taken");
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
        // Noted before they are deleted: the next events of these aggregates
        // are handed out after that.
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
                .expect("id and receipt are set")
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
