//! Model of the stream: shards that split, close and are trimmed.

use std::time::Duration;

use outbox::timestamp::Timestamp;
use outbox_relay::ports::{Change, EventKey, Record, SequenceNumber, Shard, ShardId};
use tokio::time::Instant;

use super::{World, clock};

/// Model of a shard.
#[derive(Debug)]
pub(crate) struct ShardModel {
    pub(crate) id: ShardId,
    pub(crate) parent: Option<ShardId>,
    /// Number of its first record, or less.
    pub(super) start: u64,
    pub(crate) records: Vec<RecordModel>,
    pub(crate) closed: bool,
    /// Number of the last trimmed record.
    pub(crate) trimmed: u64,
    /// No longer listed, and without records.
    pub(crate) deleted: bool,
    /// Time from which listings contain it.
    pub(crate) listed_at: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct RecordModel {
    pub(crate) number: u64,
    pub(crate) created_at: Timestamp,
    /// Time from which readers receive it.
    pub(crate) visible_at: Instant,
    /// `None` for a modification.
    pub(crate) event: Option<EventKey>,
}

impl World {
    /// Appends a change. The changes of one aggregate go to one open shard.
    pub(super) fn append(&mut self, key: &EventKey, inserted: bool) {
        let open: Vec<usize> = (0..self.shards.len())
            .filter(|n| !self.shards[*n].closed)
            .collect();
        let hash = key
            .aggregate_id
            .bytes()
            .fold(0_usize, |hash, byte| hash * 31 + usize::from(byte));
        // A child continues its parent. Which one depends on all open shards, so an aggregate moves
        // only at a split.
        let at = self.home(hash, &open);
        // Records of a shard become visible in order.
        let before = self.shards[at].records.last();
        let earliest = before.map_or_else(Instant::now, |record| record.visible_at);
        let visible_at = (Instant::now() + self.lag()).max(earliest);
        let record = RecordModel {
            number: self.next_number,
            created_at: clock(),
            visible_at,
            event: inserted.then(|| key.clone()),
        };
        self.next_number += 1;
        self.shards[at].records.push(record);
    }

    /// Follows the tree from its root. Each split divides by one more bit of the hash.
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

    /// Returns the name of the table's stream.
    pub(crate) fn stream(&self) -> String {
        format!("stream-{}", self.streams)
    }

    /// Disables and enables the stream: the records of the old stream are deleted, and a new stream
    /// starts.
    pub(crate) fn recreate_stream(&mut self) {
        for shard in &mut self.shards {
            shard.closed = true;
            shard.deleted = true;
        }
        self.lose_records();
        self.stream_deleted();
        self.streams += 1;
        self.root = self.shards.len();
        self.shards.push(ShardModel {
            id: ShardId(format!("shard-{}", self.shards.len()).into()),
            parent: None,
            start: self.next_number,
            records: Vec::new(),
            closed: false,
            trimmed: 0,
            deleted: false,
            listed_at: Instant::now(),
        });
        self.faults.note("stream re-created");
        self.log(format!("{} starts", self.stream()));
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
            let mut listed_at = Instant::now();
            if self.strikes("shard listed late", 0.3) {
                listed_at += Duration::from_millis(self.random.u64(..15_000));
            }
            self.shards.push(ShardModel {
                id,
                parent: Some(parent.clone()),
                start: self.next_number,
                records: Vec::new(),
                closed: false,
                trimmed: 0,
                deleted: false,
                listed_at,
            });
        }
        self.faults.note("shard split");
        self.log(format!("split {parent}"));
    }

    /// Returns a shard that still exists.
    pub(crate) fn shard(&self, id: &ShardId) -> Option<&ShardModel> {
        self.shards
            .iter()
            .find(|shard| shard.id == *id && !shard.deleted)
    }

    pub(crate) fn trimmed(&self, id: &ShardId) -> u64 {
        self.shard(id).map_or(0, |shard| shard.trimmed)
    }

    /// Returns the shards of a listing, in its order. New ones may be missing for a while: the last
    /// ones, as no page of a listing contains a shard whose parent was missing in an earlier page.
    pub(crate) fn listed(&self) -> Vec<Shard> {
        let now = Instant::now();
        let existing = self.shards.iter().filter(|shard| !shard.deleted);
        existing
            .take_while(|shard| shard.listed_at <= now)
            .map(|shard| Shard {
                id: shard.id.clone(),
                parent: shard.parent.clone(),
                starts_at: Some(SequenceNumber(shard.start.to_string().into())),
            })
            .collect()
    }

    /// Trims the oldest records, whether read or not: some records of one shard, or the whole shard
    /// if it is closed.
    pub(crate) fn trim(&mut self) {
        let Some(at) = (0..self.shards.len()).find(|n| !self.shards[*n].deleted) else {
            return;
        };
        let shard = &mut self.shards[at];
        let half = shard.records.len() / 2;
        if shard.closed && self.random.bool() {
            shard.deleted = true;
            let id = shard.id.clone();
            self.shard_deleted(&id);
            self.lose_records();
            self.faults.note("shard trimmed");
            self.log(format!("trim {id} completely"));
        } else if half > 0 {
            shard.trimmed = shard.trimmed.max(shard.records[half - 1].number);
            let (id, until) = (shard.id.clone(), shard.trimmed);
            self.lose_records();
            self.faults.note("records trimmed");
            self.log(format!("trim {id} until {until}"));
        }
    }

    /// Records that no record is left of some events. Without `state_bucket` those are lost, unless
    /// a later event of their aggregate waits for them.
    fn lose_records(&mut self) {
        let is_gone = |shard: &ShardModel, number| shard.deleted || number <= shard.trimmed;
        for shard in &self.shards {
            for record in &shard.records {
                if let Some(key) = &record.event
                    && is_gone(shard, record.number)
                    && let Some(event) = self.events.get_mut(key)
                    && !event.has_bucket
                    && event.is_pending()
                {
                    event.is_lost = true;
                }
            }
        }
    }

    /// Returns `true` if a reader can still read the event from the stream. Others stay in the
    /// table until the sweeper publishes them.
    pub(crate) fn has_record(&self, key: &EventKey) -> bool {
        self.shards.iter().any(|shard| {
            let mut records = shard.records.iter();
            !shard.deleted
                && records.any(|record| {
                    record.number > shard.trimmed && record.event.as_ref() == Some(key)
                })
        })
    }

    /// Returns a record as the service does.
    pub(crate) fn record(&self, record: &RecordModel) -> Record {
        let change = match &record.event {
            None => Change::Other,
            Some(key) => Change::Insert(self.image(key)),
        };
        Record {
            sequence_number: SequenceNumber(record.number.to_string().into()),
            // The service returns it with a resolution of one second.
            created_at: Some(Timestamp::from_millis(
                record.created_at.as_seconds() * 1_000,
            )),
            change,
        }
    }
}
