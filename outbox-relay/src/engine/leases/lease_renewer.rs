//! Lease renewer: renews one lease and writes its checkpoint, both in one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::engine::context::ShardContext;
use crate::engine::health::WARNING_INTERVAL;
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard_state::ShardState;
use crate::policy::lease_liveness::MIN_CHECKPOINT_INTERVAL;
use crate::ports::{Lease, LeaseError, LeaseRequests, LeaseState};

/// Interval between two checks of what there is to write.
const TICK: Duration = MIN_CHECKPOINT_INTERVAL;

/// Reason for which a lease is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// The shard is fully consumed: read to its end, and every event is settled.
    FullyConsumed,
    /// Another instance acquired the lease.
    Lost,
    /// The instance stops.
    Released,
    /// Given up to another instance, so that each has its share.
    GivenUp,
}

/// Signals between the consumer of a shard, the coordinator, and the renewer of the lease.
#[derive(Debug, Default)]
pub(super) struct ShardSignals {
    /// The shard is closed and read to its end.
    pub(super) fully_read: CancellationToken,
    /// The coordinator gives the lease up.
    pub(super) give_up: CancellationToken,
    /// The lease is being given up: nothing more is read.
    pub(super) draining: CancellationToken,
    /// A sweep is requested.
    pub(super) sweep: Notify,
    /// A listing of the stream's shards is requested.
    pub(super) listing: Notify,
}

pub(super) struct LeaseRenewer {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    signals: Arc<ShardSignals>,
    lease: Lease,
    /// Start of the last renewal, by the lease clock.
    renewed_at: Instant,
    /// Requests that were signalled.
    signalled: LeaseRequests,
    /// A write that released the lease has an unknown outcome.
    releasing: bool,
    /// Time of the last warning, if writes have failed since the last renewal.
    warned_at: Option<Instant>,
}

/// Failure of a lease write.
enum WriteError {
    /// Another instance has the lease.
    Lost,
    /// The outcome is unknown, and the write may be retried.
    Unknown,
}

impl LeaseRenewer {
    /// Creates the renewer of a lease that was acquired by a request that started at `acquired_at`.
    pub(super) fn new(
        ctx: ShardContext,
        shard: Arc<ShardState>,
        signals: Arc<ShardSignals>,
        lease: Lease,
        acquired_at: Instant,
    ) -> Self {
        Self {
            ctx,
            shard,
            signals,
            lease,
            renewed_at: acquired_at,
            signalled: LeaseRequests::default(),
            releasing: false,
            warned_at: None,
        }
    }

    /// Renews the lease until it ends.
    pub(super) async fn run(mut self) -> LeaseEnd {
        let mut ticks = tokio::time::interval(TICK);
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
            if self.signals.give_up.is_cancelled() {
                self.drain();
            }
            let end = if self.signals.draining.is_cancelled() {
                // Waiting events of the shard are forgotten, so that only those in flight delay the
                // release.
                let _ = self.ctx.commands.send(PublishCommand::ForgetClosed);
                self.shard.is_drained().then_some(LeaseEnd::GivenUp)
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
                    self.drain();
                    successor = Some(requester);
                }
                Err(WriteError::Lost) => {
                    self.record_lost();
                    return LeaseEnd::Lost;
                }
                Ok(_) | Err(WriteError::Unknown) => {}
            }
        }
    }

    /// Stops reading and sending, to give the lease up once nothing is in flight.
    fn drain(&self) {
        self.signals.draining.cancel();
        self.shard.close();
    }

    /// Returns the lease with the current checkpoint, low-water mark and counts.
    fn current(&self) -> Lease {
        let mut lease = self.lease.clone();
        lease.deferred = self.shard.deferred();
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
        let config = &self.ctx.config;
        let age = config
            .lease_clock()
            .saturating_duration_since(self.renewed_at);
        let is_heartbeat_due = age >= config.lease_duration / 3;
        let interval = self.ctx.directory.checkpoint_interval();
        // Ticks are not exact.
        let is_checkpoint_due =
            lease.checkpoint != self.lease.checkpoint && age + TICK / 2 >= interval;
        if !is_checkpoint_due && !is_heartbeat_due {
            return Ok(None);
        }
        let requests = self.write(lease).await?;
        if requests.sweep != self.signalled.sweep {
            self.signals.sweep.notify_one();
        }
        if requests.listing != self.signalled.listing {
            self.signals.listing.notify_one();
        }
        self.signalled = requests;
        Ok(self.signalled.requested_by.clone())
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
            // An earlier attempt released the lease; its response was lost.
            Err(WriteError::Lost) if self.releasing => Some(end),
            Err(WriteError::Lost) => {
                self.record_lost();
                Some(LeaseEnd::Lost)
            }
        }
    }

    /// Writes `lease` with the next heartbeat, and returns the requests that its item has.
    async fn write(&mut self, mut lease: Lease) -> Result<LeaseRequests, WriteError> {
        // Every attempt has a heartbeat of its own, so that one that arrives late changes nothing.
        self.lease.heartbeat += 1;
        lease.heartbeat = self.lease.heartbeat;
        let config = &self.ctx.config;
        let started_at = config.lease_clock();
        let table = &self.ctx.ports.leases;
        let reason = match table
            .renew(&self.ctx.stream, &config.instance, &lease)
            .await
        {
            Ok(requests) => {
                self.renewed_at = started_at;
                self.warned_at = None;
                self.shard.extend_until(started_at + config.lease_duration);
                self.ctx.status.record_checkpoint(&self.shard.id);
                self.lease = lease;
                return Ok(requests);
            }
            Err(LeaseError::Lost(stored)) if !self.is_own(stored.as_deref()) => {
                return Err(WriteError::Lost);
            }
            Err(LeaseError::Lost(_)) => "a later write of this instance is stored".to_owned(),
            Err(LeaseError::Unavailable(reason)) => reason,
        };
        self.ctx.metrics.record_checkpoint_failure();
        let now = Instant::now();
        if self
            .warned_at
            .is_none_or(|warned| now >= warned + WARNING_INTERVAL)
        {
            tracing::warn!(shard = %self.shard.id, reason, "lease could not be written; retrying");
            self.warned_at = Some(now);
        }
        self.ctx
            .status
            .record_checkpoint_failure(&self.shard.id, reason, now);
        Err(WriteError::Unknown)
    }

    /// Returns `true` if the stored item is still this instance's.
    fn is_own(&self, stored: Option<&Lease>) -> bool {
        stored.is_some_and(|stored| {
            (&stored.owner, stored.epoch) == (&self.lease.owner, self.lease.epoch)
        })
    }

    fn record_lost(&self) {
        self.shard.close();
        self.ctx.metrics.record_lease_lost();
        tracing::warn!(shard = %self.shard.id, epoch = self.lease.epoch, "lease lost: another instance has the shard");
    }
}
