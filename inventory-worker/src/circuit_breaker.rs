//! Whether DynamoDB is there. While it is not, nothing is received.
//!
//! Every receipt counts towards the dead-letter queue, so a worker that went on
//! receiving during an outage would send healthy messages there (5 receipts,
//! each a visibility timeout long). Closed, the gate costs nothing: the messages
//! in hand stay in hand, are tried again, and the first that gets through opens
//! it for all.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::runtime::health::Check;
use tokio::sync::watch;

use crate::concurrency::ConcurrencyLimit;
use crate::health::Progress;
use crate::inventory_store::InventoryStore;

/// Between questions to DynamoDB while no message is in hand to ask with.
/// Short, because nothing at all is done meanwhile.
const PROBE: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();

/// Shared by everything that asks DynamoDB.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    /// Why it is closed; `None` when it is open.
    closed: watch::Sender<Option<String>>,
}

impl CircuitBreaker {
    /// Closed until DynamoDB has answered once, so that a worker that is
    /// restarted during an outage takes no messages either.
    pub(crate) fn new() -> Self {
        Self {
            closed: watch::Sender::new(Some("no answer since the start".to_owned())),
        }
    }

    /// DynamoDB answered, whatever it said.
    pub(crate) fn answered(&self) {
        if self.set(None) {
            tracing::info!("DynamoDB answers, messages are received");
        }
    }

    /// DynamoDB did not answer.
    pub(crate) fn unanswered(&self, reason: &str) {
        if self.set(Some(reason)) {
            tracing::warn!(
                reason,
                "DynamoDB does not answer, no messages are received until it does"
            );
        }
    }

    /// Whether messages may be received, for `/readyz`.
    pub(crate) fn check(&self) -> Check {
        match &*self.closed.borrow() {
            None => Check::pass("receiving"),
            Some(reason) => Check::fail("receiving", format!("DynamoDB does not answer: {reason}")),
        }
    }

    /// Returns once messages may be received.
    pub(crate) async fn pass(
        &self,
        slots: &ConcurrencyLimit,
        tables: &InventoryStore,
        progress: &Progress,
    ) {
        let mut closed = self.closed.subscribe();
        let mut backoff = PROBE.build();
        // Said once, not at every probe.
        let mut said = String::new();
        while closed.borrow_and_update().is_some() {
            // With a message in hand its own attempts are the better question:
            // a table can be described while it takes no writes.
            if slots.idle() {
                let failed = tables.check().await.into_iter().find(|check| !check.ok);
                progress.made();
                let Some(check) = failed else {
                    self.answered();
                    return;
                };
                let reason = check.reason.unwrap_or_default();
                if reason != said {
                    tracing::warn!(
                        reason,
                        "a table cannot be used, no messages are received until it can"
                    );
                    said = reason;
                }
            }
            let pause = backoff.next().unwrap_or(Duration::from_secs(2));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = closed.changed() => {}
            }
        }
    }

    /// Whether that opened or closed it.
    fn set(&self, reason: Option<&str>) -> bool {
        self.closed.send_if_modified(|closed| {
            let changed = closed.is_some() != reason.is_some();
            // The first reason is kept: those after it are no news.
            if changed {
                *closed = reason.map(str::to_owned);
            }
            changed
        })
    }
}
