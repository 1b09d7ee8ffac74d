//! Dispatcher: reserves memory for an event and passes it to the publisher.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::buffer_budget::BufferBudget;
use crate::engine::health::status::EngineStatus;
use crate::engine::in_flight::{Ack, RecordRef};
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard_state::ShardState;
use crate::policy::record_classifier::{Event, Rejected};
use crate::ports::EventKey;

/// Dispatcher of one shard or of the sweeper.
pub(crate) struct Dispatcher {
    pub(crate) shard: Arc<ShardState>,
    pub(crate) status: EngineStatus,
    pub(crate) budget: BufferBudget,
    pub(crate) commands: mpsc::UnboundedSender<PublishCommand>,
}

impl Dispatcher {
    /// Waits until the event fits the buffer budget, and has the publisher defer it. `record` is
    /// `None` if it was read from the table.
    pub(crate) async fn defer(&self, event: Arc<Event>, record: Option<RecordRef>) {
        let ack = self.reserve(&event.key, event.message.size(), record).await;
        self.send(PublishCommand::Defer { event, ack });
    }

    /// Does the same for an event that can never be sent.
    pub(crate) async fn dispatch_rejected(&self, rejected: Rejected, record: Option<RecordRef>) {
        let ack = self.reserve(&rejected.key, 0, record).await;
        self.send(PublishCommand::Quarantine { rejected, ack });
    }

    /// Waits until an event with a message of `message_bytes` fits the buffer budget.
    pub(crate) async fn reserve(
        &self,
        key: &EventKey,
        message_bytes: usize,
        record: Option<RecordRef>,
    ) -> Ack {
        let budget = self
            .budget
            .reserve_event(message_bytes, &self.shard.id, &self.status)
            .await;
        Ack::new(&self.shard, key, record, budget)
    }

    /// Waits for a limited time until an event that a sweeper read fits the buffer budget.
    pub(crate) async fn reserve_swept(&self, key: &EventKey, message_bytes: usize) -> Option<Ack> {
        let budget = self.budget.reserve_swept(message_bytes).await?;
        Some(Ack::new(&self.shard, key, None, budget))
    }

    /// Passes a command to the publisher.
    pub(crate) fn send(&self, command: PublishCommand) {
        // The publisher ends before its readers only while the instance stops.
        let _ = self.commands.send(command);
    }
}
