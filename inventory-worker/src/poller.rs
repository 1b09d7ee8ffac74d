//! Long polling: asks SQS for as many messages as there are free slots, and
//! gives each a task.
//!
//! # Stopping
//!
//! What SQS hands out into a closing connection stays hidden for its visibility
//! timeout, and has lost a receipt. So a running poll is given a moment before
//! it is dropped: when there are messages, its answer is on its way, and is
//! taken like any other; when there are none, nothing is lost by dropping it.
//! What is left is a message that arrives in the instant of the drop: it comes
//! back after its timeout. Waiting for the poll's end would only move that
//! instant, by up to twenty seconds in which the process takes on new work.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::aws::error::describe;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::concurrency::ConcurrencyLimit;
use crate::handler::Handler;
use crate::message::Delivery;
use crate::queue::Queue;
use crate::visibility;

/// The longest SQS takes: an idle worker asks three times a minute.
const WAIT: Duration = Duration::from_secs(20);

/// The wait, and what the clients allow any other request.
const POLL_TIMEOUT: Duration =
    Duration::from_secs(WAIT.as_secs() + shared::aws::ATTEMPT_TIMEOUT.as_secs());

/// SQS hands out ten at a time.
const MOST_MESSAGES: u32 = 10;

/// How long a running poll may still answer after the stop: some round trips.
const LAST_ANSWER: Duration = Duration::from_millis(250);

/// Between polls that failed, for as long as they do.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .without_max_times();

/// One polling loop.
#[derive(Clone, Debug)]
pub(crate) struct Poller {
    pub sqs: aws_sdk_sqs::Client,
    pub queue: Arc<Queue>,
    pub slots: ConcurrencyLimit,
    pub visibility_timeout: Duration,
    pub worker: Arc<Handler>,
    /// Owns the messages' tasks. One that panics frees its slot, and its
    /// message comes back.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Poller {
    /// Polls until stopped; no error ends it.
    pub(crate) async fn run(self) {
        let mut backoff = RETRY.build();
        while !self.stop.is_cancelled() {
            match self.round().await {
                Ok(()) => backoff = RETRY.build(),
                Err(reason) => {
                    tracing::warn!(
                        queue = self.queue.name(),
                        reason,
                        "messages could not be received, trying again"
                    );
                    let pause = backoff.next().unwrap_or_default();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn round(&self) -> Result<(), String> {
        let settler = &self.worker.settler;
        let ready = async {
            let slots = self.slots.reserve(MOST_MESSAGES).await;
            settler
                .gate
                .pass(&self.slots, &settler.tables, &settler.progress)
                .await;
            slots
        };
        let mut slots = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            slots = ready => slots,
        };
        // The poll after a failed one does not wait, so that `/readyz` says soon
        // whether it is over.
        let wait = if settler.progress.poll_failed() {
            Duration::ZERO
        } else {
            WAIT
        };
        let received = tokio::select! {
            received = self.receive(slots.count(), wait) => received,
            () = self.last_answer() => return Ok(()),
        };
        settler
            .progress
            .polled(received.as_ref().err().map(String::as_str));
        let (queue_url, messages) = received?;
        for message in messages {
            let Some(delivery) = Delivery::of(message, &queue_url) else {
                tracing::error!("SQS sent a message without id or receipt, it is ignored");
                continue;
            };
            // SQS never sends more than were asked for.
            let Some(slot) = slots.take() else { break };
            let worker = Arc::clone(&self.worker);
            self.tasks
                .spawn(async move { worker.handle(delivery, slot).await });
        }
        Ok(())
    }

    async fn last_answer(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWER).await;
    }

    async fn receive(
        &self,
        most: usize,
        wait: Duration,
    ) -> Result<(Arc<str>, Vec<Message>), String> {
        let queue_url = self.queue.url().await.map_err(|error| error.to_string())?;
        // The clients' timeout is for requests that do not wait on purpose, and
        // the loop above tries again by itself.
        let patient = aws_sdk_sqs::Config::builder()
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_attempt_timeout(POLL_TIMEOUT)
                    .build(),
            )
            .retry_config(RetryConfig::disabled());
        let answer = self
            .sqs
            .receive_message()
            .queue_url(&*queue_url)
            .max_number_of_messages(i32::try_from(most).unwrap_or(1))
            .wait_time_seconds(visibility::seconds(wait))
            .visibility_timeout(visibility::seconds(self.visibility_timeout))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .customize()
            .config_override(patient)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok((queue_url, answer.messages.unwrap_or_default())),
            Err(error) => {
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_queue_does_not_exist())
                {
                    self.queue.forget();
                }
                Err(describe(&error))
            }
        }
    }
}
