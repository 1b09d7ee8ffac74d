//! Each event on its way from its commit to the first queue that took it.

use std::collections::HashMap;

use super::super::history::{History, Publish};

/// An event by its aggregate and sequence.
type Key<'a> = (&'a str, u64);

#[derive(Clone, Copy, Debug)]
pub(crate) struct EventTimeline<'a> {
    /// By when it was in the table for certain: its writer had been told.
    pub committed: u64,
    /// Where its record is; `None` when no relay has read it.
    pub shard: Option<&'a str>,
    /// The stream can no longer bring it: its record was trimmed before it was
    /// published, or that of an earlier event of its aggregate. The sweeper
    /// brings it, in its own time.
    pub is_swept: bool,
    /// When it was first sent to a queue that took it.
    pub first: Option<&'a Publish>,
}

impl EventTimeline<'_> {
    /// Whether no queue had been sent it yet.
    pub(crate) fn is_unpublished(&self, at: u64) -> bool {
        self.first.is_none_or(|first| first.at > at)
    }
}

/// All events of which it is known when they were committed. An order whose
/// clients were never told so is none of them.
pub(crate) fn event_timelines(history: &History) -> Vec<EventTimeline<'_>> {
    let mut first: HashMap<Key<'_>, &Publish> = HashMap::new();
    // In the order of time.
    for publish in &history.publishes {
        let key = (publish.aggregate_id.as_str(), publish.sequence);
        first.entry(key).or_insert(publish);
    }
    let mut shards: HashMap<Key<'_>, &str> = HashMap::new();
    for record in &history.records {
        let key = (record.aggregate_id.as_str(), record.sequence);
        shards.insert(key, &record.shard);
    }
    let swept = first_swept(history, &first);
    known_commits(history)
        .into_iter()
        .map(|(key, committed)| EventTimeline {
            committed,
            shard: shards.get(&key).copied(),
            is_swept: swept.get(key.0).is_some_and(|&from| from <= key.1),
            first: first.get(&key).copied(),
        })
        .collect()
}

fn known_commits(history: &History) -> HashMap<Key<'_>, u64> {
    let mut commits: HashMap<Key<'_>, u64> = HashMap::new();
    for post in history.posts.iter().filter(|post| post.status == Some(201)) {
        if let Some(order_id) = &post.order_id {
            let told = post.at + post.took_ms;
            let commit = commits.entry((order_id, 1)).or_insert(told);
            *commit = told.min(*commit);
        }
    }
    commits.extend(history.steps.iter().map(|step| {
        let key = (step.aggregate_id.as_str(), step.sequence);
        (key, step.at + step.took_ms)
    }));
    commits
}

/// Of each aggregate the first event that a trim took out of the stream: one
/// whose record was in the trimmed part, or had been read before that and was
/// not published yet.
fn first_swept<'a>(
    history: &'a History,
    first: &HashMap<Key<'a>, &Publish>,
) -> HashMap<&'a str, u64> {
    let mut trims: HashMap<&str, Vec<u64>> = HashMap::new();
    for record in history.records.iter().filter(|record| record.trimmed) {
        trims.entry(&record.shard).or_default().push(record.at);
    }
    let mut swept: HashMap<&str, u64> = HashMap::new();
    for record in &history.records {
        let key = (record.aggregate_id.as_str(), record.sequence);
        let published = first.get(&key).map_or(u64::MAX, |first| first.at);
        let mut trims = trims.get(record.shard.as_str()).into_iter().flatten();
        if trims.any(|&trim| (record.at..published).contains(&trim)) {
            let from = swept.entry(key.0).or_insert(record.sequence);
            *from = record.sequence.min(*from);
        }
    }
    swept
}

#[cfg(test)]
mod tests {
    use super::super::super::checkers::fixture;
    use super::super::super::history::StreamRecord;
    use super::*;

    fn of(history: &History, committed: u64) -> EventTimeline<'_> {
        let mut all = event_timelines(history).into_iter();
        let found = all.find(|one| one.committed == committed);
        found.expect("an event was committed then")
    }

    #[test]
    fn an_event_is_committed_when_its_writer_is_told() {
        let mut history = fixture::valid();
        // The second request for the order got the answer.
        assert_eq!(of(&history, 1_120).first.unwrap().event_id, "o-1:1");
        history.posts[1].status = None;
        assert!(
            event_timelines(&history)
                .iter()
                .all(|one| one.committed != 1_120)
        );
    }

    #[test]
    fn an_event_is_unpublished_until_its_first_send() {
        let history = fixture::valid();
        let event = of(&history, 9_990);
        assert_eq!(event.first.unwrap().event_id, "steps:3");
        assert!(event.is_unpublished(13_399));
        assert!(!event.is_unpublished(13_400));
    }

    #[test]
    fn what_is_trimmed_and_what_follows_it_is_left_to_the_sweeper() {
        let mut history = fixture::valid();
        history.steps[0].took_ms = 1;
        let record = |sequence, at, trimmed| StreamRecord {
            at,
            shard: fixture::SHARD.to_owned(),
            aggregate_id: "steps".to_owned(),
            sequence,
            trimmed,
        };
        // The first one was published by then, the second one is not.
        history.records = vec![
            record(1, 3_005, false),
            record(2, 3_015, false),
            record(3, 3_020, true),
        ];
        let swept = |history: &History, committed| of(history, committed).is_swept;
        assert!(!swept(&history, 3_001));
        assert!(swept(&history, 3_000) && swept(&history, 9_990));
        history.records[2].trimmed = false;
        assert!(!swept(&history, 3_000) && !swept(&history, 9_990));
    }
}
