//! What to send and what to mark next.
//!
//! An event lives here from the moment it is read until it is marked:
//!
//! ```text
//! push ─▶ waiting ─next_batch▶ sending ─sent▶ sent ─next_marks▶ marking ─marked▶ gone
//!            ▲                   │  │                              │
//!            └──────retry────────┘  └─rejected▶ gone  ◀─mark_again─┘ (back to sent)
//! ```
//!
//! Two rules hold whatever is called when: of one aggregate at most one event
//! is sending, and always the one with the lowest `sequence` that waits. So no
//! later event overtakes an earlier one, and an event that fails holds back
//! its own aggregate only.
//!
//! `A` is what the caller wants back when an event is done. The same event
//! read twice is kept once, with both.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use shared::outbox::message::MAX_MESSAGE_BYTES;
use shared::timestamp::Timestamp;
use tokio::time::Instant;

use super::classify::Event;
use crate::ports::EventKey;
use crate::routes::QueueRef;

/// SQS: messages a batch.
pub const MAX_BATCH: usize = 10;

/// DynamoDB: statements a `BatchExecuteStatement`.
pub const MAX_MARKS: usize = 25;

/// Events that are sent and not marked, at which sending pauses: a crash
/// repeats them. Enough to keep marking busy, and no more.
pub const MAX_UNMARKED: usize = 400;

/// See the module's documentation.
#[derive(Debug)]
pub struct Schedule<A> {
    aggregates: HashMap<String, Aggregate<A>>,
    lanes: BTreeMap<QueueRef, Lane>,
    /// Aggregates that wait out a failure of their own.
    delayed: BTreeSet<(Instant, String)>,
    /// Events that are sent and not yet handed out for marking, oldest first.
    unmarked: VecDeque<EventRef>,
    /// Handed out for marking.
    marking: usize,
    marks_blocked_until: Option<Instant>,
    /// Mark requests in a row that did not go through wholly.
    mark_failures: u32,
    /// The queue served last: the others come first next time.
    last_served: Option<QueueRef>,
}

/// An event within the schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventRef {
    pub aggregate_id: String,
    pub sequence: u64,
}

#[derive(Debug)]
struct Aggregate<A> {
    events: BTreeMap<u64, Slot<A>>,
    turn: Turn,
}

/// Whose turn it is in an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing waits.
    Idle,
    /// Stands in its lane, or among the delayed.
    Queued,
    /// One event is being sent.
    Sending,
}

#[derive(Debug)]
struct Slot<A> {
    event: Arc<Event>,
    acks: Vec<A>,
    state: State,
    /// Sends that were tried so far.
    attempts: u64,
    /// Its batch was refused without saying why: it is sent by itself.
    alone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Sending,
    Sent { message_id: String, at: Timestamp },
}

/// One queue.
#[derive(Debug, Default)]
struct Lane {
    /// Aggregates whose next event goes here.
    ready: VecDeque<String>,
    in_flight: usize,
    /// Failures in a row of whole batches.
    failures: u32,
    blocked_until: Option<Instant>,
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub event: Arc<Event>,
    /// 1 for the first.
    pub attempt: u64,
}

/// What to send now. Every event of it must be answered with
/// [`Schedule::sent`], [`Schedule::retry`] or [`Schedule::rejected`], and the
/// batch with [`Schedule::batch_went_through`] or [`Schedule::batch_failed`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub queue: QueueRef,
    pub events: Vec<Outgoing>,
}

/// One event to be marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub event: EventRef,
    pub key: EventKey,
    pub message_id: String,
    /// When the queue took it.
    pub sent_at: Timestamp,
}

/// Whether an event may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Send,
    /// Ask again at the given instant.
    Later(Instant),
    /// Its shard is lost: forget it.
    Never,
}

impl EventRef {
    pub fn of(event: &Event) -> Self {
        Self {
            aggregate_id: event.key.aggregate_id.clone(),
            sequence: event.sequence,
        }
    }
}

impl<A> Default for Schedule<A> {
    fn default() -> Self {
        Self {
            aggregates: HashMap::new(),
            lanes: BTreeMap::new(),
            delayed: BTreeSet::new(),
            unmarked: VecDeque::new(),
            marking: 0,
            marks_blocked_until: None,
            mark_failures: 0,
            last_served: None,
        }
    }
}

impl<A> Schedule<A> {
    /// Adds an event that was read.
    pub fn push(&mut self, event: Arc<Event>, ack: A) {
        let aggregate_id = event.key.aggregate_id.clone();
        let aggregate = self
            .aggregates
            .entry(aggregate_id.clone())
            .or_insert_with(|| Aggregate {
                events: BTreeMap::new(),
                turn: Turn::Idle,
            });
        aggregate
            .events
            .entry(event.sequence)
            .or_insert_with(|| Slot {
                event,
                acks: Vec::new(),
                state: State::Waiting,
                attempts: 0,
                alone: false,
            })
            .acks
            .push(ack);
        self.queue_up(aggregate_id);
    }

    /// Puts an idle aggregate in line when one of its events waits.
    fn queue_up(&mut self, aggregate_id: String) {
        let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
            return;
        };
        if aggregate.turn != Turn::Idle {
            return;
        }
        if let Some(slot) = aggregate.first_waiting() {
            let queue = slot.event.queue.clone();
            aggregate.turn = Turn::Queued;
            self.lanes
                .entry(queue)
                .or_default()
                .ready
                .push_back(aggregate_id);
        } else if aggregate.events.is_empty() {
            self.aggregates.remove(&aggregate_id);
        }
    }

    /// The next batch, if something may be sent at `now`. `permission` is
    /// asked for every event with what was pushed along with it.
    pub fn next_batch(
        &mut self,
        now: Instant,
        permission: impl Fn(&[A]) -> Permission,
    ) -> Option<Batch> {
        if !self.may_send() {
            return None;
        }
        self.end_delays(now);
        let mut queues: Vec<_> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.may_send(now))
            .map(|(queue, _)| queue.clone())
            .collect();
        if let Some(last) = &self.last_served {
            let first = queues.partition_point(|queue| queue <= last);
            queues.rotate_left(first);
        }
        for queue in queues {
            let events = self.fill(&queue, &permission);
            if !events.is_empty() {
                if let Some(lane) = self.lanes.get_mut(&queue) {
                    lane.in_flight += 1;
                }
                self.last_served = Some(queue.clone());
                return Some(Batch { queue, events });
            }
        }
        None
    }

    /// Sending waits for marking, so that a crash repeats little (G3).
    fn may_send(&self) -> bool {
        self.unmarked.len() + self.marking < MAX_UNMARKED
    }

    fn end_delays(&mut self, now: Instant) {
        while let Some((until, _)) = self.delayed.first()
            && *until <= now
            && let Some((_, aggregate_id)) = self.delayed.pop_first()
        {
            if let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) {
                aggregate.turn = Turn::Idle;
            }
            self.queue_up(aggregate_id);
        }
    }

    fn fill(&mut self, queue: &QueueRef, permission: impl Fn(&[A]) -> Permission) -> Vec<Outgoing> {
        let mut events: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while events.len() < MAX_BATCH {
            let Some(aggregate_id) = self
                .lanes
                .get_mut(queue)
                .and_then(|lane| lane.ready.pop_front())
            else {
                break;
            };
            let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
                continue;
            };
            let Some(slot) = aggregate.first_waiting() else {
                aggregate.turn = Turn::Idle;
                self.queue_up(aggregate_id);
                continue;
            };
            if slot.event.queue != *queue {
                // An earlier event of it was read since, for another queue.
                aggregate.turn = Turn::Idle;
                self.queue_up(aggregate_id);
                continue;
            }
            match permission(&slot.acks) {
                Permission::Send => {}
                Permission::Later(until) => {
                    self.delayed.insert((until, aggregate_id));
                    continue;
                }
                Permission::Never => {
                    let sequence = slot.event.sequence;
                    aggregate.events.remove(&sequence);
                    aggregate.turn = Turn::Idle;
                    self.queue_up(aggregate_id);
                    continue;
                }
            }
            let size = slot.event.message.size();
            let fits = events.is_empty() || (!slot.alone && bytes + size <= MAX_MESSAGE_BYTES);
            if !fits {
                if let Some(lane) = self.lanes.get_mut(queue) {
                    lane.ready.push_front(aggregate_id);
                }
                break;
            }
            bytes += size;
            slot.state = State::Sending;
            slot.attempts += 1;
            let alone = slot.alone;
            events.push(Outgoing {
                event: Arc::clone(&slot.event),
                attempt: slot.attempts,
            });
            aggregate.turn = Turn::Sending;
            if alone {
                break;
            }
        }
        events
    }

    /// The event is in its queue since `at`; it waits to be marked.
    pub fn sent(&mut self, event: &EventRef, message_id: String, at: Timestamp) {
        if let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) {
            if let Some(slot) = aggregate.events.get_mut(&event.sequence) {
                slot.state = State::Sent { message_id, at };
                self.unmarked.push_back(event.clone());
            }
            aggregate.turn = Turn::Idle;
        }
        self.queue_up(event.aggregate_id.clone());
    }

    /// The event was not sent, or nobody knows; its aggregate waits until
    /// `until`. `alone`: its batch was refused, maybe for the sake of it.
    pub fn retry(&mut self, event: &EventRef, until: Option<Instant>, alone: bool) {
        let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) else {
            return;
        };
        if let Some(slot) = aggregate.events.get_mut(&event.sequence) {
            slot.state = State::Waiting;
            slot.alone |= alone;
        }
        match until {
            Some(until) => {
                aggregate.turn = Turn::Queued;
                self.delayed.insert((until, event.aggregate_id.clone()));
            }
            None => {
                aggregate.turn = Turn::Idle;
                self.queue_up(event.aggregate_id.clone());
            }
        }
    }

    /// The event can never be sent; later ones of its aggregate go on.
    /// Returns what was pushed with it.
    pub fn rejected(&mut self, event: &EventRef) -> Vec<A> {
        let acks = self.forget(event);
        if let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) {
            aggregate.turn = Turn::Idle;
        }
        self.queue_up(event.aggregate_id.clone());
        acks
    }

    /// Forgets waiting events that may never be sent, without waiting for
    /// their turn.
    pub fn forget_lost(&mut self, permission: impl Fn(&[A]) -> Permission) {
        for aggregate in self.aggregates.values_mut() {
            aggregate.events.retain(|_, slot| {
                slot.state != State::Waiting || permission(&slot.acks) != Permission::Never
            });
        }
    }

    fn forget(&mut self, event: &EventRef) -> Vec<A> {
        self.aggregates
            .get_mut(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.remove(&event.sequence))
            .map(|slot| slot.acks)
            .unwrap_or_default()
    }

    /// The queue answered: it is well.
    pub fn batch_went_through(&mut self, queue: &QueueRef) {
        let lane = self.lanes.entry(queue.clone()).or_default();
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.failures = 0;
        lane.blocked_until = None;
    }

    /// The queue did not take the batch; nothing goes there for a while, then
    /// one batch at a time until one goes through. `delay` is given the number
    /// of failures in a row.
    pub fn batch_failed(
        &mut self,
        queue: &QueueRef,
        now: Instant,
        delay: impl FnOnce(u32) -> std::time::Duration,
    ) {
        let lane = self.lanes.entry(queue.clone()).or_default();
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.failures = lane.failures.saturating_add(1);
        lane.blocked_until = Some(now + delay(lane.failures));
    }

    /// Up to [`MAX_MARKS`] events to mark now; with fewer than that waiting,
    /// only when `eager`. Each must be answered with [`Schedule::marked`] or
    /// [`Schedule::mark_again`].
    pub fn next_marks(&mut self, now: Instant, eager: bool) -> Vec<Mark> {
        if self.marks_blocked_until.is_some_and(|until| now < until)
            || (!eager && self.unmarked.len() < MAX_MARKS)
        {
            return Vec::new();
        }
        let count = self.unmarked.len().min(MAX_MARKS);
        let marks: Vec<_> = self
            .unmarked
            .drain(..count)
            .filter_map(|event| {
                let slot = self
                    .aggregates
                    .get(&event.aggregate_id)?
                    .events
                    .get(&event.sequence)?;
                match &slot.state {
                    State::Sent { message_id, at } => Some(Mark {
                        key: slot.event.key.clone(),
                        message_id: message_id.clone(),
                        sent_at: *at,
                        event,
                    }),
                    State::Waiting | State::Sending => None,
                }
            })
            .collect();
        self.marking += marks.len();
        marks
    }

    /// The event is marked, or gone; returns what was pushed with it.
    pub fn marked(&mut self, event: &EventRef) -> Vec<A> {
        self.marking = self.marking.saturating_sub(1);
        let acks = self.forget(event);
        self.queue_up(event.aggregate_id.clone());
        acks
    }

    /// The mark did not go through.
    pub fn mark_again(&mut self, event: EventRef) {
        self.marking = self.marking.saturating_sub(1);
        self.unmarked.push_front(event);
    }

    /// A mark request was answered. When some of it must be tried `again`,
    /// nothing is marked for a while; `delay` is given the number of such
    /// answers in a row.
    pub fn marks_went(
        &mut self,
        again: bool,
        now: Instant,
        delay: impl FnOnce(u32) -> std::time::Duration,
    ) {
        if again {
            self.mark_failures = self.mark_failures.saturating_add(1);
            self.marks_blocked_until = Some(now + delay(self.mark_failures));
        } else {
            self.mark_failures = 0;
        }
    }

    /// What was pushed with an event.
    pub fn acks(&self, event: &EventRef) -> &[A] {
        self.aggregates
            .get(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.get(&event.sequence))
            .map_or(&[], |slot| &slot.acks)
    }

    /// When something that waits at `now` may go on: a mark, and, if `sending`,
    /// a send. Sends are left out while none could start anyway, as one that
    /// is overdue would be due at once, again and again.
    pub fn next_due(&self, now: Instant, sending: bool) -> Option<Instant> {
        let marks = self
            .marks_blocked_until
            .filter(|until| *until > now && !self.unmarked.is_empty());
        let lanes = self
            .lanes
            .values()
            .filter(|lane| !lane.ready.is_empty())
            .filter_map(|lane| lane.blocked_until)
            .filter(|until| *until > now);
        let delayed = self.delayed.first().map(|(until, _)| *until);
        let sends = lanes
            .chain(delayed)
            .min()
            .filter(|_| sending && self.may_send());
        marks.into_iter().chain(sends).min()
    }

    /// Nothing waits to be marked or is being marked or sent.
    pub fn is_settled(&self) -> bool {
        self.unmarked.is_empty() && self.lanes.values().all(|lane| lane.in_flight == 0)
    }
}

impl<A> Aggregate<A> {
    fn first_waiting(&mut self) -> Option<&mut Slot<A>> {
        self.events
            .values_mut()
            .find(|slot| slot.state == State::Waiting)
    }
}

impl Lane {
    fn may_send(&self, now: Instant) -> bool {
        !self.ready.is_empty()
            && self.blocked_until.is_none_or(|until| until <= now)
            // While it fails, one batch finds out whether it is well again.
            && (self.failures == 0 || self.in_flight == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::outbox::Message;
    use shared::telemetry::propagation::TraceContext;

    use super::*;

    fn event(aggregate: &str, sequence: u64, queue: &str, bytes: usize) -> Arc<Event> {
        Arc::new(Event {
            key: EventKey {
                aggregate_id: aggregate.to_owned(),
                sequence: sequence.to_string(),
            },
            sequence,
            event_id: format!("{aggregate}:{sequence}"),
            queue: QueueRef::new(queue),
            message: Message {
                body: "x".repeat(bytes),
                attributes: Vec::new(),
            },
            occurred_at: None,
            trace: TraceContext::default(),
        })
    }

    fn reference(aggregate: &str, sequence: u64) -> EventRef {
        EventRef {
            aggregate_id: aggregate.to_owned(),
            sequence,
        }
    }

    fn names(batch: Option<Batch>) -> Vec<String> {
        batch
            .map(|batch| {
                batch
                    .events
                    .into_iter()
                    .map(|out| out.event.event_id.clone())
                    .collect()
            })
            .unwrap_or_default()
    }

    fn next(schedule: &mut Schedule<u32>, now: Instant) -> Vec<String> {
        names(schedule.next_batch(now, |_| Permission::Send))
    }

    #[test]
    fn an_aggregate_has_one_event_in_flight_and_the_lowest_first() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.push(event("a", 2, "q", 1), 0);
        schedule.push(event("a", 1, "q", 1), 0);
        schedule.push(event("b", 1, "q", 1), 0);
        assert_eq!(next(&mut schedule, now), ["a:1", "b:1"]);
        assert!(next(&mut schedule, now).is_empty());
        schedule.sent(
            &reference("a", 1),
            "m".to_owned(),
            Timestamp::from_millis(0),
        );
        assert_eq!(next(&mut schedule, now), ["a:2"]);
    }

    #[test]
    fn a_failed_entry_holds_back_its_aggregate_only() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for sequence in 1..=2 {
            schedule.push(event("a", sequence, "q", 1), 0);
            schedule.push(event("b", sequence, "q", 1), 0);
        }
        assert_eq!(next(&mut schedule, now), ["a:1", "b:1"]);
        let later = now + Duration::from_secs(1);
        schedule.retry(&reference("a", 1), Some(later), false);
        schedule.sent(
            &reference("b", 1),
            "m".to_owned(),
            Timestamp::from_millis(0),
        );
        schedule.batch_went_through(&QueueRef::new("q"));
        assert_eq!(next(&mut schedule, now), ["b:2"]);
        assert_eq!(schedule.next_due(later, false), None);
        assert_eq!(schedule.next_due(now, true), Some(later));
        assert_eq!(next(&mut schedule, later), ["a:1"]);
    }

    #[test]
    fn a_rejected_event_lets_the_later_ones_go() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.push(event("a", 1, "q", 1), 7);
        schedule.push(event("a", 2, "q", 1), 8);
        assert_eq!(next(&mut schedule, now), ["a:1"]);
        assert_eq!(schedule.rejected(&reference("a", 1)), [7]);
        assert_eq!(next(&mut schedule, now), ["a:2"]);
    }

    #[test]
    fn batches_keep_to_ten_messages_and_a_mebibyte() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for n in 0..11 {
            schedule.push(event(&format!("s{n:02}"), 1, "small", 1), 0);
        }
        for n in 0..3 {
            schedule.push(event(&format!("l{n}"), 1, "large", 400 * 1024), 0);
        }
        let mut sizes = Vec::new();
        while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
            sizes.push((batch.queue.to_string(), batch.events.len()));
        }
        sizes.sort();
        let expected = [("large", 1), ("large", 2), ("small", 1), ("small", 10)]
            .map(|(queue, count)| (queue.to_owned(), count));
        assert_eq!(sizes, expected);
    }

    #[test]
    fn a_failing_queue_is_probed_and_does_not_hold_up_another() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for n in 0..25 {
            schedule.push(event(&format!("x{n:02}"), 1, "down", 1), 0);
        }
        schedule.push(event("y", 1, "up", 1), 0);
        let down = QueueRef::new("down");
        let first = schedule.next_batch(now, |_| Permission::Send).unwrap();
        assert_eq!(first.queue, down);
        for outgoing in &first.events {
            schedule.retry(&EventRef::of(&outgoing.event), None, false);
        }
        schedule.batch_failed(&down, now, |_| Duration::from_secs(1));
        assert_eq!(next(&mut schedule, now), ["y:1"]);
        assert!(next(&mut schedule, now).is_empty());
        let later = now + Duration::from_secs(1);
        assert_eq!(next(&mut schedule, later).len(), 10);
        assert!(next(&mut schedule, later).is_empty(), "one probe at a time");
        schedule.batch_went_through(&down);
        assert_eq!(next(&mut schedule, later).len(), 10);
    }

    #[test]
    fn a_refused_batch_is_sent_one_by_one() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for name in ["a", "b"] {
            schedule.push(event(name, 1, "q", 1), 0);
        }
        assert_eq!(next(&mut schedule, now).len(), 2);
        for name in ["a", "b"] {
            schedule.retry(&reference(name, 1), None, true);
        }
        assert_eq!(next(&mut schedule, now), ["a:1"]);
        assert_eq!(next(&mut schedule, now), ["b:1"]);
    }

    #[test]
    fn an_event_read_twice_is_sent_once_and_acknowledged_twice() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.push(event("a", 1, "q", 1), 1);
        assert_eq!(next(&mut schedule, now), ["a:1"]);
        schedule.push(event("a", 1, "q", 1), 2);
        schedule.sent(
            &reference("a", 1),
            "m".to_owned(),
            Timestamp::from_millis(0),
        );
        assert!(next(&mut schedule, now).is_empty());
        let marks = schedule.next_marks(now, true);
        assert_eq!(marks.len(), 1);
        schedule.push(event("a", 1, "q", 1), 3);
        assert!(next(&mut schedule, now).is_empty());
        assert_eq!(schedule.marked(&marks[0].event), [1, 2, 3]);
        assert!(schedule.aggregates.is_empty());
    }

    #[test]
    fn marks_are_gathered_unless_eager() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for n in 0..30 {
            schedule.push(event(&format!("x{n:02}"), 1, "q", 1), n);
        }
        while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
            for outgoing in batch.events {
                schedule.sent(
                    &EventRef::of(&outgoing.event),
                    "m".to_owned(),
                    Timestamp::from_millis(0),
                );
            }
            schedule.batch_went_through(&batch.queue);
        }
        assert_eq!(schedule.next_marks(now, false).len(), 25);
        assert!(schedule.next_marks(now, false).is_empty());
        assert_eq!(schedule.next_marks(now, true).len(), 5);
    }

    #[test]
    fn sending_waits_for_marks() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for n in 0..2 * MAX_UNMARKED {
            schedule.push(event(&format!("x{n:04}"), 1, "q", 1), 0);
        }
        let mut sent = 0;
        while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
            for outgoing in &batch.events {
                let at = Timestamp::from_millis(0);
                schedule.sent(&EventRef::of(&outgoing.event), "m".to_owned(), at);
            }
            schedule.batch_went_through(&batch.queue);
            sent += batch.events.len();
        }
        assert_eq!(sent, MAX_UNMARKED);
        for mark in schedule.next_marks(now, true) {
            schedule.marked(&mark.event);
        }
        assert_eq!(next(&mut schedule, now).len(), 10);
    }

    #[test]
    fn a_lost_shard_sends_nothing_more() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.push(event("a", 1, "q", 1), 1);
        schedule.push(event("b", 1, "q", 1), 2);
        let batch = schedule.next_batch(now, |acks| match acks {
            [1] => Permission::Never,
            _ => Permission::Send,
        });
        assert_eq!(names(batch), ["b:1"]);
        let later = now + Duration::from_secs(1);
        schedule.push(event("c", 1, "q", 1), 3);
        assert!(
            schedule
                .next_batch(now, |_| Permission::Later(later))
                .is_none()
        );
        assert_eq!(schedule.next_due(now, true), Some(later));
        assert_eq!(next(&mut schedule, later), ["c:1"]);
    }
}
