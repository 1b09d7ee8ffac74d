//! A stream of many shards: the records of each, the trimmed ones, and when each was read.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::limits::Throttle;
use crate::support::{Item, event, string, text};

/// Shards per page of a listing, as in the service.
const SHARDS_A_PAGE: usize = 100;

/// Upper bound on the records of one read, as in the service.
const RECORDS_A_PAGE: usize = 1_000;

/// Range of the hashes of aggregates.
const ALL: Range<u64> = 0..1 << 32;

#[derive(Debug, Default)]
pub(crate) struct Shards {
    by_id: BTreeMap<String, Shard>,
    pub(crate) throttle: Throttle,
    /// Numbers records of all shards, as the service does.
    next_number: u64,
    /// Orders reads: incremented at every GetRecords.
    reads: u64,
    pub(crate) listings: u64,
}

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) parent: Option<String>,
    /// Hashes of the aggregates whose records go to this shard while it is open.
    hashes: Range<u64>,
    start: u64,
    /// Number after the last record, once the shard is closed.
    end: Option<u64>,
    /// Number of the oldest record that is not trimmed.
    horizon: u64,
    records: Vec<(u64, Value)>,
    pub(crate) first_read: Option<u64>,
    /// First read that reported the end of the shard.
    pub(crate) end_served: Option<u64>,
}

impl Shard {
    fn trim(&mut self) {
        if let Some((last, _)) = self.records.last() {
            self.horizon = last + 1;
            self.records.clear();
        }
    }
}

/// Error of a request.
#[derive(Debug)]
pub(crate) enum Refusal {
    Trimmed,
    NoSuchShard,
    LimitExceeded,
    Invalid(&'static str),
}

impl Shards {
    /// Returns a stream with `count` open shards that share the aggregates evenly.
    pub(crate) fn open(count: u64) -> Self {
        let mut shards = Self::default();
        shards.open_more(count);
        shards
    }

    pub(crate) fn open_more(&mut self, count: u64) {
        let width = ALL.end.div_ceil(count);
        for n in 0..count {
            let hashes = n * width..((n + 1) * width).min(ALL.end);
            self.add(None, hashes);
        }
    }

    /// Adds closed shards without records, as a table with little traffic retains them for a day:
    /// `lines` of `generations` each.
    pub(crate) fn retain_closed(&mut self, lines: usize, generations: usize) {
        for _ in 0..lines {
            let mut parent = None;
            for _ in 0..generations {
                let id = self.add(parent.take(), 0..0);
                self.close(&id);
                parent = Some(id);
            }
        }
    }

    fn add(&mut self, parent: Option<String>, hashes: Range<u64>) -> String {
        let number = self.number();
        let id = format!("shardId-{number:020}-{:08x}", self.by_id.len());
        let shard = Shard {
            parent,
            hashes,
            start: number,
            end: None,
            horizon: number,
            records: Vec::new(),
            first_read: None,
            end_served: None,
        };
        self.by_id.insert(id.clone(), shard);
        id
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn close(&mut self, id: &str) -> Range<u64> {
        let end = self.number();
        let shard = self.by_id.get_mut(id).unwrap();
        shard.end = Some(end);
        shard.hashes.clone()
    }

    /// Closes every open shard and divides its aggregates between two others.
    pub(crate) fn split_all(&mut self) {
        let open: Vec<_> = self
            .by_id
            .iter()
            .filter(|(_, shard)| shard.end.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for parent in open {
            let hashes = self.close(&parent);
            let middle = hashes.start.midpoint(hashes.end);
            self.add(Some(parent.clone()), hashes.start..middle);
            self.add(Some(parent), middle..hashes.end);
        }
    }

    /// Appends the record of an insert of `item`.
    pub(crate) fn append(&mut self, item: &Item) {
        let number = self.number();
        let hash = hash(string(item, "aggregate_id").unwrap());
        let record = record(number, item);
        let shard = self
            .by_id
            .values_mut()
            .find(|shard| shard.end.is_none() && shard.hashes.contains(&hash))
            .unwrap();
        shard.records.push((number, record));
    }

    /// Appends a record that is not an event to publish to each open shard. Records that were read
    /// by all are dropped.
    pub(crate) fn append_published_to_each(&mut self) {
        let mut item = event("published", 1);
        item.insert("status".to_owned(), text("PUBLISHED"));
        item.remove("state_bucket");
        for shard in self.by_id.values_mut() {
            if shard.end.is_none() {
                self.next_number += 1;
                shard
                    .records
                    .push((self.next_number, record(self.next_number, &item)));
                if shard.records.len() > RECORDS_A_PAGE {
                    shard.records.drain(..RECORDS_A_PAGE / 2);
                }
            }
        }
    }

    /// Drops all records. Only records that were read may be dropped: a reader does not notice.
    pub(crate) fn drop_records(&mut self) {
        for shard in self.by_id.values_mut() {
            shard.records = Vec::new();
        }
    }

    /// Trims all records, as after a day.
    pub(crate) fn trim(&mut self) {
        self.by_id.values_mut().for_each(Shard::trim);
    }

    /// Trims all records of the open shards.
    pub(crate) fn trim_open(&mut self) {
        let open = self.by_id.values_mut().filter(|shard| shard.end.is_none());
        open.for_each(Shard::trim);
    }

    /// Moves the oldest position of shards without records, as DynamoDB Local does when another
    /// table is written.
    pub(crate) fn move_start(&mut self) {
        let number = self.number();
        for shard in self.by_id.values_mut() {
            if shard.records.is_empty() {
                shard.horizon = number;
            }
        }
    }

    /// Deletes closed shards, as after more than a day.
    pub(crate) fn trim_away(&mut self) {
        self.by_id.retain(|_, shard| shard.end.is_none());
    }

    pub(crate) fn count_open(&self) -> usize {
        let open = self.by_id.values().filter(|shard| shard.end.is_none());
        open.count()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Shard> {
        self.by_id.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Shard)> {
        self.by_id.iter()
    }

    pub(crate) fn unread(&self) -> usize {
        let unread = self
            .by_id
            .values()
            .filter(|shard| shard.first_read.is_none());
        unread.count()
    }

    /// Returns a page of the listing and the last shard of it if more follow.
    pub(crate) fn list(
        &mut self,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> (Vec<Value>, Option<String>) {
        self.listings += 1;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let limit = limit.unwrap_or(SHARDS_A_PAGE).min(SHARDS_A_PAGE);
        let mut rest = self.by_id.range::<str, _>((start, Bound::Unbounded));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let last = page.last().map(|(id, _)| (*id).clone());
        let listed = page.into_iter().map(described).collect();
        (listed, last.filter(|_| rest.next().is_some()))
    }

    pub(crate) fn children(&self, parent: &str) -> Vec<Value> {
        self.by_id
            .iter()
            .filter(|(_, shard)| shard.parent.as_deref() == Some(parent))
            .map(described)
            .collect()
    }

    /// Returns the number from which an iterator reads.
    pub(crate) fn position(&self, id: &str, kind: &str, at: Option<&str>) -> Result<u64, Refusal> {
        let shard = self.by_id.get(id).ok_or(Refusal::NoSuchShard)?;
        let at = || {
            let number = at
                .and_then(number)
                .ok_or(Refusal::Invalid("a sequence number is needed"))?;
            if number < shard.horizon {
                return Err(Refusal::Trimmed);
            }
            Ok(number)
        };
        match kind {
            "TRIM_HORIZON" => Ok(shard.horizon),
            "LATEST" => Ok(self.next_number + 1),
            "AT_SEQUENCE_NUMBER" => at(),
            "AFTER_SEQUENCE_NUMBER" => Ok(at()? + 1),
            _ => Err(Refusal::Invalid("no such iterator type")),
        }
    }

    /// Returns the records from `position` on, and the next position unless the shard is closed and
    /// fully read.
    pub(crate) fn read(
        &mut self,
        id: &str,
        position: u64,
        limit: Option<usize>,
    ) -> Result<(Vec<Value>, Option<u64>), Refusal> {
        if !self.throttle.allows_get_records(id) {
            return Err(Refusal::LimitExceeded);
        }
        self.reads += 1;
        let shard = self.by_id.get_mut(id).ok_or(Refusal::NoSuchShard)?;
        if position < shard.horizon {
            return Err(Refusal::Trimmed);
        }
        shard.first_read.get_or_insert(self.reads);
        let first = shard.records.partition_point(|(at, _)| *at < position);
        let limit = limit.unwrap_or(RECORDS_A_PAGE).min(RECORDS_A_PAGE);
        let rest = &shard.records[first..];
        let page = &rest[..limit.min(rest.len())];
        let next = page.last().map_or(position, |(last, _)| last + 1);
        let ended = shard.end.is_some() && page.len() == rest.len();
        if ended {
            shard.end_served.get_or_insert(self.reads);
        }
        let records = page.iter().map(|(_, record)| record.clone()).collect();
        Ok((records, (!ended).then_some(next)))
    }
}

/// Returns the stream record of an insert of `item`.
fn record(number: u64, item: &Item) -> Value {
    let image: serde_json::Map<_, _> = item
        .iter()
        .map(|(name, value)| {
            let value = match value.as_n() {
                Ok(number) => json!({ "N": number }),
                Err(value) => json!({ "S": value.as_s().unwrap() }),
            };
            (name.clone(), value)
        })
        .collect();
    json!({
        "eventID": format!("{number:032x}"),
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": now(),
            "Keys": {
                "aggregate_id": image["aggregate_id"],
                "sequence": image["sequence"],
            },
            "NewImage": image,
            "SequenceNumber": sequence_number(number),
            "SizeBytes": 100,
            "StreamViewType": "NEW_IMAGE",
        },
    })
}

fn described((id, shard): (&String, &Shard)) -> Value {
    let mut range = json!({ "StartingSequenceNumber": sequence_number(shard.start) });
    if let Some(end) = shard.end {
        range["EndingSequenceNumber"] = sequence_number(end).into();
    }
    let mut described = json!({ "ShardId": id, "SequenceNumberRange": range });
    if let Some(parent) = &shard.parent {
        described["ParentShardId"] = parent.clone().into();
    }
    described
}

/// Formats a sequence number that exceeds any integer type, as those of the service do.
fn sequence_number(number: u64) -> String {
    format!("7{number:024}")
}

fn number(text: &str) -> Option<u64> {
    text.strip_prefix('7')?.parse().ok()
}

/// Hashes with FNV-1a, whose low bits differ for ids that differ in their last digits, and
/// multiplies to spread them to the high bits, which select the range.
fn hash(aggregate_id: &str) -> u64 {
    let hash = aggregate_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    u64::from(hash.wrapping_mul(0x9e37_79b1))
}

/// Returns the time in epoch seconds, the resolution of the service.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
