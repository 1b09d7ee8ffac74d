//! What `/healthz` and `/readyz` say of the engine.

use shared::runtime::health::{Check, Report};
use tokio::time::Instant;

use super::Status;
use crate::engine::health::table_health::TableUse;

impl Status {
    /// Rule 13: red when progress has stopped.
    pub fn live(&self, now: Instant) -> Report {
        let limit = self.lease_duration * 3;
        let inner = self.lock();
        let shards = inner.shards.iter().map(|(id, shard)| {
            let name = format!("shard {id}");
            let unread = now.saturating_duration_since(shard.last_read);
            match &shard.checkpoint_failing {
                _ if unread > limit && shard.waiting_for_room == 0 && !shard.read_to_end => {
                    Check::fail(
                        name,
                        format!("no successful read for {} s", unread.as_secs()),
                    )
                }
                Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                    Check::fail(name, format!("no checkpoint could be written: {reason}"))
                }
                _ => Check::pass(name),
            }
        });
        // While leases are being taken, the others have their turn to come.
        let waiting = inner
            .unowned
            .values()
            .map(|since| inner.took.map_or(*since, |took| took.max(*since)))
            .filter(|since| now.saturating_duration_since(*since) > limit)
            .count();
        let unowned = match waiting {
            0 => Check::pass("leases"),
            count => Check::fail(
                "leases",
                format!(
                    "{count} that are free could not be taken for {} s",
                    limit.as_secs()
                ),
            ),
        };
        let coordination = match &inner.coordination {
            Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                Check::fail("coordination", reason)
            }
            _ => Check::pass("coordination"),
        };
        let table = TableUse::ALL.map(|table_use| match self.troubles.longest(table_use) {
            Some((since, reason)) if now.saturating_duration_since(since) > limit => {
                Check::fail(table_use.as_str(), reason)
            }
            _ => Check::pass(table_use.as_str()),
        });
        Report::new(shards.chain([unowned, coordination]).chain(table))
    }

    /// Whether events can be published now.
    pub fn ready(&self) -> Report {
        let inner = self.lock();
        let stream = match &inner.stream {
            Ok(()) => Check::pass("stream"),
            Err(reason) => Check::fail("stream", reason),
        };
        let queues = inner
            .queues
            .iter()
            .map(|(queue, reason)| Check::fail(format!("queue {queue}"), reason));
        let table = TableUse::ALL.into_iter().filter_map(|table_use| {
            let (_, reason) = self.troubles.longest(table_use)?;
            Some(Check::fail(table_use.as_str(), reason))
        });
        Report::new([stream].into_iter().chain(queues).chain(table))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ports::ShardId;

    #[test]
    fn health_is_red_when_a_shard_is_not_read_but_not_when_it_waits_for_room_or_has_ended() {
        let status = Status::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.holds(&shard, start);
        let later = start + Duration::from_secs(31);
        assert!(status.live(start + Duration::from_secs(30)).healthy());
        assert!(!status.live(later).healthy());
        let (reader, feeder) = (status.waits_for_room(&shard), status.waits_for_room(&shard));
        drop(reader);
        assert!(status.live(later).healthy(), "another one waits still");
        drop(feeder);
        assert!(!status.live(later).healthy());
        status.read(&shard, later);
        assert!(status.live(later + Duration::from_secs(30)).healthy());
        assert!(!status.live(later + Duration::from_secs(31)).healthy());
        status.read_to_end(&shard);
        assert!(status.live(later + Duration::from_secs(31)).healthy());
    }

    #[test]
    fn health_is_red_when_no_checkpoint_can_be_written() {
        let status = Status::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.holds(&shard, start);
        status.checkpoint_failed(&shard, "away".to_owned(), start);
        let later = start + Duration::from_secs(31);
        status.read(&shard, later);
        assert!(!status.live(later).healthy());
        status.checkpoint_written(&shard);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn health_is_red_when_shards_stay_unowned() {
        let status = Status::new(Duration::from_secs(10));
        let start = Instant::now();
        let (one, other) = (ShardId("1".into()), ShardId("2".into()));
        let later = start + Duration::from_secs(31);
        status.unowned(vec![one.clone()], start);
        status.unowned(vec![other.clone()], later);
        assert!(status.live(later).healthy(), "each was taken in time");
        status.unowned(vec![one.clone(), other], later);
        let too_late = later + Duration::from_secs(31);
        status.unowned(vec![one], too_late);
        assert!(!status.live(too_late).healthy());
        status.unowned(Vec::new(), too_late);
        assert!(status.live(too_late).healthy());
    }

    #[test]
    fn health_is_red_when_leases_cannot_be_read() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        let status = Status::new(Duration::from_secs(10));
        status.coordination(Err("away".to_owned()), start);
        status.coordination(Err("away".to_owned()), later);
        assert!(status.live(start).healthy());
        assert!(!status.live(later).healthy());
        status.coordination(Ok(()), later);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn trouble_shows_at_once_and_turns_health_red_until_it_is_over_or_given_up() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        for table_use in TableUse::ALL {
            let status = Status::new(Duration::from_secs(10));
            status.stream(Ok(()));
            let (mut one, mut other) = (status.trouble(table_use), status.trouble(table_use));
            assert!(status.ready().healthy());
            one.because("away".to_owned(), start);
            one.because("still away".to_owned(), later);
            other.because("away".to_owned(), later);
            assert!(!status.ready().healthy());
            assert!(status.live(start).healthy());
            assert!(!status.live(later).healthy());
            one.over();
            assert!(status.live(later).healthy());
            assert!(!status.ready().healthy());
            drop(other);
            assert!(status.ready().healthy());
        }
    }
}
