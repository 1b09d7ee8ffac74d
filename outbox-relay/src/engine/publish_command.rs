//! Commands from the shards and the sweeper to the publisher.

use std::sync::Arc;

use super::in_flight::Ack;
use crate::policy::record_classifier::{Event, Rejected};
use crate::ports::ShardId;

/// Command to the publisher. Its events are bounded by the buffer budget that their
/// acknowledgements hold, so the channel itself needs no bound.
#[derive(Debug)]
pub(crate) enum PublishCommand {
    /// Send the event, then mark it.
    Publish { event: Arc<Event>, ack: Ack },
    /// Leave the event pending in the table, from where it is published later, and mark it as
    /// deferred. An event that is not deferrable is published instead.
    Defer { event: Arc<Event>, ack: Ack },
    /// Quarantine an event that can never be sent.
    Quarantine { rejected: Rejected, ack: Ack },
    /// Defer the waiting events of a shard whose queues are impaired.
    DeferImpaired { shard: ShardId },
    /// Forget the waiting events of closed shards.
    ForgetClosed,
}
