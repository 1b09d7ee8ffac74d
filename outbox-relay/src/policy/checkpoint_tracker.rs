//! How far a shard is done.

use std::collections::VecDeque;

use outbox::timestamp::Timestamp;

use crate::ports::SequenceNumber;

/// The records of one shard between its checkpoint and where reading is.
///
/// The checkpoint is the end of the contiguous prefix that is done: published
/// and marked, quarantined, or skipped. Memory is bounded by the events that
/// are not done, since neighbouring records that are done share one slot.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    next: u64,
    checkpoint: Option<SequenceNumber>,
    /// When the record at the checkpoint was made.
    passed: Option<Timestamp>,
    window: VecDeque<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    number: u64,
    position: SequenceNumber,
    made_at: Option<Timestamp>,
    done: bool,
}

/// Names one record that was read, within its shard and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(u64);

impl Progress {
    /// Goes on after `checkpoint`.
    pub fn from(checkpoint: Option<SequenceNumber>, passed: Option<Timestamp>) -> Self {
        Self {
            checkpoint,
            passed,
            ..Self::default()
        }
    }

    /// Notes a record that was read and is an event.
    pub fn event(&mut self, position: SequenceNumber, made_at: Option<Timestamp>) -> RecordNumber {
        let number = self.next;
        self.next += 1;
        self.window.push_back(Slot {
            number,
            position,
            made_at,
            done: false,
        });
        RecordNumber(number)
    }

    /// Notes a record that was read and is nothing to publish.
    pub fn skipped(&mut self, position: SequenceNumber, made_at: Option<Timestamp>) {
        match self.window.back_mut() {
            None => self.pass(position, made_at),
            Some(last) if last.done => {
                last.position = position;
                last.made_at = made_at.max(last.made_at);
            }
            Some(_) => {
                let RecordNumber(number) = self.event(position, made_at);
                self.finish(number);
            }
        }
    }

    fn pass(&mut self, position: SequenceNumber, made_at: Option<Timestamp>) {
        self.checkpoint = Some(position);
        self.passed = made_at.max(self.passed);
    }

    /// At `at` there was nothing more to read. Counts only when nothing is
    /// left to do either.
    pub fn nothing_left(&mut self, at: Timestamp) {
        if self.is_idle() {
            self.passed = Some(at).max(self.passed);
        }
    }

    /// Every record made before this is done: the low-water mark.
    pub fn passed(&self) -> Option<Timestamp> {
        self.passed
    }

    /// The event is published and marked, or quarantined.
    pub fn done(&mut self, RecordNumber(number): RecordNumber) {
        self.finish(number);
    }

    fn finish(&mut self, number: u64) {
        let Ok(at) = self
            .window
            .binary_search_by_key(&number, |slot| slot.number)
        else {
            return;
        };
        self.window[at].done = true;
        // The later of two neighbours that are done says all that both do.
        if self.window.get(at + 1).is_some_and(|next| next.done) {
            self.window.remove(at);
        }
        if at > 0 && self.window[at - 1].done {
            self.window.remove(at - 1);
        }
        while self.window.front().is_some_and(|slot| slot.done) {
            if let Some(slot) = self.window.pop_front() {
                self.pass(slot.position, slot.made_at);
            }
        }
    }

    /// Everything up to here is done.
    pub fn checkpoint(&self) -> Option<&SequenceNumber> {
        self.checkpoint.as_ref()
    }

    /// Nothing that was read is still to be done.
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

    fn made_at(n: u64) -> Option<Timestamp> {
        i64::try_from(n).ok().map(Timestamp::from_millis)
    }

    #[test]
    fn the_low_water_mark_goes_with_the_checkpoint_and_to_the_tip_when_idle() {
        let mut progress = Progress::default();
        let event = progress.event(position(3), made_at(3));
        progress.skipped(position(4), made_at(4));
        progress.nothing_left(Timestamp::from_millis(9));
        assert_eq!(progress.passed(), None);
        progress.done(event);
        assert_eq!(progress.passed(), made_at(4));
        progress.nothing_left(Timestamp::from_millis(9));
        assert_eq!(progress.passed(), made_at(9));
    }

    #[test]
    fn the_checkpoint_never_passes_an_event_that_is_not_done() {
        let mut progress = Progress::from(Some(position(0)), None);
        let first = progress.event(position(1), made_at(1));
        let second = progress.event(position(2), made_at(2));
        progress.skipped(position(3), made_at(3));
        let fourth = progress.event(position(4), made_at(4));
        progress.done(second);
        assert_eq!(progress.checkpoint(), Some(&position(0)));
        progress.done(first);
        assert_eq!(progress.checkpoint(), Some(&position(3)));
        assert!(!progress.is_idle());
        progress.done(fourth);
        assert_eq!(progress.checkpoint(), Some(&position(4)));
        assert!(progress.is_idle());
    }

    #[test]
    fn skipped_records_move_the_checkpoint_by_themselves() {
        let mut progress = Progress::default();
        progress.skipped(position(7), made_at(7));
        assert_eq!(progress.checkpoint(), Some(&position(7)));
    }

    #[test]
    fn many_done_records_behind_a_slow_event_take_no_memory() {
        let mut progress = Progress::default();
        let slow = progress.event(position(0), made_at(0));
        for n in 1..10_000 {
            let event = progress.event(position(n), made_at(n));
            progress.skipped(position(n), made_at(n));
            let later = progress.event(position(n), made_at(n));
            progress.done(later);
            progress.done(event);
        }
        assert!(progress.window.len() <= 2, "{}", progress.window.len());
        progress.done(slow);
        assert_eq!(progress.checkpoint(), Some(&position(9_999)));
    }

    #[test]
    fn done_twice_is_done() {
        let mut progress = Progress::default();
        let event = progress.event(position(1), made_at(1));
        progress.done(event);
        progress.done(event);
        assert_eq!(progress.checkpoint(), Some(&position(1)));
    }
}
