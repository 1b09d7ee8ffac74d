//! Memory budget for pages and for events between reading and marking (the "bounded memory" rule).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::health::status::EngineStatus;
use crate::ports::ShardId;

/// Size of a buffered event apart from its message, in bytes: its ids, and its entries in maps and
/// queues.
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// Maximum number of pages of all shards together that are being read or processed; each is up to
/// 1 MB on the wire. A busy shard uses three. An idle shard holds none between its reads, so this
/// number is enough for hundreds of shards.
const MAX_PAGES: usize = 16;

/// Maximum time for which an event of the table waits for the budget. The table keeps it, and other
/// queues may have room.
const MAX_TABLE_WAIT: Duration = Duration::from_secs(1);

/// Reservation for one event. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct EventReservation {
    _budget: OwnedSemaphorePermit,
    _table_budget: Option<OwnedSemaphorePermit>,
}

/// Budget of one instance. Every task reserves for one event or page at a time and never waits
/// while it holds another reservation that has not been passed on, so tasks cannot deadlock.
#[derive(Clone, Debug)]
pub(crate) struct BufferBudget {
    /// One permit for each KiB.
    events: Arc<Semaphore>,
    /// The same for events that sweepers read, so that a backlog in the table leaves half of the
    /// budget to the stream.
    swept_events: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    total_kib: usize,
}

impl BufferBudget {
    pub(crate) fn new(total_kib: usize) -> Self {
        Self {
            events: Arc::new(Semaphore::new(total_kib)),
            swept_events: Arc::new(Semaphore::new(total_kib / 2)),
            pages: Arc::new(Semaphore::new(MAX_PAGES)),
            total_kib,
        }
    }

    /// Waits until an event of `shard` with a message of `message_bytes` fits the budget.
    pub(crate) async fn reserve_event(
        &self,
        message_bytes: usize,
        shard: &ShardId,
        status: &EngineStatus,
    ) -> EventReservation {
        let kib = event_kib(message_bytes, self.total_kib);
        EventReservation {
            _budget: reserve(&self.events, kib, shard, status).await,
            _table_budget: None,
        }
    }

    /// Waits until an event that a sweeper read fits the budget, or returns `None` if it does not
    /// within [`MAX_TABLE_WAIT`].
    pub(crate) async fn reserve_swept(&self, message_bytes: usize) -> Option<EventReservation> {
        let kib = event_kib(message_bytes, self.total_kib / 2);
        let reserve = async {
            let table_budget = Arc::clone(&self.swept_events).acquire_many_owned(kib).await;
            let budget = Arc::clone(&self.events).acquire_many_owned(kib).await;
            EventReservation {
                _budget: budget.expect(NEVER_CLOSED),
                _table_budget: Some(table_budget.expect(NEVER_CLOSED)),
            }
        };
        timeout(MAX_TABLE_WAIT, reserve).await.ok()
    }

    /// Waits until one more page of `shard` may be read. The reservation ends when the returned
    /// permit is dropped.
    pub(crate) async fn reserve_page(
        &self,
        shard: &ShardId,
        status: &EngineStatus,
    ) -> OwnedSemaphorePermit {
        reserve(&self.pages, 1, shard, status).await
    }
}

const NEVER_CLOSED: &str = "the semaphore is never closed";

/// Returns the part of the budget that an event takes, at most `max_kib`.
fn event_kib(message_bytes: usize, max_kib: usize) -> u32 {
    let kib = (message_bytes + EVENT_OVERHEAD).div_ceil(1024);
    u32::try_from(kib.min(max_kib)).unwrap_or(u32::MAX)
}

/// Time spent waiting for the budget must not count as a stalled shard, so the wait is reported to
/// `status`.
async fn reserve(
    semaphore: &Arc<Semaphore>,
    permits: u32,
    shard: &ShardId,
    status: &EngineStatus,
) -> OwnedSemaphorePermit {
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_many_owned(permits) {
        return permit;
    }
    let _wait = status.wait_for_budget(shard);
    let permit = Arc::clone(semaphore).acquire_many_owned(permits).await;
    permit.expect(NEVER_CLOSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_of_the_table_leave_half_of_the_budget_to_the_stream() {
        let budget = BufferBudget::new(8);
        let mut swept = Vec::new();
        while let Some(reservation) = budget.reserve_swept(1).await {
            swept.push(reservation);
        }
        assert_eq!(swept.len(), 2);
        assert_eq!(budget.events.available_permits(), 4);
        swept.pop();
        assert!(budget.reserve_swept(1).await.is_some());
    }
}
