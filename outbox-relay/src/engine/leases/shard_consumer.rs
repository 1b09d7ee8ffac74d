//! One lease while this instance holds it: its work, which is reading a shard
//! or sweeping, and keeping it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::engine::EngineConfig;
use crate::engine::health::status::Status;
use crate::engine::leases::shard_discovery::Listed;
use crate::engine::metrics::RelayMetrics;
use crate::engine::publish::dispatcher::Outlet;
use crate::engine::publish::publisher::Work;
use crate::engine::shard::shard_reader::Reader;
use crate::engine::shard_state::HeldShard;
use crate::engine::sweeper::Sweeper;
use crate::policy::checkpoint_tracker::Progress;
use crate::ports::{Lease, LeaseError, LeaseState, Ports, SWEEPER, SequenceNumber, ShardId};

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
    pub(crate) pages: Arc<Semaphore>,
    pub(crate) listed: Arc<Mutex<Listed>>,
    /// No more reading.
    pub(crate) stop: CancellationToken,
    /// Everything in flight is done: write the checkpoint and let go.
    pub(crate) release: CancellationToken,
}

impl Surroundings {
    /// Rule 7: what was between `after` and `until` was trimmed before it was
    /// read. Never silent; and somebody sweeps.
    pub(crate) async fn gap(&self, shard: &ShardId, after: Option<&SequenceNumber>, until: &str) {
        self.metrics.gap();
        let after = after.map_or_else(|| "the start".to_owned(), ToString::to_string);
        tracing::error!(
            %shard,
            after,
            until,
            "stream gap: records were trimmed before they were read; pending events among them are still in the table"
        );
        if let Err(error) = self.ports.leases.request_sweep(&self.stream).await {
            tracing::warn!(%error, "no sweep could be asked for; the next one finds them");
        }
    }

    fn outlet(&self, shard: &Arc<HeldShard>) -> Outlet {
        Outlet {
            outbox: Arc::clone(&self.ports.outbox),
            config: Arc::clone(&self.config),
            status: self.status.clone(),
            shard: Arc::clone(shard),
            work: self.work.clone(),
            room: Arc::clone(&self.room),
            pages: Arc::clone(&self.pages),
        }
    }
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
    /// Given to an instance that had too few.
    HandedOver,
}

/// However a shard is let go, nothing more is sent from it.
struct Closing {
    shard: Arc<HeldShard>,
    status: Status,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shard.close();
        self.status.gave_up(&self.shard.id);
    }
}

/// Does the work of `lease`, which was taken by a request that began at
/// `taken_at`, and keeps it.
pub(crate) async fn hold(
    lease: Lease,
    taken_at: Instant,
    around: Surroundings,
    random: fastrand::Rng,
) -> Ending {
    let shard = Arc::new(HeldShard::new(
        lease.shard.clone(),
        Progress::from(lease.checkpoint.clone(), lease.low_watermark),
        taken_at + around.config.lease_duration,
    ));
    let _closing = Closing {
        shard: Arc::clone(&shard),
        status: around.status.clone(),
    };
    tracing::info!(
        shard = %shard.id,
        epoch = lease.epoch,
        checkpoint = lease.checkpoint.as_ref().map(ToString::to_string),
        "lease taken"
    );
    let checkpoint = lease.checkpoint.clone();
    let is_sweeper = *lease.shard.0 == *SWEEPER;
    let signals = Signals::default();
    let keeper = Keeper {
        lease,
        shard: Arc::clone(&shard),
        around: around.clone(),
        renewed_at: taken_at,
        letting_go: false,
        signals: &signals,
    };
    let working = async {
        let work = async {
            if is_sweeper {
                let outlet = around.outlet(&shard);
                let around = around.clone();
                Sweeper { outlet, around }.run(&signals.sweep, random).await;
            } else {
                around.status.holds(&shard.id, Instant::now());
                let outlet = around.outlet(&shard);
                let around = around.clone();
                let reader = Reader { around, outlet };
                reader.run(checkpoint, random).await;
            }
        };
        tokio::select! {
            biased;
            () = around.stop.cancelled() => {}
            () = signals.hand_over.cancelled() => {}
            () = work => signals.read_to_end.cancel(),
        }
        // The keeper ends it.
        std::future::pending::<()>().await;
    };
    let ending = tokio::select! {
        biased;
        () = working => Ending::Released,
        ending = keeper.run() => ending,
    };
    tracing::info!(shard = %shard.id, ?ending, "lease let go");
    ending
}

/// Between the work of a shard and the keeper of its lease.
#[derive(Default)]
struct Signals {
    /// The shard is closed and read to its end.
    read_to_end: CancellationToken,
    /// Read no more: another instance is to have the shard.
    hand_over: CancellationToken,
    /// Somebody asks for a sweep.
    sweep: Notify,
}

/// Renews the lease and writes the checkpoint, in one and the same write.
struct Keeper<'a> {
    lease: Lease,
    shard: Arc<HeldShard>,
    around: Surroundings,
    renewed_at: Instant,
    /// The lease was given up by a write of unknown outcome.
    letting_go: bool,
    signals: &'a Signals,
}

/// A lease was not written.
enum NotWritten {
    /// Another instance has it.
    Lost,
    /// Or it was: the outcome is unknown, and the write may be tried again.
    Unknown,
}

impl Keeper<'_> {
    async fn run(mut self) -> Ending {
        let mut turns = tokio::time::interval(CHECKPOINT_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heir = None;
        loop {
            tokio::select! {
                biased;
                () = self.around.release.cancelled() => {
                    // The successor would wait for the lease to expire.
                    loop {
                        if let Some(ending) = self.let_go(Ending::Released, None).await {
                            return ending;
                        }
                        turns.tick().await;
                    }
                }
                _ = turns.tick() => {}
            }
            let ending = if heir.is_some() {
                // What waits of the shard is forgotten, so that only what is
                // in flight has to be waited for.
                let _ = self.around.work.send(Work::ForgetClosed);
                self.shard.is_quiet().then_some(Ending::HandedOver)
            } else {
                let ended =
                    self.signals.read_to_end.is_cancelled() && self.shard.progress().is_idle();
                ended.then_some(Ending::Ended)
            };
            if let Some(ending) = ending {
                match self.let_go(ending, heir.clone()).await {
                    Some(ending) => return ending,
                    None => continue,
                }
            }
            match self.keep().await {
                Ok(Some(wanted_by)) if wanted_by != self.around.config.instance => {
                    tracing::info!(shard = %self.shard.id, wanted_by, "shard is handed over");
                    self.signals.hand_over.cancel();
                    self.shard.close();
                    heir = Some(wanted_by);
                }
                Err(NotWritten::Lost) => return Ending::Lost,
                Ok(_) | Err(NotWritten::Unknown) => {}
            }
        }
    }

    /// Writes what has changed, or a beat when one is due.
    async fn keep(&mut self) -> Result<Option<String>, NotWritten> {
        let mut next = self.lease.clone();
        {
            let progress = self.shard.progress();
            next.checkpoint = progress.checkpoint().cloned();
            next.low_watermark = progress.passed();
        }
        // A third of the lease leaves time for two failures.
        let beat_due = self.renewed_at.elapsed() >= self.around.config.lease_duration / 3;
        if next.checkpoint == self.lease.checkpoint && !beat_due {
            return Ok(None);
        }
        self.write(next).await
    }

    /// The last write; the lease is `heir`'s then, or anybody's. `None`: it is
    /// to be tried again.
    async fn let_go(&mut self, ending: Ending, heir: Option<String>) -> Option<Ending> {
        let mut last = self.lease.clone();
        {
            let progress = self.shard.progress();
            last.checkpoint = progress.checkpoint().cloned();
            last.low_watermark = progress.passed();
        }
        last.owner = heir;
        if ending == Ending::Ended {
            last.state = LeaseState::Ended;
        }
        match self.write(last).await {
            Ok(_) => Some(ending),
            Err(NotWritten::Unknown) => {
                self.letting_go = true;
                None
            }
            Err(NotWritten::Lost) => Some(Ending::Lost),
        }
    }

    /// Writes `next` and returns who asks for the lease.
    async fn write(&mut self, mut next: Lease) -> Result<Option<String>, NotWritten> {
        let began = Instant::now();
        next.heartbeat += 1;
        let me = &self.around.config.instance;
        match self
            .around
            .ports
            .leases
            .renew(&self.around.stream, me, &next)
            .await
        {
            Ok(asked) => {
                self.renewed_at = began;
                self.shard
                    .held_until(began + self.around.config.lease_duration);
                self.around.status.checkpoint_written(&self.shard.id);
                self.lease = next;
                if asked.sweep {
                    self.signals.sweep.notify_one();
                }
                Ok(asked.requested_by)
            }
            // An earlier one, whose answer did not come, did it.
            Err(LeaseError::Lost) if self.letting_go => Ok(None),
            Err(LeaseError::Lost) => {
                self.shard.close();
                self.around.metrics.lease_lost();
                tracing::warn!(shard = %self.shard.id, epoch = self.lease.epoch, "lease lost: another instance has the shard");
                Err(NotWritten::Lost)
            }
            Err(LeaseError::Unavailable(reason)) => {
                self.around.metrics.checkpoint_failed();
                tracing::warn!(shard = %self.shard.id, reason, "the lease could not be written; trying again");
                self.around
                    .status
                    .checkpoint_failed(&self.shard.id, reason, Instant::now());
                Err(NotWritten::Unknown)
            }
        }
    }
}
