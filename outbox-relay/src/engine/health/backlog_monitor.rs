//! Counts the pending and quarantined events of the table for the gauges.

use std::sync::Arc;
use std::time::Duration;

use outbox::Buckets;
use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use super::status::{Counts, EngineStatus};
use crate::engine::EngineConfig;
use crate::policy::sweep_policy::pause_after;
use crate::ports::{OutboxTable, TableError};

pub(crate) struct BacklogMonitor {
    table: Arc<dyn OutboxTable>,
    buckets: Buckets,
    status: EngineStatus,
    /// Minimum pause between two counts.
    interval: Duration,
    clock: fn() -> Timestamp,
}

/// Removes the counts when the monitor ends, because another instance counts from then on.
struct ForgetOnDrop(EngineStatus);

impl Drop for ForgetOnDrop {
    fn drop(&mut self) {
        self.0.forget_counts();
    }
}

impl BacklogMonitor {
    pub(crate) fn new(
        table: Arc<dyn OutboxTable>,
        config: &EngineConfig,
        status: EngineStatus,
    ) -> Self {
        Self {
            table,
            buckets: config.buckets,
            status,
            interval: config.sweep_interval,
            clock: config.clock,
        }
    }

    /// Counts until dropped, at every interval or less often if the index is large.
    pub(crate) async fn run(self) {
        let _forget = ForgetOnDrop(self.status.clone());
        loop {
            let began = Instant::now();
            if let Err(error) = self.count().await {
                tracing::warn!(
                    %error,
                    "pending and quarantined events could not be counted; the gauges keep their last values"
                );
            }
            let pause = pause_after(began.elapsed()).max(self.interval);
            tokio::time::sleep(pause).await;
        }
    }

    async fn count(&self) -> Result<(), TableError> {
        let mut oldest: Option<Timestamp> = None;
        let mut is_any_pending = false;
        for bucket in 0..self.buckets.get() {
            let page = self.table.pending(bucket, None).await?;
            is_any_pending |= !page.entries.is_empty();
            // The index is sorted by the text of the time, so an unreadable time may come first.
            let times = page.entries.iter().filter_map(|entry| entry.occurred_at);
            oldest = times.chain(oldest).min();
        }
        let count = if is_any_pending {
            self.table.count_pending().await?
        } else {
            0
        };
        let counts = Counts {
            pending: count,
            oldest_pending: oldest,
            failed: self.table.count_failed().await?,
        };
        self.status.record_counts(counts, (self.clock)());
        Ok(())
    }
}
