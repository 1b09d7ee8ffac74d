//! The way from a reader or the sweeper to the publisher: what is known of
//! events, room for them, and handing them over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outbox::Status as EventStatus;
use outbox::item::attribute;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::engine::EngineConfig;
use crate::engine::health::status::Status;
use crate::engine::health::table_health::TableUse;
use crate::engine::publish::publisher::Work;
use crate::engine::shard_state::{Ack, HeldShard};
use crate::policy::backoff;
use crate::policy::checkpoint_tracker::RecordNumber;
use crate::policy::record_classifier::{Classified, Event, Rejected, classify};
use crate::policy::sequence_tracker::Succession;
use crate::ports::{Change, EventKey, Item, OutboxTable, SequenceNumber, TableError};

/// DynamoDB: keys a `BatchGetItem`.
const MAX_LOOK_UP: usize = 100;

/// What a buffered event takes besides its message: its ids, and its place in
/// maps and lists.
pub(crate) const EVENT_OVERHEAD: usize = 1024;

pub(crate) struct Outlet {
    pub(crate) outbox: Arc<dyn OutboxTable>,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) status: Status,
    pub(crate) shard: Arc<HeldShard>,
    pub(crate) work: mpsc::UnboundedSender<Work>,
    /// Room for buffered events, in KiB.
    pub(crate) room: Arc<Semaphore>,
    /// Room for pages of records, for all shards together.
    pub(crate) pages: Arc<Semaphore>,
}

/// Where an event was read; `None` when it was found in the table.
pub(crate) type ReadAt = Option<(RecordNumber, SequenceNumber)>;

/// What the table says of some events.
pub(crate) struct States(HashMap<EventKey, Option<EventStatus>>);

impl States {
    /// Published, quarantined or given up.
    pub(crate) fn is_settled(&self, key: &EventKey) -> bool {
        matches!(
            self.0.get(key),
            Some(Some(
                EventStatus::Published | EventStatus::Failed | EventStatus::Discarded
            ))
        )
    }

    /// Published, and so is everything before it.
    pub(crate) fn is_published(&self, key: &EventKey) -> bool {
        self.0.get(key) == Some(&Some(EventStatus::Published))
    }

    /// LeaseRequests about and not pending. It may be quarantined or gone while events
    /// before it are pending.
    pub(crate) fn is_not_pending(&self, key: &EventKey) -> bool {
        self.0
            .get(key)
            .is_some_and(|state| *state != Some(EventStatus::Pending))
    }

    pub(crate) fn is_pending(&self, key: &EventKey) -> bool {
        self.0.get(key) == Some(&Some(EventStatus::Pending))
    }
}

/// The event before `event` in its aggregate.
pub(crate) fn predecessor(event: &Event) -> EventKey {
    EventKey {
        aggregate_id: event.key.aggregate_id.clone(),
        sequence: event.sequence.saturating_sub(1).to_string(),
    }
}

impl Outlet {
    /// Asks until there is an answer.
    pub(crate) async fn states(
        &self,
        keys: BTreeSet<EventKey>,
        random: &mut fastrand::Rng,
    ) -> States {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut known = HashMap::new();
        for keys in keys.chunks(MAX_LOOK_UP) {
            let states = self
                .patiently(TableUse::LookUp, random, || self.outbox.statuses(keys))
                .await;
            known.extend(keys.iter().cloned().zip(states));
        }
        States(known)
    }

    /// Waits for room and hands the event over. Room is taken for one event at
    /// a time: nobody waits for room while keeping some.
    pub(crate) async fn publish(&self, event: Arc<Event>, at: ReadAt) {
        let ack = self.ack(&event.key, event.message.size(), at).await;
        self.hand_over(Work::Publish { event, ack });
    }

    /// The same for an event that can never be sent.
    pub(crate) async fn reject(&self, rejected: Rejected, at: ReadAt) {
        let ack = self.ack(&rejected.key, 0, at).await;
        self.hand_over(Work::Quarantine { rejected, ack });
    }

    /// Publishes, from the table, the pending events before `event` that were
    /// not handed over. Returns how many there were.
    pub(crate) async fn publish_earlier(
        &self,
        event: &Event,
        succession: &mut Succession,
        random: &mut fastrand::Rng,
    ) -> usize {
        let id = &event.key.aggregate_id;
        let last = event.sequence.saturating_sub(1);
        let mut first = 0;
        let mut count = 0;
        // There may be more of them than one answer holds.
        while first <= last {
            let with_publisher = self.shard.found_of(id);
            let items = self
                .patiently(TableUse::FindPending, random, || {
                    self.outbox.pending_between(id, first, last)
                })
                .await;
            let Some(reached) = items.last().and_then(sequence_of) else {
                break;
            };
            first = reached.saturating_add(1);
            for item in items {
                match classify(Change::Insert(item), &self.config.routes) {
                    Classified::Skip(_) => {}
                    Classified::Reject(rejected) if with_publisher.contains(&rejected.key) => {}
                    Classified::Reject(rejected) => {
                        self.reject(rejected, None).await;
                        count += 1;
                    }
                    // Those handed over a moment ago are pending, too.
                    Classified::Event(earlier) if succession.is_repeat(id, earlier.sequence) => {}
                    Classified::Event(earlier) if with_publisher.contains(&earlier.key) => {
                        succession.handed_over(id, earlier.sequence);
                    }
                    Classified::Event(earlier) => {
                        succession.handed_over(id, earlier.sequence);
                        self.publish(earlier, None).await;
                        count += 1;
                    }
                }
            }
        }
        count
    }

    async fn ack(&self, key: &EventKey, bytes: usize, at: ReadAt) -> Ack {
        let kib = (bytes + EVENT_OVERHEAD)
            .div_ceil(1024)
            .min(self.config.buffer_kib);
        let room = self
            .take(&self.room, u32::try_from(kib).unwrap_or(u32::MAX))
            .await;
        Ack::new(&self.shard, key, at, room)
    }

    /// Waits until one more page may be read; it counts until this is dropped.
    pub(crate) async fn page_room(&self) -> OwnedSemaphorePermit {
        self.take(&self.pages, 1).await
    }

    /// Health must not blame the shard for having to wait here.
    async fn take(&self, room: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
        if let Ok(taken) = Arc::clone(room).try_acquire_many_owned(count) {
            return taken;
        }
        let _waiting = self.status.waits_for_room(&self.shard.id);
        let taken = Arc::clone(room).acquire_many_owned(count).await;
        taken.expect("the semaphore is never closed")
    }

    /// Asks the table again and again until it answers. Health shows it.
    pub(crate) async fn patiently<T, F>(
        &self,
        table_use: TableUse,
        random: &mut fastrand::Rng,
        mut ask: impl FnMut() -> F,
    ) -> T
    where
        F: Future<Output = Result<T, TableError>>,
    {
        let mut trouble = self.status.trouble(table_use);
        let mut failures = 0;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    failures += 1;
                    trouble.because(error.to_string(), Instant::now());
                    tracing::warn!(%error, failures, "the outbox table could not be asked; trying again");
                    tokio::time::sleep(backoff::delay(failures, random.f64())).await;
                }
            }
        }
    }

    fn hand_over(&self, work: Work) {
        // The publisher ends before its readers only when all are stopping.
        let _ = self.work.send(work);
    }
}

fn sequence_of(item: &Item) -> Option<u64> {
    item.get(attribute::SEQUENCE)?.as_n().ok()?.parse().ok()
}
