//! Leases, and whether their owners are alive.
//!
//! A single read of a lease does not show whether its owner is alive, because clocks of two
//! machines are not compared. A live owner increments `heartbeat` at least every third of a lease
//! duration. An [`Observer`] therefore reads the leases repeatedly and measures with its own clock,
//! as the relays do among themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::DescribeStreamError;
use outbox_store::{Lease, LeaseState, MAINTENANCE, Shard, ShardId};
use serde::Serialize;
use tokio::time::Instant;

use super::{OperateError, Operator};

/// Interval between two look-ups of the stream, which may have been replaced.
const LOCATED_FOR: Duration = Duration::from_secs(10);

/// Minimum interval between two listings of the stream's shards: all readers of a stream share its
/// low limit of DescribeStream calls.
const LISTED_FOR: Duration = Duration::from_secs(60);

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
    /// On the lease of a sweeper: number of deferred events by queue, as of its last pass.
    pub deferred: BTreeMap<String, u64>,
    pub life: Life,
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

/// Observed state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// The owner wrote a heartbeat while it was observed.
    Alive,
    /// The lease was not observed for long enough.
    Unknown,
    /// The owner wrote no heartbeat for a lease duration.
    Silent,
    /// The lease has no owner.
    Free,
    /// The shard starts once its parent is fully read.
    Waiting,
    /// The shard is fully read.
    Ended,
    /// The shard is no longer in the stream.
    #[serde(rename = "gone")]
    NotInStream,
}

/// Earlier observations of the leases.
#[derive(Debug, Default)]
pub struct Observer {
    stream: Option<(Arc<str>, Instant)>,
    seen: BTreeMap<ShardId, Seen>,
    listed: Option<(Vec<Shard>, Instant)>,
}

#[derive(Debug)]
struct Seen {
    epoch: u64,
    heartbeat: u64,
    /// Time at which this epoch and heartbeat were first observed.
    since: Instant,
    /// `true` if they differ from the first observation.
    moved: bool,
}

impl Observer {
    fn note(&mut self, leases: &[Lease], now: Instant) {
        for lease in leases {
            let (epoch, heartbeat) = (lease.epoch, lease.heartbeat);
            let seen = self.seen.entry(lease.shard.clone()).or_insert(Seen {
                epoch,
                heartbeat,
                since: now,
                moved: false,
            });
            if (seen.epoch, seen.heartbeat) != (epoch, heartbeat) {
                *seen = Seen {
                    epoch,
                    heartbeat,
                    since: now,
                    moved: true,
                };
            }
        }
        let listed: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        self.seen.retain(|shard, _| listed.contains(shard));
    }

    /// Returns the time for which the lease was observed to be unchanged.
    fn unchanged_for(&self, lease: &Lease, now: Instant) -> Duration {
        self.seen.get(&lease.shard).map_or(Duration::ZERO, |seen| {
            now.saturating_duration_since(seen.since)
        })
    }

    fn moved(&self, lease: &Lease) -> bool {
        self.seen.get(&lease.shard).is_some_and(|seen| seen.moved)
    }

    /// Returns the observed state of each of `leases`.
    fn lives(&self, leases: &[Lease], now: Instant, silence: Duration) -> Vec<Life> {
        let ended: BTreeMap<_, _> = leases
            .iter()
            .map(|lease| (&lease.shard, lease.state == LeaseState::Ended))
            .collect();
        let existing = self.listed.as_ref().map(|(listed, _)| {
            let listed: BTreeSet<_> = listed.iter().map(|shard| &shard.id).collect();
            // A child that a relay registered since the listing exists like its parent.
            let children = leases
                .iter()
                .filter(|lease| lease.parent.as_ref().is_some_and(|id| listed.contains(id)))
                .map(|lease| &lease.shard);
            children
                .chain(listed.iter().copied())
                .collect::<BTreeSet<_>>()
        });
        leases
            .iter()
            .map(|lease| {
                let unchanged = self.unchanged_for(lease, now);
                let parent_ended = lease.parent.as_ref().and_then(|parent| ended.get(parent));
                let is_not_in_stream = || {
                    lease.shard.is_shard()
                        && existing
                            .as_ref()
                            .is_some_and(|ids| !ids.contains(&lease.shard))
                };
                let silence = lease
                    .lease_duration
                    .map_or(silence, |owners| owners.max(silence));
                match &lease.owner {
                    _ if lease.state == LeaseState::Ended => Life::Ended,
                    None if parent_ended == Some(&false) => Life::Waiting,
                    _ if unchanged >= silence && is_not_in_stream() => Life::NotInStream,
                    None if unchanged >= silence => Life::Free,
                    Some(_) if unchanged >= silence => Life::Silent,
                    Some(_) if self.moved(lease) => Life::Alive,
                    _ => Life::Unknown,
                }
            })
            .collect()
    }
}

impl Operator {
    /// Returns the time without a heartbeat after which an owner is silent: a lease duration, after
    /// which other relays take its leases over.
    pub fn silence(&self) -> Duration {
        self.lease_duration
    }

    /// Reads the leases once and adds the result to `observer`.
    pub async fn look(&self, observer: &mut Observer) -> Result<Vec<LeaseView>, OperateError> {
        let now = Instant::now();
        let stream = match &observer.stream {
            Some((stream, at)) if now.saturating_duration_since(*at) < LOCATED_FOR => {
                Arc::clone(stream)
            }
            _ => {
                let stream = self.stream_arn().await?;
                if observer
                    .stream
                    .as_ref()
                    .is_some_and(|(old, _)| *old != stream)
                {
                    *observer = Observer::default();
                }
                observer.stream = Some((Arc::clone(&stream), now));
                stream
            }
        };
        let leases = self.all_leases(&stream).await?;
        let now = Instant::now();
        observer.note(&leases, now);
        let mut lives = observer.lives(&leases, now, self.silence());
        let is_suspect = lives
            .iter()
            .any(|life| matches!(life, Life::Silent | Life::Free));
        let is_listed = observer
            .listed
            .as_ref()
            .is_some_and(|(_, at)| now.saturating_duration_since(*at) < LISTED_FOR);
        if is_suspect && !is_listed {
            // Leases of deleted shards remain if no relay ran while their shards ended. Without a
            // listing of the stream they cannot be told from abandoned leases.
            match self.stream.all_shards(&stream).await {
                Ok(shards) => {
                    observer.listed = Some((shards, now));
                    lives = observer.lives(&leases, now, self.silence());
                }
                Err(error) => tracing::debug!(%error, "listing the stream's shards failed"),
            }
        }
        let wall = Timestamp::now();
        Ok(leases
            .iter()
            .zip(lives)
            .map(|(lease, life)| view(lease, life, wall))
            .collect())
    }

    /// Returns the leases of shards, the maintenance lease, and those of sweepers and members.
    async fn all_leases(&self, stream: &str) -> Result<Vec<Lease>, OperateError> {
        let (shards, maintenance) = tokio::try_join!(
            self.leases.leases(stream),
            self.leases.maintenance_leases(stream)
        )?;
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
        Ok(leases)
    }

    /// Reads the leases until the state of each is known, which takes at most
    /// [`Operator::silence`].
    pub async fn observe(&self, observer: &mut Observer) -> Result<Vec<LeaseView>, OperateError> {
        let pause = (self.silence() / 20).min(Duration::from_millis(250));
        loop {
            let leases = self.look(observer).await?;
            if leases.iter().all(|lease| lease.life != Life::Unknown) {
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

fn view(lease: &Lease, life: Life, now: Timestamp) -> LeaseView {
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
        life,
    }
}

/// Returns the seconds from `earlier` to `later`; 0 if clocks disagree.
pub(super) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    let millis = later.as_millis().saturating_sub(earlier.as_millis()).max(0);
    Duration::from_millis(millis.unsigned_abs()).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    fn lease(shard: &str, owner: Option<&str>, heartbeat: u64) -> Lease {
        Lease {
            owner: owner.map(str::to_owned),
            heartbeat,
            ..Lease::unread(ShardId(shard.into()), None)
        }
    }

    #[test]
    fn an_owner_is_alive_after_a_heartbeat_and_silent_without_one() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let first = [lease("a", Some("x"), 1), lease("b", Some("y"), 1)];
        observer.note(&first, start);
        assert_eq!(observer.lives(&first, start, SILENCE), [Life::Unknown; 2]);
        let later = start + Duration::from_secs(4);
        let second = [lease("a", Some("x"), 2), lease("b", Some("y"), 1)];
        observer.note(&second, later);
        assert_eq!(
            observer.lives(&second, later, SILENCE),
            [Life::Alive, Life::Unknown]
        );
        let end = start + SILENCE;
        assert_eq!(
            observer.lives(&second, end, SILENCE),
            [Life::Alive, Life::Silent]
        );
    }

    #[test]
    fn a_lease_is_free_after_a_lease_duration_without_owner() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let free = [lease("a", None, 1)];
        observer.note(&free, start);
        assert_eq!(observer.lives(&free, start, SILENCE), [Life::Unknown]);
        assert_eq!(
            observer.lives(&free, start + SILENCE, SILENCE),
            [Life::Free]
        );
    }

    #[test]
    fn a_child_waits_for_its_parent_and_the_lease_of_an_unlisted_shard_is_not_in_stream() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let mut child = lease("b", None, 0);
        child.parent = Some(ShardId("a".into()));
        let leases = [
            lease("a", Some("x"), 1),
            child,
            lease(MAINTENANCE, Some("x"), 1),
        ];
        observer.note(&leases, start);
        let later = start + SILENCE;
        assert_eq!(
            observer.lives(&leases, later, SILENCE),
            [Life::Silent, Life::Waiting, Life::Silent]
        );
        observer.listed = Some((Vec::new(), later));
        assert_eq!(
            observer.lives(&leases, later, SILENCE),
            [Life::NotInStream, Life::Waiting, Life::Silent]
        );
    }
}
