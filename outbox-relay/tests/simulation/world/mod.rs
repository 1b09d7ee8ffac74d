//! Model of the services as the relay observes them.

mod changes;
mod clock;
mod deliveries;
mod invariants;
mod limits;
mod setup;
mod stream;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) use clock::{CLOCKS, clock, start_clock};
pub(crate) use deliveries::{Delivery, Disturbance};
pub(crate) use limits::Limit;
use limits::TokenBuckets;
use outbox::timestamp::Timestamp;
use outbox::{Buckets, Status};
use outbox_relay::engine::OnFailure;
use outbox_relay::ports::{EventKey, Lease, ShardId};
pub(crate) use setup::{HealthFault, LEASE, QUEUES, Setup};
use stream::ShardModel;
pub(crate) use table::EventModel;
use table::{Added, Flaw};
use tokio::time::Instant;

use crate::faults::Faults;

/// Maximum number of records in a page: low, so that a run has many pages.
pub(crate) const PAGE: usize = 12;

/// Time for which published events are kept, in seconds.
pub(crate) const RETENTION: i64 = 3_600;

const YEAR_MINUTES: i64 = 365 * 24 * 60;

/// State of everything outside the relay.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    /// Faults occur while this is set; a run ends with a quiet phase.
    pub(crate) has_faults: bool,
    limits: TokenBuckets,
    /// Queues that reject every request.
    pub(crate) unavailable: BTreeSet<&'static str>,
    /// Messages of FIFO queues by deduplication id: the event and the id of the message.
    pub(crate) deduplicated: BTreeMap<String, (Instant, String)>,
    /// The failing queue of the setup has failed.
    has_failed: bool,
    /// Instances that crash within moments.
    pub(crate) condemned: BTreeSet<String>,
    /// Shard that cannot be read.
    pub(crate) unreadable: Option<ShardId>,
    /// Leases can be neither read nor written.
    pub(crate) leases_unavailable: bool,
    pub(crate) shards: Vec<ShardModel>,
    next_number: u64,
    pub(crate) events: BTreeMap<EventKey, EventModel>,
    /// By stream and shard.
    pub(crate) leases: BTreeMap<(String, ShardId), Lease>,
    /// Stream that the consumer group reads.
    pub(crate) entered: Option<String>,
    /// Number of times that the stream was re-created.
    streams: u32,
    /// Index of the first shard of the current stream.
    root: usize,
    /// Incarnation that acquired a lease last and has not released it.
    pub(crate) holders: BTreeMap<(String, ShardId), String>,
    pub(crate) deliveries: Vec<Delivery>,
    /// Ids of the messages of each event and replay.
    pub(crate) messages: BTreeMap<(EventKey, u64), BTreeSet<String>>,
    pub(crate) disturbances: Vec<Disturbance>,
    running: BTreeSet<String>,
    /// Incarnations that crashed.
    dead: BTreeSet<String>,
    /// Incarnations that read a trimmed position.
    pub(crate) saw_gap: BTreeSet<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) history: Vec<String>,
    started: Instant,
    values: u64,
    /// Events that each incarnation has read of each shard and that are not settled.
    unsettled: BTreeMap<(String, ShardId), BTreeSet<EventKey>>,
    pub(crate) max_unsettled: usize,
    /// Start of a second, and number of reads of each incarnation and shard since.
    reads: BTreeMap<(String, ShardId), (Instant, u64)>,
    /// What an incarnation was last informed of about a lease: that it holds it, or that it lost
    /// it at this time.
    informed: BTreeMap<(String, ShardId), Option<Instant>>,
    /// Time at which an incarnation received the answer that it lost a shard.
    told: BTreeMap<(String, ShardId), Instant>,
}

impl World {
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let first = ShardModel {
            id: ShardId("shard-0".into()),
            parent: None,
            start: 1,
            records: Vec::new(),
            closed: false,
            trimmed: 0,
            deleted: false,
            listed_at: Instant::now(),
        };
        Self {
            setup,
            random: fastrand::Rng::with_seed(seed),
            limits: TokenBuckets::default(),
            faults: Faults::default(),
            has_faults: true,
            unavailable: BTreeSet::new(),
            deduplicated: BTreeMap::new(),
            has_failed: false,
            condemned: BTreeSet::new(),
            unreadable: None,
            leases_unavailable: false,
            shards: vec![first],
            next_number: 1,
            events: BTreeMap::new(),
            leases: BTreeMap::new(),
            entered: None,
            streams: 0,
            root: 0,
            holders: BTreeMap::new(),
            deliveries: Vec::new(),
            messages: BTreeMap::new(),
            disturbances: Vec::new(),
            running: BTreeSet::new(),
            dead: BTreeSet::new(),
            saw_gap: BTreeSet::new(),
            violations: Vec::new(),
            history: Vec::new(),
            started: Instant::now(),
            values: 0,
            unsettled: BTreeMap::new(),
            max_unsettled: 0,
            reads: BTreeMap::new(),
            informed: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    pub(crate) fn log(&mut self, line: impl AsRef<str>) {
        let at = self.started.elapsed().as_millis();
        self.history.push(format!("{at:>7} {}", line.as_ref()));
    }

    /// Decides at random whether a fault of `kind` occurs now.
    pub(crate) fn strikes(&mut self, kind: &'static str, probability: f64) -> bool {
        let strikes = self.has_faults && self.random.f64() < probability;
        if strikes {
            self.faults.note(kind);
            self.log(kind);
        }
        strikes
    }

    /// Returns the time that a request takes, one way.
    pub(crate) fn latency(&mut self) -> Duration {
        let slow = self.has_faults && self.random.f64() < 0.02;
        Duration::from_millis(if slow {
            self.random.u64(100..3_000)
        } else {
            self.random.u64(1..15)
        })
    }

    /// Commits a transaction that writes `keys`. The stream contains them in this order.
    pub(crate) fn commit(&mut self, keys: &[EventKey]) {
        for key in keys {
            self.log(format!("commit {}:{}", key.aggregate_id, key.sequence));
            let flaw = if self.strikes("malformed event", 0.03) {
                Some(Flaw::Malformed)
            } else if self.strikes("refused event", 0.03) {
                Some(Flaw::Refused)
            } else {
                None
            };
            let event_id = (self.setup.has_event_ids && self.random.bool())
                .then(|| format!("event-{}", self.random.u32(..5)));
            let has_bucket = !(self.setup.has_items_without_bucket && self.random.f64() < 0.2);
            let payload_bytes = match self.random.u32(..10) {
                0..5 if self.setup.has_large_payloads => self.random.usize(1..380_000),
                0 => self.random.usize(1..2_000),
                _ => 0,
            };
            let other = self.has_faults && self.random.f64() < 0.3;
            let event = EventModel {
                status: Status::Pending,
                occurred_at: self.occurred_at(),
                indexed_at: Instant::now() + self.lag(),
                settled_at: None,
                unindexed_at: None,
                added: Added::default(),
                published: BTreeMap::new(),
                was_failed: false,
                was_discarded: false,
                republished: 0,
                event_type: if other { "stock.moved" } else { "order.placed" },
                flaw,
                deferred: false,
                deferred_at: None,
                deferred_since: None,
                event_id,
                wrote_bucket: has_bucket,
                has_bucket,
                bucket: Buckets::default().partition_of(&key.aggregate_id),
                is_lost: false,
                payload_bytes,
                deleted: false,
            };
            self.events.insert(key.clone(), event);
            self.append(key, true);
        }
    }

    /// Returns a value that no other call returns.
    pub(crate) fn next_value(&mut self) -> String {
        self.values += 1;
        self.values.to_string()
    }

    /// Returns the lease of a shard. The names of shards are unique among all streams.
    fn lease(&self, shard: &ShardId) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.shard == *shard)
    }

    /// Makes the failing queue of the setup unavailable until the quiet phase ends.
    pub(crate) fn fail_queue(&mut self) {
        if let Some(queue) = self.setup.failing_queue {
            self.unavailable.insert(queue);
            self.has_failed = true;
            self.faults.note("queue fails");
            self.log(format!("{queue} is unavailable for good"));
        }
    }

    /// Returns an open shard of the current stream that an instance holds, and the instance.
    pub(crate) fn open_shard(&self) -> Option<(ShardId, String)> {
        let shard = self.shards.iter().find(|shard| !shard.closed)?;
        let holder = self.holders.get(&(self.stream(), shard.id.clone()))?;
        Some((shard.id.clone(), holder.clone()))
    }

    /// Returns `true` if every open shard of the current stream is held, and none of `instances`
    /// holds two more than another.
    pub(crate) fn is_balanced(&self, instances: &[&str]) -> bool {
        let stream = self.stream();
        let open = self.shards.iter().filter(|shard| !shard.closed);
        let holders: Vec<_> = open
            .map(|shard| self.holders.get(&(stream.clone(), shard.id.clone())))
            .collect();
        let held = |name: &&str| {
            let of_name = |holder: &&Option<&String>| holder.is_some_and(|holder| holder == name);
            holders.iter().filter(of_name).count()
        };
        let counts = || instances.iter().map(held);
        holders.iter().all(Option::is_some)
            && counts().max().unwrap_or(0) <= counts().min().unwrap_or(0) + 1
    }

    pub(crate) fn is_settled_but_for_failing_queue(&mut self) -> bool {
        self.unsettled_but_for_failing_queue().is_empty()
    }

    /// Returns the names of the events that must be settled although a queue is unavailable, and of
    /// those that must be deferred.
    pub(crate) fn unsettled_but_for_failing_queue(&self) -> Vec<String> {
        let Some(failing) = self.setup.failing_queue else {
            return Vec::new();
        };
        let holds = self.setup.on_failure == OnFailure::Hold;
        let is_held_up = |event: &EventModel| event.is_pending() || (holds && event.is_held_up());
        // In the order of sequence: an event waits for the earlier ones of its aggregate.
        let events = self.events.iter();
        let mut events: Vec<_> = events.filter(|(_, event)| is_held_up(event)).collect();
        events.sort_by_key(|(key, _)| (&key.aggregate_id, key.sequence.parse::<u64>().ok()));
        let mut blocked = BTreeSet::new();
        let mut left = Vec::new();
        for (key, event) in events {
            if !event.is_pending() {
                blocked.insert(&key.aggregate_id);
                continue;
            }
            // A malformed one is quarantined when it is read, and a sweeper does not read those of
            // the queue.
            let is_read = event.is_unsettled() && self.has_record(key);
            if event.queue() == failing && !(event.flaw == Some(Flaw::Malformed) && is_read) {
                blocked.insert(&key.aggregate_id);
            }
            let is_blocked = blocked.contains(&key.aggregate_id);
            let may_stay = event.is_lost
                || is_blocked && !event.is_unsettled()
                || is_blocked && !(event.has_bucket && self.has_record(key));
            if !may_stay {
                left.push(format!("{}:{}", key.aggregate_id, key.sequence));
            }
        }
        left
    }

    /// Makes a queue unavailable, or all queues available again.
    pub(crate) fn toggle_queue_outage(&mut self) {
        if self.unavailable.is_empty() {
            let queue = QUEUES[self.random.usize(..QUEUES.len())];
            self.unavailable.insert(queue);
            self.faults.note("queue unavailable");
            self.log(format!("{queue} is unavailable"));
        } else {
            let failing = self.setup.failing_queue;
            self.unavailable
                .retain(|queue| Some(*queue) == failing && self.has_failed);
            self.log("all queues are available");
        }
    }

    /// Returns the time until a change appears in the stream or the index.
    fn lag(&mut self) -> Duration {
        let slow = self.has_faults && self.random.f64() < 0.03;
        Duration::from_millis(if slow {
            self.random.u64(200..2_500)
        } else {
            self.random.u64(0..60)
        })
    }

    /// Returns the time at which an event occurred according to its writer.
    fn occurred_at(&mut self) -> Timestamp {
        let minutes = if self.strikes("old occurrence", 0.05) {
            -[1, 5, 60, YEAR_MINUTES][self.random.usize(..4)]
        } else if self.strikes("future occurrence", 0.03) {
            [1, 60, YEAR_MINUTES][self.random.usize(..3)]
        } else {
            0
        };
        Timestamp::from_millis(clock().as_millis() + minutes * 60_000)
    }
}
