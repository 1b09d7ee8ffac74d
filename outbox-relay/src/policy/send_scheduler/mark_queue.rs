//! Which events wait to be marked, and whether marking is well.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{EventRef, MAX_MARKS, MAX_UNMARKED};

#[derive(Debug, Default)]
pub(super) struct Unmarked {
    /// Sent, and not yet handed out for marking; oldest first.
    waiting: VecDeque<EventRef>,
    /// Handed out for marking.
    marking: usize,
    blocked_until: Option<Instant>,
    /// Requests in a row that did not go through wholly.
    failures: u32,
}

impl Unmarked {
    /// Sending waits for marking, so that a crash repeats little (G3).
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() + self.marking >= MAX_UNMARKED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, event: EventRef) {
        self.waiting.push_back(event);
    }

    /// Those to mark now: a whole request's, or when `eager` what there is.
    pub(super) fn next(&mut self, now: Instant, eager: bool) -> Vec<EventRef> {
        if self.blocked_until.is_some_and(|until| now < until)
            || (!eager && self.waiting.len() < MAX_MARKS)
        {
            return Vec::new();
        }
        let count = self.waiting.len().min(MAX_MARKS);
        self.marking += count;
        self.waiting.drain(..count).collect()
    }

    /// One of those handed out is done with.
    pub(super) fn done(&mut self) {
        self.marking = self.marking.saturating_sub(1);
    }

    /// One of those handed out goes first the next time.
    pub(super) fn again(&mut self, event: EventRef) {
        self.done();
        self.waiting.push_front(event);
    }

    /// `delay` is given the number of requests in a row that did not go
    /// through.
    pub(super) fn answered(
        &mut self,
        again: bool,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        if again {
            self.failures = self.failures.saturating_add(1);
            self.blocked_until = Some(now + delay(self.failures));
        } else {
            self.failures = 0;
        }
    }

    /// When marking goes on, if something waits for that and it is after `now`.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.blocked_until
            .filter(|until| *until > now && !self.waiting.is_empty())
    }
}
