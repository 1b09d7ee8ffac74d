//! Leases of shards, sweepers and instances, with the liveness of their owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::DescribeStreamError;
use outbox_store::{Lease, LeaseState, Leases, MAINTENANCE, ShardId};
use serde::Serialize;
use tokio::time::Instant;

use super::lease_observer::{LeaseObserver, Liveness};
use super::{OperateError, Operator};

/// Interval between two look-ups of the stream, which may have been replaced.
const LOCATE_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval between two listings of the stream's shards: all readers of a stream share its
/// low limit of DescribeStream calls.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// One lease, and what was observed of its owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaseView {
    /// The shard; `sweeper` for the maintenance lease, `sweeper#N` and `member#INSTANCE`.
    pub lease: String,
    pub kind: LeaseKind,
    pub parent: Option<String>,
    pub owner: Option<String>,
    pub epoch: u64,
    /// Position up to which every event is published and marked.
    pub checkpoint: Option<String>,
    /// Time before which the owner has processed every record.
    #[serde(rename = "passed")]
    pub low_watermark: Option<Timestamp>,
    /// Age of that time by this machine's clock. An owner that is caught up writes it every third
    /// of a lease duration.
    pub behind_seconds: Option<f64>,
    /// Instance that requested the shard.
    #[serde(rename = "wanted_by")]
    pub requested_by: Option<String>,
    /// On the lease of a sweeper: number of deferred events by queue when it last counted them.
    pub deferred: BTreeMap<String, u64>,
    #[serde(rename = "life")]
    pub liveness: Liveness,
}

/// Subject of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseKind {
    Shard,
    /// Listing the stream's shards and counting events.
    Maintenance,
    /// A part of the pending events.
    Sweeper,
    /// Heartbeats of an instance.
    Member,
}

impl LeaseKind {
    fn of(id: &ShardId) -> Self {
        if *id.0 == *MAINTENANCE {
            Self::Maintenance
        } else if id.sweeper_index().is_some() {
            Self::Sweeper
        } else if id.member().is_some() {
            Self::Member
        } else {
            Self::Shard
        }
    }
}

impl Operator {
    /// Returns the lease duration of the relays: an owner that writes no heartbeat for this long is
    /// not alive, and other relays take its leases over.
    pub fn lease_duration(&self) -> Duration {
        self.lease_duration
    }

    /// Reads the leases once and adds the result to `observer`.
    pub async fn read_leases(
        &self,
        observer: &mut LeaseObserver,
    ) -> Result<Vec<LeaseView>, OperateError> {
        let now = Instant::now();
        let stream = match &observer.stream {
            Some((stream, at)) if now.saturating_duration_since(*at) < LOCATE_INTERVAL => {
                Arc::clone(stream)
            }
            _ => {
                let stream = self.stream_arn().await?;
                if observer
                    .stream
                    .as_ref()
                    .is_some_and(|(old, _)| *old != stream)
                {
                    *observer = LeaseObserver::default();
                }
                observer.stream = Some((Arc::clone(&stream), now));
                stream
            }
        };
        let Leases { leases, unreadable } = self.all_leases(&stream).await?;
        let now = Instant::now();
        observer.record(&leases, now);
        let mut liveness = observer.liveness(&leases, now, self.lease_duration);
        let is_suspect = liveness
            .iter()
            .any(|one| matches!(one, Liveness::NoHeartbeat | Liveness::NoOwner));
        let is_listed = observer
            .listed
            .as_ref()
            .is_some_and(|(_, at)| now.saturating_duration_since(*at) < LISTING_INTERVAL);
        if is_suspect && !is_listed {
            // Leases of deleted shards remain if no relay ran while their shards ended. Without a
            // listing of the stream they cannot be distinguished from abandoned leases.
            match self.stream.all_shards(&stream).await {
                Ok(shards) => {
                    observer.listed = Some((shards, now));
                    liveness = observer.liveness(&leases, now, self.lease_duration);
                }
                Err(error) => tracing::debug!(%error, "listing the stream's shards failed"),
            }
        }
        let wall = Timestamp::now();
        let readable = leases.iter().zip(liveness);
        let readable = readable.map(|(lease, liveness)| view(lease, liveness, wall));
        let unreadable = unreadable.into_iter().map(|id| {
            let lease = Lease::unread(id, None);
            view(&lease, Liveness::Unreadable, wall)
        });
        Ok(readable.chain(unreadable).collect())
    }

    /// Returns the leases of shards, the maintenance lease, and those of sweepers and members.
    async fn all_leases(&self, stream: &str) -> Result<Leases, OperateError> {
        let (shards, maintenance) = tokio::try_join!(
            self.leases.leases(stream),
            self.leases.maintenance_leases(stream)
        )?;
        let mut unreadable = shards.unreadable;
        unreadable.extend(maintenance.unreadable);
        let mut leases = shards.leases;
        // While a relay of an older release holds the maintenance lease, it sweeps everything, and
        // no other relay acquires the sweepers' leases.
        let is_swept_by_older_release = leases.iter().any(|lease| {
            *lease.shard.0 == *MAINTENANCE
                && lease.owner.is_some()
                && lease.lease_duration.is_none()
        });
        leases.extend(maintenance.leases.into_iter().filter(|lease| {
            match LeaseKind::of(&lease.shard) {
                LeaseKind::Sweeper => !is_swept_by_older_release,
                // An instance that has left the group.
                LeaseKind::Member => lease.owner.is_some(),
                LeaseKind::Shard | LeaseKind::Maintenance => true,
            }
        }));
        Ok(Leases { leases, unreadable })
    }

    /// Reads the leases until the state of each is known, which takes at most
    /// [`Operator::lease_duration`].
    pub async fn observe_leases(
        &self,
        observer: &mut LeaseObserver,
    ) -> Result<Vec<LeaseView>, OperateError> {
        let pause = (self.lease_duration / 20).min(Duration::from_millis(250));
        loop {
            let leases = self.read_leases(observer).await?;
            if leases
                .iter()
                .all(|lease| lease.liveness != Liveness::Unknown)
            {
                return Ok(leases);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the stream's ARN.
    pub(super) async fn stream_arn(&self) -> Result<Arc<str>, OperateError> {
        self.stream.locate().await.map_err(|error| match error {
            DescribeStreamError::NotFound(reason) => OperateError::Refused(reason),
            error => OperateError::Unavailable(format!(
                "the stream of table `{}` could not be looked up: {error}",
                self.outbox_table
            )),
        })
    }
}

fn view(lease: &Lease, liveness: Liveness, now: Timestamp) -> LeaseView {
    let seconds = |passed: Timestamp| seconds_between(passed, now);
    LeaseView {
        lease: lease.shard.to_string(),
        kind: LeaseKind::of(&lease.shard),
        parent: lease.parent.as_ref().map(ToString::to_string),
        owner: lease.owner.clone(),
        epoch: lease.epoch,
        checkpoint: lease.checkpoint.as_ref().map(ToString::to_string),
        low_watermark: lease.low_watermark,
        behind_seconds: lease
            .low_watermark
            .filter(|_| lease.state == LeaseState::Open)
            .map(seconds),
        requested_by: lease.requests.requested_by.clone(),
        deferred: lease.deferred.clone(),
        liveness,
    }
}

/// Returns the seconds from `earlier` to `later`; 0 if clocks disagree.
pub(super) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    let millis = later.as_millis().saturating_sub(earlier.as_millis()).max(0);
    Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}
