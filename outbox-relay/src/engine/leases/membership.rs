//! Membership: the item by which the other instances of the group see that this one is alive, and
//! by which a second process with the same instance id is detected.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::EngineError;
use crate::engine::context::ShardContext;
use crate::policy::backoff;
use crate::ports::{Lease, LeaseError, member_id};

/// Heartbeats of a member in a lease duration. They are more frequent than those of other leases,
/// so that a process that starts finds out soon whether its instance id is in use.
const HEARTBEATS: u32 = 8;

/// Number of heartbeats that show that another process with the same id is alive. A single one may
/// be the last request of a process that was killed.
const ALIVE_AFTER_HEARTBEATS: u32 = 2;

/// Membership of this instance in the group.
pub(super) struct Membership {
    ctx: ShardContext,
    lease: Lease,
}

/// Member item of another process with the same id.
struct Other {
    lease: Lease,
    unchanged_since: Instant,
    heartbeats: u32,
}

/// Joins the group. If an earlier process of this instance did not leave it, waits for a quarter of
/// a lease duration without a heartbeat.
pub(super) async fn join(
    ctx: &ShardContext,
    random: &mut fastrand::Rng,
) -> Result<Membership, EngineError> {
    let mut own = Lease {
        owner: Some(ctx.config.instance.clone()),
        // No other process has the same epoch and heartbeat.
        epoch: u64::from(random.u32(..)),
        heartbeat: u64::from(random.u32(..)),
        lease_duration: Some(ctx.config.lease_duration),
        ..Lease::unread(member_id(&ctx.config.instance), None)
    };
    let mut other: Option<Other> = None;
    let mut failures = 0;
    loop {
        match try_join(ctx, &mut own, &mut other, random).await {
            Ok(true) => {
                return Ok(Membership {
                    ctx: ctx.clone(),
                    lease: own,
                });
            }
            Ok(false) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "member item could not be written; retrying");
                let outcome = Err(error.to_string());
                ctx.status.record_coordination(outcome, Instant::now());
                tokio::time::sleep(backoff::delay(failures, random.f64())).await;
            }
        }
        if let Some(other) = &other {
            if other.heartbeats >= ALIVE_AFTER_HEARTBEATS {
                let instance = ctx.config.instance.clone();
                return Err(EngineError::InstanceIdInUse(instance));
            }
            tokio::time::sleep(interval(ctx) / 2).await;
        }
    }
}

/// Makes one attempt to join. Returns `true` if the stored item is this process's.
async fn try_join(
    ctx: &ShardContext,
    own: &mut Lease,
    other: &mut Option<Other>,
    random: &mut fastrand::Rng,
) -> Result<bool, LeaseError> {
    let (table, stream) = (&ctx.ports.leases, &ctx.stream);
    let members = table.list_maintenance(stream).await?;
    let stored = members.leases.iter().find(|lease| lease.shard == own.shard);
    let now = Instant::now();
    match stored {
        None => table.create(stream, own).await?,
        Some(stored) if stored.is_same_write(own) => return Ok(true),
        Some(stored) => {
            observe(other, stored, now);
            let is_left = stored.owner.is_none();
            let is_silent = other.as_ref().is_some_and(|other| {
                let longest = stored.lease_duration.max(own.lease_duration);
                let patience = longest.unwrap_or_default() / 4;
                now.saturating_duration_since(other.unchanged_since) >= patience
            });
            if is_left || is_silent {
                own.epoch = stored.epoch + 1;
                own.heartbeat = stored.heartbeat + 1 + u64::from(random.u16(..));
                match table.acquire(stream, stored, own).await {
                    // The next list shows whose item it is.
                    Ok(()) | Err(LeaseError::Lost(_)) => *other = None,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(false)
}

fn observe(other: &mut Option<Other>, stored: &Lease, now: Instant) {
    match other {
        Some(other) if other.lease.is_same_write(stored) => {}
        Some(other) => {
            other.heartbeats += 1;
            other.unchanged_since = now;
            other.lease = stored.clone();
        }
        None => {
            *other = Some(Other {
                lease: stored.clone(),
                unchanged_since: now,
                heartbeats: 0,
            });
        }
    }
}

fn interval(ctx: &ShardContext) -> Duration {
    ctx.config.lease_duration / HEARTBEATS
}

impl Membership {
    /// Writes heartbeats until another process takes the instance id over, which means that this
    /// one was suspended or cut off while that one started.
    pub(super) async fn keep(&mut self) -> EngineError {
        loop {
            tokio::time::sleep(interval(&self.ctx)).await;
            // Counted before the request, so that one that arrives late changes nothing.
            self.lease.heartbeat += 1;
            let (table, stream) = (&self.ctx.ports.leases, &self.ctx.stream);
            let instance = &self.ctx.config.instance;
            let outcome = match table.renew(stream, instance, &self.lease).await {
                Ok(_) => Ok(()),
                Err(LeaseError::Lost(None)) => table.create(stream, &self.lease).await,
                Err(LeaseError::Lost(Some(stored))) => {
                    let is_own = stored.owner == self.lease.owner;
                    if !is_own || stored.epoch != self.lease.epoch {
                        return EngineError::InstanceIdInUse(instance.clone());
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "heartbeat of this instance could not be written; retrying");
            }
        }
    }

    /// Leaves the group, so that the others divide its leases among themselves at once. After a
    /// failure they wait for a lease duration.
    pub(super) async fn leave(mut self) {
        let (table, stream) = (&self.ctx.ports.leases, &self.ctx.stream);
        self.lease.heartbeat += 1;
        self.lease.owner = None;
        let instance = &self.ctx.config.instance;
        let left = match table.renew(stream, instance, &self.lease).await {
            Ok(_) => table.remove(stream, &self.lease).await,
            Err(error) => Err(error),
        };
        if let Err(error) = left {
            tracing::debug!(%error, "member item could not be deleted");
        }
    }
}
