//! How far a shard is done.

use std::collections::VecDeque;

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
    window: VecDeque<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    number: u64,
    position: SequenceNumber,
    done: bool,
}

/// Names one record that was read, within its shard and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordNumber(u64);

impl Progress {
    /// Goes on after `checkpoint`.
    pub fn from(checkpoint: Option<SequenceNumber>) -> Self {
        Self {
            checkpoint,
            ..Self::default()
        }
    }

    /// Notes a record that was read and is an event.
    pub fn event(&mut self, position: SequenceNumber) -> RecordNumber {
        let number = self.next;
        self.next += 1;
        self.window.push_back(Slot {
            number,
            position,
            done: false,
        });
        RecordNumber(number)
    }

    /// Notes a record that was read and is nothing to publish.
    pub fn skipped(&mut self, position: SequenceNumber) {
        match self.window.back_mut() {
            None => self.checkpoint = Some(position),
            Some(last) if last.done => last.position = position,
            Some(_) => {
                let RecordNumber(number) = self.event(position);
                self.finish(number);
            }
        }
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
            self.checkpoint = self.window.pop_front().map(|slot| slot.position);
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

    #[test]
    fn the_checkpoint_never_passes_an_event_that_is_not_done() {
        let mut progress = Progress::from(Some(position(0)));
        let first = progress.event(position(1));
        let second = progress.event(position(2));
        progress.skipped(position(3));
        let fourth = progress.event(position(4));
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
        progress.skipped(position(7));
        assert_eq!(progress.checkpoint(), Some(&position(7)));
    }

    #[test]
    fn many_done_records_behind_a_slow_event_take_no_memory() {
        let mut progress = Progress::default();
        let slow = progress.event(position(0));
        for n in 1..10_000 {
            let event = progress.event(position(n));
            progress.skipped(position(n));
            let later = progress.event(position(n));
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
        let event = progress.event(position(1));
        progress.done(event);
        progress.done(event);
        assert_eq!(progress.checkpoint(), Some(&position(1)));
    }
}
