//! Memory budget for pages and for events between reading and marking (the "bounded memory" rule).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::health::status::EngineStatus;
use crate::ports::{Page, ShardId};

/// Size of a buffered event apart from its message, in bytes: its ids, and its entries in maps and
/// queues.
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// Size of a record apart from what the service counts, in bytes: its maps and strings.
const RECORD_OVERHEAD: usize = 1024;

/// Budget for the pages of all shards together, in KiB. A shard with a backlog uses up to three of
/// up to 2 MiB each; a shard that keeps up, as many KiB as it receives in one interval.
const PAGES_KIB: u32 = 16 * 1024;

/// Size of a page of unknown size, in KiB: a read returns up to 1 MB and up to 1,000 records.
const MAX_PAGE_KIB: u32 = 2 * 1024;

/// Maximum number of requests in flight of all shards together: reads of the stream, and requests
/// to the outbox table other than writes. Each takes a connection and its buffers. 500 idle shards
/// that are read every 200 ms have 40 reads of 15 ms in flight.
const MAX_READS: usize = 64;
const MAX_LOOK_UPS: usize = 32;

/// Maximum time for which an event of the table waits for the budget. It stays pending in the
/// table, and the sweeper continues with events of other queues.
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
    // One permit for each KiB. Pages have a budget of their own, since a page is held until its
    // events have permits.
    events: Arc<Semaphore>,
    /// The same for events that sweepers read, so that a backlog in the table leaves half of the
    /// budget to the stream.
    swept_events: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    // One permit for each request.
    reads: Arc<Semaphore>,
    look_ups: Arc<Semaphore>,
    total_kib: usize,
}

impl BufferBudget {
    pub(crate) fn new(total_kib: usize) -> Self {
        Self {
            events: Arc::new(Semaphore::new(total_kib)),
            swept_events: Arc::new(Semaphore::new(total_kib / 2)),
            pages: Arc::new(Semaphore::new(PAGES_KIB as usize)),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            look_ups: Arc::new(Semaphore::new(MAX_LOOK_UPS)),
            total_kib,
        }
    }

    /// Returns the fraction of each budget that is in use, from 0 to 1.
    pub(crate) fn utilization(&self) -> [(&'static str, f64); 4] {
        [
            ("events", &self.events, self.total_kib),
            ("pages", &self.pages, PAGES_KIB as usize),
            ("reads", &self.reads, MAX_READS),
            ("look_ups", &self.look_ups, MAX_LOOK_UPS),
        ]
        .map(|(name, semaphore, total)| {
            let free = semaphore.available_permits() as f64 / total.max(1) as f64;
            (name, 1.0 - free)
        })
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

    /// Waits until the stream may be read. The permit must be dropped with the response.
    pub(crate) async fn reserve_read(&self) -> SemaphorePermit<'_> {
        self.reads.acquire().await.expect(NEVER_CLOSED)
    }

    /// Waits until the outbox table may be read. The permit must be dropped with the response.
    pub(crate) async fn reserve_look_up(&self) -> SemaphorePermit<'_> {
        self.look_ups.acquire().await.expect(NEVER_CLOSED)
    }

    /// Waits until a page of `shard` of any size fits the budget. The reservation ends when the
    /// returned permit is dropped.
    pub(crate) async fn reserve_largest_page(
        &self,
        shard: &ShardId,
        status: &EngineStatus,
    ) -> OwnedSemaphorePermit {
        reserve(&self.pages, MAX_PAGE_KIB, shard, status).await
    }

    /// Waits until `page` of `shard` fits the budget, unless it has the reservation `permit`, which
    /// is reduced to its size.
    pub(crate) async fn reserve_page(
        &self,
        page: &Page,
        permit: Option<OwnedSemaphorePermit>,
        shard: &ShardId,
        status: &EngineStatus,
    ) -> OwnedSemaphorePermit {
        let kib = kib(page.bytes + page.records.len() * RECORD_OVERHEAD).min(MAX_PAGE_KIB);
        match permit {
            Some(mut permit) => {
                let excess = permit.num_permits().saturating_sub(kib as usize);
                drop(permit.split(excess));
                permit
            }
            None => reserve(&self.pages, kib, shard, status).await,
        }
    }
}

const NEVER_CLOSED: &str = "the semaphore is never closed";

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Returns the part of the budget that an event takes, at most `max_kib`.
fn event_kib(message_bytes: usize, max_kib: usize) -> u32 {
    kib((message_bytes + EVENT_OVERHEAD).min(max_kib * 1024))
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
    use outbox::timestamp::Timestamp;

    use super::*;
    use crate::ports::{Change, Record, SequenceNumber};

    fn page(records: usize, bytes: usize) -> Page {
        let record = Record {
            sequence_number: SequenceNumber("1".into()),
            created_at: Some(Timestamp::from_millis(0)),
            change: Change::Other,
        };
        Page {
            records: vec![record; records],
            bytes,
            ..Page::default()
        }
    }

    #[tokio::test]
    async fn a_page_takes_its_size_from_the_budget() {
        const PAGES: usize = PAGES_KIB as usize;
        let status = EngineStatus::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let budget = BufferBudget::new(8);
        let small = page(1, 500);
        let mut held = Vec::new();
        for _ in 0..500 {
            held.push(budget.reserve_page(&small, None, &shard, &status).await);
        }
        assert_eq!(budget.pages.available_permits(), PAGES - 500 * 2);
        let largest = budget.reserve_largest_page(&shard, &status).await;
        assert_eq!(largest.num_permits(), MAX_PAGE_KIB as usize);
        held.push(
            budget
                .reserve_page(&small, Some(largest), &shard, &status)
                .await,
        );
        assert_eq!(budget.pages.available_permits(), PAGES - 501 * 2);
        held.clear();
        assert_eq!(budget.pages.available_permits(), PAGES);
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_the_table_leave_half_of_the_budget_to_the_stream() {
        let budget = BufferBudget::new(8);
        let mut swept = Vec::new();
        while let Some(reservation) = budget.reserve_swept(1).await {
            swept.push(reservation);
        }
        assert_eq!(swept.len(), 2);
        assert_eq!(budget.utilization()[0], ("events", 0.5));
        swept.pop();
        assert!(budget.reserve_swept(1).await.is_some());
    }
}
