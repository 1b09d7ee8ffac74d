//! Record pipeline: connects the stages of one shard.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::read_event::ReadEvent;
use super::record_classifier::{ClassifiedPage, RecordClassifier};
use super::sequence_gate::SequenceGate;
use super::shard_reader::{ReadPage, ShardReader, StartPosition};
use super::takeover_filter::TakeoverFilter;
use crate::engine::context::ShardContext;
use crate::engine::outbox_reader::OutboxReader;
use crate::engine::shard_state::ShardState;
use crate::policy::caught_up::CaughtUp;
use crate::policy::takeover_dedup::TakeoverDedup;

/// Stages between the pages of a shard and the publisher.
pub(crate) struct RecordPipeline {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    classifier: RecordClassifier,
    takeover: TakeoverFilter,
    gate: SequenceGate,
    /// Events that wait for their predecessor.
    waiting: Vec<ReadEvent>,
    caught_up: CaughtUp,
}

/// Reads a shard from `position` on, and dispatches its events. Returns when a closed shard is
/// read to its end and all of its events are dispatched. It may be dropped at any time.
pub(crate) async fn run(
    ctx: ShardContext,
    shard: Arc<ShardState>,
    position: StartPosition,
    mut random: fastrand::Rng,
) {
    // One page waits here while another is processed.
    let (pages, read_pages) = mpsc::channel(1);
    let reader = ShardReader::new(ctx.clone(), Arc::clone(&shard), position, random.fork());
    let status = ctx.status.clone();
    let id = shard.id.clone();
    let read = async {
        reader.run(pages).await;
        status.record_fully_read(&id);
    };
    let pipeline = RecordPipeline::new(ctx, shard, &mut random);
    tokio::join!(read, pipeline.run(read_pages));
}

impl RecordPipeline {
    fn new(ctx: ShardContext, shard: Arc<ShardState>, random: &mut fastrand::Rng) -> Self {
        let takeover = TakeoverFilter {
            dedup: TakeoverDedup::new(
                ctx.clock.now(),
                ctx.config.lease_duration,
                ctx.config.max_unsettled(),
            ),
            outbox: OutboxReader::new(&ctx, random.fork()),
        };
        let gate = SequenceGate::new(&ctx, &shard, random.fork());
        let classifier = RecordClassifier {
            ctx: ctx.clone(),
            shard: Arc::clone(&shard),
        };
        let caught_up = CaughtUp::new(ctx.config.sweep_after);
        Self {
            ctx,
            shard,
            classifier,
            takeover,
            gate,
            waiting: Vec::new(),
            caught_up,
        }
    }

    async fn run(mut self, mut pages: mpsc::Receiver<ReadPage>) {
        while let Some(page) = pages.recv().await {
            self.process(page).await;
        }
        self.gate.record_end();
        while !self.waiting.is_empty() {
            self.dispatch(Vec::new()).await;
            tokio::time::sleep(self.ctx.config.poll_max).await;
        }
    }

    /// Passes a page through all stages.
    async fn process(&mut self, page: ReadPage) {
        let is_empty = page.page.records.is_empty();
        if is_empty {
            self.takeover.dedup.record_caught_up();
        }
        let is_caught_up = self.caught_up.record_read(is_empty, Instant::now());
        let ClassifiedPage { events, rejected } = self
            .classifier
            .classify(page.page.records, &self.takeover.dedup);
        // They have no place in the order.
        for (rejected, record) in rejected {
            self.gate.dispatch_rejected(rejected, record).await;
        }
        if is_caught_up {
            self.shard.tracker().record_caught_up(page.started_at);
        }
        self.dispatch(events).await;
        drop(page.budget);
    }

    /// Passes the waiting events and `events` through the remaining stages.
    async fn dispatch(&mut self, events: Vec<ReadEvent>) {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(events);
        let checked = self.takeover.check(all).await;
        self.waiting = self.gate.admit(checked).await;
    }
}
