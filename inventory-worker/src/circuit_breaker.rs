//! Circuit breaker for DynamoDB. Polling pauses while it is open.
//!
//! Every receive counts towards the dead-letter queue, so a worker that continued to receive during
//! an outage would send healthy messages there (5 receives, each a visibility timeout long). While
//! the breaker is open, the messages in flight are retried, and the first request that succeeds
//! closes it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::runtime::health::Check;
use tokio::sync::watch;

use crate::concurrency::ConcurrencyLimit;
use crate::inventory_store::InventoryStore;
use crate::progress::Progress;

/// Pauses between probes of DynamoDB while no message is in flight. Short, because the worker is
/// idle meanwhile.
const PROBE: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();

/// State of the breaker, shared by everything that sends requests to DynamoDB.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    /// Reason for which the breaker is open; `None` while it is closed.
    open: watch::Sender<Option<String>>,
}

impl CircuitBreaker {
    /// Creates an open breaker. It closes with the first response of DynamoDB, so that a worker
    /// that is restarted during an outage receives no messages either.
    pub(crate) fn new() -> Self {
        Self {
            open: watch::Sender::new(Some("no response since the start".to_owned())),
        }
    }

    /// Closes the breaker: DynamoDB responded, with success or an error of its own.
    pub(crate) fn record_success(&self) {
        if self.set(None) {
            tracing::info!("DynamoDB is available; receiving messages");
        }
    }

    /// Opens the breaker: DynamoDB is unavailable.
    pub(crate) fn record_failure(&self, reason: &str) {
        if self.set(Some(reason)) {
            tracing::warn!(
                reason,
                "DynamoDB is unavailable; not receiving messages until it recovers"
            );
        }
    }

    /// Returns the check for `/readyz`, which fails while the breaker is open.
    pub(crate) fn check(&self) -> Check {
        match &*self.open.borrow() {
            None => Check::pass("receiving"),
            Some(reason) => Check::fail("receiving", format!("DynamoDB is unavailable: {reason}")),
        }
    }

    /// Waits until the breaker is closed, and probes the tables while no message is in flight.
    pub(crate) async fn wait_until_closed(
        &self,
        limit: &ConcurrencyLimit,
        store: &InventoryStore,
        progress: &Progress,
    ) {
        let mut open = self.open.subscribe();
        let mut backoff = PROBE.build();
        // Logged once, not at every probe.
        let mut logged = String::new();
        while open.borrow_and_update().is_some() {
            // The attempts of a message in flight are the better probe: a table can be described
            // while it rejects writes.
            if limit.is_idle() {
                let failed = store.check().await.into_iter().find(|check| !check.ok);
                progress.record();
                let Some(check) = failed else {
                    self.record_success();
                    return;
                };
                let reason = check.reason.unwrap_or_default();
                if reason != logged {
                    tracing::warn!(
                        reason,
                        "a table is unavailable; not receiving messages until it recovers"
                    );
                    logged = reason;
                }
            }
            let pause = backoff.next().unwrap_or(Duration::from_secs(2));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = open.changed() => {}
            }
        }
    }

    /// Returns `true` if the call opened or closed the breaker.
    fn set(&self, reason: Option<&str>) -> bool {
        self.open.send_if_modified(|open| {
            let changed = open.is_some() != reason.is_some();
            // The first reason is kept; later ones are consequences of the same outage.
            if changed {
                *open = reason.map(str::to_owned);
            }
            changed
        })
    }
}
