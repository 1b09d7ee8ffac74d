//! Deletes messages whose effect is durable, up to ten in a request.
//!
//! A failed delete only causes a repeat: the message is redelivered, and its order turns out to be
//! processed already. So a delete is retried a bounded number of times.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::aws::error::describe;
use shared::runtime::denials::Denials;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::concurrency::ConcurrencyLimit;
use crate::message::Delivery;
use crate::visibility::Hidden;

/// The most entries that SQS accepts in one request.
const MAX_BATCH: usize = 10;

/// Batching delay: how long the first delete waits for others to fill the request, while other
/// messages are in flight. Far below any visibility timeout, and about the duration of a
/// transaction.
const LINGER: Duration = Duration::from_millis(5);

/// Requests in flight at most: enough that a slow one does not delay the others.
const MAX_REQUESTS: usize = 4;

/// Pauses between attempts, about six seconds in all.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(6);

/// A message to delete. All messages of a worker are of one queue.
#[derive(Debug)]
pub(crate) struct DeleteRequest {
    queue_url: Arc<str>,
    receipt_handle: String,
    message_id: String,
    /// Keeps the message hidden until it is deleted.
    _hidden: Hidden,
}

impl DeleteRequest {
    pub(crate) fn new(delivery: Delivery, hidden: Hidden) -> Self {
        Self {
            queue_url: delivery.queue_url,
            receipt_handle: delivery.receipt_handle,
            message_id: delivery.message_id,
            _hidden: hidden,
        }
    }
}

/// Deletes the messages from `deletes` until the channel is closed and empty.
pub(crate) async fn run(
    sqs: Client,
    mut deletes: mpsc::Receiver<DeleteRequest>,
    limit: ConcurrencyLimit,
    denials: Arc<Denials>,
) {
    let mut requests = JoinSet::new();
    while let Some(first) = deletes.recv().await {
        let batch = collect(first, &mut deletes, &limit).await;
        while requests.len() >= MAX_REQUESTS {
            requests.join_next().await;
        }
        while requests.try_join_next().is_some() {}
        requests.spawn(delete(sqs.clone(), batch, Arc::clone(&denials)));
    }
    while requests.join_next().await.is_some() {}
}

/// Collects a batch: `first`, those that are in the channel, and those that arrive within
/// [`LINGER`]. Returns at once while no message is in flight, as no other delete can arrive.
async fn collect(
    first: DeleteRequest,
    deletes: &mut mpsc::Receiver<DeleteRequest>,
    limit: &ConcurrencyLimit,
) -> Vec<DeleteRequest> {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    batch.push(first);
    let mut linger = std::pin::pin!(tokio::time::sleep(LINGER));
    while batch.len() < MAX_BATCH {
        if let Ok(next) = deletes.try_recv() {
            batch.push(next);
            continue;
        }
        if limit.is_idle() {
            break;
        }
        tokio::select! {
            next = deletes.recv() => match next {
                Some(next) => batch.push(next),
                None => break,
            },
            () = &mut linger => break,
        }
    }
    batch
}

/// Deletes a batch, with retries.
async fn delete(sqs: Client, batch: Vec<DeleteRequest>, denials: Arc<Denials>) {
    let mut remaining = batch;
    let mut pauses = RETRY.build();
    loop {
        remaining = attempt(&sqs, remaining, &denials).await;
        if remaining.is_empty() {
            return;
        }
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => break,
        }
    }
    for request in remaining {
        tracing::warn!(
            message_id = request.message_id,
            "delete failed; the message will be redelivered as a duplicate"
        );
    }
}

/// Sends one request. Returns the messages to retry.
async fn attempt(
    sqs: &Client,
    mut batch: Vec<DeleteRequest>,
    denials: &Denials,
) -> Vec<DeleteRequest> {
    let Some(queue_url) = batch.first().map(|first| Arc::clone(&first.queue_url)) else {
        return batch;
    };
    let entries = batch.iter().enumerate().map(|(n, request)| {
        DeleteMessageBatchRequestEntry::builder()
            .id(n.to_string())
            .receipt_handle(&request.receipt_handle)
            .build()
            .expect("id and receipt handle are set")
    });
    let response = sqs
        .delete_message_batch()
        .queue_url(&*queue_url)
        .set_entries(Some(entries.collect()))
        .send()
        .await;
    let failed = match response {
        Ok(response) => response.failed,
        Err(error) => {
            denials.record("DeleteMessageBatch", &error);
            tracing::debug!(
                messages = batch.len(),
                reason = describe(&error),
                "delete request failed; retrying"
            );
            return batch;
        }
    };
    let mut n = 0_usize;
    batch.retain(|request| {
        let id = n.to_string();
        n += 1;
        let Some(entry) = failed.iter().find(|entry| entry.id == id) else {
            return false;
        };
        if entry.sender_fault {
            // The receipt handle has expired: the message was delivered again meanwhile.
            tracing::warn!(
                message_id = request.message_id,
                reason = entry.code,
                "delete failed; the message will be redelivered as a duplicate"
            );
        }
        !entry.sender_fault
    });
    batch
}
