//! Tracks the checkpoint of one shard.

use std::collections::VecDeque;

use outbox::timestamp::Timestamp;

use crate::ports::SequenceNumber;

/// Number of records whose memory is kept while none is unsettled.
const IDLE_CAPACITY: usize = 32;

/// Records of one shard between its checkpoint and the current read position.
///
/// The checkpoint is the end of the contiguous prefix of settled records: published and marked,
/// quarantined, or skipped (the "publish → mark → checkpoint" rule). Memory is bounded by the
/// number of unsettled events, since adjacent settled records are merged into one.
#[derive(Clone, Debug, Default)]
pub struct CheckpointTracker {
    next: u64,
    checkpoint: Option<SequenceNumber>,
    low_watermark: Option<Timestamp>,
    window: VecDeque<TrackedRecord>,
}

#[derive(Clone, Debug)]
struct TrackedRecord {
    number: u64,
    position: SequenceNumber,
    created_at: Option<Timestamp>,
    settled: bool,
}

/// Identifies one record among those that one owner has read of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(u64);

impl CheckpointTracker {
    /// Continues after `checkpoint`.
    pub fn resume(checkpoint: Option<SequenceNumber>, low_watermark: Option<Timestamp>) -> Self {
        Self {
            checkpoint,
            low_watermark,
            ..Self::default()
        }
    }

    /// Adds a record that is an event. It holds the checkpoint back until it is settled.
    pub fn track(
        &mut self,
        position: SequenceNumber,
        created_at: Option<Timestamp>,
    ) -> RecordNumber {
        let number = self.next;
        self.next += 1;
        self.window.push_back(TrackedRecord {
            number,
            position,
            created_at,
            settled: false,
        });
        RecordNumber(number)
    }

    /// Adds a record that is not an event.
    pub fn skip(&mut self, position: SequenceNumber, created_at: Option<Timestamp>) {
        match self.window.back_mut() {
            None => self.advance(position, created_at),
            Some(last) if last.settled => {
                last.position = position;
                last.created_at = created_at.max(last.created_at);
            }
            Some(_) => {
                let number = self.track(position, created_at);
                self.settle(number);
            }
        }
    }

    fn advance(&mut self, position: SequenceNumber, created_at: Option<Timestamp>) {
        self.checkpoint = Some(position);
        self.low_watermark = created_at.max(self.low_watermark);
    }

    /// Records that the reader had caught up with the shard at `at`. This moves the low-water mark
    /// only if every event is settled.
    pub fn record_caught_up(&mut self, at: Timestamp) {
        if self.is_idle() {
            self.low_watermark = Some(at).max(self.low_watermark);
        }
    }

    /// Returns the low-water mark: every record created before it is settled.
    pub fn low_watermark(&self) -> Option<Timestamp> {
        self.low_watermark
    }

    /// Records that an event is published and marked, quarantined, or was settled before. Settling
    /// it again has no effect.
    pub fn settle(&mut self, RecordNumber(number): RecordNumber) {
        let Ok(at) = self
            .window
            .binary_search_by_key(&number, |record| record.number)
        else {
            return;
        };
        self.window[at].settled = true;
        // Of two adjacent settled records the later one is enough.
        if self.window.get(at + 1).is_some_and(|next| next.settled) {
            self.window.remove(at);
        }
        if at > 0 && self.window[at - 1].settled {
            self.window.remove(at - 1);
        }
        while self.window.front().is_some_and(|record| record.settled) {
            if let Some(record) = self.window.pop_front() {
                self.advance(record.position, record.created_at);
            }
        }
        // Each of hundreds of shards may have had thousands of unsettled events once.
        if self.window.is_empty() && self.window.capacity() > IDLE_CAPACITY {
            self.window = VecDeque::new();
        }
    }

    /// Returns the position up to which every record is settled.
    pub fn checkpoint(&self) -> Option<&SequenceNumber> {
        self.checkpoint.as_ref()
    }

    /// Returns `true` if every record that was read is settled.
    pub fn is_idle(&self) -> bool {
        self.window.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(n: u64) -> SequenceNumber {
        SequenceNumber(n.to_string().into())
    }

    fn at(n: u64) -> Option<Timestamp> {
        i64::try_from(n).ok().map(Timestamp::from_millis)
    }

    #[test]
    fn the_low_water_mark_follows_the_checkpoint_and_an_idle_reader() {
        let mut tracker = CheckpointTracker::resume(Some(position(2)), at(2));
        let event = tracker.track(position(3), at(3));
        tracker.skip(position(4), at(4));
        tracker.record_caught_up(Timestamp::from_millis(9));
        assert_eq!(tracker.low_watermark(), at(2));
        tracker.settle(event);
        assert_eq!(tracker.low_watermark(), at(4));
        tracker.record_caught_up(Timestamp::from_millis(9));
        assert_eq!(tracker.low_watermark(), at(9));
    }

    #[test]
    fn the_checkpoint_never_passes_an_unsettled_event() {
        let mut tracker = CheckpointTracker::resume(Some(position(0)), None);
        let first = tracker.track(position(1), at(1));
        let second = tracker.track(position(2), at(2));
        tracker.skip(position(3), at(3));
        let fourth = tracker.track(position(4), at(4));
        tracker.settle(second);
        assert_eq!(tracker.checkpoint(), Some(&position(0)));
        tracker.settle(first);
        assert_eq!(tracker.checkpoint(), Some(&position(3)));
        assert!(!tracker.is_idle());
        tracker.settle(fourth);
        assert_eq!(tracker.checkpoint(), Some(&position(4)));
        assert!(tracker.is_idle());
    }

    #[test]
    fn skipped_records_advance_the_checkpoint() {
        let mut tracker = CheckpointTracker::default();
        tracker.skip(position(7), at(7));
        assert_eq!(tracker.checkpoint(), Some(&position(7)));
    }

    #[test]
    fn settled_records_behind_a_slow_event_use_constant_memory() {
        let mut tracker = CheckpointTracker::default();
        let slow = tracker.track(position(0), at(0));
        for n in 1..10_000 {
            let event = tracker.track(position(n), at(n));
            tracker.skip(position(n), at(n));
            let later = tracker.track(position(n), at(n));
            tracker.settle(later);
            tracker.settle(event);
        }
        assert!(tracker.window.len() <= 2, "{}", tracker.window.len());
        tracker.settle(slow);
        assert_eq!(tracker.checkpoint(), Some(&position(9_999)));
    }

    #[test]
    fn a_backlog_that_is_settled_uses_no_memory() {
        let mut tracker = CheckpointTracker::default();
        let backlog: Vec<_> = (0..4_000)
            .map(|n| tracker.track(position(n), at(n)))
            .collect();
        for (n, event) in (0..).zip(backlog) {
            assert!(!tracker.is_idle());
            tracker.settle(event);
            assert_eq!(tracker.checkpoint(), Some(&position(n)));
        }
        assert!(tracker.window.capacity() <= IDLE_CAPACITY);
    }

    #[test]
    fn settling_an_event_again_has_no_effect() {
        let mut tracker = CheckpointTracker::default();
        let event = tracker.track(position(1), at(1));
        tracker.settle(event);
        tracker.settle(event);
        assert_eq!(tracker.checkpoint(), Some(&position(1)));
    }
}
