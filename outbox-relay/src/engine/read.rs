//! Reads one shard: rules 5, 6, 7 and 11.
//!
//! Two futures run side by side: `fetch` asks the stream and keeps one page
//! ahead; `feed` turns pages into work for the publisher and waits for room.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use shared::outbox::Status as EventStatus;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::held::{Ack, HeldShard};
use super::publish::Work;
use super::{EngineConfig, Status};
use crate::decide::backoff;
use crate::decide::catch_up::CatchUp;
use crate::decide::classify::{Classified, Event, classify};
use crate::decide::progress::RecordNumber;
use crate::metrics::RelayMetrics;
use crate::ports::{Cursor, EventKey, Page, Ports, Position, SequenceNumber, StreamError};

/// The first pause after an empty read; it doubles up to `poll_max`.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// DynamoDB: keys a `BatchGetItem`.
const MAX_LOOK_UP: usize = 100;

/// What a buffered event takes besides its message: its ids, and its place in
/// maps and lists.
const EVENT_OVERHEAD: usize = 1024;

pub(crate) struct Reader {
    pub(crate) ports: Ports,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) metrics: RelayMetrics,
    pub(crate) status: Status,
    pub(crate) stream: Arc<str>,
    pub(crate) shard: Arc<HeldShard>,
    pub(crate) work: mpsc::UnboundedSender<Work>,
    /// Room for buffered events, in KiB.
    pub(crate) room: Arc<Semaphore>,
}

impl Reader {
    /// Reads from `checkpoint` on. Returns at the end of a closed shard;
    /// dropping it stops it at any point without harm.
    pub(crate) async fn run(&self, checkpoint: Option<SequenceNumber>, mut random: fastrand::Rng) {
        // One page waits here while another is being fed.
        let (pages, fetched) = mpsc::channel(1);
        let fetch = self.fetch(checkpoint, pages, random.fork());
        let feed = self.feed(fetched, random);
        tokio::join!(fetch, feed);
    }

    async fn fetch(
        &self,
        checkpoint: Option<SequenceNumber>,
        pages: mpsc::Sender<Page>,
        mut random: fastrand::Rng,
    ) {
        let mut position = checkpoint.map_or(Position::TrimHorizon, Position::After);
        let mut cursor = None;
        let mut pause = FIRST_PAUSE;
        let mut failures = 0;
        loop {
            let page = match self.next_page(&position, &mut cursor).await {
                Ok(page) => page,
                Err(error) => {
                    cursor = None;
                    match error {
                        StreamError::Expired => {}
                        StreamError::Trimmed => {
                            self.gap(&position);
                            position = Position::TrimHorizon;
                        }
                        StreamError::NotFound(_) | StreamError::Unavailable(_) => {
                            failures += 1;
                            tracing::warn!(shard = %self.shard.id, %error, failures, "the shard could not be read; trying again");
                            wait(failures, &mut random).await;
                        }
                    }
                    continue;
                }
            };
            failures = 0;
            self.status.read(&self.shard.id, Instant::now());
            if let Some(last) = page.records.last() {
                position = Position::After(last.sequence_number.clone());
            }
            let empty = page.records.is_empty();
            let ended = cursor.is_none();
            if pages.send(page).await.is_err() || ended {
                return;
            }
            if empty {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(self.config.poll_max);
            } else {
                pause = FIRST_PAUSE.min(self.config.poll_max);
            }
        }
    }

    /// One read; `cursor` is `None` after it when the shard has ended.
    async fn next_page(
        &self,
        position: &Position,
        cursor: &mut Option<Cursor>,
    ) -> Result<Page, StreamError> {
        let at = match cursor.take() {
            Some(cursor) => cursor,
            None => {
                self.ports
                    .stream
                    .cursor(&self.stream, &self.shard.id, position)
                    .await?
            }
        };
        let page = self.ports.stream.read(&at).await?;
        cursor.clone_from(&page.next);
        Ok(page)
    }

    /// Rule 7: never silent.
    fn gap(&self, position: &Position) {
        self.metrics.gap();
        let after = match position {
            Position::TrimHorizon => "the start".to_owned(),
            Position::After(position) => position.to_string(),
        };
        tracing::error!(
            shard = %self.shard.id,
            after,
            until = "the oldest record that is left",
            "stream gap: records were trimmed before they were read; pending events among them are still in the table"
        );
    }

    async fn feed(&self, mut pages: mpsc::Receiver<Page>, mut random: fastrand::Rng) {
        let mut catch_up = CatchUp::new((self.config.clock)(), self.config.lease_duration);
        let mut held_back = Vec::new();
        while let Some(page) = pages.recv().await {
            if page.records.is_empty() {
                catch_up.reached_tip();
            }
            let mut events = std::mem::take(&mut held_back);
            let mut skipped = BTreeMap::new();
            for record in page.records {
                match classify(record.change, &self.config.routes) {
                    Classified::Skip(reason) => {
                        self.shard.progress().skipped(record.sequence_number);
                        *skipped.entry(reason).or_default() += 1;
                    }
                    Classified::Event(event) => {
                        let read = ReadEvent {
                            number: self.shard.progress().event(record.sequence_number.clone()),
                            position: record.sequence_number,
                            look_up: catch_up.must_look_up(record.created_at),
                            event,
                        };
                        // Two events of one transaction can stand in the
                        // stream in either order, also on two pages. One more
                        // read tells whether an earlier event follows.
                        if read.event.sequence > 1 {
                            held_back.push(read);
                        } else {
                            events.push(read);
                        }
                    }
                    Classified::Reject(rejected) => {
                        let number = self.shard.progress().event(record.sequence_number.clone());
                        let ack = self.ack(number, record.sequence_number, 0).await;
                        self.hand_over(Work::Quarantine { rejected, ack });
                    }
                }
            }
            for (reason, count) in skipped {
                self.metrics.skipped(reason, count);
            }
            self.publish(events, &mut random).await;
        }
        self.publish(held_back, &mut random).await;
    }

    /// Hands events over, those of one aggregate in the order of `sequence`.
    async fn publish(&self, mut events: Vec<ReadEvent>, random: &mut fastrand::Rng) {
        events.sort_by_key(|read| read.event.sequence);
        let suspects = events
            .iter()
            .filter(|read| read.look_up)
            .map(|read| read.event.key.clone())
            .collect::<Vec<_>>();
        let settled = self.settled(&suspects, random).await;
        for read in events {
            if settled.contains(&read.event.key) {
                self.shard.progress().done(read.number);
            } else {
                // Room is taken for one event at a time and the event handed
                // over at once: nobody waits for room while keeping some.
                let size = read.event.message.size();
                let ack = self.ack(read.number, read.position, size).await;
                let event = read.event;
                self.hand_over(Work::Publish { event, ack });
            }
        }
        if !settled.is_empty() {
            let count = settled.len();
            self.metrics.skipped("already_settled", count as u64);
            tracing::info!(
                shard = %self.shard.id,
                count,
                "events past the checkpoint were published by an earlier owner; skipped"
            );
        }
    }

    /// Waits for room.
    async fn ack(&self, number: RecordNumber, position: SequenceNumber, bytes: usize) -> Ack {
        let kib = (bytes + EVENT_OVERHEAD)
            .div_ceil(1024)
            .min(self.config.buffer_kib);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX))
            .await
            .expect("the semaphore is never closed");
        Ack {
            shard: Arc::clone(&self.shard),
            number,
            position,
            _room: room,
        }
    }

    /// Those of `keys` that are published or quarantined already.
    async fn settled(&self, keys: &[EventKey], random: &mut fastrand::Rng) -> HashSet<EventKey> {
        let mut settled = HashSet::new();
        for keys in keys.chunks(MAX_LOOK_UP) {
            let mut failures = 0;
            let states = loop {
                match self.ports.outbox.states(keys).await {
                    Ok(states) => break states,
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(%error, failures, "event states could not be looked up; trying again");
                        wait(failures, random).await;
                    }
                }
            };
            let done = |state: &Option<EventStatus>| {
                matches!(state, Some(EventStatus::Published | EventStatus::Failed))
            };
            settled.extend(
                keys.iter()
                    .zip(states)
                    .filter(|(_, state)| done(state))
                    .map(|(key, _)| key.clone()),
            );
        }
        settled
    }

    fn hand_over(&self, work: Work) {
        // The publisher ends before its readers only when all are stopping.
        let _ = self.work.send(work);
    }
}

struct ReadEvent {
    event: Arc<Event>,
    number: RecordNumber,
    position: SequenceNumber,
    look_up: bool,
}

async fn wait(failures: u32, random: &mut fastrand::Rng) {
    tokio::time::sleep(backoff::delay(failures, random.f64())).await;
}
