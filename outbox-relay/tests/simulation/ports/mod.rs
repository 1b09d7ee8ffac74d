//! Implementation of the engine's ports on the world. Every request takes time, may fail before or
//! after it takes effect, and may take effect after the death of its sender.

mod leases;
mod outbox;
mod queue;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use outbox_relay::ports::{Ports, Shard, StreamError};

use crate::world::World;

/// Time after which a sender gives up a request, and the longest time from then to its effect.
const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LATE_MILLIS: u64 = 4_000;

/// Rule that is disabled in a run, by a port or a setting that makes the engine behave as if it did
/// not implement the rule. A checker must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Lineage: parents are unknown, so children do not wait for them.
    ChildrenFirst,
    /// Fencing: leases are written without a condition.
    NoFence,
    /// Fence on loss: an instance is not informed that a lease is lost or expired.
    LostUnnoticed,
    /// Bounded memory: the buffer has no bound.
    NoBound,
    /// Per-aggregate order: a send counts as successful before it is.
    NotWaitingForSends,
    /// Publish → mark → checkpoint: a mark counts as written, and is not.
    NotMarking,
    /// Takeover: a look-up returns published events as pending.
    NoLookUps,
    /// Sweeper: the table returns no pending events.
    NoSweeper,
    /// Sweeper: the index does not contain the events that an operator made pending again.
    NoRepublishedEvents,
    /// Publish → mark → checkpoint: a mark does not depend on the number of replays.
    SwallowedReplays,
    /// Publish → mark → checkpoint: a published event never expires.
    NoExpiry,
    /// Sweeper: the low-water marks of the readers are in the future.
    NotWaitingForReaders,
    /// Shard discovery: shards that a split opens are never listed.
    NoNewShards,
    /// Pacing: shards are read without pauses.
    NoPauses,
    /// Gap: a trimmed position is read from the oldest record on, without an error.
    SilentGap,
    /// Batches: the size of messages is underestimated.
    LargeBatches,
    /// Error classes: an outage is answered as the refusal of each entry.
    OutageRejects,
    /// Deferral: no event can be deferred.
    NotDeferring,
    /// Failure mode: the instances pass quarantined events although they are to hold.
    NotHolding,
    /// Health: `/healthz` is always green.
    AlwaysGreen,
    /// Per-aggregate order: a look-up of an earlier event returns it as published.
    NoPredecessors,
    /// Batches: messages are deduplicated by the id of their event.
    DeduplicationByEventId,
    /// Balance: an instance knows of no other.
    NoBalance,
    /// Graceful shutdown: the process ends without it.
    NoShutdown,
}

impl Mutation {
    pub(crate) const ALL: [Self; 24] = [
        Self::ChildrenFirst,
        Self::NoFence,
        Self::LostUnnoticed,
        Self::NoBound,
        Self::NotWaitingForSends,
        Self::NotMarking,
        Self::NoLookUps,
        Self::NoSweeper,
        Self::NoRepublishedEvents,
        Self::SwallowedReplays,
        Self::NoExpiry,
        Self::NotWaitingForReaders,
        Self::NoNewShards,
        Self::NoPauses,
        Self::SilentGap,
        Self::LargeBatches,
        Self::OutageRejects,
        Self::NotDeferring,
        Self::NotHolding,
        Self::AlwaysGreen,
        Self::NoBalance,
        Self::NoShutdown,
        Self::NoPredecessors,
        Self::DeduplicationByEventId,
    ];

    /// Returns the checker that must notice.
    pub(crate) fn breaks(self) -> &'static str {
        match self {
            Self::ChildrenFirst => "lineage",
            Self::NoFence | Self::NotMarking => "fencing",
            Self::LostUnnoticed => "fence on loss",
            Self::NoBound => "bounded memory",
            Self::NotWaitingForSends | Self::NoPredecessors => "per-aggregate order",
            Self::NotHolding => "failure mode",
            Self::NoLookUps | Self::NotWaitingForReaders => "bounded repeats",
            Self::NoPauses => "pacing",
            Self::SilentGap => "gap",
            Self::LargeBatches => "batches",
            Self::OutageRejects => "error classes",
            Self::NotDeferring => "deferral",
            Self::AlwaysGreen => "health",
            Self::NoBalance => "balance",
            Self::NoShutdown => "graceful shutdown",
            Self::NoExpiry | Self::SwallowedReplays => "publish → mark",
            Self::NoSweeper
            | Self::NoRepublishedEvents
            | Self::NoNewShards
            | Self::DeduplicationByEventId => "no loss",
        }
    }
}

/// View of the world by one instance.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) world: Arc<Mutex<World>>,
    /// Instance and incarnation.
    pub(crate) name: String,
    /// While this is set the process is suspended (SIGSTOP): it sends no request and receives no
    /// answer.
    pub(crate) frozen: Arc<AtomicBool>,
    pub(crate) mutation: Option<Mutation>,
}

impl View {
    pub(crate) fn ports(self) -> Ports {
        let view = Arc::new(self);
        Ports {
            stream: view.clone(),
            queue: view.clone(),
            outbox: view.clone(),
            leases: view,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic holds the world")
    }

    /// Waits for the time that a request or its answer travels.
    async fn travel(&self) {
        let latency = self.world().latency();
        tokio::time::sleep(latency).await;
        self.awake().await;
    }

    /// Waits while the process is suspended.
    async fn awake(&self) {
        // Polled, since the order in which several waiters are woken is not fixed.
        while self.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Performs a request with an effect, and returns its answer. Once it was sent, it takes effect
    /// without its sender. If it `may_time_out`, its sender may also get this answer after a while,
    /// and the effect occurs later; `effect` is told whether its answer is lost.
    async fn request<T: Send + 'static>(
        &self,
        may_time_out: Option<T>,
        effect: impl FnOnce(&Self, bool) -> T + Send + 'static,
    ) -> T {
        self.awake().await;
        let view = self.clone();
        let timeout = may_time_out.filter(|_| self.strikes("late effect", 0.01));
        let is_lost = timeout.is_some();
        let latency = if is_lost {
            TIMEOUT + Duration::from_millis(self.world().random.u64(..MAX_LATE_MILLIS))
        } else {
            self.world().latency()
        };
        let arrival = tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            let arrives = view.world().arrives(&view.name);
            arrives.then(|| effect(&view, is_lost))
        });
        if let Some(timeout) = timeout {
            tokio::time::sleep(TIMEOUT).await;
            self.awake().await;
            return timeout;
        }
        let answer = arrival.await.expect("the services do not panic");
        self.travel().await;
        match answer {
            Some(answer) => answer,
            // Lost in flight, as its sender is dead.
            None => std::future::pending().await,
        }
    }

    fn lacks(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    /// Returns an error for an earlier stream of the table, which was deleted with its shards.
    fn check_stream(&self, stream: &str) -> Result<(), StreamError> {
        if self.world().stream() == stream {
            Ok(())
        } else {
            Err(StreamError::NotFound(format!("{stream} was deleted")))
        }
    }

    /// Returns the listed shards as this instance receives them.
    fn listed(&self) -> Vec<Shard> {
        let mut shards = self.world().listed();
        if self.lacks(Mutation::NoNewShards) {
            shards.retain(|shard| shard.parent.is_none());
        }
        if self.lacks(Mutation::ChildrenFirst) {
            for shard in &mut shards {
                shard.parent = None;
            }
        }
        shards
    }

    fn strikes(&self, kind: &'static str, probability: f64) -> bool {
        self.world().strikes(kind, probability)
    }
}
