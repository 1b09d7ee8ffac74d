//! Which event has to flow again after a fault, and when it did.

use std::collections::BTreeSet;

use super::super::event_timeline::EventTimeline;
use super::Measure;
use crate::history::{History, Life};

/// What has to flow again, and when it did.
#[derive(Clone, Copy)]
pub(super) struct ExpectedEvent {
    /// It could not have before.
    pub(super) due: u64,
    /// `None`: not before the run's end.
    pub(super) flowed: Option<u64>,
}

impl ExpectedEvent {
    pub(super) fn took_ms(self) -> Option<u64> {
        Some(self.flowed?.saturating_sub(self.due))
    }
}

pub(super) fn shards(history: &History) -> BTreeSet<&str> {
    let readers = history.readers.iter();
    readers.map(|reader| reader.shard.as_str()).collect()
}

impl<'a> Measure<'a> {
    /// The shards that `life` was reading at `at`.
    pub(super) fn held_by(&self, life: &Life, at: u64) -> impl Iterator<Item = &'a str> {
        let readers = &self.history.readers;
        self.shards.iter().copied().filter(move |&shard| {
            let mut earlier = readers.iter().rev().filter(|one| one.at <= at);
            earlier
                .find(|one| one.shard == shard)
                .is_some_and(|one| one.relay == life.process && one.incarnation == life.incarnation)
        })
    }

    /// Of each of `shards` the event of those `wanted` that has to flow after
    /// `at`, and of these the slowest; `None` when there is none.
    pub(super) fn expected_event(
        &self,
        at: u64,
        shards: impl Iterator<Item = &'a str>,
        wanted: impl Fn(&EventTimeline<'_>) -> bool,
    ) -> Option<ExpectedEvent> {
        let of_shard = |shard: &str| {
            let events = || {
                self.of_shard(shard)
                    .filter(|&event| event.is_unpublished(at) && wanted(event))
            };
            let oldest = events().min_by_key(|event| event.committed)?;
            Some(ExpectedEvent {
                due: oldest.committed.max(at),
                flowed: oldest.first.map(|first| first.answered_at),
            })
        };
        let slowest = |expected_event: &ExpectedEvent| expected_event.took_ms().unwrap_or(u64::MAX);
        shards.filter_map(of_shard).max_by_key(slowest)
    }

    /// Events that the stream brings. Of one that was never read nobody knows
    /// the shard.
    pub(super) fn of_shard(&self, shard: &str) -> impl Iterator<Item = &EventTimeline<'a>> {
        self.event_timelines
            .iter()
            .filter(move |event| !event.is_swept && event.shard.is_none_or(|one| one == shard))
    }
}
