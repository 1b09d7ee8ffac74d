//! Queue of sent events that wait to be marked.

use std::collections::VecDeque;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use super::circuit_breaker::CircuitBreaker;
use super::send_scheduler::EventRef;
use crate::ports::{EventKey, Generation};

/// Maximum number of marks in one request. DynamoDB: statements of a `BatchExecuteStatement`.
pub const MAX_MARKS: usize = 25;

/// Number of sent and unmarked events at which sending pauses: a crash repeats them (the "bounded
/// repeats" guarantee). It is just large enough to keep marking busy.
pub const MAX_UNMARKED: usize = 400;

/// Maximum number of mark requests in flight. It is lower than that of sends, so that requests
/// fill up.
const MAX_REQUESTS: usize = 4;

/// Mark of one sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub event: EventRef,
    pub key: EventKey,
    pub generation: Generation,
    pub message_id: String,
    /// Time at which the queue accepted the message.
    pub sent_at: Timestamp,
}

/// Marks that are waiting or in flight, oldest first.
#[derive(Debug)]
pub struct MarkQueue {
    waiting: VecDeque<Mark>,
    /// Marks that are part of a request in flight.
    in_flight: usize,
    breaker: CircuitBreaker,
}

impl Default for MarkQueue {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: 0,
            // One item that cannot be marked yet fails its whole request; the marks of other
            // events continue in full batches after the delay.
            breaker: CircuitBreaker::new(MAX_REQUESTS, MAX_REQUESTS),
        }
    }
}

impl MarkQueue {
    /// Returns `true` if sending must wait for marks.
    pub fn is_full(&self) -> bool {
        self.waiting.len() + self.in_flight >= MAX_UNMARKED
    }

    /// Returns `true` if no mark is waiting. Marks in flight do not count.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds the mark of an event that was sent.
    pub fn push(&mut self, mark: Mark) {
        self.waiting.push_back(mark);
    }

    /// Returns the marks of the next request, if one may start at `now`: a full request, or fewer
    /// marks while no other request is in flight. The request ends with [`Self::record_end`].
    pub fn next_request(&mut self, now: Instant) -> Option<Vec<Mark>> {
        let is_worthwhile = match self.breaker.in_flight() {
            0 => !self.waiting.is_empty(),
            _ => self.waiting.len() >= MAX_MARKS,
        };
        if !is_worthwhile || !self.breaker.allows(now) {
            return None;
        }
        let count = self.waiting.len().min(MAX_MARKS);
        self.in_flight += count;
        self.breaker.record_start();
        Some(self.waiting.drain(..count).collect())
    }

    /// Records the end of a request of `count` marks, of which those in `failed` must be retried.
    /// They are first in line. `delay` maps the number of consecutive failures to the time for
    /// which further requests are blocked.
    pub fn record_end(
        &mut self,
        count: usize,
        failed: Vec<Mark>,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        self.in_flight = self.in_flight.saturating_sub(count);
        if !failed.is_empty() {
            self.breaker.record_failure(now, delay);
        } else if self.breaker.is_blocked(now) {
            // It started before another request failed, and proves nothing about those marks.
            self.breaker.record_end();
        } else {
            self.breaker.record_success();
        }
        for mark in failed {
            self.waiting.push_front(mark);
        }
    }

    /// Returns the end of the current delay, if marks wait for it and it is later than `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.breaker
            .blocked_until(now)
            .filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn mark(n: usize) -> Mark {
        let aggregate_id = format!("a{n}");
        Mark {
            event: EventRef {
                aggregate_id: aggregate_id.clone(),
                sequence: 1,
            },
            key: EventKey {
                aggregate_id,
                sequence: "1".to_owned(),
            },
            generation: Generation::default(),
            message_id: "m".to_owned(),
            sent_at: Timestamp::from_millis(0),
        }
    }

    fn queue_of(count: usize) -> MarkQueue {
        let mut queue = MarkQueue::default();
        (0..count).for_each(|n| queue.push(mark(n)));
        queue
    }

    #[test]
    fn marks_are_batched_while_a_request_is_in_flight() {
        let mut queue = queue_of(30);
        let now = Instant::now();
        let first = queue.next_request(now).map(|marks| marks.len());
        assert_eq!(first, Some(MAX_MARKS));
        assert_eq!(queue.next_request(now), None);
        queue.record_end(MAX_MARKS, Vec::new(), now, |_| DELAY);
        let second = queue.next_request(now).map(|marks| marks.len());
        assert_eq!(second, Some(5));
    }

    #[test]
    fn the_queue_is_full_until_marks_are_written() {
        let mut queue = queue_of(MAX_UNMARKED);
        let now = Instant::now();
        let marks = queue.next_request(now).unwrap();
        assert!(queue.is_full());
        queue.record_end(marks.len(), Vec::new(), now, |_| DELAY);
        assert!(!queue.is_full());
    }

    #[test]
    fn a_failed_mark_is_retried_first_after_a_delay() {
        let mut queue = queue_of(2);
        let now = Instant::now();
        let mut marks = queue.next_request(now).unwrap();
        queue.push(mark(2));
        queue.record_end(2, marks.split_off(1), now, |_| DELAY);
        assert_eq!(queue.next_request(now), None);
        assert_eq!(queue.next_due(now), Some(now + DELAY));
        let retried = queue.next_request(now + DELAY).unwrap();
        assert_eq!(retried, [mark(1), mark(2)]);
    }

    #[test]
    fn an_older_success_does_not_end_the_delay_of_a_failure() {
        let mut queue = queue_of(2 * MAX_MARKS);
        let now = Instant::now();
        let failed = queue.next_request(now).unwrap();
        queue.next_request(now).unwrap();
        queue.record_end(MAX_MARKS, failed, now, |_| DELAY);
        queue.record_end(MAX_MARKS, Vec::new(), now, |_| DELAY);
        assert_eq!(queue.next_request(now), None);
    }
}
