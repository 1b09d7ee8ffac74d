//! The services, as far as the relay can tell.

mod stream;
mod table;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox_relay::ports::{EventKey, Lease, ShardId};
use shared::outbox::Status;
use shared::timestamp::Timestamp;
use tokio::time::Instant;

use crate::faults::Faults;
use stream::ShardModel;
pub(crate) use table::EventModel;
use table::Flaw;

/// Records a read returns at most: small, so that pages are many.
pub(crate) const PAGE: usize = 12;

/// The queues, and how events are routed to them.
pub(crate) const QUEUES: [&str; 2] = ["orders", "others"];
pub(crate) const ROUTES: &str = "order.*=orders,*=others";

/// Wall clock at the start of a run.
const EPOCH_MILLIS: i64 = 1_800_000_000_000;

thread_local! {
    static STARTED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Starts the clock of a run on this thread.
pub(crate) fn start_clock() {
    STARTED.set(Some(Instant::now()));
}

/// The wall clock of the run: it goes with paused time.
pub(crate) fn clock() -> Timestamp {
    let elapsed = STARTED
        .get()
        .map_or(Duration::ZERO, |start| start.elapsed());
    Timestamp::from_millis(EPOCH_MILLIS + i64::try_from(elapsed.as_millis()).unwrap_or(0))
}

/// One message that reached the queue.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) key: EventKey,
}

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
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) violations: Vec<String>,
    pub(crate) history: Vec<String>,
    started: Instant,
    /// Events each instance has read and that are not settled.
    pub(crate) unfinished: BTreeMap<String, BTreeSet<EventKey>>,
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
            deliveries: Vec::new(),
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
        let now = clock();
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
                occurred_at: now,
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

    /// The queue takes a message.
    pub(crate) fn deliver(&mut self, instance: &str, key: EventKey) {
        self.log(format!(
            "{instance} delivers {}:{}",
            key.aggregate_id, key.sequence
        ));
        self.deliveries.push(Delivery { key });
    }

    /// `instance` was given `keys` by a read.
    pub(crate) fn read(&mut self, instance: &str, keys: Vec<EventKey>) {
        let pending: Vec<_> = keys
            .into_iter()
            .filter(|key| self.events[key].is_pending())
            .collect();
        let unfinished = self.unfinished.entry(instance.to_owned()).or_default();
        unfinished.extend(pending);
        self.most_unfinished = self.most_unfinished.max(unfinished.len());
    }
}
