//! The index partitions over which pending events are spread.

use std::fmt;
use std::str::FromStr;

use crate::item::bucket_name;

/// Number of index partitions over which pending events are spread: 1 to 256, by default 32.
///
/// DynamoDB accepts about 1,000 write units per second for one partition, and an index that is
/// throttled throttles the writers' transactions. Writers spread the events over the partitions,
/// and readers (the relay's sweeper, the gauges and the operators' lists) query all of them.
///
/// Raising the number is compatible if the readers are raised first: they also query the partitions
/// that writers with a smaller number use. Lowering it is not: events in a partition beyond the
/// readers' number are published from the stream, but no sweep and no list finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets(u32);

/// A number of buckets is not between 1 and 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 1 to {max}", max = Buckets::MAX)]
pub struct InvalidBuckets;

impl Buckets {
    /// Largest number of buckets. Readers send a Query per bucket.
    pub const MAX: u32 = 256;

    /// Creates a number of buckets.
    ///
    /// # Errors
    /// [`InvalidBuckets`] if `number` is 0 or exceeds [`MAX`](Self::MAX).
    pub const fn new(number: u32) -> Result<Self, InvalidBuckets> {
        match number {
            1..=Self::MAX => Ok(Self(number)),
            _ => Err(InvalidBuckets),
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the index partition of a pending event of `aggregate_id`: FNV-1a (32 bits) of its
    /// UTF-8 bytes, modulo the number. Other writers may distribute differently, as readers query
    /// every partition.
    pub fn partition_of(self, aggregate_id: &str) -> String {
        let hash = aggregate_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        bucket_name(hash % self.0)
    }

    /// Returns `true` if `partition` is one of the partitions that readers with this number query.
    pub fn contains(self, partition: &str) -> bool {
        let number = partition.rsplit('#').next().unwrap_or_default();
        let is_bucket = |bucket: u32| bucket < self.0 && bucket_name(bucket) == partition;
        number.parse().is_ok_and(is_bucket)
    }

    /// Returns every index partition of pending events.
    pub fn partitions(self) -> impl Iterator<Item = String> {
        (0..self.0).map(bucket_name)
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self(32)
    }
}

impl fmt::Display for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Buckets {
    type Err = InvalidBuckets;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.parse().map_err(|_| InvalidBuckets)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_of_an_aggregate_is_stable() {
        // Published vectors of FNV-1a: "foobar" is 0xbf9cf968, "a" 0xe40c292c.
        assert_eq!(Buckets::default().partition_of("foobar"), "PENDING#8");
        assert_eq!(Buckets::default().partition_of("a"), "PENDING#12");
        assert_eq!(Buckets(8).partition_of("a"), "PENDING#4");
        assert_eq!(Buckets(1).partition_of("a"), "PENDING#0");
        assert_eq!(Buckets::default().partitions().count(), 32);
    }

    #[test]
    fn partitions_of_a_larger_number_and_other_texts_are_not_contained() {
        let buckets = Buckets(8);
        assert!(buckets.partitions().all(|name| buckets.contains(&name)));
        for other in [
            "PENDING#8",
            "PENDING#07",
            "PENDING#",
            "PENDING",
            "FAILED",
            "#1",
            "",
        ] {
            assert!(!buckets.contains(other), "{other}");
        }
    }

    #[test]
    fn number_is_from_1_to_256() {
        assert_eq!("1".parse(), Ok(Buckets(1)));
        assert_eq!("256".parse(), Ok(Buckets(256)));
        for wrong in ["0", "257", "-1", "", "8.0"] {
            assert_eq!(wrong.parse::<Buckets>(), Err(InvalidBuckets), "{wrong}");
        }
    }
}
