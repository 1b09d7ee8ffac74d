//! Engine: acquires shards, reads them, and publishes their events.
//!
//! ```text
//! leases: LeaseCoordinator ─acquires▶ shard consumer ─┬─ LeaseRenewer ◀─ CheckpointTracker
//!                                                     └─ pipeline or sweeper      ▲
//! shard: ShardReader ▶ RecordClassifier ▶ TakeoverFilter ▶ SequenceGate           │
//!                                                               ▼                 │
//! publish:                         Marker ◀ Publisher ◀ SendScheduler ◀ Dispatcher│
//!                                     └──────────────settled──────────────────────┘
//! ```
//!
//! It accesses the remote systems through [`Ports`] only, decides by the pure functions of
//! [`crate::policy`], and measures time with tokio's clock and the wall clock of its
//! configuration, so that it can run against models of those systems on paused time.

mod buffer_budget;
mod context;
mod health;
mod in_flight;
mod leases;
mod metrics;
mod order_gate;
mod outbox_reader;
mod publish;
mod publish_command;
mod queue_states;
mod service_clock;
mod shard;
mod shard_directory;
mod shard_state;
mod sweeper;

use std::sync::Arc;
use std::time::Duration;

pub use health::publish_history::{HistorySlot, PublishRecord, SLOT_SECONDS};
pub use health::status::EngineStatus;
use opentelemetry::metrics::Meter;
use outbox::Buckets;
use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::buffer_budget::BufferBudget;
use self::context::ShardContext;
use self::leases::session;
use self::metrics::RelayMetrics;
use self::publish::publisher::Publisher;
use self::queue_states::QueueStates;
use self::service_clock::ServiceClock;
use self::shard_directory::ShardDirectory;
use crate::policy::record_classifier::{Classified, ClassifierConfig, classify};
use crate::ports::{Change, Ports};
use crate::routes::Routes;

/// Maximum number of records that a read returns. DynamoDB Streams: `GetRecords`.
const MAX_PAGE: usize = 1_000;

/// Minimum number of aggregates whose last dispatched event is remembered: by all shards of an
/// instance together if there are at least 8, and by each shard however many there are.
const MAX_REMEMBERED_AGGREGATES: usize = 40_000;
const MIN_REMEMBERED_AGGREGATES: usize = 100;

/// Treatment of the later events of an aggregate when one is quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFailure {
    /// They are sent without it.
    #[default]
    Pass,
    /// They wait in the table until it is retried or discarded, and then follow in order.
    Hold,
}

/// Configuration of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of this instance in the lease table.
    pub instance: String,
    /// Name of the outbox table: a part of the deduplication ids on FIFO queues.
    pub outbox_table: String,
    /// Index partitions of pending events.
    pub buckets: Buckets,
    pub routes: Routes,
    pub on_failure: OnFailure,
    pub lease_duration: Duration,
    /// Interval between two reads of a shard whose pages are not nearly full.
    pub poll_min: Duration,
    /// Longest interval between two reads of an idle shard; at least `poll_min`.
    pub poll_max: Duration,
    /// Time for which published events are kept.
    pub retention: Duration,
    /// Interval between two sweeps, and between two counts of the pending events.
    pub sweep_interval: Duration,
    /// Minimum age of a pending event that a sweeper publishes, and upper bound on the margin by
    /// which the readers must be past the start of the sweep.
    pub sweep_after: Duration,
    /// Memory budget for events between reading and marking, in KiB.
    pub buffer_kib: usize,
    /// Wall clock.
    pub clock: fn() -> Timestamp,
    /// Returns the time for which the machine was suspended since it was started. tokio's clock
    /// does not advance during that time, and leases expire.
    pub suspended: fn() -> Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl EngineConfig {
    /// Returns the current time of the clock by which this instance measures its own leases. It is
    /// tokio's clock advanced by the time for which the machine was suspended, so its values must
    /// not be mixed with those of tokio's clock.
    fn lease_clock(&self) -> Instant {
        Instant::now() + (self.suspended)()
    }

    /// Classifies a change of this relay's outbox table.
    fn classify(&self, change: Change) -> Classified {
        let config = ClassifierConfig {
            table: &self.outbox_table,
            routes: &self.routes,
            buckets: self.buckets,
        };
        classify(change, config)
    }

    /// Returns the maximum size of the messages that may wait for a predecessor, in all shards
    /// together, in bytes. Beyond it, predecessors are read from the table.
    const fn max_waiting_bytes(&self) -> usize {
        self.buffer_kib * 1024 / 4
    }

    /// Returns the minimum number of aggregates that each of `leases` leases remembers. All of them
    /// together take a few MiB. An aggregate that is forgotten costs a look-up.
    fn remembered_aggregates(leases: usize) -> usize {
        (MAX_REMEMBERED_AGGREGATES / leases.max(1))
            .clamp(MIN_REMEMBERED_AGGREGATES, MAX_REMEMBERED_AGGREGATES / 8)
    }

    /// Returns the maximum number of events of one shard that an instance can have read and not
    /// settled: each takes at least 2 KiB of the buffer budget, or 1 KiB while it waits for a
    /// predecessor, or belongs to the page that is being processed.
    const fn max_unsettled(&self) -> usize {
        self.buffer_kib / 2 + self.max_waiting_bytes() / 1024 + MAX_PAGE
    }
}

/// Ends the whole instance if a task panicked, which is a bug: its leases and budget would be held
/// indefinitely. As after a crash, other instances acquire the shards.
fn crash(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}

/// Reason for which an instance cannot work beside another running process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error(
        "another running relay has the instance id `{0}`; give each its own RELAY_INSTANCE_ID, or \
         leave it out"
    )]
    InstanceIdInUse(String),
    #[error(
        "the consumer group `{0}` reads this outbox table and is running; a table has one group: \
         set RELAY_CONSUMER_GROUP to `{0}`, or stop its relays first"
    )]
    GroupInUse(String),
}

/// One relay instance.
#[derive(Debug)]
pub struct Engine {
    ports: Ports,
    config: Arc<EngineConfig>,
    status: EngineStatus,
    budget: BufferBudget,
    metrics: RelayMetrics,
}

impl Engine {
    /// Creates an engine that reports its metrics to `meter`.
    pub fn new(ports: Ports, config: EngineConfig, meter: &Meter) -> Self {
        let status = EngineStatus::new(config.lease_duration);
        let queues = config.routes.queues().cloned().collect();
        let budget = BufferBudget::new(config.buffer_kib);
        let metrics = RelayMetrics::new(meter, &status, &budget, queues, config.clock);
        Self {
            ports,
            config: Arc::new(config),
            status,
            budget,
            metrics,
        }
    }

    pub fn status(&self) -> EngineStatus {
        self.status.clone()
    }

    /// Runs until `stop` is cancelled; then finishes the requests in flight, writes marks and
    /// checkpoints, and releases the leases (the "graceful shutdown" rule). Dropping the future
    /// instead is a crash: events in flight may be sent again.
    /// Returns an error if another running process keeps this one from working.
    pub async fn run(self, stop: CancellationToken) -> Result<(), EngineError> {
        let mut random = fastrand::Rng::with_seed(self.config.seed);
        let (commands, received) = mpsc::unbounded_channel();
        let release = CancellationToken::new();
        let ctx = ShardContext {
            ports: self.ports,
            budget: self.budget,
            clock: ServiceClock::new(self.config.clock),
            config: self.config,
            metrics: self.metrics,
            status: self.status,
            stream: "".into(),
            commands,
            queues: QueueStates::default(),
            directory: ShardDirectory::default(),
            stop: stop.child_token(),
            release: release.clone(),
        };
        let publisher = Publisher::new(&ctx, received, random.fork());
        let publish = async {
            publisher.run().await;
            // Nothing is in flight any more, so the last checkpoints can be written.
            release.cancel();
        };
        let (outcome, ()) = tokio::join!(session::run(ctx, random), publish);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_remembered_aggregates_does_not_grow_with_that_of_the_leases() {
        for leases in 1..=MAX_REMEMBERED_AGGREGATES / MIN_REMEMBERED_AGGREGATES {
            let each = EngineConfig::remembered_aggregates(leases);
            assert!(each * leases <= MAX_REMEMBERED_AGGREGATES, "{leases}");
        }
        assert_eq!(
            EngineConfig::remembered_aggregates(usize::MAX),
            MIN_REMEMBERED_AGGREGATES
        );
    }
}
