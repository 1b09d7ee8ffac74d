//! Record classifier: selects the events among the records of a page (the "event filter" rule).

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::read_event::ReadEvent;
use crate::engine::context::ShardContext;
use crate::engine::in_flight::RecordRef;
use crate::engine::shard_state::ShardState;
use crate::policy::look_up_schedule::LookUpSchedule;
use crate::policy::record_classifier::{Classified, Rejected};
use crate::policy::takeover_dedup::TakeoverDedup;
use crate::ports::Record;

/// Events of a page, in the order of its records.
pub(super) struct ClassifiedPage {
    pub(super) events: Vec<ReadEvent>,
    /// Events that can never be sent; they wait for no predecessor.
    pub(super) rejected: Vec<(Rejected, RecordRef)>,
}

pub(super) struct RecordClassifier {
    pub(super) ctx: ShardContext,
    pub(super) shard: Arc<ShardState>,
}

impl RecordClassifier {
    /// Returns the events among `records`, and adds all records to the checkpoint tracker.
    pub(super) fn classify(
        &self,
        records: Vec<Record>,
        takeover: &TakeoverDedup,
    ) -> ClassifiedPage {
        let read_at = Instant::now();
        let mut events = Vec::new();
        let mut rejected = Vec::new();
        let mut skipped = BTreeMap::new();
        for record in records {
            let (position, created_at) = (record.sequence_number, record.created_at);
            let track = || {
                let number = self.shard.tracker().track(position.clone(), created_at);
                RecordRef {
                    number,
                    position: position.clone(),
                }
            };
            match self.ctx.config.classify(record.change) {
                Classified::Skip(reason) => {
                    self.shard.tracker().skip(position, created_at);
                    *skipped.entry(reason).or_default() += 1;
                }
                Classified::Event(event) => events.push(ReadEvent {
                    event,
                    record: track(),
                    in_takeover_window: takeover.must_look_up(created_at),
                    read_at,
                    later_reads: 0,
                    look_ups: LookUpSchedule::new(read_at),
                }),
                Classified::Reject(event) => rejected.push((event, track())),
            }
        }
        for (reason, count) in skipped {
            self.ctx.metrics.record_skipped(reason, count);
        }
        ClassifiedPage { events, rejected }
    }
}
