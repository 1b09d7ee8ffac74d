//! State of one queue: the aggregates whose next event it receives, what waits for it, and how well
//! it accepts events.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::MAX_BATCH;
use super::aggregate::ScheduledEvent;
use super::shares::{self, Failures, QueueHealth, SLOW_AFTER};
use crate::policy::circuit_breaker::CircuitBreaker;

/// Time for which an incomplete batch waits for further events while a request to the queue is in
/// flight. Requests are what SQS charges for.
pub(super) const LINGER: Duration = Duration::from_millis(4);

/// Time after the last failure from which a queue without events no longer counts as failing: no
/// send would end the failure.
const FORGET_AFTER: Duration = Duration::from_secs(45);

#[derive(Debug)]
pub(super) struct QueueState {
    /// Aggregates whose next event is for this queue, in the order of service.
    ready: VecDeque<String>,
    /// Time since which `ready` is not empty, or of the last batch.
    ready_since: Option<Instant>,
    pub(super) breaker: CircuitBreaker,
    /// Start of each request in flight, by its number.
    requests: BTreeMap<u64, Instant>,
    last_request: Option<Instant>,
    failures: Option<Failures>,
    /// Time of the last failure, even if the queue accepted something since.
    pub(super) last_failure: Option<Instant>,
    /// The queue accepted something since the last failure.
    has_succeeded: bool,
    pub(super) waiting: WaitingEvents,
}

/// Waiting events of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitingEvents {
    pub(super) count: usize,
    /// Size of those that can be deferred, in KiB.
    pub(super) deferrable_kib: usize,
    /// Number of those that were read from the table only.
    pub(super) from_table: usize,
    /// Size of those, in KiB.
    pub(super) table_kib: usize,
}

/// Size of a buffered event apart from its message, in bytes: that of the buffer budget.
const EVENT_OVERHEAD: usize = 1024;

impl WaitingEvents {
    /// Returns what one waiting event amounts to.
    fn of<A>(scheduled: &ScheduledEvent<A>) -> Self {
        let kib = (scheduled.event.message.size() + EVENT_OVERHEAD).div_ceil(1024);
        let is_deferrable = !scheduled.is_from_table && scheduled.event.is_deferrable;
        Self {
            count: 1,
            deferrable_kib: if is_deferrable { kib } else { 0 },
            from_table: usize::from(scheduled.is_from_table),
            table_kib: if scheduled.is_from_table { kib } else { 0 },
        }
    }

    pub(super) fn add<A>(&mut self, scheduled: &ScheduledEvent<A>) {
        let one = Self::of(scheduled);
        self.count += one.count;
        self.deferrable_kib += one.deferrable_kib;
        self.from_table += one.from_table;
        self.table_kib += one.table_kib;
    }

    pub(super) fn remove<A>(&mut self, scheduled: &ScheduledEvent<A>) {
        let one = Self::of(scheduled);
        self.count -= one.count;
        self.deferrable_kib -= one.deferrable_kib;
        self.from_table -= one.from_table;
        self.table_kib -= one.table_kib;
    }
}

impl Default for QueueState {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            ready_since: None,
            // The slots limit the requests of all queues together.
            breaker: CircuitBreaker::new(usize::MAX, 1),
            requests: BTreeMap::new(),
            last_request: None,
            failures: None,
            last_failure: None,
            has_succeeded: false,
            waiting: WaitingEvents::default(),
        }
    }
}

impl QueueState {
    pub(super) fn push_ready(&mut self, aggregate_id: String, now: Instant) {
        self.ready_since.get_or_insert(now);
        self.ready.push_back(aggregate_id);
    }

    /// Puts an aggregate back that did not fit the batch.
    pub(super) fn return_ready(&mut self, aggregate_id: String) {
        self.ready.push_front(aggregate_id);
    }

    pub(super) fn pop_ready(&mut self) -> Option<String> {
        self.ready.pop_front()
    }

    /// Records that the ready aggregates were taken into a batch, as far as they fit.
    pub(super) fn end_linger(&mut self, now: Instant) {
        self.ready_since = (!self.ready.is_empty()).then_some(now);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns `true` if a batch may be sent at `now`, apart from the use of the send slots.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        self.has_ready() && self.breaker.allows(now) && self.linger_end(now).is_none()
    }

    /// Returns the time until which an incomplete batch waits, if it is later than `now`.
    fn linger_end(&self, now: Instant) -> Option<Instant> {
        let may_wait = !self.requests.is_empty() && (1..MAX_BATCH).contains(&self.ready.len());
        self.ready_since
            .filter(|_| may_wait)
            .map(|since| since + LINGER)
            .filter(|end| *end > now)
    }

    pub(super) fn record_start(&mut self, request: u64, now: Instant) {
        self.breaker.record_start();
        self.requests.insert(request, now);
        self.last_request = Some(now);
    }

    pub(super) fn record_success(&mut self, request: u64) {
        self.requests.remove(&request);
        self.breaker.record_success();
        self.failures = None;
        self.has_succeeded = true;
    }

    pub(super) fn record_failure(
        &mut self,
        request: u64,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        self.requests.remove(&request);
        self.breaker.record_failure(now, delay);
        self.failures = Some(Failures::add(self.failures, now));
        self.last_failure = Some(now);
        self.has_succeeded = false;
    }

    /// Records the end of a request without a conclusion about the queue.
    pub(super) fn record_end(&mut self, request: u64) {
        self.requests.remove(&request);
        self.breaker.record_end();
    }

    /// Forgets failures that are long ago, if no event waits for the queue.
    pub(super) fn forget_old_failures(&mut self, now: Instant) {
        let is_old = |failures: &Failures| failures.last + FORGET_AFTER <= now;
        if self.failures.as_ref().is_some_and(is_old) && self.is_idle() && self.waiting.count == 0 {
            self.failures = None;
            self.breaker.reset();
        }
    }

    /// Returns `true` if the queue accepted something since its last failure.
    pub(super) const fn is_accepting(&self) -> bool {
        self.has_succeeded
    }

    pub(super) fn health(&self, now: Instant) -> QueueHealth {
        let oldest = self.requests.first_key_value().map(|(_, start)| *start);
        QueueHealth::of(self.failures, oldest, now)
    }

    /// Returns `true` if the queue has events, or had some a moment ago.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.has_ready() || !self.is_idle() || shares::was_active(self.last_request, now)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the next time later than `now` at which a send may start.
    pub(super) fn next_send(&self, now: Instant) -> Option<Instant> {
        self.breaker
            .blocked_until(now)
            .or_else(|| self.linger_end(now))
            .filter(|_| self.has_ready())
    }

    /// Returns the time later than `now` at which a request in flight impairs the queue, or its
    /// failures are forgotten.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let oldest = self.requests.first_key_value();
        let slow = oldest.map(|(_, start)| *start + SLOW_AFTER);
        let forgotten = self.failures.map(|failures| failures.last + FORGET_AFTER);
        slow.into_iter()
            .chain(forgotten)
            .filter(|at| *at > now)
            .min()
    }
}
