//! Memory budget for pages and for events between reading and marking (the "bounded memory" rule).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::status::EngineStatus;
use crate::ports::ShardId;

/// Size of a buffered event apart from its message, in bytes: its ids, and its entries in maps and
/// queues.
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// Maximum number of pages of all shards together that are being read or processed; each is up to
/// 1 MB on the wire. A busy shard uses three. An idle shard holds none between its reads, so this
/// number is enough for hundreds of shards.
const MAX_PAGES: usize = 16;

/// Budget of one instance. Every task reserves for one event or page at a time and never waits
/// while it holds another reservation that has not been passed on, so tasks cannot deadlock.
#[derive(Clone, Debug)]
pub(crate) struct BufferBudget {
    /// One permit for each KiB.
    events: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    total_kib: usize,
}

impl BufferBudget {
    pub(crate) fn new(total_kib: usize) -> Self {
        Self {
            events: Arc::new(Semaphore::new(total_kib)),
            pages: Arc::new(Semaphore::new(MAX_PAGES)),
            total_kib,
        }
    }

    /// Waits until an event of `shard` with a message of `message_bytes` fits the budget. The
    /// reservation ends when the returned permit is dropped.
    pub(crate) async fn reserve_event(
        &self,
        message_bytes: usize,
        shard: &ShardId,
        status: &EngineStatus,
    ) -> OwnedSemaphorePermit {
        let kib = (message_bytes + EVENT_OVERHEAD)
            .div_ceil(1024)
            .min(self.total_kib);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        reserve(&self.events, kib, shard, status).await
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
    permit.expect("the semaphore is never closed")
}
