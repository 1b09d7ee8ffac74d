//! The event whose publish ends a recovery.

use std::collections::BTreeSet;

use super::super::event_timeline::EventTimeline;
use super::Measure;
use crate::history::{History, Life};

/// Event whose publish ends a recovery.
#[derive(Clone, Copy)]
pub(super) struct ExpectedEvent {
    /// Earliest time at which it could be published.
    pub(super) due: u64,
    /// Time of its acceptance; `None` if it was not published before the end of the run.
    pub(super) flowed: Option<u64>,
}

impl ExpectedEvent {
    pub(super) fn took_ms(self) -> Option<u64> {
        Some(self.flowed?.saturating_sub(self.due))
    }
}

/// Returns all shards that a relay read.
pub(super) fn shards(history: &History) -> BTreeSet<&str> {
    let readers = history.readers.iter();
    readers.map(|reader| reader.shard.as_str()).collect()
}

impl<'a> Measure<'a> {
    /// Returns the shards that `life` was reading at `at`.
    pub(super) fn held_by(&self, life: &Life, at: u64) -> impl Iterator<Item = &'a str> {
        let readers = &self.history.readers;
        self.shards.iter().copied().filter(move |&shard| {
            let mut earlier = readers.iter().rev().filter(|one| one.at <= at);
            earlier
                .find(|one| one.shard == shard)
                .is_some_and(|one| one.relay == life.process && one.incarnation == life.incarnation)
        })
    }

    /// Returns, for each of `shards`, the oldest event that satisfies `eligible` and was not sent
    /// at `at`, and of these the one that took longest; `None` if there is none.
    pub(super) fn expected_event(
        &self,
        at: u64,
        shards: impl Iterator<Item = &'a str>,
        eligible: impl Fn(&EventTimeline<'_>) -> bool,
    ) -> Option<ExpectedEvent> {
        let of_shard = |shard: &str| {
            let events = || {
                self.of_shard(shard)
                    .filter(|&event| event.is_unpublished(at) && eligible(event))
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

    /// Returns the event of the queue that was accepted last, of those that were committed and not
    /// sent at `at`; `None` if there is none. An event that was never sent may be of any
    /// queue.
    pub(super) fn last_event(&self, queue: &str, at: u64) -> Option<ExpectedEvent> {
        let waiting = self.event_timelines.iter().filter(|event| {
            !event.is_swept
                && event.committed <= at
                && event.is_unpublished(at)
                && event.first.is_none_or(|first| first.queue == queue)
        });
        let flowed = waiting.map(|event| event.first.map(|first| first.answered_at));
        // `None`, an event that was never sent, counts as the last one.
        let last = flowed.max_by_key(|at| at.unwrap_or(u64::MAX))?;
        Some(ExpectedEvent {
            due: at,
            flowed: last,
        })
    }

    /// Returns the events of the shard that the stream delivers. An event that was never read may
    /// be in any shard.
    pub(super) fn of_shard(&self, shard: &str) -> impl Iterator<Item = &EventTimeline<'a>> {
        self.event_timelines
            .iter()
            .filter(move |event| !event.is_swept && event.shard.is_none_or(|one| one == shard))
    }
}
