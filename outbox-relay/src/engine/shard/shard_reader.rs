//! Reads one shard: rules 5, 6, 7 and 11.
//!
//! Two futures run side by side: `fetch` asks the stream and keeps one page
//! ahead; `feed` turns pages into work for the publisher and waits for room.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::engine::leases::shard_consumer::Surroundings;
use crate::engine::publish::dispatcher::{EVENT_OVERHEAD, Outlet, predecessor};
use crate::policy::backoff;
use crate::policy::checkpoint_tracker::RecordNumber;
use crate::policy::record_classifier::{Classified, Event, classify};
use crate::policy::sequence_tracker::Succession;
use crate::policy::takeover_dedup::CatchUp;
use crate::ports::{EventKey, Page, Position, SequenceNumber, ShardIterator, StreamError};

/// The first pause after an empty read; it doubles up to `poll_max`.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// So many empty reads in a row are the tip: the service may return an empty
/// page in the middle of a shard, but hardly that often.
const TIP_READS: u32 = 5;

/// How long an event waits for one before it that is pending and has not been
/// read: at least this long, and for this many reads, as time alone proves
/// nothing after a pause of the process.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_READS: u32 = 20;

pub(crate) struct Reader {
    pub(crate) around: Surroundings,
    pub(crate) outlet: Outlet,
}

impl Reader {
    /// Reads from `checkpoint` on. Returns at the end of a closed shard;
    /// dropping it stops it at any point without harm.
    pub(crate) async fn run(&self, checkpoint: Option<SequenceNumber>, mut random: fastrand::Rng) {
        // One page waits here while another is being fed.
        let (pages, fetched) = mpsc::channel(1);
        let fetching = random.fork();
        let fetch = async {
            self.fetch(checkpoint, pages, fetching).await;
            self.around.status.read_to_end(&self.outlet.shard.id);
        };
        let feed = self.feed(fetched, random);
        tokio::join!(fetch, feed);
    }

    async fn fetch(
        &self,
        checkpoint: Option<SequenceNumber>,
        pages: mpsc::Sender<ReadPage>,
        mut random: fastrand::Rng,
    ) {
        let mut position = checkpoint.map_or(Position::TrimHorizon, Position::After);
        let mut cursor = None;
        let mut pause = FIRST_PAUSE;
        let mut failures = 0;
        let mut in_gap = false;
        let mut missing = None;
        loop {
            let room = self.outlet.page_room().await;
            let began = (self.around.config.clock)();
            let page = match self.next_page(&position, &mut cursor).await {
                Ok(page) => page,
                Err(error) => {
                    cursor = None;
                    drop(room);
                    failures += 1;
                    match error {
                        StreamError::Expired => {}
                        StreamError::Trimmed => {
                            // What is trimmed while it is looked for belongs
                            // to the same gap.
                            if !in_gap {
                                self.gap(&position, "the oldest record that is left").await;
                            }
                            in_gap = true;
                            position = Position::TrimHorizon;
                        }
                        StreamError::NotFound(_) if self.is_gone(&mut missing) => {
                            self.gap(&position, "the end of the shard").await;
                            return;
                        }
                        StreamError::NotFound(_) | StreamError::Unavailable(_) => {
                            tracing::warn!(shard = %self.outlet.shard.id, %error, failures, "the shard could not be read; trying again");
                        }
                    }
                    wait(failures, &mut random).await;
                    continue;
                }
            };
            in_gap = false;
            failures = 0;
            missing = None;
            self.around
                .status
                .read(&self.outlet.shard.id, Instant::now());
            if let Some(last) = page.records.last() {
                position = Position::After(last.sequence_number.clone());
            }
            let empty = page.records.is_empty();
            let ended = cursor.is_none();
            let room = (!empty).then_some(room);
            let _ = pages.send(ReadPage { page, began, room }).await;
            if ended {
                return;
            }
            if empty {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(self.around.config.poll_max);
            } else {
                pause = FIRST_PAUSE.min(self.around.config.poll_max);
            }
        }
    }

    /// One read; `cursor` is `None` after it when the shard has ended.
    async fn next_page(
        &self,
        position: &Position,
        cursor: &mut Option<ShardIterator>,
    ) -> Result<Page, StreamError> {
        let at = match cursor.take() {
            Some(cursor) => cursor,
            None => {
                self.around
                    .ports
                    .stream
                    .shard_iterator(&self.around.stream, &self.outlet.shard.id, position)
                    .await?
            }
        };
        let page = self.around.ports.stream.read(&at).await?;
        cursor.clone_from(&page.next);
        Ok(page)
    }

    async fn gap(&self, position: &Position, until: &str) {
        let after = match position {
            Position::TrimHorizon => None,
            Position::After(position) => Some(position),
        };
        self.around.gap(&self.outlet.shard.id, after, until).await;
    }

    /// Whether the shard, which is not found, is not listed either: it was
    /// trimmed away. `missing` is since when it is not found.
    fn is_gone(&self, missing: &mut Option<Instant>) -> bool {
        let since = *missing.get_or_insert_with(Instant::now);
        self.around.is_gone(&self.outlet.shard.id, since)
    }

    async fn feed(&self, mut pages: mpsc::Receiver<ReadPage>, mut random: fastrand::Rng) {
        let mut catch_up = CatchUp::new(
            (self.around.config.clock)(),
            self.around.config.lease_duration,
            self.around.config.in_hand(),
        );
        let mut succession = Succession::default();
        let mut events = Vec::new();
        let mut empty_reads = 0;
        while let Some(ReadPage { page, began, room }) = pages.recv().await {
            let shard = &self.outlet.shard;
            if page.records.is_empty() {
                catch_up.reached_tip();
                empty_reads += 1;
            } else {
                empty_reads = 0;
            }
            let mut skipped = BTreeMap::new();
            for record in page.records {
                let (position, made_at) = (record.sequence_number, record.created_at);
                match classify(record.change, &self.around.config.routes) {
                    Classified::Skip(reason) => {
                        shard.progress().skipped(position, made_at);
                        *skipped.entry(reason).or_default() += 1;
                    }
                    Classified::Event(event) => events.push(ReadEvent {
                        number: shard.progress().event(position.clone(), made_at),
                        position,
                        look_up: catch_up.must_look_up(made_at),
                        event,
                        since: Instant::now(),
                        reads: 0,
                    }),
                    Classified::Reject(rejected) => {
                        let number = shard.progress().event(position.clone(), made_at);
                        self.outlet.reject(rejected, Some((number, position))).await;
                    }
                }
            }
            for (reason, count) in skipped {
                self.around.metrics.skipped(reason, count);
            }
            if empty_reads >= TIP_READS {
                shard.progress().nothing_left(began);
            }
            let looked_up = events
                .iter()
                .filter(|read| read.look_up && read.reads == 0)
                .count();
            let (rest, settled) = self.publish(events, &mut succession, &mut random).await;
            drop(room);
            catch_up.found_pending(looked_up.saturating_sub(settled));
            events = rest;
        }
        while !events.is_empty() {
            tokio::time::sleep(self.around.config.poll_max).await;
            (events, _) = self.publish(events, &mut succession, &mut random).await;
        }
    }

    /// Hands events over, those of one aggregate in the order of `sequence`,
    /// and returns those whose turn has not come, and how many were settled
    /// already.
    async fn publish(
        &self,
        mut events: Vec<ReadEvent>,
        succession: &mut Succession,
        random: &mut fastrand::Rng,
    ) -> (Vec<ReadEvent>, usize) {
        events.sort_by_key(|read| read.event.sequence);
        let questions = questions(&events, succession);
        let states = self.outlet.states(questions, random).await;
        let around = &self.around;
        let waiting_room = around.config.waiting_bytes() / around.status.shards_held().max(1);
        let mut waiting_bytes = 0;
        let mut waiting = Vec::new();
        let mut settled = 0;
        for mut read in events {
            let key = &read.event.key;
            let (id, sequence) = (&key.aggregate_id, read.event.sequence);
            let before = predecessor(&read.event);
            let follows = succession.follows(id, sequence) || states.is_published(&before);
            if !follows && !states.is_not_pending(&before) {
                read.reads += 1;
                waiting_bytes += read.event.message.size() + EVENT_OVERHEAD;
                let patient = read.reads < PATIENCE_READS || read.since.elapsed() < PATIENCE;
                if patient && waiting_bytes <= waiting_room {
                    waiting.push(read);
                    continue;
                }
            }
            if !follows {
                let count = self
                    .outlet
                    .publish_earlier(&read.event, succession, random)
                    .await;
                if count > 0 {
                    tracing::warn!(
                        shard = %self.outlet.shard.id,
                        event_id = read.event.event_id,
                        count,
                        "events before this one were pending and not read; published from the table"
                    );
                }
            }
            let asked = read.look_up || succession.is_repeat(id, sequence);
            succession.handed_over(id, sequence);
            if asked && states.is_settled(key) {
                settled += 1;
                self.outlet.shard.progress().done(read.number);
                continue;
            }
            let at = Some((read.number, read.position));
            self.outlet.publish(read.event, at).await;
        }
        if settled > 0 {
            self.around
                .metrics
                .skipped("already_settled", settled as u64);
            tracing::info!(
                shard = %self.outlet.shard.id,
                count = settled,
                "events that were published already are skipped"
            );
        }
        (waiting, settled)
    }
}

/// A page, and when the read of it began.
struct ReadPage {
    page: Page,
    began: Timestamp,
    /// Of a page with records, until they are handed over.
    room: Option<OwnedSemaphorePermit>,
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

/// Which events to ask the table about: those that an earlier owner may have
/// published, those that come again, and predecessors that are neither known
/// nor among `events`.
fn questions(events: &[ReadEvent], succession: &Succession) -> BTreeSet<EventKey> {
    let coming: HashSet<_> = events
        .iter()
        .map(|read| (&read.event.key.aggregate_id, read.event.sequence))
        .collect();
    let mut keys = BTreeSet::new();
    for read in events {
        let (id, sequence) = (&read.event.key.aggregate_id, read.event.sequence);
        if read.look_up || succession.is_repeat(id, sequence) {
            keys.insert(read.event.key.clone());
        }
        if !succession.follows(id, sequence) && !coming.contains(&(id, sequence - 1)) {
            keys.insert(predecessor(&read.event));
        }
    }
    keys
}

async fn wait(failures: u32, random: &mut fastrand::Rng) {
    tokio::time::sleep(backoff::delay(failures, random.f64())).await;
}
