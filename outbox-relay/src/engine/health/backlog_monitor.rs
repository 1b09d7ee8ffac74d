//! Counts what waits in the table, for the gauges.

use outbox::item::{PENDING_BUCKETS, attribute};
use outbox::timestamp::Timestamp;
use tokio::time::MissedTickBehavior;

use crate::engine::leases::shard_consumer::Surroundings;
use crate::ports::TableError;

/// Counts the pending and the quarantined events of the table from time to
/// time, for the gauges.
pub(crate) async fn run(around: Surroundings) {
    let mut turns = tokio::time::interval(around.config.sweep_interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return,
            counted = count(&around) => if let Err(error) = counted {
                tracing::warn!(%error, "pending and quarantined events could not be counted");
            }
        }
    }
}

async fn count(around: &Surroundings) -> Result<(), TableError> {
    let outbox = &around.ports.outbox;
    let mut oldest: Option<Timestamp> = None;
    let mut is_any_pending = false;
    for bucket in 0..PENDING_BUCKETS {
        let page = outbox.pending(bucket, None).await?;
        is_any_pending |= !page.items.is_empty();
        // A time that cannot be read is published as it is: it may come first.
        let times = page
            .items
            .iter()
            .filter_map(|item| item.get(attribute::OCCURRED_AT)?.as_s().ok()?.parse().ok());
        oldest = times.chain(oldest).min();
    }
    let count = if is_any_pending {
        outbox.count_pending().await?
    } else {
        0
    };
    around.status.pending(count, oldest);
    around.status.failed(outbox.count_failed().await?);
    Ok(())
}
