//! The engine: takes shards, reads them, publishes what they hold.
//!
//! ```text
//! coordinate ─takes─▶ shard::hold ─┬─ read: fetch ─pages▶ feed ─┐
//!                                  ├─ sweep: pending events ────┴─outlet▶ publish ─▶ queue, outbox
//!                                  └─ keeper: beat and checkpoint ◀─progress─┘
//! ```
//!
//! It knows the remote systems by [`Ports`] only, decides by the pure
//! functions of [`crate::policy`], and measures time with tokio's clock, so
//! that it can be run against models of those systems on paused time.

pub(crate) mod health;
pub(crate) mod leases;
pub(crate) mod metrics;
pub(crate) mod publish;
pub(crate) mod shard;
pub(crate) mod shard_state;
pub(crate) mod sweeper;

use std::sync::Arc;
use std::time::Duration;

pub use health::publish_history::{SLOT_SECONDS, Sent, Slot};
pub use health::status::Status;
use opentelemetry::metrics::Meter;
use outbox::timestamp::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::engine::metrics::RelayMetrics;
use crate::policy::send_scheduler::Schedule;
use crate::ports::Ports;
use crate::routes::Routes;

/// DynamoDB Streams: records a read returns at most.
const MAX_PAGE: usize = 1_000;

/// Pages of all shards together that are being read or handed over; each is up
/// to 1 MB on the wire. A busy shard takes three; an idle one none between
/// its reads, of which so many at a time are enough for hundreds of shards.
const PAGES_HELD: usize = 16;

/// What the engine must know.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This instance, in the lease table.
    pub instance: String,
    pub routes: Routes,
    pub lease_duration: Duration,
    /// The longest pause between reads of an idle shard.
    pub poll_max: Duration,
    /// How long published events are kept.
    pub retention: Duration,
    /// How often the pending events of the table are looked at.
    pub sweep_interval: Duration,
    /// How old a pending event must be, and how far past it the readers, for
    /// the sweeper to publish it.
    pub sweep_after: Duration,
    /// Room for events between reading and marking, in KiB.
    pub buffer_kib: usize,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// Seeds jitter.
    pub seed: u64,
}

impl EngineConfig {
    /// Bytes of messages that may wait for a predecessor, in all shards
    /// together; more is not worth the memory.
    fn waiting_bytes(&self) -> usize {
        self.buffer_kib * 1024 / 4
    }

    /// How many events of one shard an instance can have read and not
    /// settled: each takes at least 2 KiB of the buffer, or 1 KiB while it
    /// waits for a predecessor, or is one of the page being handed over.
    fn in_hand(&self) -> usize {
        self.buffer_kib / 2 + self.waiting_bytes() / 1024 + MAX_PAGE
    }
}

/// A task panicked, which is a bug: what it held would be held for ever. The
/// whole instance ends, as by a crash, and others take over.
fn crash(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}

/// One relay instance.
#[derive(Debug)]
pub struct Engine {
    ports: Ports,
    config: Arc<EngineConfig>,
    status: Status,
    metrics: RelayMetrics,
}

impl Engine {
    pub fn new(ports: Ports, config: EngineConfig, meter: &Meter) -> Self {
        let status = Status::new(config.lease_duration);
        let metrics = RelayMetrics::new(meter, &status);
        Self {
            ports,
            config: Arc::new(config),
            status,
            metrics,
        }
    }

    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Works until `stop` is cancelled; then finishes what is in flight,
    /// writes marks and checkpoints and gives the leases back (rule 14).
    /// Dropping it instead is a crash: events in flight may be sent again.
    pub async fn run(self, stop: CancellationToken) {
        let mut random = fastrand::Rng::with_seed(self.config.seed);
        let (work, incoming) = mpsc::unbounded_channel();
        let publisher = publish::publisher::Publisher {
            ports: self.ports.clone(),
            config: Arc::clone(&self.config),
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            schedule: Schedule::default(),
            marked: publish::marker::Marked::default(),
            random: random.fork(),
            stop: stop.clone(),
        };
        let release = CancellationToken::new();
        let around = leases::shard_consumer::Surroundings {
            ports: self.ports,
            room: Arc::new(Semaphore::new(self.config.buffer_kib)),
            pages: Arc::new(Semaphore::new(PAGES_HELD)),
            config: self.config,
            metrics: self.metrics,
            status: self.status,
            stream: "".into(),
            work,
            listed: Arc::default(),
            stop,
            release: release.clone(),
        };
        let survey = health::backlog_monitor::run(around.clone());
        let publish = async {
            publisher.run(incoming).await;
            // Nothing is in flight any more: the last checkpoints can be
            // written.
            release.cancel();
        };
        tokio::join!(leases::coordinator::run(around, random), publish, survey);
    }
}
