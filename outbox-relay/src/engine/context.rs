//! Context that the tasks of one stream share.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::EngineConfig;
use super::buffer_budget::BufferBudget;
use super::health::status::EngineStatus;
use super::metrics::RelayMetrics;
use super::publish_command::PublishCommand;
use super::queue_states::QueueStates;
use super::service_clock::ServiceClock;
use super::shard_directory::ShardDirectory;
use crate::ports::{Ports, SequenceNumber, ShardId};

/// Dependencies of a shard's tasks, apart from its lease.
#[derive(Clone)]
pub(crate) struct ShardContext {
    pub(crate) ports: Ports,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) clock: ServiceClock,
    pub(crate) metrics: RelayMetrics,
    pub(crate) status: EngineStatus,
    /// ARN of the stream.
    pub(crate) stream: Arc<str>,
    /// Commands to the publisher.
    pub(crate) commands: mpsc::UnboundedSender<PublishCommand>,
    pub(crate) queues: QueueStates,
    pub(crate) budget: BufferBudget,
    pub(crate) directory: ShardDirectory,
    /// Cancelled when the instance stops: nothing more is read.
    pub(crate) stop: CancellationToken,
    /// Cancelled when nothing is in flight any more: the last checkpoints are written and the
    /// leases released.
    pub(crate) release: CancellationToken,
}

impl ShardContext {
    /// Reports a gap: the records between `after` and `until` were trimmed before they were read
    /// (the "gap" rule). It is counted and logged with its range, and a sweep is requested.
    pub(crate) async fn report_gap(
        &self,
        shard: &ShardId,
        after: Option<&SequenceNumber>,
        until: &str,
    ) {
        self.metrics.record_gap();
        let after = after.map_or_else(|| "the start".to_owned(), ToString::to_string);
        tracing::error!(
            %shard,
            after,
            until,
            "stream gap: records were trimmed before they were read; pending events among them are still in the table"
        );
        self.request_sweep().await;
    }

    /// Requests a sweep from the instances that sweep.
    pub(crate) async fn request_sweep(&self) {
        if let Err(error) = self.ports.leases.request_sweep(&self.stream).await {
            tracing::warn!(%error, "sweep could not be requested; the next regular sweep publishes these events");
        }
    }
}
