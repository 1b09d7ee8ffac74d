//! Throughput of partitions. As in DynamoDB, the writes of one partition key are limited, in a
//! table and in each of its indexes, and an index that is throttled throttles the writes of its
//! table.
//!
//! A write is admitted if none of its partitions is exhausted, and is charged after its execution,
//! when its cost is known. So a partition can be overdrawn by the requests that are in flight.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dynoxide::types::{item_size, write_capacity_units};
use dynoxide::{AttributeValue, Item};

use super::item_id::key_text;
use super::table_schemas::{Index, TableSchema};

/// Partitions that are remembered. Beyond it, those with unused throughput are forgotten.
const MAX_PARTITIONS: usize = 10_000;

/// Writes in a transaction cost twice as much in the table, for they are prepared and committed.
pub(super) const TRANSACTIONAL: f64 = 2.0;

/// Partition key of a table or of one of its indexes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Partition {
    table: String,
    pub(super) index: Option<String>,
    key: String,
}

/// The throughput that the partitions have left.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    // Locked for lookups, never across an await.
    partitions: Mutex<HashMap<Partition, Bucket>>,
}

/// Token bucket that holds the units of one second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    units: f64,
    updated: Instant,
}

impl Bucket {
    fn refilled(self, rate: f64, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(self.updated);
        Self {
            units: elapsed.as_secs_f64().mul_add(rate, self.units).min(rate),
            updated: now,
        }
    }
}

impl Throttle {
    /// Returns the first of `partitions` that is exhausted, if partitions have `rate` units per
    /// second.
    pub(super) fn exhausted<'a>(
        &self,
        partitions: &'a [Partition],
        rate: f64,
        now: Instant,
    ) -> Option<&'a Partition> {
        let known = self.partitions.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        partitions.iter().find(|partition| {
            let bucket = known.get(*partition);
            bucket.is_some_and(|bucket| bucket.refilled(rate, now).units <= 0.0)
        })
    }

    /// Takes `costs` from their partitions.
    pub(super) fn charge(&self, costs: Vec<(Partition, f64)>, rate: f64, now: Instant) {
        let known = self.partitions.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_PARTITIONS {
            known.retain(|_, bucket| bucket.refilled(rate, now).units < rate);
        }
        for (partition, units) in costs {
            let full = Bucket {
                units: rate,
                updated: now,
            };
            let bucket = known.entry(partition).or_insert(full);
            *bucket = bucket.refilled(rate, now);
            bucket.units -= units;
        }
    }
}

/// Returns the partitions that a write to an item involves, as far as its images are known.
pub(super) fn partitions(schema: &TableSchema, images: &[Option<&Item>]) -> Vec<Partition> {
    let mut partitions = Vec::new();
    for image in images.iter().flatten() {
        partitions.extend(table_partition(schema, image));
        for index in &schema.indexes {
            let entry = Entry::of(schema, index, Some(*image));
            partitions.extend(entry.map(|entry| entry.partition));
        }
    }
    partitions
}

/// Returns the cost of a write that changed an item from `old` to `new`. `factor` is that of the
/// table's own units.
pub(super) fn costs(
    schema: &TableSchema,
    old: Option<&Item>,
    new: Option<&Item>,
    factor: f64,
) -> Vec<(Partition, f64)> {
    let size = old.map_or(0, item_size).max(new.map_or(0, item_size));
    let partition = new.or(old).and_then(|item| table_partition(schema, item));
    let of_table = partition.map(|partition| (partition, factor * write_capacity_units(size)));
    let mut costs: Vec<_> = of_table.into_iter().collect();
    for index in &schema.indexes {
        let (old, new) = (Entry::of(schema, index, old), Entry::of(schema, index, new));
        match (old, new) {
            (Some(old), Some(new)) if old.has_key_of(&new) => {
                if old.attributes != new.attributes {
                    let units = old.units().max(new.units());
                    costs.push((new.partition, units));
                }
            }
            (old, new) => {
                let changed = [old, new].into_iter().flatten();
                costs.extend(changed.map(|entry| {
                    let units = entry.units();
                    (entry.partition, units)
                }));
            }
        }
    }
    costs
}

fn table_partition(schema: &TableSchema, item: &Item) -> Option<Partition> {
    Some(Partition {
        table: schema.name.clone(),
        index: None,
        key: key_text(item.get(&schema.partition_key)?)?,
    })
}

/// Entry of an index for an item.
struct Entry {
    partition: Partition,
    sort_key: Option<AttributeValue>,
    attributes: Item,
}

impl Entry {
    /// Returns the entry, or `None` if the item has not all keys of the index.
    fn of(schema: &TableSchema, index: &Index, item: Option<&Item>) -> Option<Self> {
        let item = item?;
        let partition = Partition {
            table: schema.name.clone(),
            index: Some(index.name.clone()),
            key: key_text(item.get(&index.partition_key)?)?,
        };
        let sort_key = match &index.sort_key {
            Some(name) => Some(item.get(name)?.clone()),
            None => None,
        };
        let is_projected = |name: &str| index.projects(schema, name);
        let attributes = item.iter().filter(|(name, _)| is_projected(name));
        Some(Self {
            partition,
            sort_key,
            attributes: attributes.map(|(n, v)| (n.clone(), v.clone())).collect(),
        })
    }

    fn has_key_of(&self, other: &Self) -> bool {
        self.partition == other.partition && self.sort_key == other.sort_key
    }

    fn units(&self) -> f64 {
        write_capacity_units(item_size(&self.attributes))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn schema() -> TableSchema {
        TableSchema {
            name: "outbox".to_owned(),
            partition_key: "id".to_owned(),
            sort_key: None,
            is_provisioned: false,
            indexes: vec![Index {
                name: "by_state".to_owned(),
                partition_key: "state".to_owned(),
                sort_key: Some("at".to_owned()),
                projected: Some(vec!["type".to_owned()]),
            }],
        }
    }

    fn item(attributes: &[(&str, &str)]) -> Item {
        let of = |(name, value): &(&str, &str)| {
            let value = AttributeValue::S((*value).to_owned());
            ((*name).to_owned(), value)
        };
        attributes.iter().map(of).collect()
    }

    fn units(old: Option<&Item>, new: Option<&Item>) -> Vec<(Option<String>, f64)> {
        let costs = costs(&schema(), old, new, TRANSACTIONAL);
        let of = |(partition, units): (Partition, f64)| (partition.index, units);
        costs.into_iter().map(of).collect()
    }

    #[test]
    fn index_costs_what_changes_in_it() {
        let payload = "x".repeat(1_500);
        let pending = item(&[
            ("id", "o-1"),
            ("state", "PENDING"),
            ("at", "1"),
            ("payload", &payload),
        ]);
        let index = Some("by_state".to_owned());
        assert_eq!(
            units(None, Some(&pending)),
            [(None, 4.0), (index.clone(), 1.0)],
            "the payload is not projected"
        );
        let mut other = pending.clone();
        other.insert("payload".to_owned(), AttributeValue::S(String::new()));
        assert_eq!(units(Some(&pending), Some(&other)), [(None, 4.0)]);
        other.insert("type".to_owned(), AttributeValue::S("t".to_owned()));
        assert_eq!(
            units(Some(&pending), Some(&other)),
            [(None, 4.0), (index.clone(), 1.0)]
        );
        other.insert("state".to_owned(), AttributeValue::S("FAILED".to_owned()));
        assert_eq!(
            units(Some(&pending), Some(&other)),
            [(None, 4.0), (index.clone(), 1.0), (index.clone(), 1.0)],
            "an entry is deleted and another one is inserted"
        );
        other.remove("state");
        assert_eq!(
            units(Some(&pending), Some(&other)),
            [(None, 4.0), (index, 1.0)]
        );
        assert_eq!(units(None, None), []);
    }

    #[test]
    fn partition_is_exhausted_until_its_units_return() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let exhausted = |id: &str, after| {
            let partitions = partitions(&schema(), &[Some(&item(&[("id", id)])), None]);
            let found = throttle.exhausted(&partitions, 10.0, start + after);
            found.is_some()
        };
        let written = item(&[("id", "o-1")]);
        let write = || {
            let costs = costs(&schema(), None, Some(&written), TRANSACTIONAL);
            throttle.charge(costs, 10.0, start);
        };
        for _ in 0..5 {
            assert!(!exhausted("o-1", Duration::ZERO));
            write();
        }
        assert!(exhausted("o-1", Duration::ZERO));
        // A request that was in flight.
        write();
        assert!(!exhausted("o-2", Duration::ZERO));
        assert!(exhausted("o-1", Duration::from_millis(190)));
        assert!(!exhausted("o-1", Duration::from_millis(210)));
    }

    #[test]
    fn unused_partitions_are_forgotten() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let charge = |n: usize, now| {
            let written = item(&[("id", &n.to_string())]);
            throttle.charge(costs(&schema(), None, Some(&written), 1.0), 10.0, now);
        };
        (0..=MAX_PARTITIONS).for_each(|n| charge(n, start));
        charge(0, start + Duration::from_secs(1));
        assert_eq!(throttle.partitions.lock().unwrap().len(), 1);
    }
}
