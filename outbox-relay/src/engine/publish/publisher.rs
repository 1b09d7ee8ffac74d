//! Publisher: routes events between the send scheduler, the queues, the marker, the deferral writer
//! and the quarantine queue.
//!
//! One task owns all of them. Requests run beside it, a bounded number at a time.

mod deferral;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::deferral::Episode;
use super::deferral_writer::DeferralWriter;
use super::marker::Marker;
use super::quarantine_queue::QuarantineQueue;
use super::sender::{self, SendAnswer};
use crate::engine::OnFailure;
use crate::engine::context::ShardContext;
use crate::engine::health::status::EngineStatus;
use crate::engine::health::table_health::TableOperation;
use crate::engine::in_flight::{self, Ack};
use crate::engine::metrics::RelayMetrics;
use crate::engine::publish_command::PublishCommand;
use crate::engine::queue_states::{QueueCondition, QueueStates};
use crate::policy::event_source::EventSource;
use crate::policy::record_classifier::Event;
use crate::policy::send_scheduler::{Batch, EventRef, MAX_SENDS, SendScheduler};
use crate::ports::{OutboxTable, Queue, ShardId};
use crate::routes::QueueRef;

/// Maximum number of commands that are taken from the channel at once.
const MAX_COMMANDS: usize = 1024;

pub(crate) struct Publisher {
    pub(super) queue: Arc<dyn Queue>,
    outbox: Arc<dyn OutboxTable>,
    pub(super) clock: fn() -> Timestamp,
    pub(super) buffer_kib: usize,
    pub(super) on_failure: OnFailure,
    pub(super) metrics: RelayMetrics,
    pub(super) status: EngineStatus,
    pub(super) queues: QueueStates,
    pub(super) commands: mpsc::UnboundedReceiver<PublishCommand>,
    pub(super) scheduler: SendScheduler<Ack>,
    pub(super) sends: JoinSet<SendAnswer>,
    pub(super) marker: Marker,
    pub(super) deferrals: DeferralWriter,
    pub(super) quarantine: QuarantineQueue,
    /// Conditions of the queues as they were published last.
    pub(super) conditions: BTreeMap<QueueRef, QueueCondition>,
    /// Queues whose events are deferred.
    episodes: BTreeMap<QueueRef, Episode>,
    /// Events that a gate read from the table while their deferral was being written. They are
    /// left to the sweepers at the next opportunity.
    recalled: Vec<EventRef>,
    /// Shards whose events are deferred while their queues are impaired, at the next opportunity.
    ending: Vec<ShardId>,
    pub(super) random: fastrand::Rng,
    stop: CancellationToken,
}

impl Publisher {
    /// Creates a publisher that executes `commands`.
    pub(crate) fn new(
        ctx: &ShardContext,
        commands: mpsc::UnboundedReceiver<PublishCommand>,
        mut random: fastrand::Rng,
    ) -> Self {
        let config = &ctx.config;
        let marker = Marker::new(
            Arc::clone(&ctx.ports.outbox),
            config.retention,
            config.clock,
            ctx.metrics.clone(),
            ctx.status.monitor(TableOperation::Mark),
            random.fork(),
        );
        let deferrals = DeferralWriter::new(
            Arc::clone(&ctx.ports.outbox),
            config.clock,
            ctx.metrics.clone(),
            ctx.status.monitor(TableOperation::Defer),
            random.fork(),
        );
        let quarantine = QuarantineQueue::new(
            Arc::clone(&ctx.ports.outbox),
            config.clock,
            ctx.metrics.clone(),
            ctx.status.clone(),
            random.fork(),
        );
        Self {
            queue: Arc::clone(&ctx.ports.queue),
            outbox: Arc::clone(&ctx.ports.outbox),
            clock: config.clock,
            buffer_kib: config.buffer_kib,
            on_failure: config.on_failure,
            metrics: ctx.metrics.clone(),
            status: ctx.status.clone(),
            queues: ctx.queues.clone(),
            commands,
            scheduler: SendScheduler::default(),
            sends: JoinSet::new(),
            marker,
            deferrals,
            quarantine,
            conditions: BTreeMap::new(),
            episodes: BTreeMap::new(),
            recalled: Vec::new(),
            ending: Vec::new(),
            random,
            stop: ctx.stop.clone(),
        }
    }

    /// Publishes until the instance stops, then finishes the requests in flight and the marks of
    /// sent events. Events that were not sent by then are left to the next owner of their shard.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut received = Vec::new();
        let mut is_open = true;
        loop {
            let now = Instant::now();
            let stopping = stop.is_cancelled();
            if !stopping {
                self.start_requests(now);
            }
            self.marker.start_requests(now);
            if (stopping || !is_open) && self.is_idle() {
                return;
            }
            let due = self.next_due(now, stopping);
            tokio::select! {
                // Answers come first: they free the capacity that the others wait for. The fixed
                // order also makes a simulated run repeat exactly.
                biased;
                Some(answer) = self.sends.join_next() => self.process(answer),
                Some(answer) = self.marker.next_answer() => {
                    let now = Instant::now();
                    for event in self.marker.process(answer, now) {
                        self.scheduler
                            .record_marked(&event, now)
                            .into_iter()
                            .for_each(Ack::settle);
                    }
                }
                Some(answer) = self.deferrals.next_answer() => {
                    self.deferrals.process(answer, Instant::now());
                }
                Some(answer) = self.quarantine.next_answer() => {
                    self.quarantine.process(answer, Instant::now());
                }
                count = self.commands.recv_many(&mut received, MAX_COMMANDS), if is_open && !stopping => {
                    is_open = count > 0;
                    let now = Instant::now();
                    for command in received.drain(..) {
                        self.execute(command, now);
                    }
                }
                () = sleep_until(due) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Starts the requests that are possible now, apart from marks, and sheds the events that
    /// exceed the shares of the queues.
    fn start_requests(&mut self, now: Instant) {
        self.shed_recalled(now);
        self.shed_ending(now);
        self.start_sends(now);
        // Shedding comes second, so that a new event of a queue that fails can be its probe.
        while self.shed_excess(now) {
            self.start_sends(now);
        }
        self.update_queue_states(now);
        self.deferrals.start_requests(now);
        self.quarantine.start_requests(now);
        self.status
            .retain_queues(|queue| self.scheduler.is_in_use(queue, now));
    }

    /// Returns `true` if no request is in flight and every sent event is marked.
    fn is_idle(&self) -> bool {
        self.sends.is_empty()
            && self.scheduler.is_idle()
            && self.marker.is_idle()
            && self.deferrals.is_idle()
            && self.quarantine.is_idle()
    }

    /// Returns the next instant at which a delayed request may start. Sends are left out while none
    /// may start, as an overdue one would be due at once, again and again.
    fn next_due(&self, now: Instant, stopping: bool) -> Option<Instant> {
        let mark = self.marker.next_due(now);
        if stopping {
            return mark;
        }
        let may_send = self.sends.len() < MAX_SENDS && !self.marker.is_full();
        [
            mark,
            self.scheduler.next_send(now).filter(|_| may_send),
            self.scheduler.next_change(now),
            self.deferrals.next_due(now),
            self.quarantine.next_due(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn execute(&mut self, command: PublishCommand, now: Instant) {
        match command {
            // The event was marked after it had been read or looked up.
            PublishCommand::Publish { event, ack } | PublishCommand::Defer { event, ack }
                if self.marker.was_marked(&event, is_from_table(&ack), now) =>
            {
                ack.settle();
            }
            // One that is in flight, since it was also read from the table, is not left to a
            // sweeper of another instance: it would be sent twice.
            PublishCommand::Defer { event, ack }
                if event.is_deferrable && !self.scheduler.contains(&EventRef::of(&event)) =>
            {
                self.defer(&event, vec![ack]);
            }
            PublishCommand::Publish { event, ack } | PublishCommand::Defer { event, ack } => {
                let is_read_by_shard = is_from_table(&ack) && ack.is_of_shard();
                if is_read_by_shard && self.deferrals.contains(&event.key) {
                    self.recalled.push(EventRef::of(&event));
                }
                self.push(event, ack, now);
            }
            PublishCommand::Quarantine { rejected, ack } => {
                self.quarantine.push(rejected, vec![ack], 0);
            }
            PublishCommand::DeferImpaired { shard } => self.ending.push(shard),
            PublishCommand::ForgetClosed => {
                self.scheduler
                    .remove_lost(|acks| in_flight::permission(acks, now));
                self.deferrals.remove_lost(now);
                self.quarantine.remove_lost(now);
            }
        }
    }

    fn push(&mut self, event: Arc<Event>, ack: Ack, now: Instant) {
        if !event.queue.is_routed() {
            self.status.record_unrouted(event.event_type());
        }
        let is_from_table = is_from_table(&ack);
        self.scheduler.push(event, ack, is_from_table, now);
    }

    fn start_sends(&mut self, now: Instant) {
        while !self.marker.is_full() {
            let Some(batch) = self
                .scheduler
                .next_batch(now, |acks| in_flight::permission(acks, now))
            else {
                return;
            };
            if batch.is_look_up {
                let outbox = Arc::clone(&self.outbox);
                self.sends.spawn(sender::look_up(outbox, batch));
                continue;
            }
            let sources = self.sources(&batch);
            let queue = Arc::clone(&self.queue);
            self.sends
                .spawn(sender::send(queue, batch, sources, self.clock));
        }
    }

    /// Returns the source of each event of a batch.
    fn sources(&self, batch: &Batch) -> Vec<Option<EventSource>> {
        batch
            .events
            .iter()
            .map(|outgoing| self.source(&EventRef::of(&outgoing.event)).cloned())
            .collect()
    }

    pub(super) fn source(&self, event: &EventRef) -> Option<&EventSource> {
        self.scheduler.acks(event).first().map(Ack::source)
    }
}

const fn is_from_table(ack: &Ack) -> bool {
    matches!(ack.source(), EventSource::Table)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        // Another branch of the select ends first.
        None => tokio::time::sleep(Duration::from_secs(3600)).await,
    }
}
