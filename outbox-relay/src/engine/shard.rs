//! One shard while this instance holds it: reading, and keeping its lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::held::HeldShard;
use super::publish::Work;
use super::read::Reader;
use super::{EngineConfig, Status};
use crate::decide::progress::Progress;
use crate::metrics::RelayMetrics;
use crate::ports::{Lease, LeaseError, LeaseState, Ports};

/// A checkpoint is written this often at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);

/// What a holder needs besides its lease.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) ports: Ports,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) metrics: RelayMetrics,
    pub(crate) status: Status,
    pub(crate) stream: Arc<str>,
    pub(crate) work: mpsc::UnboundedSender<Work>,
    pub(crate) room: Arc<Semaphore>,
    /// No more reading.
    pub(crate) stop: CancellationToken,
    /// Everything in flight is done: write the checkpoint and let go.
    pub(crate) release: CancellationToken,
}

/// Why a shard is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Read and published to its end.
    Ended,
    /// Another instance has it.
    Lost,
    /// Given back because this instance stops.
    Released,
}

/// Reads and keeps the shard of `lease`, which was taken by a request that
/// began at `taken_at`.
pub(crate) async fn hold(
    lease: Lease,
    taken_at: Instant,
    around: Surroundings,
    random: fastrand::Rng,
) -> Ending {
    let shard = Arc::new(HeldShard::new(
        lease.shard.clone(),
        Progress::from(lease.checkpoint.clone()),
        taken_at + around.config.lease_duration,
    ));
    around.status.holds(&shard.id, Instant::now());
    tracing::info!(
        shard = %shard.id,
        epoch = lease.epoch,
        checkpoint = lease.checkpoint.as_ref().map(ToString::to_string),
        "shard taken"
    );
    let reader = Reader {
        ports: around.ports.clone(),
        config: Arc::clone(&around.config),
        metrics: around.metrics.clone(),
        status: around.status.clone(),
        stream: Arc::clone(&around.stream),
        shard: Arc::clone(&shard),
        work: around.work.clone(),
        room: Arc::clone(&around.room),
    };
    let checkpoint = lease.checkpoint.clone();
    let read_to_end = CancellationToken::new();
    let reading = async {
        tokio::select! {
            biased;
            () = reader.run(checkpoint, random) => read_to_end.cancel(),
            () = around.stop.cancelled() => {}
        }
        // The keeper ends the shard.
        std::future::pending::<()>().await;
    };
    let keeper = Keeper {
        lease,
        shard: Arc::clone(&shard),
        around: around.clone(),
        renewed_at: taken_at,
    };
    let ending = tokio::select! {
        biased;
        () = reading => Ending::Released,
        ending = keeper.run(&read_to_end) => ending,
    };
    around.status.gave_up(&shard.id);
    tracing::info!(shard = %shard.id, ?ending, "shard let go");
    ending
}

/// Renews the lease and writes the checkpoint, in one and the same write.
struct Keeper {
    lease: Lease,
    shard: Arc<HeldShard>,
    around: Surroundings,
    renewed_at: Instant,
}

impl Keeper {
    async fn run(mut self, read_to_end: &CancellationToken) -> Ending {
        let mut turns = tokio::time::interval(CHECKPOINT_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.around.release.cancelled() => return self.let_go(Ending::Released).await,
                _ = turns.tick() => {}
            }
            if read_to_end.is_cancelled() && self.shard.progress().is_idle() {
                match self.let_go(Ending::Ended).await {
                    // The row still says that the shard is open, and this
                    // instance its owner: try again.
                    Ending::Released => continue,
                    ending => return ending,
                }
            }
            let checkpoint = self.shard.progress().checkpoint().cloned();
            let moved = checkpoint != self.lease.checkpoint;
            // A third of the lease leaves time for two failures.
            let beat_due = self.renewed_at.elapsed() >= self.around.config.lease_duration / 3;
            if !moved && !beat_due {
                continue;
            }
            let mut next = self.lease.clone();
            next.checkpoint = checkpoint;
            if self.write(next).await == Err(Ending::Lost) {
                return Ending::Lost;
            }
        }
    }

    /// The last write.
    async fn let_go(&mut self, ending: Ending) -> Ending {
        let mut last = self.lease.clone();
        last.checkpoint = self.shard.progress().checkpoint().cloned();
        last.owner = None;
        if ending == Ending::Ended {
            last.state = LeaseState::Ended;
        }
        match self.write(last).await {
            Ok(()) => ending,
            Err(failed) => failed,
        }
    }

    /// Writes `next`; `Err(Released)` stands for a write that may be tried
    /// again.
    async fn write(&mut self, mut next: Lease) -> Result<(), Ending> {
        let began = Instant::now();
        next.beat += 1;
        let me = &self.around.config.instance;
        match self
            .around
            .ports
            .leases
            .renew(&self.around.stream, me, &next)
            .await
        {
            Ok(()) => {
                self.renewed_at = began;
                self.shard
                    .held_until(began + self.around.config.lease_duration);
                self.around.status.checkpoint_written(&self.shard.id);
                self.lease = next;
                Ok(())
            }
            Err(LeaseError::Lost) => {
                self.shard.lost();
                self.around.metrics.lease_lost();
                tracing::warn!(shard = %self.shard.id, epoch = self.lease.epoch, "lease lost: another instance has the shard");
                Err(Ending::Lost)
            }
            Err(LeaseError::Unavailable(reason)) => {
                self.around.metrics.checkpoint_failed();
                tracing::warn!(shard = %self.shard.id, reason, "the lease could not be written; trying again");
                self.around
                    .status
                    .checkpoint_failed(&self.shard.id, reason, Instant::now());
                Err(Ending::Released)
            }
        }
    }
}
