//! Deletes messages whose effect is durable, up to ten in a request.
//!
//! A delete that fails costs nothing but a repeat: the message comes back and is
//! found to be a duplicate. So it is tried a bounded number of times.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::aws::error::describe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::concurrency::ConcurrencyLimit;
use crate::message::Delivery;

/// SQS takes ten in a request.
const BATCH: usize = 10;

/// How long the first delete of a batch waits for company while other messages
/// are being worked on. Far below any visibility timeout, and about what a
/// transaction takes.
const LINGER: Duration = Duration::from_millis(5);

/// Requests at once: enough that a slow one holds up no others.
const REQUESTS: usize = 4;

/// Some six seconds in all.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(6);

/// A message that is done with. All of a worker's are of one queue.
#[derive(Debug)]
pub(crate) struct DeleteRequest {
    queue_url: Arc<str>,
    receipt_handle: String,
    message_id: String,
}

impl From<Delivery> for DeleteRequest {
    fn from(delivery: Delivery) -> Self {
        Self {
            queue_url: delivery.queue_url,
            receipt_handle: delivery.receipt_handle,
            message_id: delivery.message_id,
        }
    }
}

/// Deletes what comes out of `done` until it is closed and empty.
pub(crate) async fn run(
    sqs: Client,
    mut done: mpsc::Receiver<DeleteRequest>,
    slots: ConcurrencyLimit,
) {
    let mut requests = JoinSet::new();
    while let Some(first) = done.recv().await {
        let batch = collect(first, &mut done, &slots).await;
        while requests.len() >= REQUESTS {
            requests.join_next().await;
        }
        while requests.try_join_next().is_some() {}
        requests.spawn(delete(sqs.clone(), batch));
    }
    while requests.join_next().await.is_some() {}
}

/// `first` and what else is there, or comes soon. Does not wait for company
/// that cannot come: when idle, a delete leaves at once.
async fn collect(
    first: DeleteRequest,
    done: &mut mpsc::Receiver<DeleteRequest>,
    slots: &ConcurrencyLimit,
) -> Vec<DeleteRequest> {
    let mut batch = Vec::with_capacity(BATCH);
    batch.push(first);
    let mut linger = std::pin::pin!(tokio::time::sleep(LINGER));
    while batch.len() < BATCH {
        if let Ok(next) = done.try_recv() {
            batch.push(next);
            continue;
        }
        if slots.idle() {
            break;
        }
        tokio::select! {
            next = done.recv() => match next {
                Some(next) => batch.push(next),
                None => break,
            },
            () = &mut linger => break,
        }
    }
    batch
}

async fn delete(sqs: Client, batch: Vec<DeleteRequest>) {
    let mut left = batch;
    let mut pauses = RETRY.build();
    loop {
        left = attempt(&sqs, left).await;
        if left.is_empty() {
            return;
        }
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => break,
        }
    }
    for done in left {
        tracing::warn!(
            message_id = done.message_id,
            "a message could not be deleted, it is delivered again and found to be a duplicate"
        );
    }
}

/// One request; returns what is worth another.
async fn attempt(sqs: &Client, mut batch: Vec<DeleteRequest>) -> Vec<DeleteRequest> {
    let Some(queue_url) = batch.first().map(|done| Arc::clone(&done.queue_url)) else {
        return batch;
    };
    let entries = batch.iter().enumerate().map(|(n, done)| {
        DeleteMessageBatchRequestEntry::builder()
            .id(n.to_string())
            .receipt_handle(&done.receipt_handle)
            .build()
            .expect("id and receipt are set")
    });
    let answer = sqs
        .delete_message_batch()
        .queue_url(&*queue_url)
        .set_entries(Some(entries.collect()))
        .send()
        .await;
    let failed = match answer {
        Ok(answer) => answer.failed,
        Err(error) => {
            tracing::debug!(
                messages = batch.len(),
                reason = describe(&error),
                "messages are deleted again"
            );
            return batch;
        }
    };
    let mut n = 0_usize;
    batch.retain(|done| {
        let id = n.to_string();
        n += 1;
        let Some(entry) = failed.iter().find(|entry| entry.id == id) else {
            return false;
        };
        if entry.sender_fault {
            // Its receipt has run out: it is somebody else's by now.
            tracing::warn!(
                message_id = done.message_id,
                reason = entry.code,
                "a message could not be deleted, it is delivered again and found to be a duplicate"
            );
        }
        !entry.sender_fault
    });
    batch
}
