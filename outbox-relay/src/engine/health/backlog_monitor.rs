//! Counts the pending and quarantined events of the table for the gauges.

use std::sync::Arc;
use std::time::Duration;

use outbox::Buckets;
use outbox::timestamp::Timestamp;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::status::EngineStatus;
use crate::ports::{OutboxTable, TableError};

pub(crate) struct BacklogMonitor {
    pub(crate) table: Arc<dyn OutboxTable>,
    pub(crate) buckets: Buckets,
    pub(crate) status: EngineStatus,
    /// Pause between two counts.
    pub(crate) interval: Duration,
    pub(crate) clock: fn() -> Timestamp,
}

impl BacklogMonitor {
    /// Counts at every interval until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                counted = self.count() => if let Err(error) = counted {
                    tracing::warn!(
                        %error,
                        "pending and quarantined events could not be counted; the gauges keep their last values"
                    );
                }
            }
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
        self.status.record_pending(count, oldest, (self.clock)());
        self.status.record_failed(self.table.count_failed().await?);
        Ok(())
    }
}
