//! Reads one shard: rules 5, 6, 7 and 11.
//!
//! Two futures run side by side: `fetch` asks the stream and keeps one page
//! ahead; `feed` turns pages into work for the publisher and waits for room.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use shared::outbox::Status as EventStatus;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::held::{Ack, HeldShard};
use super::publish::Work;
use super::{EngineConfig, Status};
use crate::decide::backoff;
use crate::decide::catch_up::CatchUp;
use crate::decide::classify::{Classified, Event, classify};
use crate::decide::progress::RecordNumber;
use crate::decide::succession::Succession;
use crate::metrics::RelayMetrics;
use crate::ports::{Cursor, EventKey, Page, Ports, Position, SequenceNumber, StreamError};

/// The first pause after an empty read; it doubles up to `poll_max`.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// DynamoDB: keys a `BatchGetItem`.
const MAX_LOOK_UP: usize = 100;

/// What a buffered event takes besides its message: its ids, and its place in
/// maps and lists.
const EVENT_OVERHEAD: usize = 1024;

/// How long an event waits for one before it that is pending and has not been
/// read: at least this long, and for this many reads, as time alone proves
/// nothing after a pause of the process.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_READS: u32 = 20;

/// Events of a shard that wait like this; more are not worth their memory.
const MAX_WAITING: usize = 5_000;

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
            if let Err(TrySendError::Full(page)) = pages.try_send(page) {
                let waits = |waits| {
                    self.status
                        .waits_for_room(&self.shard.id, waits, Instant::now());
                };
                waits(true);
                let _ = pages.send(page).await;
                waits(false);
            }
            if ended {
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
        let mut succession = Succession::default();
        let mut events = Vec::new();
        while let Some(page) = pages.recv().await {
            if page.records.is_empty() {
                catch_up.reached_tip();
            }
            let mut skipped = BTreeMap::new();
            for record in page.records {
                match classify(record.change, &self.config.routes) {
                    Classified::Skip(reason) => {
                        self.shard.progress().skipped(record.sequence_number);
                        *skipped.entry(reason).or_default() += 1;
                    }
                    Classified::Event(event) => events.push(ReadEvent {
                        number: self.shard.progress().event(record.sequence_number.clone()),
                        position: record.sequence_number,
                        look_up: catch_up.must_look_up(record.created_at),
                        event,
                        since: Instant::now(),
                        reads: 0,
                    }),
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
            events = self.publish(events, &mut succession, &mut random).await;
        }
        while !events.is_empty() {
            tokio::time::sleep(self.config.poll_max).await;
            events = self.publish(events, &mut succession, &mut random).await;
        }
    }

    /// Hands events over, those of one aggregate in the order of `sequence`,
    /// and returns those whose turn has not come.
    async fn publish(
        &self,
        mut events: Vec<ReadEvent>,
        succession: &mut Succession,
        random: &mut fastrand::Rng,
    ) -> Vec<ReadEvent> {
        events.sort_by_key(|read| read.event.sequence);
        let states = self.states(questions(&events, succession), random).await;
        let too_many = events.len() > MAX_WAITING;
        let mut waiting = Vec::new();
        let mut settled = 0;
        for mut read in events {
            let key = &read.event.key;
            let follows = succession.follows(&key.aggregate_id, read.event.sequence)
                || states
                    .get(&read.predecessor())
                    .is_some_and(|state| *state != Some(EventStatus::Pending));
            if !follows {
                read.reads += 1;
                let patience = read.reads < PATIENCE_READS || read.since.elapsed() < PATIENCE;
                if patience && !too_many {
                    waiting.push(read);
                    continue;
                }
                tracing::warn!(
                    shard = %self.shard.id,
                    event_id = read.event.event_id,
                    "the event before this one is pending but not in the stream; published without it"
                );
            }
            succession.handed_over(&key.aggregate_id, read.event.sequence);
            let done = Some(&Some(EventStatus::Published));
            let failed = Some(&Some(EventStatus::Failed));
            let state = states.get(key);
            if read.look_up && (state == done || state == failed) {
                settled += 1;
                self.shard.progress().done(read.number);
                continue;
            }
            // Room is taken for one event at a time and the event handed over
            // at once: nobody waits for room while keeping some.
            let size = read.event.message.size();
            let ack = self.ack(read.number, read.position, size).await;
            let event = read.event;
            self.hand_over(Work::Publish { event, ack });
        }
        if settled > 0 {
            self.metrics.skipped("already_settled", settled);
            tracing::info!(
                shard = %self.shard.id,
                count = settled,
                "events past the checkpoint were published by an earlier owner; skipped"
            );
        }
        waiting
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

    /// What the table says of `keys`.
    async fn states(
        &self,
        keys: BTreeSet<EventKey>,
        random: &mut fastrand::Rng,
    ) -> HashMap<EventKey, Option<EventStatus>> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut known = HashMap::new();
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
            known.extend(keys.iter().cloned().zip(states));
        }
        known
    }

    fn hand_over(&self, work: Work) {
        // The publisher ends before its readers only when all are stopping.
        let _ = self.work.send(work);
    }
}

/// An event that was read and not handed over yet.
struct ReadEvent {
    event: Arc<Event>,
    number: RecordNumber,
    position: SequenceNumber,
    look_up: bool,
    since: Instant,
    /// Reads it has waited for.
    reads: u32,
}

impl ReadEvent {
    /// The event before it in its aggregate.
    fn predecessor(&self) -> EventKey {
        EventKey {
            aggregate_id: self.event.key.aggregate_id.clone(),
            sequence: self.event.sequence.saturating_sub(1).to_string(),
        }
    }
}

/// Which events to ask the table about: those that an earlier owner may have
/// published, and predecessors that are neither known nor among `events`.
fn questions(events: &[ReadEvent], succession: &Succession) -> BTreeSet<EventKey> {
    let coming: HashSet<_> = events
        .iter()
        .map(|read| (&read.event.key.aggregate_id, read.event.sequence))
        .collect();
    let mut keys = BTreeSet::new();
    for read in events {
        let (id, sequence) = (&read.event.key.aggregate_id, read.event.sequence);
        if read.look_up {
            keys.insert(read.event.key.clone());
        }
        if !succession.follows(id, sequence) && !coming.contains(&(id, sequence - 1)) {
            keys.insert(read.predecessor());
        }
    }
    keys
}

async fn wait(failures: u32, random: &mut fastrand::Rng) {
    tokio::time::sleep(backoff::delay(failures, random.f64())).await;
}
