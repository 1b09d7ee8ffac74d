//! Model of the services as the relay observes them.

mod changes;
mod clock;
mod deliveries;
mod invariants;
mod stream;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) use clock::{CLOCKS, clock, start_clock};
pub(crate) use deliveries::{Delivery, Disturbance};
use outbox::Status;
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{EventKey, Lease, ShardId};
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

/// Queues, and the routes of events to them.
pub(crate) const QUEUES: [&str; 2] = ["orders", "others"];
pub(crate) const ROUTES: &str = "order.*=orders,*=others";

/// State of everything outside the relay.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    /// Faults occur while this is set; a run ends with a quiet phase.
    pub(crate) has_faults: bool,
    /// Queues that reject every request.
    pub(crate) unavailable: BTreeSet<&'static str>,
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
    /// Time at which an incarnation was informed that it lost a shard.
    informed_lost: BTreeMap<(String, ShardId), Instant>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let first = ShardModel {
            id: ShardId("shard-0".into()),
            parent: None,
            records: Vec::new(),
            closed: false,
            trimmed: 0,
            deleted: false,
        };
        Self {
            random: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            has_faults: true,
            unavailable: BTreeSet::new(),
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
            informed_lost: BTreeMap::new(),
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

    /// Makes a queue unavailable, or all queues available again.
    pub(crate) fn toggle_queue_outage(&mut self) {
        if self.unavailable.is_empty() {
            let queue = QUEUES[self.random.usize(..QUEUES.len())];
            self.unavailable.insert(queue);
            self.faults.note("queue unavailable");
            self.log(format!("{queue} is unavailable"));
        } else {
            self.unavailable.clear();
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
