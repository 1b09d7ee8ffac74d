//! The services, as far as the relay can tell.

mod clock;
mod deliveries;
mod stream;
mod table;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) use clock::{CLOCKS, clock, start_clock};
pub(crate) use deliveries::{Delivery, Disturbance};
use outbox::Status;
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{EventKey, Lease, ShardId};
use stream::ShardModel;
pub(crate) use table::EventModel;
use table::Flaw;
use tokio::time::Instant;

use crate::faults::Faults;

/// Records a read returns at most: small, so that pages are many.
pub(crate) const PAGE: usize = 12;

const YEAR_MINUTES: i64 = 365 * 24 * 60;

/// The queues, and how events are routed to them.
pub(crate) const QUEUES: [&str; 2] = ["orders", "others"];
pub(crate) const ROUTES: &str = "order.*=orders,*=others";

/// Everything outside the relay.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    /// Faults happen while this is set; a run ends in peace.
    pub(crate) turbulent: bool,
    /// Queues that take nothing.
    pub(crate) away: BTreeSet<&'static str>,
    pub(crate) shards: Vec<ShardModel>,
    next_number: u64,
    pub(crate) events: BTreeMap<EventKey, EventModel>,
    /// By stream and shard.
    pub(crate) leases: BTreeMap<(String, ShardId), Lease>,
    /// The stream that the consumer group reads.
    pub(crate) entered: Option<String>,
    /// How often the table was given another stream.
    streams: u32,
    /// The first shard of the current stream.
    root: usize,
    /// Which incarnation took a lease last, while it has not given it back.
    pub(crate) holders: BTreeMap<(String, ShardId), String>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) disturbances: Vec<Disturbance>,
    running: BTreeSet<String>,
    /// Incarnations that crashed.
    dead: BTreeSet<String>,
    /// Incarnations that were told that a position had been trimmed.
    pub(crate) saw_gap: BTreeSet<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) history: Vec<String>,
    started: Instant,
    /// What each incarnation has read of each shard and is not settled.
    unfinished: BTreeMap<(String, ShardId), BTreeSet<EventKey>>,
    pub(crate) most_unfinished: usize,
    /// Which instances were told that they lost which shard, and when.
    told: BTreeMap<(String, ShardId), Instant>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let first = ShardModel {
            id: ShardId("shard-0".into()),
            parent: None,
            records: Vec::new(),
            closed: false,
            trimmed: 0,
            gone: false,
        };
        Self {
            random: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            turbulent: true,
            away: BTreeSet::new(),
            shards: vec![first],
            next_number: 1,
            events: BTreeMap::new(),
            leases: BTreeMap::new(),
            entered: None,
            streams: 0,
            root: 0,
            holders: BTreeMap::new(),
            deliveries: Vec::new(),
            disturbances: Vec::new(),
            running: BTreeSet::new(),
            dead: BTreeSet::new(),
            saw_gap: BTreeSet::new(),
            violations: Vec::new(),
            history: Vec::new(),
            started: Instant::now(),
            unfinished: BTreeMap::new(),
            most_unfinished: 0,
            told: BTreeMap::new(),
        }
    }

    pub(crate) fn log(&mut self, line: impl AsRef<str>) {
        let at = self.started.elapsed().as_millis();
        self.history.push(format!("{at:>7} {}", line.as_ref()));
    }

    /// Whether a fault of `kind` happens now.
    pub(crate) fn strikes(&mut self, kind: &'static str, probability: f64) -> bool {
        let strikes = self.turbulent && self.random.f64() < probability;
        if strikes {
            self.faults.note(kind);
            self.log(kind);
        }
        strikes
    }

    /// How long a request takes, one way.
    pub(crate) fn latency(&mut self) -> Duration {
        let slow = self.turbulent && self.random.f64() < 0.02;
        Duration::from_millis(if slow {
            self.random.u64(100..3_000)
        } else {
            self.random.u64(1..15)
        })
    }

    /// A transaction that writes `keys`; the stream shows them in this order.
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
            let other = self.turbulent && self.random.f64() < 0.3;
            let event = EventModel {
                status: Status::Pending,
                occurred_at: self.occurred_at(),
                indexed_at: Instant::now() + self.lag(),
                settled_at: None,
                unindexed_at: None,
                event_type: if other { "stock.moved" } else { "order.placed" },
                flaw,
                deleted: false,
            };
            self.events.insert(key.clone(), event);
            self.append(key, true);
        }
    }

    /// The lease of a shard; shards of all streams have different names.
    fn lease(&self, shard: &ShardId) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.shard == *shard)
    }

    /// A queue goes away, or all are back.
    pub(crate) fn queue_goes_or_comes(&mut self) {
        if self.away.is_empty() {
            let queue = QUEUES[self.random.usize(..QUEUES.len())];
            self.away.insert(queue);
            self.faults.note("queue away");
            self.log(format!("{queue} is away"));
        } else {
            self.away.clear();
            self.log("all queues are there");
        }
    }

    /// How long a change takes until the stream or the index shows it.
    fn lag(&mut self) -> Duration {
        let slow = self.turbulent && self.random.f64() < 0.03;
        Duration::from_millis(if slow {
            self.random.u64(200..2_500)
        } else {
            self.random.u64(0..60)
        })
    }

    /// When an event occurred, by its writer's word.
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
