//! Extends and ends the visibility timeout of the messages that the worker holds, up to ten in a
//! request.
//!
//! None of this is needed for correctness: a message that becomes visible too early is handled
//! twice, and the second time its order is processed already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::ChangeMessageVisibilityBatchRequestEntry;
use futures::StreamExt;
use shared::aws::error::describe;
use shared::runtime::denials::Denials;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::Delivery;

/// Extensions per timeout: two may fail before another worker receives the message.
const EXTENSIONS_PER_TIMEOUT: u32 = 3;

/// Rounds per extension. In each, the messages that are due before the next round are extended
/// together, so that requests are full while many messages are held.
const ROUNDS_PER_EXTENSION: u32 = 4;

/// The most entries that SQS accepts in one request.
const MAX_BATCH: usize = 10;

/// Requests in flight at most: enough that a slow one does not delay the others.
const MAX_REQUESTS: usize = 8;

/// Time limit for a request. It is shorter while timeouts are.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(2);

/// The messages that the worker holds.
#[derive(Debug)]
pub(crate) struct VisibilityExtender {
    sqs: Client,
    denials: Arc<Denials>,
    timeout: Duration,
    held: Mutex<Held>,
    /// Notified when a message is to be released.
    released: Notify,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    messages: BTreeMap<u64, Message>,
}

#[derive(Clone, Debug)]
struct Message {
    queue_url: Arc<str>,
    receipt_handle: String,
    message_id: String,
    /// Time at which its timeout is extended next.
    due: Instant,
    /// It is to be visible again at once, and not held any longer.
    is_released: bool,
}

/// A message whose visibility timeout is extended until this is dropped.
#[derive(Debug)]
pub(crate) struct Hidden {
    number: u64,
    extender: Arc<VisibilityExtender>,
}

impl VisibilityExtender {
    pub(crate) fn new(sqs: Client, timeout: Duration, denials: Arc<Denials>) -> Self {
        Self {
            sqs,
            denials,
            timeout,
            held: Mutex::default(),
            released: Notify::new(),
        }
    }

    /// Extends the timeout of a message that was received just now, from now on.
    pub(crate) fn hide(self: &Arc<Self>, delivery: &Delivery) -> Hidden {
        let message = Message {
            queue_url: Arc::clone(&delivery.queue_url),
            receipt_handle: delivery.receipt_handle.clone(),
            message_id: delivery.message_id.clone(),
            due: Instant::now() + self.interval(),
            is_released: false,
        };
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        held.messages.insert(number, message);
        Hidden {
            number,
            extender: Arc::clone(self),
        }
    }

    /// Extends and releases messages until `stop` is cancelled, and then once more.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut round = tokio::time::interval(self.interval() / ROUNDS_PER_EXTENSION);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                _ = round.tick() => false,
                () = self.released.notified() => false,
                () = stop.cancelled() => true,
            };
            self.change_due(Instant::now() + round.period()).await;
            if is_last {
                return;
            }
        }
    }

    fn interval(&self) -> Duration {
        self.timeout / EXTENSIONS_PER_TIMEOUT
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic in another task leaves whole entries.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the changes that are due until `before`.
    async fn change_due(&self, before: Instant) {
        let due: Vec<(u64, Message)> = {
            let mut held = self.held();
            let due = held.messages.iter_mut();
            let due = due.filter(|(_, message)| message.is_released || message.due <= before);
            due.map(|(number, message)| {
                message.due = Instant::now() + self.interval();
                (*number, message.clone())
            })
            .collect()
        };
        let batches: Vec<_> = due.chunks(MAX_BATCH).map(<[_]>::to_vec).collect();
        futures::stream::iter(batches)
            .for_each_concurrent(MAX_REQUESTS, |batch| self.change(batch))
            .await;
    }

    /// Sends one request. All messages of a worker are of one queue.
    async fn change(&self, batch: Vec<(u64, Message)>) {
        let Some((_, first)) = batch.first() else {
            return;
        };
        let entries = batch.iter().map(|(number, message)| {
            let timeout = match message.is_released {
                true => Duration::ZERO,
                false => self.timeout,
            };
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(number.to_string())
                .receipt_handle(&message.receipt_handle)
                .visibility_timeout(seconds(timeout))
                .build()
                .expect("id and receipt handle are set")
        });
        let request = self
            .sqs
            .change_message_visibility_batch()
            .queue_url(&*first.queue_url)
            .set_entries(Some(entries.collect()))
            .send();
        let time_limit = MAX_REQUEST_TIME.min(self.interval());
        let failed = match tokio::time::timeout(time_limit, request).await {
            Ok(Ok(response)) => response.failed,
            Ok(Err(error)) => {
                self.denials.record("ChangeMessageVisibilityBatch", &error);
                return self.request_failed(&batch, &describe(&error));
            }
            Err(_) => return self.request_failed(&batch, "the request timed out"),
        };
        for (number, message) in &batch {
            let id = number.to_string();
            let failed = failed.iter().find(|entry| entry.id == id);
            if let Some(entry) = failed {
                tracing::warn!(
                    message_id = message.message_id,
                    reason = entry.code,
                    "visibility timeout not changed; the message may be delivered twice"
                );
            }
            // An expired receipt handle stays expired.
            if message.is_released || failed.is_some_and(|entry| entry.sender_fault) {
                self.held().messages.remove(number);
            }
        }
    }

    /// Lets the next round send the changes again.
    fn request_failed(&self, batch: &[(u64, Message)], reason: &str) {
        tracing::warn!(
            messages = batch.len(),
            reason,
            "visibility timeouts not changed; the messages may be delivered twice, or later than \
             necessary"
        );
        let mut held = self.held();
        for (number, _) in batch {
            if let Some(message) = held.messages.get_mut(number) {
                message.due = Instant::now();
            }
        }
    }
}

impl Hidden {
    /// Makes the message visible again at once.
    pub(crate) fn release(self) {
        if let Some(message) = self.extender.held().messages.get_mut(&self.number) {
            message.is_released = true;
        }
        self.extender.released.notify_one();
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let mut held = self.extender.held();
        // A released message is kept until SQS has confirmed its new timeout.
        if held
            .messages
            .get(&self.number)
            .is_some_and(|message| !message.is_released)
        {
            held.messages.remove(&self.number);
        }
    }
}

/// Returns whole seconds, as SQS counts them; 12 hours are far from this type's end.
pub(crate) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
