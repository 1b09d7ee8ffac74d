//! Record pipeline: connects the stages of one shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::read_event::ReadEvent;
use super::sequence_gate::SequenceGate;
use super::shard_reader::{ReadPage, ShardReader};
use super::takeover_filter::TakeoverFilter;
use crate::engine::context::ShardContext;
use crate::engine::in_flight::RecordRef;
use crate::engine::outbox_reader::OutboxReader;
use crate::engine::shard_state::ShardState;
use crate::policy::record_classifier::{Classified, classify};
use crate::policy::takeover_dedup::TakeoverDedup;
use crate::ports::{Record, SequenceNumber};

/// Number of consecutive empty reads after which the reader counts as caught up: the service may
/// return an empty page in the middle of a shard, but hardly that often in a row.
const CAUGHT_UP_READS: u32 = 5;

/// Stages between the pages of a shard and the publisher.
pub(crate) struct RecordPipeline {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    takeover: TakeoverFilter,
    gate: SequenceGate,
    /// Events that wait for their predecessor.
    waiting: Vec<ReadEvent>,
    empty_reads: u32,
}

/// Reads a shard from `checkpoint` on, and dispatches its events. Returns when a closed shard is
/// read to its end and all of its events are dispatched. It may be dropped at any time.
pub(crate) async fn run(
    ctx: ShardContext,
    shard: Arc<ShardState>,
    checkpoint: Option<SequenceNumber>,
    mut random: fastrand::Rng,
) {
    // One page waits here while another is processed.
    let (pages, read_pages) = mpsc::channel(1);
    let reader = ShardReader {
        ctx: ctx.clone(),
        shard: Arc::clone(&shard),
        random: random.fork(),
    };
    let status = ctx.status.clone();
    let id = shard.id.clone();
    let read = async {
        reader.run(checkpoint, pages).await;
        status.record_fully_read(&id);
    };
    let pipeline = RecordPipeline::new(ctx, shard, &mut random);
    tokio::join!(read, pipeline.run(read_pages));
}

impl RecordPipeline {
    fn new(ctx: ShardContext, shard: Arc<ShardState>, random: &mut fastrand::Rng) -> Self {
        let takeover = TakeoverFilter {
            dedup: TakeoverDedup::new(
                (ctx.config.clock)(),
                ctx.config.lease_duration,
                ctx.config.max_unsettled(),
            ),
            outbox: OutboxReader::new(
                Arc::clone(&ctx.ports.outbox),
                ctx.status.clone(),
                random.fork(),
            ),
        };
        let gate = SequenceGate::new(&ctx, &shard, random.fork());
        Self {
            ctx,
            shard,
            takeover,
            gate,
            waiting: Vec::new(),
            empty_reads: 0,
        }
    }

    async fn run(mut self, mut pages: mpsc::Receiver<ReadPage>) {
        while let Some(page) = pages.recv().await {
            self.process(page).await;
        }
        while !self.waiting.is_empty() {
            tokio::time::sleep(self.ctx.config.poll_max).await;
            self.dispatch(Vec::new()).await;
        }
    }

    /// Passes a page through all stages.
    async fn process(&mut self, page: ReadPage) {
        if page.page.records.is_empty() {
            self.takeover.dedup.record_caught_up();
            self.empty_reads += 1;
        } else {
            self.empty_reads = 0;
        }
        let events = self.classify(page.page.records).await;
        if self.empty_reads >= CAUGHT_UP_READS {
            self.shard.tracker().record_caught_up(page.started_at);
        }
        self.dispatch(events).await;
        drop(page.budget);
    }

    /// Returns the events among `records`, and adds all records to the checkpoint tracker. Events
    /// that can never be sent go to quarantine; they wait for no predecessor.
    async fn classify(&mut self, records: Vec<Record>) -> Vec<ReadEvent> {
        let mut events = Vec::new();
        let mut skipped = BTreeMap::new();
        for record in records {
            let (position, created_at) = (record.sequence_number, record.created_at);
            match classify(record.change, &self.ctx.config.routes) {
                Classified::Skip(reason) => {
                    self.shard.tracker().skip(position, created_at);
                    *skipped.entry(reason).or_default() += 1;
                }
                Classified::Event(event) => {
                    let number = self.shard.tracker().track(position.clone(), created_at);
                    events.push(ReadEvent {
                        event,
                        record: RecordRef { number, position },
                        in_takeover_window: self.takeover.dedup.must_look_up(created_at),
                        read_at: Instant::now(),
                        waited_reads: 0,
                    });
                }
                Classified::Reject(rejected) => {
                    let number = self.shard.tracker().track(position.clone(), created_at);
                    let record = RecordRef { number, position };
                    self.gate.dispatch_rejected(rejected, record).await;
                }
            }
        }
        for (reason, count) in skipped {
            self.ctx.metrics.record_skipped(reason, count);
        }
        events
    }

    /// Passes the waiting events and `events` through the remaining stages.
    async fn dispatch(&mut self, events: Vec<ReadEvent>) {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(events);
        let checked = self.takeover.check(all).await;
        self.waiting = self.gate.admit(checked).await;
    }
}
