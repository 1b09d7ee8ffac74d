//! The status report: counts, lag, leases, and whether all of it is healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox::timestamp::Timestamp;
use outbox_store::ShardId;
use outbox_store::dynamodb::Count;
use serde::Serialize;

use super::lease_observer::{LeaseObserver, Liveness};
use super::leases::{LeaseKind, LeaseView, seconds_between};
use super::{OperateError, Operator};

/// Upper bound on the leases that one problem names; further ones are counted.
const MAX_NAMED: usize = 3;

/// Limits of a healthy state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum age of a pending event, and maximum lag of a reader.
    pub max_lag: Duration,
    /// Maximum number of failed events that wait for an operator.
    pub max_failed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_lag: Duration::from_secs(60),
            max_failed: 0,
        }
    }
}

/// State of an outbox and its relays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    pub at: Timestamp,
    pub healthy: bool,
    /// Problems, for people; empty if healthy.
    pub problems: Vec<String>,
    pub consumer_group: String,
    pub pending: Count,
    /// Time of the oldest pending event, as its writer stored it.
    pub oldest_pending: Option<String>,
    pub oldest_pending_seconds: Option<f64>,
    pub failed: Count,
    /// Number of deferred events by queue when each sweeper last counted them. They are pending.
    pub deferred: BTreeMap<String, u64>,
    /// Lag of the slowest reader; `None` if none has read.
    pub lag_seconds: Option<f64>,
    /// Leases of shards that are not fully read.
    pub shards: Vec<LeaseView>,
    pub shards_ended: usize,
    /// The maintenance lease.
    pub sweeper: Option<LeaseView>,
    /// Leases of the sweepers; none while a relay of an older release sweeps.
    pub sweepers: Vec<LeaseView>,
    /// Names of the relays of the group that run.
    pub members: Vec<String>,
}

impl Operator {
    /// Returns the current state. The states of leases are those that `observer` has observed; call
    /// [Operator::observe_leases] first to know them all.
    pub async fn status(
        &self,
        observer: &mut LeaseObserver,
        limits: Limits,
    ) -> Result<StatusReport, OperateError> {
        let (pending, oldest_pending, failed_count, leases) = tokio::join!(
            self.outbox.count_all_pending(),
            self.outbox.oldest_pending(),
            self.outbox.count_all_failed(),
            self.read_leases(observer),
        );
        let (pending, oldest_pending, failed) = (pending?, oldest_pending?, failed_count?);
        let mut problems = Vec::new();
        let at = Timestamp::now();
        let oldest_pending_seconds = oldest_pending
            .as_ref()
            .and_then(|oldest| oldest.parse().ok())
            .map(|oldest| seconds_between(oldest, at));
        if let Some(age) = oldest_pending_seconds
            && age > limits.max_lag.as_secs_f64()
        {
            problems.push(format!(
                "the oldest pending event is {} old; {} is the limit",
                rough(age),
                humantime::format_duration(limits.max_lag)
            ));
        }
        if failed.count > limits.max_failed {
            problems.push(format!(
                "{}{} for an operator: see `list --state failed`, then `retry` or `discard`",
                if failed.exact { "" } else { "at least " },
                plural(
                    failed.count,
                    "event has failed and waits",
                    "events have failed and wait"
                ),
            ));
        }
        let leases = match leases {
            Ok(leases) => {
                problems.extend(self.lease_problems(&leases, limits));
                leases
            }
            // The rest of the report is useful without the leases.
            Err(error) => {
                problems.push(error.to_string());
                Vec::new()
            }
        };
        let members = members(&leases);
        let of_kind = |kind| {
            let leases = leases.iter().filter(move |lease| lease.kind == kind);
            leases.cloned()
        };
        let all = of_kind(LeaseKind::Shard).count();
        let shards: Vec<_> = of_kind(LeaseKind::Shard).filter(is_open).collect();
        let sweepers: Vec<_> = of_kind(LeaseKind::Sweeper).collect();
        Ok(StatusReport {
            at,
            healthy: problems.is_empty(),
            problems,
            consumer_group: self.consumer_group.clone(),
            pending,
            oldest_pending,
            oldest_pending_seconds,
            failed,
            deferred: deferred(&sweepers),
            lag_seconds: shards
                .iter()
                .filter_map(|lease| lease.behind_seconds)
                .max_by(f64::total_cmp),
            shards_ended: all - shards.len(),
            shards,
            sweeper: of_kind(LeaseKind::Maintenance).next(),
            sweepers,
            members,
        })
    }

    /// Counts the failed events.
    pub async fn count_failed(&self) -> Result<Count, OperateError> {
        Ok(self.outbox.count_all_failed().await?)
    }

    fn lease_problems(&self, leases: &[LeaseView], limits: Limits) -> Vec<String> {
        let group = &self.consumer_group;
        if leases.is_empty() {
            return vec![format!(
                "no relay of the group `{group}` has read this stream yet"
            )];
        }
        let has_shard = leases.iter().any(|lease| lease.kind == LeaseKind::Shard);
        let unreadable: Vec<_> = leases
            .iter()
            .filter(|lease| lease.liveness == Liveness::Unreadable)
            .collect();
        let unreadable = (!unreadable.is_empty()).then(|| names(&unreadable));
        // A member without a heartbeat has stopped. The leases that it held are reported instead.
        let named = |is: &dyn Fn(&LeaseView) -> bool| {
            let found: Vec<_> = leases
                .iter()
                .filter(|lease| lease.kind != LeaseKind::Member && is(lease))
                .collect();
            (!found.is_empty()).then(|| names(&found))
        };
        let watched = humantime::format_duration(self.lease_duration);
        let max_lag = limits.max_lag.as_secs_f64();
        let is_behind = |lease: &LeaseView| {
            lease.liveness == Liveness::Alive && lease.behind_seconds.is_some_and(|by| by > max_lag)
        };
        let by = leases
            .iter()
            .filter(|lease| is_behind(lease))
            .filter_map(|lease| lease.behind_seconds)
            .max_by(f64::total_cmp)
            .unwrap_or_default();
        [
            (!has_shard).then(|| "no shard of the stream has a lease yet".to_owned()),
            unreadable.map(|names| {
                format!(
                    "the items of {names} in the lease table cannot be read; repair or delete them, and the relays create new ones"
                )
            }),
            named(&|lease| lease.liveness == Liveness::NoHeartbeat)
                .map(|names| format!("the owner of {names} wrote no heartbeat for {watched}")),
            named(&|lease| lease.liveness == Liveness::NoOwner)
                .map(|names| format!("no relay acquired {names} for {watched}")),
            named(&is_behind).map(|names| {
                format!(
                    "the reader of {names} is {} behind; {} is the limit",
                    rough(by),
                    humantime::format_duration(limits.max_lag)
                )
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Returns the names of the instances that run: those with a member item that has a heartbeat, and
/// owners, which may be of a release without member items.
fn members(leases: &[LeaseView]) -> Vec<String> {
    let names = leases
        .iter()
        .filter(|lease| matches!(lease.liveness, Liveness::Alive | Liveness::Unknown));
    let names = names.filter_map(|lease| match lease.kind {
        LeaseKind::Member => ShardId(lease.lease.as_str().into())
            .member()
            .map(str::to_owned),
        _ => lease.owner.clone(),
    });
    let names: BTreeSet<_> = names.collect();
    names.into_iter().collect()
}

/// Returns the sums of the sweepers' counts.
fn deferred(sweepers: &[LeaseView]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (queue, count) in sweepers.iter().flat_map(|lease| &lease.deferred) {
        *sums.entry(queue.clone()).or_default() += count;
    }
    sums
}

fn is_open(lease: &LeaseView) -> bool {
    !matches!(
        lease.liveness,
        Liveness::FullyConsumed | Liveness::NotInStream
    )
}

fn names(leases: &[&LeaseView]) -> String {
    let name = |lease: &&LeaseView| match lease.owner.as_deref() {
        Some(owner) => format!("{} ({owner})", lease.lease),
        None => lease.lease.clone(),
    };
    let mut names: Vec<_> = leases.iter().take(MAX_NAMED).map(name).collect();
    if leases.len() > MAX_NAMED {
        names.push(format!("{} more", leases.len() - MAX_NAMED));
    }
    names.join(", ")
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Formats seconds for people, without fractions.
fn rough(seconds: f64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(
        Duration::from_secs_f64(seconds).as_secs(),
    ))
}
