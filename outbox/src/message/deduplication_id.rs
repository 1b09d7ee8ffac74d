//! The `MessageDeduplicationId` of an event on a FIFO queue.

use sha2::{Digest, Sha256};

use crate::item::OutboxItem;

/// Returns the `MessageDeduplicationId` of the event `item` of the outbox table `table` on a FIFO
/// queue. SQS accepts and drops a message whose id it has seen within the last five minutes.
///
/// The id is the SHA-256, in 64 hexadecimal digits, of these texts in this order: `table`,
/// `aggregate_id`, `sequence` (decimal), `event_id`, `occurred_at` and the number of replays
/// (decimal, 0 if there is none). Each is preceded by its length in bytes as 8 bytes, big-endian,
/// so that different texts never have the same encoding. The id of an event is the same however
/// often it is sent, and differs between tables, between a table and its re-creation, and between
/// replays.
pub fn deduplication_id(table: &str, item: &OutboxItem) -> String {
    let mut hash = Sha256::new();
    for text in [
        table,
        &item.aggregate_id,
        &item.sequence.to_string(),
        &item.event_id,
        &item.occurred_at,
        &item.replays.unwrap_or(0).to_string(),
    ] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::item;
    use super::*;

    #[test]
    fn deduplication_id_is_the_documented_hash() {
        // Computed by Python's `hashlib` over the encoding that the documentation describes.
        assert_eq!(
            deduplication_id("outbox", &item()),
            "3df6ccba406c4c10bc6c95135087af4f3bd1408c49fda763891e38d061d6b206"
        );
    }

    #[test]
    fn deduplication_id_depends_on_each_part_and_on_its_boundaries() {
        let change = |change: fn(&mut OutboxItem)| {
            let mut changed = item();
            change(&mut changed);
            deduplication_id("outbox", &changed)
        };
        let ids = [
            change(|_| {}),
            deduplication_id("invoices", &item()),
            change(|item| item.aggregate_id = "o-2".to_owned()),
            change(|item| item.sequence = 4),
            change(|item| item.event_id = "other".to_owned()),
            change(|item| item.occurred_at = "2026-01-31T08:15:30.124Z".to_owned()),
            change(|item| item.replays = Some(1)),
            change(|item| item.replays = Some(2)),
            // The same characters as `outbox` and `o-1`, divided elsewhere.
            {
                let mut moved = item();
                moved.aggregate_id = "xo-1".to_owned();
                deduplication_id("outbo", &moved)
            },
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert!(ids.iter().all(|id| id.len() == 64));
    }
}
