//! Sweeper: publishes pending events that no reader of the stream will send (the "sweeper" rule).
//!
//! - The *table path* publishes marked events on request and at intervals: those that a reader
//!   deferred, and those that an operator made pending again. No reader of the stream sends them.
//! - The *lost-event sweep* publishes events that the stream can no longer deliver: after an outage
//!   of more than 24 hours, after a stream was disabled and enabled again, or after a table was
//!   restored from a backup. The commit time of an event is unknown: `occurred_at` is set by its
//!   writer and may be a year ago. So a sweep collects the pending events, waits until every reader
//!   is past the start of the sweep, and publishes those that are still pending.
//!
//! Each of several sweepers has a part of the pending buckets. Both activities walk over the
//! index of pending events in the order of their time ([`walk`]).

mod candidates;
mod sweep_gate;
mod walk;

use std::sync::Arc;

use outbox::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::candidates::Candidates;
use self::sweep_gate::Walked;
use self::walk::{ResumePoints, Task, Walk};
use super::OnFailure;
use super::context::ShardContext;
use super::outbox_reader::OutboxReader;
use super::shard_state::ShardState;
use crate::policy::sweep_policy::{
    SweepPartition, is_past, low_watermark, pause_after, request_pause_after,
};

pub(crate) struct Sweeper {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    partition: SweepPartition,
    outbox: OutboxReader,
    random: fastrand::Rng,
    resume: ResumePoints,
    /// Lost-event sweep that waits until the readers are past its start.
    waiting: Option<LostEventSweep>,
    /// The last walk found marked events that it could not publish, or none has been made yet.
    has_marked: bool,
    /// Some of them may wait for a reader of the stream.
    awaits_readers: bool,
    /// Earliest start of the next walk, unless it is requested or a queue recovers before.
    next_walk: Instant,
    /// Earliest start of the next walk if it is requested.
    next_requested_walk: Instant,
    /// The last walk published events, and there are more.
    continues: bool,
    /// Marked events are searched for up to the end of the buckets: a walk was requested, or found
    /// some.
    is_searching: bool,
    /// Earliest time at which the search continues.
    next_search: Instant,
}

struct LostEventSweep {
    started_at: Timestamp,
    candidates: Candidates,
}

/// Reason for which the sweeper continues.
enum Trigger {
    Interval,
    /// There are marked events, or a gap was found.
    Requested,
    /// A queue accepts events again.
    Recovered,
    /// The readers may be past the start of the lost-event sweep, or past earlier events for which
    /// marked ones wait.
    Poll,
    /// There may be marked events behind a backlog.
    Search,
}

impl Sweeper {
    /// Creates the sweeper of `partition`, whose lease has the state `shard`.
    pub(crate) fn new(
        ctx: ShardContext,
        shard: Arc<ShardState>,
        partition: SweepPartition,
        mut random: fastrand::Rng,
    ) -> Self {
        let outbox = OutboxReader::new(&ctx, random.fork());
        Self {
            ctx,
            shard,
            partition,
            outbox,
            random,
            resume: ResumePoints::new(),
            waiting: None,
            has_marked: true,
            awaits_readers: false,
            next_walk: Instant::now(),
            next_requested_walk: Instant::now(),
            continues: false,
            is_searching: true,
            next_search: Instant::now(),
        }
    }

    /// Sweeps at every interval, on request and when a queue recovers, until dropped.
    pub(crate) async fn run(mut self, requested: &Notify) {
        let mut ticks = tokio::time::interval(self.ctx.config.sweep_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let queues = self.ctx.queues.clone();
        let mut recoveries = 0;
        // About as often as leases are written.
        let poll = self.ctx.config.lease_duration / 3;
        let mut next_poll = Instant::now() + poll;
        loop {
            let polls = self.waiting.is_some() || self.awaits_readers;
            let searches = self.searches();
            let trigger = tokio::select! {
                biased;
                () = std::future::ready(()), if self.continues => Trigger::Requested,
                // Before the interval, whose walk may not look for deferred events.
                () = requested_after(requested, self.next_requested_walk) => Trigger::Requested,
                count = queues.recovered(recoveries) => {
                    recoveries = count;
                    Trigger::Recovered
                }
                () = tokio::time::sleep_until(self.next_search), if searches => Trigger::Search,
                () = tick_after(&mut ticks, self.next_walk) => Trigger::Interval,
                () = tokio::time::sleep_until(next_poll), if polls => Trigger::Poll,
            };
            if matches!(trigger, Trigger::Search) {
                self.search().await;
                continue;
            }
            let is_requested = !matches!(trigger, Trigger::Interval);
            let is_possible = !matches!(trigger, Trigger::Poll)
                || (self.awaits_readers && self.next_walk <= Instant::now());
            if is_possible {
                self.collect(is_requested).await;
            }
            self.publish_lost().await;
            next_poll = Instant::now() + poll;
        }
    }

    /// Publishes the candidates of the lost-event sweep if every reader is past its start.
    async fn publish_lost(&mut self) {
        while let Some(sweep) = self.waiting.take() {
            if !self.is_passed(sweep.started_at).await {
                self.waiting = Some(sweep);
                return;
            }
            let walked = self.walk(Task::Publish(&sweep.candidates)).await;
            if walked.dispatched > 0 {
                tracing::warn!(
                    count = walked.dispatched,
                    "publishing pending events that the stream can no longer deliver"
                );
            }
            if walked.is_limited {
                self.waiting = Some(sweep);
                if walked.has_progress {
                    continue;
                }
                return;
            }
            if sweep.candidates.is_full() {
                self.collect(false).await;
            }
        }
    }

    /// Publishes marked events, and collects the candidates of a lost-event sweep unless one is
    /// waiting.
    async fn collect(&mut self, is_requested: bool) {
        let started_at = self.ctx.clock.now();
        let was_searching = self.searches();
        self.outbox.take_reading_time();
        let buckets = self.partition.buckets(self.ctx.config.buckets.get());
        let mut candidates = Candidates::new(buckets.count());
        // The successors of a quarantined event are deferred without a request, as each sweep would
        // read all that wait.
        let holds = self.ctx.config.on_failure == OnFailure::Hold;
        let looks_for_deferred = is_requested || self.has_marked || holds;
        let walked = self
            .walk(Task::Collect {
                candidates: &mut candidates,
                looks_for_deferred,
            })
            .await;
        self.has_marked = !walked.remaining.is_empty();
        self.awaits_readers = walked.awaits_readers;
        self.continues = self.has_marked && walked.has_progress;
        let reading_time = self.outbox.take_reading_time();
        self.next_walk = Instant::now();
        self.next_requested_walk = self.next_walk;
        if !walked.has_progress {
            self.next_walk += pause_after(reading_time);
            self.next_requested_walk += request_pause_after(reading_time);
        }
        self.is_searching =
            !self.resume.is_empty() && (self.is_searching || is_requested || walked.has_progress);
        if !was_searching {
            self.next_search = self.next_walk;
        }
        self.shard.set_deferred(walked.remaining);
        if self.waiting.is_none() && !candidates.is_empty() {
            self.waiting = Some(LostEventSweep {
                started_at,
                candidates,
            });
        }
    }

    /// Returns `true` if the search for marked events continues.
    fn searches(&self) -> bool {
        self.is_searching && !self.resume.is_empty()
    }

    /// Searches for marked events from where an earlier walk stopped.
    async fn search(&mut self) {
        self.outbox.take_reading_time();
        let walked = self.walk(Task::Search).await;
        self.has_marked |= !walked.remaining.is_empty();
        self.awaits_readers |= walked.awaits_readers;
        self.next_search = Instant::now();
        if !walked.has_progress {
            self.next_search += pause_after(self.outbox.take_reading_time());
        }
    }

    async fn walk(&mut self, task: Task<'_>) -> Walked {
        let walk = Walk::new(
            &self.ctx,
            &self.shard,
            self.partition,
            &self.outbox,
            &mut self.resume,
            self.random.fork(),
        );
        walk.run(task).await
    }

    /// Returns `true` if every record that was created before `moment` is settled.
    async fn is_passed(&self, moment: Timestamp) -> bool {
        match self.ctx.ports.leases.list(&self.ctx.stream, None).await {
            Ok(listed) if !listed.unreadable.is_empty() => false,
            Ok(listed) => {
                let margin = self.ctx.config.sweep_after;
                low_watermark(&listed.leases).is_some_and(|mark| is_past(mark, moment, margin))
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be read for the sweep; retrying");
                false
            }
        }
    }
}

/// Waits for the next tick from `earliest` on.
async fn tick_after(ticks: &mut Interval, earliest: Instant) {
    tokio::time::sleep_until(earliest).await;
    ticks.tick().await;
}

/// Waits for a request from `earliest` on. One that was made before counts.
async fn requested_after(requested: &Notify, earliest: Instant) {
    tokio::time::sleep_until(earliest).await;
    requested.notified().await;
}
