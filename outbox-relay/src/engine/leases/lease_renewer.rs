//! Lease renewer: renews one lease and writes its checkpoint, both in one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::engine::context::ShardContext;
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard_state::ShardState;
use crate::ports::{Lease, LeaseError, LeaseState};

/// Minimum interval between two writes of a checkpoint.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);

/// Reason for which a lease is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// The shard is fully consumed: read to its end, and every event is settled.
    FullyConsumed,
    /// Another instance acquired the lease.
    Lost,
    /// The instance stops.
    Released,
    /// Transferred to an instance that had too few shards.
    Transferred,
}

/// Signals between the consumer of a shard and the renewer of its lease.
#[derive(Default)]
pub(super) struct ShardSignals {
    /// The shard is closed and read to its end.
    pub(super) fully_read: CancellationToken,
    /// The lease is transferred to another instance: nothing more is read.
    pub(super) transfer: CancellationToken,
    /// Another instance or an operator requests a sweep.
    pub(super) sweep: Notify,
}

pub(super) struct LeaseRenewer<'a> {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    signals: &'a ShardSignals,
    lease: Lease,
    renewed_at: Instant,
    /// The last write that released the lease has an unknown outcome.
    releasing: bool,
}

/// Failure of a lease write.
enum WriteError {
    /// Another instance has the lease.
    Lost,
    /// The outcome is unknown, and the write may be retried.
    Unknown,
}

impl<'a> LeaseRenewer<'a> {
    /// Creates the renewer of a lease that was acquired by a request that started at `acquired_at`.
    pub(super) fn new(
        ctx: ShardContext,
        shard: Arc<ShardState>,
        signals: &'a ShardSignals,
        lease: Lease,
        acquired_at: Instant,
    ) -> Self {
        Self {
            ctx,
            shard,
            signals,
            lease,
            renewed_at: acquired_at,
            releasing: false,
        }
    }

    /// Renews the lease until it ends.
    pub(super) async fn run(mut self) -> LeaseEnd {
        let mut ticks = tokio::time::interval(CHECKPOINT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut successor = None;
        loop {
            tokio::select! {
                biased;
                () = self.ctx.release.cancelled() => {
                    // Without the release, another instance would wait for the lease to expire.
                    loop {
                        if let Some(end) = self.release(LeaseEnd::Released, None).await {
                            return end;
                        }
                        ticks.tick().await;
                    }
                }
                _ = ticks.tick() => {}
            }
            let end = if successor.is_some() {
                // Waiting events of the shard are forgotten, so that only those in flight delay the
                // transfer.
                let _ = self.ctx.commands.send(PublishCommand::ForgetClosed);
                self.shard.is_drained().then_some(LeaseEnd::Transferred)
            } else {
                let is_consumed =
                    self.signals.fully_read.is_cancelled() && self.shard.tracker().is_idle();
                is_consumed.then_some(LeaseEnd::FullyConsumed)
            };
            if let Some(end) = end {
                match self.release(end, successor.clone()).await {
                    Some(end) => return end,
                    None => continue,
                }
            }
            match self.renew_if_due().await {
                Ok(Some(requester)) if requester != self.ctx.config.instance => {
                    tracing::info!(shard = %self.shard.id, requester, "transferring the shard to another instance");
                    self.signals.transfer.cancel();
                    self.shard.close();
                    successor = Some(requester);
                }
                Err(WriteError::Lost) => return LeaseEnd::Lost,
                Ok(_) | Err(WriteError::Unknown) => {}
            }
        }
    }

    /// Returns the lease with the current checkpoint and low-water mark.
    fn current(&self) -> Lease {
        let mut lease = self.lease.clone();
        let tracker = self.shard.tracker();
        lease.checkpoint = tracker.checkpoint().cloned();
        lease.low_watermark = tracker.low_watermark();
        lease
    }

    /// Writes a changed checkpoint, or a heartbeat if one is due. Returns the instance that
    /// requests the lease.
    async fn renew_if_due(&mut self) -> Result<Option<String>, WriteError> {
        let lease = self.current();
        // A third of the lease duration leaves time for two failures.
        let is_heartbeat_due = self.renewed_at.elapsed() >= self.ctx.config.lease_duration / 3;
        if lease.checkpoint == self.lease.checkpoint && !is_heartbeat_due {
            return Ok(None);
        }
        self.write(lease).await
    }

    /// Writes the final checkpoint and releases the lease, or transfers it to `successor`. Returns
    /// `None` if the outcome is unknown and the write must be retried.
    async fn release(&mut self, end: LeaseEnd, successor: Option<String>) -> Option<LeaseEnd> {
        let mut last = self.current();
        last.owner = successor;
        if end == LeaseEnd::FullyConsumed {
            last.state = LeaseState::Ended;
        }
        match self.write(last).await {
            Ok(_) => Some(end),
            Err(WriteError::Unknown) => {
                self.releasing = true;
                None
            }
            Err(WriteError::Lost) => Some(LeaseEnd::Lost),
        }
    }

    /// Writes `lease` with the next heartbeat, and returns the instance that requests it.
    async fn write(&mut self, mut lease: Lease) -> Result<Option<String>, WriteError> {
        let started_at = Instant::now();
        lease.heartbeat += 1;
        let config = &self.ctx.config;
        let table = &self.ctx.ports.leases;
        match table
            .renew(&self.ctx.stream, &config.instance, &lease)
            .await
        {
            Ok(requests) => {
                self.renewed_at = started_at;
                self.shard.extend_until(started_at + config.lease_duration);
                self.ctx.status.record_checkpoint(&self.shard.id);
                self.lease = lease;
                if requests.sweep {
                    self.signals.sweep.notify_one();
                }
                Ok(requests.requested_by)
            }
            // An earlier attempt already released the lease; its response was lost.
            Err(LeaseError::Lost) if self.releasing => Ok(None),
            Err(LeaseError::Lost) => {
                self.shard.close();
                self.ctx.metrics.record_lease_lost();
                tracing::warn!(shard = %self.shard.id, epoch = self.lease.epoch, "lease lost: another instance has the shard");
                Err(WriteError::Lost)
            }
            Err(LeaseError::Unavailable(reason)) => {
                self.ctx.metrics.record_checkpoint_failure();
                tracing::warn!(shard = %self.shard.id, reason, "lease could not be written; retrying");
                self.ctx
                    .status
                    .record_checkpoint_failure(&self.shard.id, reason, Instant::now());
                Err(WriteError::Unknown)
            }
        }
    }
}
