//! Claims the outbox table for the consumer group: two groups would mark the events of each other
//! as published.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::EngineError;
use crate::engine::context::ShardContext;
use crate::policy::backoff;
use crate::ports::{Lease, LeaseError, ShardId};

/// Number of heartbeats of one lease that show that a group is alive. A single one may be the last
/// request of a relay that was killed.
const ALIVE_AFTER_HEARTBEATS: u32 = 2;

/// Interval at which a running instance checks that its group is still registered.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Leases of another group as they were observed.
struct OtherGroup {
    name: String,
    since: Instant,
    /// Last observed write of each lease, and the number of writes since the first.
    leases: BTreeMap<ShardId, (Lease, u32)>,
}

/// State of another group.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// It was not observed for long enough.
    Unknown,
    Stopped,
}

/// Registers this group as the one that reads the table. Returns an error if another group is
/// registered and alive, and takes its place if it is not.
pub(super) async fn claim(
    ctx: &ShardContext,
    random: &mut fastrand::Rng,
) -> Result<(), EngineError> {
    let mut other: Option<OtherGroup> = None;
    let mut failures = 0;
    loop {
        match try_claim(ctx, &mut other).await {
            Ok(None) => return Ok(()),
            Ok(Some(Life::Alive)) => {
                let other = other.map_or_else(String::new, |other| other.name);
                return Err(EngineError::GroupInUse(other));
            }
            Ok(Some(_)) => {
                failures = 0;
                tokio::time::sleep(ctx.config.lease_duration / 16).await;
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "consumer group could not be registered; retrying");
                let outcome = Err(error.to_string());
                ctx.status.record_coordination(outcome, Instant::now());
                tokio::time::sleep(backoff::delay(failures, random.f64())).await;
            }
        }
    }
}

/// Waits until another group has taken the place of this one, which was cut off or suspended for
/// longer than its leases lasted.
pub(super) async fn until_replaced(ctx: &ShardContext) -> EngineError {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        match ctx.ports.leases.register_group(&ctx.stream, None).await {
            Ok(None) => {}
            Ok(Some(other)) => return EngineError::GroupInUse(other),
            Err(error) => {
                tracing::debug!(%error, "registration of the consumer group could not be checked");
            }
        }
    }
}

/// Makes one attempt. Returns the state of the other group, or `None` if this one is registered.
async fn try_claim(
    ctx: &ShardContext,
    other: &mut Option<OtherGroup>,
) -> Result<Option<Life>, LeaseError> {
    let (table, stream) = (&ctx.ports.leases, &ctx.stream);
    let is_stopped =
        |group: &&mut OtherGroup| group.life(ctx.config.lease_duration) == Life::Stopped;
    let stopped = other
        .as_mut()
        .filter(is_stopped)
        .map(|group| group.name.clone());
    let Some(registered) = table.register_group(stream, stopped.as_deref()).await? else {
        if let Some(stopped) = stopped {
            tracing::warn!(
                stopped,
                "registered this consumer group for the table in place of one that has stopped"
            );
        }
        return Ok(None);
    };
    let group = match other {
        Some(group) if group.name == registered => group,
        other => other.insert(OtherGroup {
            name: registered,
            since: Instant::now(),
            leases: BTreeMap::new(),
        }),
    };
    let leases = table.list_of_group(stream, &group.name).await?.leases;
    group.observe(leases);
    Ok(Some(group.life(ctx.config.lease_duration)))
}

impl OtherGroup {
    fn observe(&mut self, leases: Vec<Lease>) {
        let mut before = std::mem::take(&mut self.leases);
        for lease in leases.into_iter().filter(|lease| lease.owner.is_some()) {
            let id = lease.shard.clone();
            let writes = match before.remove(&id) {
                Some((last, writes)) if last.is_same_write(&lease) => writes,
                Some((_, writes)) => writes + 1,
                None => 0,
            };
            self.leases.insert(id, (lease, writes));
        }
    }

    fn life(&self, lease_duration: Duration) -> Life {
        let owners = self.leases.values();
        if owners
            .clone()
            .any(|(_, writes)| *writes >= ALIVE_AFTER_HEARTBEATS)
        {
            return Life::Alive;
        }
        let longest = owners.filter_map(|(lease, _)| lease.lease_duration).max();
        let longest = longest.map_or(lease_duration, |longest| longest.max(lease_duration));
        if self.leases.is_empty() || self.since.elapsed() >= longest {
            Life::Stopped
        } else {
            Life::Unknown
        }
    }
}
