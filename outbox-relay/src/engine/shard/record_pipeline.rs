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
use crate::policy::look_up_schedule::MIN_DELAY;
use crate::policy::takeover_dedup::TakeoverDedup;

/// Stages between the pages of a shard and the publisher.
pub(crate) struct RecordPipeline {
    shard: Arc<ShardState>,
    classifier: RecordClassifier,
    takeover: TakeoverFilter,
    gate: SequenceGate,
    /// Events that wait for their predecessor.
    waiting: Vec<ReadEvent>,
    /// Time at which they were last considered.
    dispatched_at: Instant,
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
        let caught_up = CaughtUp::new(ctx.config.sweep_after);
        let gate = SequenceGate::new(&ctx, &shard, random.fork());
        let classifier = RecordClassifier {
            ctx,
            shard: Arc::clone(&shard),
        };
        Self {
            shard,
            classifier,
            takeover,
            gate,
            waiting: Vec::new(),
            dispatched_at: Instant::now(),
            caught_up,
        }
    }

    async fn run(mut self, mut pages: mpsc::Receiver<ReadPage>) {
        loop {
            let page = match self.next_look_up() {
                None => pages.recv().await,
                Some(at) => match tokio::time::timeout_at(at, pages.recv()).await {
                    Ok(page) => page,
                    Err(_) => {
                        self.dispatch(Vec::new()).await;
                        continue;
                    }
                },
            };
            let Some(page) = page else {
                break;
            };
            self.process(page).await;
        }
        self.gate.record_end();
        self.dispatch(Vec::new()).await;
        while let Some(at) = self.next_look_up() {
            tokio::time::sleep_until(at).await;
            self.dispatch(Vec::new()).await;
        }
    }

    /// Returns the time at which the predecessors of the waiting events are to be looked up without
    /// a further page, or `None` if no event waits.
    fn next_look_up(&self) -> Option<Instant> {
        let next = self.waiting.iter().map(|read| read.look_ups.next()).min()?;
        // Those of several pages are looked up together.
        Some(next.max(self.dispatched_at + MIN_DELAY))
    }

    /// Passes a page through all stages.
    async fn process(&mut self, page: ReadPage) {
        for read in &mut self.waiting {
            read.later_reads += 1;
        }
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
        self.dispatched_at = Instant::now();
    }
}

#[cfg(test)]
mod tests;
