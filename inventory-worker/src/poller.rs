//! Long polling: requests as many messages from SQS as there are permits, and hands those of one
//! response to the handler together.
//!
//! # Stopping
//!
//! A message that SQS delivers into a closing connection stays hidden for its visibility timeout,
//! and has used one of its receives. So a running poll is given a moment before it is dropped: if
//! there are messages, the response is on its way and is handled like any other; if there are none,
//! dropping the poll loses nothing. What remains is a message that arrives in the instant of the
//! drop: it is redelivered after its timeout. Waiting for the poll's end would only move that
//! instant, by up to twenty seconds in which the process accepts new work.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::aws::error::{ErrorClass, classify, describe};
use tokio_util::sync::CancellationToken;

use crate::concurrency::ConcurrencyLimit;
use crate::handler::Handler;
use crate::message::Delivery;
use crate::queue::Queue;
use crate::visibility;

/// The longest wait that SQS accepts: an idle worker sends three requests a minute.
const WAIT: Duration = Duration::from_secs(20);

/// The wait, plus the time that the clients allow any other request.
const POLL_TIMEOUT: Duration =
    Duration::from_secs(WAIT.as_secs() + shared::aws::ATTEMPT_TIMEOUT.as_secs());

/// The most messages that SQS returns to one request.
const MAX_MESSAGES: u32 = 10;

/// Time limit for a running poll to respond after the stop: some round trips.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// Pauses between polls while they fail.
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
    pub limit: ConcurrencyLimit,
    pub visibility_timeout: Duration,
    pub handler: Arc<Handler>,
    pub stop: CancellationToken,
}

impl Poller {
    /// Polls until stopped; no error ends the loop.
    pub(crate) async fn run(self) {
        let mut backoff = RETRY.build();
        while !self.stop.is_cancelled() {
            match self.poll().await {
                Ok(()) => backoff = RETRY.build(),
                Err(reason) => {
                    let pause = backoff.next().unwrap_or_default();
                    tracing::warn!(
                        queue = self.queue.name(),
                        reason,
                        "receive failed; retrying in {} ms",
                        pause.as_millis()
                    );
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Waits for permits and for DynamoDB, receives once, and hands over the messages.
    async fn poll(&self) -> Result<(), String> {
        let processor = &self.handler.processor;
        let ready = async {
            let reservation = self.limit.reserve(MAX_MESSAGES).await;
            processor.breaker.wait_until_closed().await;
            reservation
        };
        let mut reservation = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            reservation = ready => reservation,
        };
        // The poll after a failed one does not wait, so that `/readyz` soon shows whether the
        // failure is over.
        let wait = if processor.progress.poll_failed() {
            Duration::ZERO
        } else {
            WAIT
        };
        let received = tokio::select! {
            received = self.receive(reservation.count(), wait) => received,
            () = self.last_response_timeout() => return Ok(()),
        };
        processor
            .progress
            .record_poll(received.as_ref().err().map(String::as_str));
        let (queue_url, messages) = received?;
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(delivery) = Delivery::of(message, &queue_url) else {
                tracing::error!("SQS returned a message without id or receipt handle; ignoring it");
                continue;
            };
            // SQS never returns more messages than were requested.
            let Some(permit) = reservation.split_permit() else {
                break;
            };
            deliveries.push((delivery, permit));
        }
        self.handler.receive(deliveries);
        Ok(())
    }

    async fn last_response_timeout(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_RESPONSE_TIMEOUT).await;
    }

    async fn receive(
        &self,
        max_messages: usize,
        wait: Duration,
    ) -> Result<(Arc<str>, Vec<Message>), String> {
        let queue_url = self.queue.url().await.map_err(|error| error.to_string())?;
        // The clients' timeout is for requests that do not wait on purpose, and `run` retries.
        let long_polling = aws_sdk_sqs::Config::builder()
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_attempt_timeout(POLL_TIMEOUT)
                    .build(),
            )
            .retry_config(RetryConfig::disabled());
        let response = self
            .sqs
            .receive_message()
            .queue_url(&*queue_url)
            .max_number_of_messages(i32::try_from(max_messages).unwrap_or(1))
            .wait_time_seconds(visibility::seconds(wait))
            .visibility_timeout(visibility::seconds(self.visibility_timeout))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .customize()
            .config_override(long_polling)
            .send()
            .await;
        match response {
            Ok(response) => Ok((queue_url, response.messages.unwrap_or_default())),
            Err(error) => {
                if classify(&error) == ErrorClass::NotFound {
                    self.queue.forget_url();
                }
                Err(describe(&error))
            }
        }
    }
}
