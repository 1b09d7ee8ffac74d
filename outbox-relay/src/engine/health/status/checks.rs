//! Checks of `/healthz` and `/readyz`.

use shared::runtime::health::{Check, Report};
use tokio::time::Instant;

use super::{EngineStatus, ShardStatus};
use crate::engine::health::table_health::TableOperation;

impl ShardStatus {
    /// Returns `true` if the shard is not read because the credentials lack a permission.
    fn is_denied(&self) -> bool {
        let failure = self.read_failure.as_ref();
        !self.is_fully_read && failure.is_some_and(|failure| failure.is_denied)
    }
}

impl EngineStatus {
    /// Returns the report of `/healthz`: red when progress has stopped for three lease durations
    /// (docs/design.md, "health").
    pub fn live(&self, now: Instant) -> Report {
        let limit = self.lease_duration * 3;
        let state = self.state.lock();
        let shards = state.shards.iter().map(|(id, shard)| {
            let name = format!("shard {id}");
            let unread = now.saturating_duration_since(shard.last_read);
            match &shard.checkpoint_failure {
                _ if unread > limit
                    && shard.budget_waits == 0
                    && !shard.is_fully_read
                    && !shard.is_denied() =>
                {
                    let reason = shard.read_failure.as_ref();
                    let reason = reason.map(|failure| format!(": {}", failure.reason));
                    Check::fail(
                        name,
                        format!(
                            "no successful read for {} s{}",
                            unread.as_secs(),
                            reason.unwrap_or_default()
                        ),
                    )
                }
                Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                    Check::fail(name, format!("no checkpoint could be written: {reason}"))
                }
                _ => Check::pass(name),
            }
        });
        // While leases are being acquired, the remaining ones are still in line.
        let waiting = state
            .unowned
            .values()
            .map(|since| state.acquired_at.map_or(*since, |at| at.max(*since)))
            .filter(|since| now.saturating_duration_since(*since) > limit)
            .count();
        let unowned = match waiting {
            0 => Check::pass("leases"),
            count => Check::fail(
                "leases",
                format!(
                    "{count} available leases could not be acquired for {} s",
                    limit.as_secs()
                ),
            ),
        };
        let coordination = match &state.coordination {
            Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                Check::fail("coordination", reason)
            }
            _ => Check::pass("coordination"),
        };
        let table =
            TableOperation::ALL.map(|operation| match self.table.longest_failure(operation) {
                Some((since, reason)) if now.saturating_duration_since(since) > limit => {
                    Check::fail(operation.as_str(), reason)
                }
                _ => Check::pass(operation.as_str()),
            });
        Report::new(shards.chain([unowned, coordination]).chain(table))
    }

    /// Returns the report of `/readyz`: red while events cannot be published.
    pub fn ready(&self) -> Report {
        let state = self.state.lock();
        let mut shards = state.shards.values();
        let denied = shards.find(|shard| shard.is_denied());
        let denied = denied.and_then(|shard| shard.read_failure.as_ref());
        let stream = match (&state.stream, denied) {
            (Err(reason), _) => Check::fail("stream", reason),
            (Ok(()), Some(failure)) => Check::fail("stream", &failure.reason),
            (Ok(()), None) => Check::pass("stream"),
        };
        let coordination = state.coordination.as_ref();
        let coordination = coordination.map(|(_, reason)| Check::fail("coordination", reason));
        let queues = state
            .queues
            .reasons()
            .map(|(queue, reason)| Check::fail(format!("queue {queue}"), reason));
        let unrouted = state.unrouted.keys().map(|event_type| {
            Check::fail(
                format!("event type {event_type}"),
                "no route matches it; its events stay pending; add a route to RELAY_ROUTES",
            )
        });
        let unreadable = state.unreadable.iter().map(|lease| {
            Check::fail(
                format!("lease {lease}"),
                "its item in the lease table cannot be parsed, so no relay acquires the lease; correct \
                 or delete the item",
            )
        });
        let table = TableOperation::ALL.into_iter().filter_map(|operation| {
            let (_, reason) = self.table.longest_failure(operation)?;
            Some(Check::fail(operation.as_str(), reason))
        });
        Report::new(
            [stream]
                .into_iter()
                .chain(coordination)
                .chain(queues)
                .chain(unrouted)
                .chain(unreadable)
                .chain(table),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ports::ShardId;

    #[test]
    fn an_unread_shard_turns_health_red_unless_it_waits_for_the_budget_or_is_fully_read() {
        let status = EngineStatus::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.add_shard(&shard, start);
        let later = start + Duration::from_secs(31);
        assert!(status.live(start + Duration::from_secs(30)).healthy());
        assert!(!status.live(later).healthy());
        let (reader, feeder) = (
            status.wait_for_budget(&shard),
            status.wait_for_budget(&shard),
        );
        drop(reader);
        assert!(status.live(later).healthy(), "another task still waits");
        drop(feeder);
        assert!(!status.live(later).healthy());
        status.record_read(&shard, later);
        assert!(status.live(later + Duration::from_secs(30)).healthy());
        assert!(!status.live(later + Duration::from_secs(31)).healthy());
        status.record_fully_read(&shard);
        assert!(status.live(later + Duration::from_secs(31)).healthy());
    }

    #[test]
    fn denied_reads_turn_readiness_red_and_leave_health_green() {
        let status = EngineStatus::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        status.add_shard(&shard, start);
        status.record_stream(Ok(()));
        status.record_read_failure(&shard, "denied".to_owned(), true);
        assert!(!status.ready().healthy());
        assert!(status.live(later).healthy());
        status.record_read_failure(&shard, "unavailable".to_owned(), false);
        assert!(status.ready().healthy());
        let live = status.live(later);
        let reason = live.checks[0].reason.as_deref();
        assert_eq!(reason, Some("no successful read for 31 s: unavailable"));
        status.record_read_failure(&shard, "denied".to_owned(), true);
        status.record_read(&shard, later);
        assert!(status.ready().healthy());
    }

    #[test]
    fn failing_checkpoints_turn_health_red() {
        let status = EngineStatus::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.add_shard(&shard, start);
        status.record_checkpoint_failure(&shard, "unavailable".to_owned(), start);
        let later = start + Duration::from_secs(31);
        status.record_read(&shard, later);
        assert!(!status.live(later).healthy());
        status.record_checkpoint(&shard);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn shards_that_stay_unowned_turn_health_red() {
        let status = EngineStatus::new(Duration::from_secs(10));
        let start = Instant::now();
        let (one, other) = (ShardId("1".into()), ShardId("2".into()));
        let later = start + Duration::from_secs(31);
        status.record_unowned(vec![one.clone()], start);
        status.record_unowned(vec![other.clone()], later);
        assert!(status.live(later).healthy(), "each was acquired in time");
        status.record_unowned(vec![one.clone(), other], later);
        let too_late = later + Duration::from_secs(31);
        status.record_unowned(vec![one], too_late);
        assert!(!status.live(too_late).healthy());
        status.record_unowned(Vec::new(), too_late);
        assert!(status.live(too_late).healthy());
    }

    #[test]
    fn unreadable_leases_turn_health_red() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        let status = EngineStatus::new(Duration::from_secs(10));
        status.record_coordination(Err("unavailable".to_owned()), start);
        status.record_coordination(Err("unavailable".to_owned()), later);
        assert!(status.live(start).healthy());
        assert!(!status.live(later).healthy());
        status.record_coordination(Ok(()), later);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn a_failing_table_operation_turns_readiness_red_at_once_and_health_after_a_while() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        for operation in TableOperation::ALL {
            let status = EngineStatus::new(Duration::from_secs(10));
            status.record_stream(Ok(()));
            let (mut one, mut other) = (status.monitor(operation), status.monitor(operation));
            assert!(status.ready().healthy());
            one.record_failure("unavailable".to_owned(), start);
            one.record_failure("still unavailable".to_owned(), later);
            other.record_failure("unavailable".to_owned(), later);
            assert!(!status.ready().healthy());
            assert!(status.live(start).healthy());
            assert!(!status.live(later).healthy());
            one.record_success();
            assert!(status.live(later).healthy());
            assert!(!status.ready().healthy());
            drop(other);
            assert!(status.ready().healthy());
        }
    }
}
