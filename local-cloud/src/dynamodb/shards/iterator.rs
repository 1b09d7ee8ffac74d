//! Shard iterators and the sequence numbers of clients.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::tree::Micros;

/// Lifetime of an iterator.
pub(super) const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Difference between a sequence number that clients see, of 21 digits, and that of the database.
/// Source: dynoxide.
const PUBLIC_OFFSET: i128 = 100_000_000_000_000_000_000;

/// Returns a sequence number as clients see it.
pub(super) fn public(stored: i64) -> String {
    (PUBLIC_OFFSET + i128::from(stored)).to_string()
}

/// Parses a sequence number of a client. One that is too low or too high for the database is
/// limited to its range.
pub(super) fn stored(public: &str) -> Option<i64> {
    let is_number = (21..=40).contains(&public.len()) && public.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return None;
    }
    // 40 digits exceed 128 bits.
    let number = public.parse::<i128>().unwrap_or(i128::MAX);
    let stored = number.saturating_sub(PUBLIC_OFFSET);
    Some(i64::try_from(stored).unwrap_or(if stored < 0 { 0 } else { i64::MAX }))
}

/// Position in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardIterator {
    pub(super) issued_at: Micros,
    /// The next record is the first one after this sequence number.
    pub(super) after: i64,
    pub(super) shard: String,
    pub(super) stream_arn: String,
}

impl ShardIterator {
    pub(super) fn is_expired(&self, now: Micros) -> bool {
        let age = u128::try_from(now.saturating_sub(self.issued_at)).unwrap_or(0);
        age > LIFETIME.as_micros()
    }
}

impl fmt::Display for ShardIterator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            issued_at,
            after,
            shard,
            stream_arn,
        } = self;
        write!(f, "{issued_at}|{after}|{shard}|{stream_arn}")
    }
}

/// The text is not an iterator.
#[derive(Debug)]
pub(super) struct Malformed;

impl FromStr for ShardIterator {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.splitn(4, '|');
        let mut part = || parts.next().ok_or(Malformed);
        let number = |text: &str| text.parse().map_err(|_| Malformed);
        Ok(Self {
            issued_at: number(part()?)?,
            after: number(part()?)?,
            shard: part()?.to_owned(),
            stream_arn: part()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterator_expires_after_fifteen_minutes() {
        let iterator = ShardIterator {
            issued_at: 1_000,
            after: 7,
            shard: "shardId-1".to_owned(),
            stream_arn: "arn:aws:dynamodb:a:0:table/t/stream/2026-01-01T00:00:00".to_owned(),
        };
        let parsed: ShardIterator = iterator.to_string().parse().unwrap();
        assert_eq!(parsed, iterator);
        let lifetime = 15 * 60 * 1_000_000;
        assert!(!parsed.is_expired(1_000 + lifetime));
        assert!(parsed.is_expired(1_001 + lifetime));
        // The clock was set back.
        assert!(!parsed.is_expired(0));
    }

    #[test]
    fn other_text_is_not_an_iterator() {
        for wrong in ["", "1|2|shard", "a|2|shard|arn", "1||shard|arn"] {
            assert!(wrong.parse::<ShardIterator>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sequence_numbers_of_clients_have_21_to_40_digits() {
        assert_eq!(public(1), "100000000000000000001");
        for number in [1, 1_700_000_000_000_000, i64::MAX] {
            assert_eq!(stored(&public(number)), Some(number));
        }
        assert_eq!(stored("000000000000000000005"), Some(0));
        assert_eq!(stored(&"9".repeat(40)), Some(i64::MAX));
        for wrong in ["", "5", "1000000000000000000x1", &"1".repeat(41)] {
            assert_eq!(stored(wrong), None, "{wrong}");
        }
    }
}
