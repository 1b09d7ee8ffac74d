//! Deferral: removes events from the buffer that sweepers will publish from the outbox table, and
//! reports the health of the queues to the other tasks (the "deferral" rule).

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Publisher;
use crate::engine::OnFailure;
use crate::engine::in_flight::{Ack, DispatchedBy};
use crate::engine::queue_states::QueueCondition;
use crate::policy::record_classifier::Event;
use crate::policy::send_scheduler::{EventRef, QueueHealth, QueueReport};
use crate::routes::QueueRef;

/// Shards whose gates dispatched events to shed, by their identities.
type DispatchingShards = BTreeMap<(usize, String), DispatchedBy>;

/// Period in which events of a queue are deferred.
#[derive(Debug, Default)]
pub(super) struct Episode {
    /// Number of events that were deferred.
    deferred: u64,
    /// The queue is or was impaired.
    is_impaired: bool,
    is_logged: bool,
}

impl Publisher {
    /// Sheds the events that exceed the shares of the queues. Returns `true` if there were any.
    pub(in crate::engine::publish) fn shed_excess(&mut self, now: Instant) -> bool {
        let excess = self.scheduler.excess(now, self.buffer_kib);
        if !excess.is_empty() {
            self.shed(&excess, now);
        }
        !excess.is_empty()
    }

    /// Sheds the events that were read from the table while their deferral was being written: the
    /// sweeper of another instance may send them.
    pub(in crate::engine::publish) fn shed_recalled(&mut self, now: Instant) {
        while !self.recalled.is_empty() {
            let recalled = std::mem::take(&mut self.recalled);
            self.shed(&recalled, now);
        }
    }

    /// Sheds the events that wait for impaired queues, of shards that were read to their end.
    pub(in crate::engine::publish) fn shed_ending(&mut self, now: Instant) {
        for shard in std::mem::take(&mut self.ending) {
            let first = self
                .scheduler
                .impaired(now, |ack| ack.is_of_record_in(&shard));
            if !first.is_empty() {
                self.shed(&first, now);
            }
        }
    }

    /// Sheds the waiting events of some aggregates, each from the given event on: defers those that
    /// were read from the stream, and drops the others, which are pending in the table anyway.
    ///
    /// No later event of these aggregates may be sent before them. Therefore their shards first
    /// forget that they were dispatched, so that the gates look them up in the table; then the
    /// commands that the gates sent before that are executed; then the events are removed. A gate
    /// may dispatch an event between these steps, so they are repeated until no further gate has
    /// dispatched any, and until there is nothing left to remove.
    pub(in crate::engine::publish) fn shed(&mut self, first: &[EventRef], now: Instant) {
        self.shed_after(None, first, now);
    }

    /// Sheds events as [`Self::shed`] does. The gates that dispatched `rejected` forget its
    /// aggregate as well.
    fn shed_after(&mut self, rejected: Option<&EventRef>, first: &[EventRef], now: Instant) {
        let mut shards = DispatchingShards::new();
        loop {
            while self.add_shards(&mut shards, rejected, first) {
                self.forget_dispatched(&shards, now);
            }
            if !self.remove_shed(first, now) {
                return;
            }
            self.forget_dispatched(&shards, now);
        }
    }

    /// Adds the shards whose gates dispatched `rejected` or the events to shed. Returns `true` if
    /// there were any that `shards` does not contain.
    fn add_shards(
        &self,
        shards: &mut DispatchingShards,
        rejected: Option<&EventRef>,
        first: &[EventRef],
    ) -> bool {
        let before = shards.len();
        if let Some(rejected) = rejected {
            for ack in self.scheduler.acks(rejected) {
                // Recorded before the gate forgets the event: it is not to count as dispatched
                // again.
                ack.record_rejected();
                let shard = ack.dispatched_by(&rejected.aggregate_id);
                shards.insert(shard.identity(), shard);
            }
        }
        for event in first {
            for ack in self.scheduler.waiting_acks(event) {
                let shard = ack.dispatched_by(&event.aggregate_id);
                shards.insert(shard.identity(), shard);
            }
        }
        shards.len() > before
    }

    /// Makes the gates of the shards forget what they dispatched, and executes the commands that
    /// they sent before.
    fn forget_dispatched(&mut self, shards: &DispatchingShards, now: Instant) {
        shards.values().for_each(DispatchedBy::forget);
        while let Ok(command) = self.commands.try_recv() {
            self.execute(command, now);
        }
    }

    /// Removes the waiting events of some aggregates, each from the given event on. Returns `true`
    /// if there were any.
    fn remove_shed(&mut self, first: &[EventRef], now: Instant) -> bool {
        let mut is_any = false;
        for event in first {
            for shed in self.scheduler.shed(event, now) {
                is_any = true;
                if !shed.is_from_table {
                    self.defer(&shed.event, shed.acks);
                }
            }
        }
        is_any
    }

    /// Defers an event. If it was read from the table as well, it is no longer in flight from
    /// there: a gate would take it as dispatched, and let later events of its aggregate follow.
    pub(in crate::engine::publish) fn defer(&mut self, event: &Event, mut acks: Vec<Ack>) {
        acks.retain(Ack::is_of_record);
        let episode = self.episodes.entry(event.queue.clone()).or_default();
        episode.deferred += 1;
        self.deferrals.push(event, acks);
    }

    /// Sheds the later events of an aggregate before one of it is quarantined, if they have to wait
    /// for it (the "failure mode" rule).
    pub(in crate::engine::publish) fn hold_successors(
        &mut self,
        rejected: &EventRef,
        now: Instant,
    ) {
        if self.on_failure == OnFailure::Hold {
            let next = EventRef {
                sequence: rejected.sequence.saturating_add(1),
                replay: None,
                ..rejected.clone()
            };
            self.shed_after(Some(rejected), &[next], now);
        }
    }

    /// Reports the conditions of the queues to the other tasks, and logs for which of them deferral
    /// begins or ends.
    pub(in crate::engine::publish) fn update_queue_states(&mut self, now: Instant) {
        let reports = self.scheduler.reports(now, self.buffer_kib);
        for (queue, report) in &reports {
            self.update_episode(queue, *report);
        }
        let conditions: BTreeMap<_, _> = reports
            .into_iter()
            .filter(|(_, report)| report.health != QueueHealth::Healthy)
            .map(|(queue, report)| {
                let condition = QueueCondition {
                    is_deferring: report.health == QueueHealth::Deferring,
                    has_table_batch: report.has_table_batch,
                };
                (queue, condition)
            })
            .collect();
        if conditions != self.conditions {
            self.queues.replace(conditions.clone());
            self.conditions = conditions;
        }
    }

    fn update_episode(&mut self, queue: &QueueRef, report: QueueReport) {
        if !queue.is_routed() {
            return;
        }
        if report.health == QueueHealth::Healthy {
            let Some(episode) = self.episodes.remove(queue) else {
                return;
            };
            if episode.is_impaired {
                self.queues.signal_recovery();
            }
            if self.on_failure == OnFailure::Pass || episode.is_impaired {
                // An event that was deferred behind another one follows it at once.
                self.queues.request_sweep();
            }
            if episode.is_logged {
                tracing::info!(
                    queue = queue.as_str(),
                    deferred = episode.deferred,
                    "queue accepts events again; publishing its deferred events from the table"
                );
            }
            return;
        }
        if report.has_table_batch || report.health == QueueHealth::Deferring {
            self.episodes.entry(queue.clone()).or_default();
        }
        let Some(episode) = self.episodes.get_mut(queue) else {
            return;
        };
        episode.is_impaired = true;
        if !episode.is_logged && (episode.deferred > 0 || report.health == QueueHealth::Deferring) {
            episode.is_logged = true;
            self.queues.request_sweep();
            tracing::warn!(
                queue = queue.as_str(),
                deferred = episode.deferred,
                "queue is unavailable or slow; its events are deferred: they stay pending in the table and are published when it accepts them"
            );
        }
    }
}
