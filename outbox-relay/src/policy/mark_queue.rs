//! Queue of writes to the outbox table: marks of sent events, and deferrals.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::circuit_breaker::CircuitBreaker;

/// Maximum number of marks in one request. DynamoDB: statements of a `BatchExecuteStatement`.
pub const MAX_MARKS: usize = 25;

/// Number of sent and unmarked events at which sending pauses: a crash repeats them (the "bounded
/// repeats" guarantee). It is just large enough to keep marking busy.
pub const MAX_UNMARKED: usize = 400;

/// Maximum number of mark requests in flight. It is lower than that of sends, so that requests
/// fill up.
const MAX_REQUESTS: usize = 4;

/// One write, and how often it alone has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt<T> {
    pub item: T,
    failures: u32,
}

/// Writes that are waiting or in flight, oldest first.
#[derive(Debug)]
pub struct MarkQueue<T> {
    waiting: VecDeque<Attempt<T>>,
    /// Writes that failed while others succeeded, by the end of their delay and a number.
    delayed: BTreeMap<(Instant, u64), Attempt<T>>,
    /// Number of delays so far.
    delays: u64,
    /// Writes that are part of a request in flight.
    in_flight: usize,
    breaker: CircuitBreaker,
}

impl<T> Default for MarkQueue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            delayed: BTreeMap::new(),
            delays: 0,
            in_flight: 0,
            breaker: CircuitBreaker::new(MAX_REQUESTS, 1),
        }
    }
}

impl<T> MarkQueue<T> {
    /// Returns `true` if sending must wait for marks.
    pub fn is_full(&self) -> bool {
        self.len() >= MAX_UNMARKED
    }

    /// Returns the number of writes that wait or are in flight.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.delayed.len() + self.in_flight
    }

    /// Returns `true` if nothing waits or is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a write.
    pub fn push(&mut self, item: T) {
        self.waiting.push_back(Attempt { item, failures: 0 });
    }

    /// Removes the waiting writes that `keep` rejects.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.waiting.retain(|attempt| keep(&attempt.item));
        self.delayed.retain(|_, attempt| keep(&attempt.item));
    }

    /// Returns the writes of the next request, if one may start at `now`: a full request, or fewer
    /// writes while no other request is in flight. The request ends with [`Self::record_answer`] or
    /// [`Self::record_failure`].
    pub fn next_request(&mut self, now: Instant) -> Option<Vec<Attempt<T>>> {
        while let Some(delayed) = self.delayed.first_entry()
            && delayed.key().0 <= now
        {
            self.waiting.push_back(delayed.remove());
        }
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

    /// Records the answer to a request of `count` writes, of which those in `failed` must be
    /// retried. Each is delayed by itself: one item that cannot be written yet does not delay the
    /// others. `delay` maps the number of its failures to its delay.
    pub fn record_answer(
        &mut self,
        count: usize,
        failed: Vec<Attempt<T>>,
        now: Instant,
        mut delay: impl FnMut(u32) -> Duration,
    ) {
        self.in_flight = self.in_flight.saturating_sub(count);
        if self.breaker.is_blocked(now) {
            // It started before another request failed, and proves nothing about the table.
            self.breaker.record_end();
        } else {
            self.breaker.record_success();
        }
        for mut attempt in failed {
            attempt.failures = attempt.failures.saturating_add(1);
            self.delays += 1;
            let until = now + delay(attempt.failures);
            self.delayed.insert((until, self.delays), attempt);
        }
    }

    /// Records that a request failed as a whole. Its writes are first in line, and further requests
    /// are blocked for a delay. `delay` maps the number of consecutive failures to it.
    pub fn record_failure(
        &mut self,
        failed: Vec<Attempt<T>>,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        self.in_flight = self.in_flight.saturating_sub(failed.len());
        self.breaker.record_failure(now, delay);
        for attempt in failed.into_iter().rev() {
            self.waiting.push_front(attempt);
        }
    }

    /// Returns the next time later than `now` at which a delayed write may continue.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let blocked = self.breaker.blocked_until(now);
        let waiting = blocked.filter(|_| !self.waiting.is_empty());
        let delayed = self.delayed.first_key_value();
        let delayed = delayed.map(|((until, _), _)| blocked.map_or(*until, |end| end.max(*until)));
        waiting
            .into_iter()
            .chain(delayed)
            .filter(|due| *due > now)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn queue_of(count: usize) -> MarkQueue<usize> {
        let mut queue = MarkQueue::default();
        (0..count).for_each(|n| queue.push(n));
        queue
    }

    fn next(queue: &mut MarkQueue<usize>, now: Instant) -> Option<Vec<usize>> {
        let request = queue.next_request(now)?;
        Some(request.into_iter().map(|attempt| attempt.item).collect())
    }

    #[test]
    fn marks_are_batched_while_a_request_is_in_flight() {
        let mut queue = queue_of(30);
        let now = Instant::now();
        let first = queue.next_request(now).map(|marks| marks.len());
        assert_eq!(first, Some(MAX_MARKS));
        assert_eq!(queue.next_request(now), None);
        assert_eq!(queue.len(), 30);
        queue.record_answer(MAX_MARKS, Vec::new(), now, |_| DELAY);
        let second = queue.next_request(now).map(|marks| marks.len());
        assert_eq!(second, Some(5));
        queue.record_answer(5, Vec::new(), now, |_| DELAY);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_queue_is_full_until_marks_are_written() {
        let mut queue = queue_of(MAX_UNMARKED);
        let now = Instant::now();
        let marks = queue.next_request(now).unwrap();
        assert!(queue.is_full());
        queue.record_answer(marks.len(), Vec::new(), now, |_| DELAY);
        assert!(!queue.is_full());
    }

    #[test]
    fn an_item_that_cannot_be_written_yet_does_not_delay_the_others() {
        let mut queue = queue_of(2);
        let now = Instant::now();
        let mut marks = queue.next_request(now).unwrap();
        queue.push(2);
        queue.record_answer(2, marks.split_off(1), now, |failures| DELAY * failures);
        assert_eq!(next(&mut queue, now), Some(vec![2]));
        queue.record_answer(1, Vec::new(), now, |_| DELAY);
        assert!(!queue.is_empty());
        assert_eq!(next(&mut queue, now), None);
        assert_eq!(queue.next_due(now), Some(now + DELAY));
        let later = now + DELAY;
        let again = queue.next_request(later).unwrap();
        assert_eq!(again[0].item, 1);
        queue.record_answer(1, again, later, |failures| DELAY * failures);
        assert_eq!(queue.next_due(later), Some(later + DELAY * 2));
    }

    #[test]
    fn a_failed_request_blocks_all_for_a_delay_and_is_retried_in_order() {
        let mut queue = queue_of(2);
        let now = Instant::now();
        let failed = queue.next_request(now).unwrap();
        queue.push(2);
        queue.record_failure(failed, now, |_| DELAY);
        assert_eq!(next(&mut queue, now), None);
        assert_eq!(queue.next_due(now), Some(now + DELAY));
        assert_eq!(next(&mut queue, now + DELAY), Some(vec![0, 1, 2]));
    }

    #[test]
    fn an_older_success_does_not_end_the_delay_of_a_failure() {
        let mut queue = queue_of(2 * MAX_MARKS);
        let now = Instant::now();
        let failed = queue.next_request(now).unwrap();
        queue.next_request(now).unwrap();
        queue.record_failure(failed, now, |_| DELAY);
        queue.record_answer(MAX_MARKS, Vec::new(), now, |_| DELAY);
        assert_eq!(queue.next_request(now), None);
    }

    #[test]
    fn writes_that_are_no_longer_wanted_are_removed() {
        let mut queue = queue_of(3);
        let now = Instant::now();
        queue.retain(|item| *item == 1);
        assert_eq!(next(&mut queue, now), Some(vec![1]));
    }

    #[test]
    fn writes_with_the_same_delay_are_all_retried() {
        let mut queue = queue_of(3);
        let now = Instant::now();
        let failed = queue.next_request(now).unwrap();
        queue.record_answer(3, failed, now, |_| DELAY);
        assert_eq!(next(&mut queue, now + DELAY), Some(vec![0, 1, 2]));
    }
}
