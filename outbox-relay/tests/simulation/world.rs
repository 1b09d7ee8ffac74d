//! The services, as far as the relay can tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox_relay::ports::{
    Change, EventKey, Item, Lease, LeaseState, PendingCursor, PendingPage, Record, SWEEPER,
    SequenceNumber, Shard, ShardId,
};
use shared::outbox::Status;
use shared::outbox::item::{bucket_name, pending_bucket};
use shared::timestamp::Timestamp;
use tokio::time::Instant;

/// Records a read returns at most: small, so that pages are many.
pub(crate) const PAGE: usize = 12;

/// Items a look at the index returns at once.
const PENDING_PAGE: usize = 5;

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

/// How often each kind of fault happened, and in how many runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(BTreeMap<&'static str, (u64, u64)>);

impl Faults {
    /// Every kind there is, so that one that never happens is noticed.
    const KINDS: [&str; 21] = [
        "crash",
        "freeze",
        "graceful stop",
        "shard split",
        "reversed transaction",
        "records trimmed",
        "shard trimmed",
        "stream re-created",
        "handover asked",
        "no child filter",
        "stream unavailable",
        "expired iterator",
        "empty page",
        "send failed",
        "send answer lost",
        "entry failed",
        "mark failed",
        "mark answer lost",
        "lease write failed",
        "lease answer lost",
        "lookup failed",
    ];

    pub(crate) fn note(&mut self, kind: &'static str) {
        assert!(Self::KINDS.contains(&kind), "{kind} is not listed");
        let (count, runs) = self.0.entry(kind).or_default();
        *count += 1;
        *runs = 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, (count, runs)) in &other.0 {
            let sum = self.0.entry(kind).or_default();
            sum.0 += count;
            sum.1 += runs;
        }
    }

    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.0.get(kind).map_or(0, |(count, _)| *count)
    }

    pub(crate) fn table(&self) -> Vec<(&'static str, u64, u64)> {
        Self::KINDS
            .into_iter()
            .map(|kind| {
                let (count, runs) = self.0.get(kind).copied().unwrap_or_default();
                (kind, count, runs)
            })
            .collect()
    }
}

/// One shard.
#[derive(Debug)]
pub(crate) struct ShardModel {
    pub(crate) id: ShardId,
    pub(crate) parent: Option<ShardId>,
    pub(crate) records: Vec<RecordModel>,
    pub(crate) closed: bool,
    /// Records up to here are gone.
    pub(crate) trimmed: u64,
    /// No longer listed, and all its records gone.
    pub(crate) gone: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct RecordModel {
    pub(crate) number: u64,
    pub(crate) created_at: Timestamp,
    /// `None`: a modification.
    pub(crate) event: Option<EventKey>,
}

/// One event of the outbox table.
#[derive(Clone, Debug)]
pub(crate) struct EventModel {
    pub(crate) status: Status,
    pub(crate) occurred_at: Timestamp,
}

/// One message that reached the queue.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) key: EventKey,
}

fn cursor_text(at: Timestamp, key: &EventKey) -> String {
    format!("{at}|{}|{:>20}", key.aggregate_id, key.sequence)
}

/// Everything outside the relay.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    /// Faults happen while this is set; a run ends in peace.
    pub(crate) turbulent: bool,
    /// The queue takes nothing.
    pub(crate) queue_away: bool,
    pub(crate) shards: Vec<ShardModel>,
    next_number: u64,
    pub(crate) events: BTreeMap<EventKey, EventModel>,
    /// By stream and shard.
    pub(crate) leases: BTreeMap<(String, ShardId), Lease>,
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
            queue_away: false,
            shards: vec![first],
            next_number: 1,
            events: BTreeMap::new(),
            leases: BTreeMap::new(),
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
            let event = EventModel {
                status: Status::Pending,
                occurred_at: now,
            };
            self.events.insert(key.clone(), event);
            self.append(key, true);
        }
    }

    /// Changes of one aggregate go to one open shard.
    fn append(&mut self, key: &EventKey, inserted: bool) {
        let open: Vec<usize> = (0..self.shards.len())
            .filter(|n| !self.shards[*n].closed)
            .collect();
        let hash = key
            .aggregate_id
            .bytes()
            .fold(0_usize, |hash, byte| hash * 31 + usize::from(byte));
        // A child takes over from its parent: which one depends on all open
        // shards, so an aggregate may only move when a split happens.
        let at = self.home(hash, &open);
        let record = RecordModel {
            number: self.next_number,
            created_at: clock(),
            event: inserted.then(|| key.clone()),
        };
        self.next_number += 1;
        self.shards[at].records.push(record);
    }

    /// Follows the tree from its root: each split divides by one more bit.
    fn home(&self, hash: usize, open: &[usize]) -> usize {
        let mut at = self.root;
        let mut bits = hash;
        while !open.contains(&at) {
            let children: Vec<usize> = (0..self.shards.len())
                .filter(|n| self.shards[*n].parent.as_ref() == Some(&self.shards[at].id))
                .collect();
            at = children[bits % children.len()];
            bits /= 2;
        }
        at
    }

    /// The name of the table's stream.
    pub(crate) fn stream(&self) -> String {
        format!("stream-{}", self.streams)
    }

    /// The stream is disabled and enabled again: what was in the old one is
    /// gone, and a new one begins.
    pub(crate) fn recreate_stream(&mut self) {
        for shard in &mut self.shards {
            shard.closed = true;
            shard.gone = true;
        }
        self.streams += 1;
        self.root = self.shards.len();
        self.shards.push(ShardModel {
            id: ShardId(format!("shard-{}", self.shards.len()).into()),
            parent: None,
            records: Vec::new(),
            closed: false,
            trimmed: 0,
            gone: false,
        });
        self.faults.note("stream re-created");
        self.log(format!("{} begins", self.stream()));
    }

    /// The lease of a shard; shards of all streams have different names.
    fn lease(&self, shard: &ShardId) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.shard == *shard)
    }

    /// Closes a random open shard and opens one or two children.
    pub(crate) fn split(&mut self) {
        let open: Vec<usize> = (0..self.shards.len())
            .filter(|n| !self.shards[*n].closed)
            .collect();
        let at = open[self.random.usize(..open.len())];
        self.shards[at].closed = true;
        let parent = self.shards[at].id.clone();
        for _ in 0..self.random.usize(1..=2) {
            let id = ShardId(format!("shard-{}", self.shards.len()).into());
            self.shards.push(ShardModel {
                id,
                parent: Some(parent.clone()),
                records: Vec::new(),
                closed: false,
                trimmed: 0,
                gone: false,
            });
        }
        self.faults.note("shard split");
        self.log(format!("split {parent}"));
    }

    /// What the stream still knows of a shard.
    pub(crate) fn shard(&self, id: &ShardId) -> Option<&ShardModel> {
        self.shards
            .iter()
            .find(|shard| shard.id == *id && !shard.gone)
    }

    pub(crate) fn trimmed(&self, id: &ShardId) -> u64 {
        self.shard(id).map_or(0, |shard| shard.trimmed)
    }

    /// The shards a listing shows, in its order.
    pub(crate) fn listed(&self) -> Vec<Shard> {
        self.shards
            .iter()
            .filter(|shard| !shard.gone)
            .map(|shard| Shard {
                id: shard.id.clone(),
                parent: shard.parent.clone(),
            })
            .collect()
    }

    /// The stream forgets its oldest records: some of one shard, whether read
    /// or not, or, when it is closed, the whole shard.
    pub(crate) fn trim(&mut self) {
        let Some(at) = (0..self.shards.len()).find(|n| !self.shards[*n].gone) else {
            return;
        };
        let shard = &mut self.shards[at];
        let half = shard.records.len() / 2;
        if shard.closed && self.random.bool() {
            shard.gone = true;
            let id = shard.id.clone();
            self.faults.note("shard trimmed");
            self.log(format!("trim {id} away"));
        } else if half > 0 {
            shard.trimmed = shard.trimmed.max(shard.records[half - 1].number);
            let (id, until) = (shard.id.clone(), shard.trimmed);
            self.faults.note("records trimmed");
            self.log(format!("trim {id} until {until}"));
        }
    }

    /// The index, which shows the table as it is.
    pub(crate) fn pending(&self, bucket: u32, after: Option<PendingCursor>) -> PendingPage {
        let name = bucket_name(bucket);
        let mut pending: Vec<_> = self
            .events
            .iter()
            .filter(|(key, event)| {
                event.status == Status::Pending && pending_bucket(&key.aggregate_id) == name
            })
            .map(|(key, event)| (event.occurred_at, key))
            .collect();
        pending.sort_by_key(|(at, key)| cursor_text(*at, key));
        let skip = after.map_or(0, |PendingCursor(key)| {
            let last = &key["last"];
            let last = last.as_s().expect("a cursor made here");
            pending
                .iter()
                .position(|(at, key)| cursor_text(*at, key) > *last)
                .unwrap_or(pending.len())
        });
        let page: Vec<_> = pending.iter().skip(skip).take(PENDING_PAGE).collect();
        let more = skip + page.len() < pending.len();
        let next = page.last().filter(|_| more).map(|(at, key)| {
            let last = AttributeValue::S(cursor_text(*at, key));
            PendingCursor(HashMap::from([("last".to_owned(), last)]))
        });
        PendingPage {
            items: page.into_iter().map(|(_, key)| self.image(key)).collect(),
            next,
        }
    }

    pub(crate) fn pending_between(&self, aggregate_id: &str, first: u64, last: u64) -> Vec<Item> {
        let mut found: Vec<_> = self
            .events
            .iter()
            .filter(|(key, event)| {
                key.aggregate_id == aggregate_id && event.status == Status::Pending
            })
            .filter_map(|(key, _)| Some((key.sequence.parse::<u64>().ok()?, key)))
            .filter(|(sequence, _)| (first..=last).contains(sequence))
            .collect();
        found.sort();
        found
            .into_iter()
            .take(PENDING_PAGE)
            .map(|(_, key)| self.image(key))
            .collect()
    }

    /// A record as the service returns it.
    pub(crate) fn record(&self, record: &RecordModel) -> Record {
        let change = match &record.event {
            None => Change::Other,
            Some(key) => Change::Insert(self.image(key)),
        };
        Record {
            sequence_number: SequenceNumber(record.number.to_string().into()),
            created_at: Some(record.created_at),
            change,
        }
    }

    fn image(&self, key: &EventKey) -> HashMap<String, AttributeValue> {
        let occurred_at = self
            .events
            .get(key)
            .map_or_else(clock, |event| event.occurred_at);
        let text = |value: &str| AttributeValue::S(value.to_owned());
        HashMap::from([
            ("aggregate_id".to_owned(), text(&key.aggregate_id)),
            (
                "sequence".to_owned(),
                AttributeValue::N(key.sequence.clone()),
            ),
            ("aggregate_type".to_owned(), text("order")),
            ("event_type".to_owned(), text("order.placed")),
            ("payload".to_owned(), text("{}")),
            ("occurred_at".to_owned(), text(&occurred_at.to_string())),
            ("status".to_owned(), text("PENDING")),
        ])
    }

    /// The queue takes a message.
    pub(crate) fn deliver(&mut self, instance: &str, key: EventKey) {
        self.log(format!(
            "{instance} delivers {}:{}",
            key.aggregate_id, key.sequence
        ));
        self.deliveries.push(Delivery { key });
    }

    pub(crate) fn mark(&mut self, instance: &str, key: &EventKey) -> bool {
        for unfinished in self.unfinished.values_mut() {
            unfinished.remove(key);
        }
        let Some(event) = self.events.get_mut(key) else {
            return false;
        };
        if event.status != Status::Pending {
            return false;
        }
        event.status = Status::Published;
        self.log(format!(
            "{instance} marks {}:{}",
            key.aggregate_id, key.sequence
        ));
        self.append(key, false);
        true
    }

    /// `instance` was given `keys` by a read.
    pub(crate) fn read(&mut self, instance: &str, keys: Vec<EventKey>) {
        let pending: Vec<_> = keys
            .into_iter()
            .filter(|key| self.events[key].status == Status::Pending)
            .collect();
        let unfinished = self.unfinished.entry(instance.to_owned()).or_default();
        unfinished.extend(pending);
        self.most_unfinished = self.most_unfinished.max(unfinished.len());
    }

    /// Rule 1: a shard is read only when its parent is done or gone. Order
    /// would survive it, as events wait for their predecessors, but slowly.
    pub(crate) fn check_parent(&mut self, id: &ShardId) {
        let parent = self.shard(id).and_then(|shard| shard.parent.clone());
        let Some(parent) = parent.filter(|parent| self.shard(parent).is_some()) else {
            return;
        };
        let done = self
            .lease(&parent)
            .is_some_and(|lease| lease.state == LeaseState::Ended);
        if !done {
            self.violations
                .push(format!("rule 1: {id} is read before {parent} is done"));
        }
    }

    /// `name` hears that it no longer has `shard`, or has it again.
    pub(crate) fn tell(&mut self, name: &str, shard: &ShardId, lost: bool) {
        let key = (name.to_owned(), shard.clone());
        if lost {
            self.told.entry(key).or_insert_with(Instant::now);
        } else {
            self.told.remove(&key);
        }
    }

    /// Rule 4: whoever was told that a shard is lost sends nothing more of it.
    /// What it finds in the table, as the sweeper, is another matter.
    pub(crate) fn check_sender(&mut self, name: &str, instance: &str, key: &EventKey) {
        let sweeps = self
            .leases
            .values()
            .any(|lease| *lease.shard.0 == *SWEEPER && lease.owner.as_deref() == Some(instance));
        // What the stream has forgotten comes from the table.
        let shard = self.shards.iter().find(|shard| {
            let readable = |record: &&RecordModel| !shard.gone && record.number > shard.trimmed;
            let mut records = shard.records.iter().filter(readable);
            records.any(|record| record.event.as_ref() == Some(key))
        });
        let Some(shard) = shard.map(|shard| shard.id.clone()) else {
            return;
        };
        let open = self
            .lease(&shard)
            .is_some_and(|lease| lease.state == LeaseState::Open);
        let told = self.told.get(&(name.to_owned(), shard.clone()));
        // What was handed to the network in the same instant is in flight.
        if !sweeps && open && told.is_some_and(|at| at.elapsed() > Duration::ZERO) {
            self.violations.push(format!(
                "rule 4: {name} sends {}:{} of {shard}, which it has lost",
                key.aggregate_id, key.sequence
            ));
        }
    }

    /// G6: whoever writes a lease holds it, or makes it a new epoch.
    pub(crate) fn check_fence(&mut self, stored: &Lease, written: &Lease) {
        let renewed = written.epoch == stored.epoch;
        let taken = written.epoch == stored.epoch + 1 && written.beat > stored.beat;
        if !renewed && !taken {
            self.violations.push(format!(
                "G6: epoch {} of {} was overwritten by epoch {}",
                stored.epoch, stored.shard, written.epoch
            ));
        }
    }

    /// G6: everything up to a checkpoint is settled, and so is everything in
    /// a shard that is said to be at its end.
    pub(crate) fn check_checkpoint(&mut self, lease: &Lease) {
        let Some(shard) = self.shard(&lease.shard) else {
            return;
        };
        let ended = lease.state == LeaseState::Ended;
        let until = match &lease.checkpoint {
            _ if ended => u64::MAX,
            Some(number) => number.0.parse().unwrap_or(u64::MAX),
            None => 0,
        };
        let open = ended && !shard.closed;
        let unsettled = shard
            .records
            .iter()
            .filter(|record| record.number <= until && record.number > shard.trimmed)
            .filter_map(|record| record.event.as_ref())
            .find(|key| self.events[*key].status == Status::Pending)
            .cloned();
        let id = lease.shard.clone();
        if open {
            self.violations.push(format!("G6: {id} is ended but open"));
        }
        if let Some(key) = unsettled {
            self.violations.push(format!(
                "G6: the checkpoint of {id} is past {}:{}",
                key.aggregate_id, key.sequence
            ));
        }
    }
}
