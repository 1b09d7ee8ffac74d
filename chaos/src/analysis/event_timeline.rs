//! Each event from its commit to its first acceptance by a queue.

use std::collections::HashMap;

use super::super::history::{History, Publish};

/// An event by its aggregate and sequence.
type Key<'a> = (&'a str, u64);

#[derive(Clone, Copy, Debug)]
pub(crate) struct EventTimeline<'a> {
    /// Time by which it was certainly in the table: its writer had received the confirmation.
    pub committed: u64,
    /// Shard of its record; `None` if no relay has read the record.
    pub shard: Option<&'a str>,
    /// `true` if only the sweeper can publish it, which has no time limit here: its record, or
    /// that of an earlier event of its aggregate, was trimmed before it was published.
    pub is_swept: bool,
    /// First send that a queue accepted.
    pub first: Option<&'a Publish>,
}

impl EventTimeline<'_> {
    /// Returns `true` if it had not been sent to a queue by then.
    pub(crate) fn is_unpublished(&self, at: u64) -> bool {
        self.first.is_none_or(|first| first.at > at)
    }
}

/// Returns all events with a known commit time. The event of an order that was not confirmed to a
/// client is not among them.
pub(crate) fn event_timelines(history: &History) -> Vec<EventTimeline<'_>> {
    let mut first: HashMap<Key<'_>, &Publish> = HashMap::new();
    // The publishes are in the order of time.
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
            let confirmed = post.at + post.took_ms;
            let commit = commits.entry((order_id, 1)).or_insert(confirmed);
            *commit = confirmed.min(*commit);
        }
    }
    commits.extend(history.steps.iter().map(|step| {
        let key = (step.aggregate_id.as_str(), step.sequence);
        (key, step.at + step.took_ms)
    }));
    commits
}

/// Returns the first event of each aggregate that a trim removed from the stream: its record was
/// trimmed, or had been read before the trim and the event was not published yet.
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
    fn an_event_counts_as_committed_once_its_writer_has_the_confirmation() {
        let mut history = fixture::valid();
        // The second request for the order received the response.
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
    fn trimmed_events_and_their_successors_are_left_to_the_sweeper() {
        let mut history = fixture::valid();
        history.steps[0].took_ms = 1;
        let record = |sequence, at, trimmed| StreamRecord {
            at,
            shard: fixture::SHARD.to_owned(),
            aggregate_id: "steps".to_owned(),
            sequence,
            trimmed,
        };
        // The first event was published before the trim, the second was not.
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
