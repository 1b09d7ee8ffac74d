//! Event that was read from the stream and is not dispatched yet.

use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::in_flight::RecordRef;
use crate::policy::look_up_schedule::LookUpSchedule;
use crate::policy::record_classifier::Event;

pub(super) struct ReadEvent {
    pub(super) event: Arc<Event>,
    pub(super) record: RecordRef,
    /// The previous owner of the shard may have published it.
    pub(super) in_takeover_window: bool,
    pub(super) read_at: Instant,
    /// Number of reads of its shard since then.
    pub(super) later_reads: u32,
    /// Look-ups of its predecessor.
    pub(super) look_ups: LookUpSchedule,
}
