//! Where a listing over several partitions goes on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::item::attribute;
use serde::{Deserialize, Serialize};

use super::OperateError;
use super::event::{EventView, text};
use super::list::Listing;

/// Where a listing goes on: for each partition, after which event. Opaque to
/// callers; its text is safe to hand to others, as it says nothing but keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Cursor(BTreeMap<String, Position>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Position {
    #[default]
    Start,
    After {
        occurred_at: Option<String>,
        aggregate_id: String,
        sequence: String,
    },
    End,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

impl FromStr for Cursor {
    type Err = OperateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|_| not_a_cursor())
    }
}

pub(super) fn not_a_cursor() -> OperateError {
    OperateError::Invalid("this is not where a listing goes on".to_owned())
}

/// What was read of a source, and up to where.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) before: Position,
    pub(super) events: Vec<EventView>,
    pub(super) after: Position,
}

impl Cursor {
    /// Where the partition called `name` goes on.
    pub(super) fn of(&self, name: &str) -> Position {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

impl Position {
    /// After the item of `key`, as DynamoDB says it.
    pub(super) fn after_key(key: &HashMap<String, AttributeValue>) -> Self {
        let sequence = key
            .get(attribute::SEQUENCE)
            .and_then(|value| value.as_n().ok().cloned());
        match (text(key, attribute::AGGREGATE_ID), sequence) {
            (Some(aggregate_id), Some(sequence)) => Self::After {
                occurred_at: text(key, attribute::OCCURRED_AT),
                aggregate_id,
                sequence,
            },
            _ => Self::End,
        }
    }

    fn after_event(event: &EventView) -> Self {
        Self::After {
            occurred_at: event.occurred_at.clone(),
            aggregate_id: event.aggregate_id.clone(),
            sequence: event.sequence.clone(),
        }
    }
}

/// The first `limit` events of all parts together, and where each part goes on.
pub(super) fn merge(parts: Vec<Part>, newest_first: bool, limit: usize) -> Listing {
    // Beyond the end of a part that has more, others must not go on: what
    // comes next in it may belong before theirs.
    let is_after =
        |a: &Option<String>, b: &Option<String>| if newest_first { a < b } else { a > b };
    let mut horizon: Option<&Option<String>> = None;
    if parts.len() > 1 {
        for part in &parts {
            if let Position::After { occurred_at, .. } = &part.after
                && horizon.is_none_or(|horizon| is_after(horizon, occurred_at))
            {
                horizon = Some(occurred_at);
            }
        }
    }
    let mut events: Vec<(usize, &EventView)> = parts
        .iter()
        .enumerate()
        .flat_map(|(n, part)| part.events.iter().map(move |event| (n, event)))
        .filter(|(_, event)| horizon.is_none_or(|horizon| !is_after(&event.occurred_at, horizon)))
        .collect();
    if parts.len() > 1 {
        // Stable, so that each part keeps its own order.
        events.sort_by(|(_, a), (_, b)| {
            let order = a.occurred_at.cmp(&b.occurred_at);
            if newest_first { order.reverse() } else { order }
        });
    }
    events.truncate(limit);
    let positions: BTreeMap<_, _> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| {
            let taken = events.iter().filter(|(of, _)| *of == n).count();
            let position = match taken {
                _ if taken == part.events.len() => part.after.clone(),
                0 => part.before.clone(),
                _ => Position::after_event(&part.events[taken - 1]),
            };
            (part.name.clone(), position)
        })
        .collect();
    let is_over = positions
        .values()
        .all(|position| *position == Position::End);
    Listing {
        events: events.into_iter().map(|(_, event)| event.clone()).collect(),
        next: (!is_over).then_some(Cursor(positions)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: u32) -> EventView {
        EventView {
            aggregate_id: format!("a-{second}"),
            sequence: "1".to_owned(),
            occurred_at: Some(format!("2026-01-01T00:00:{second:02}.000Z")),
            ..EventView::default()
        }
    }

    fn part(name: &str, seconds: &[u32], after: Position) -> Part {
        Part {
            name: name.to_owned(),
            before: Position::Start,
            events: seconds.iter().copied().map(event).collect(),
            after,
        }
    }

    fn seconds(listing: &Listing) -> Vec<String> {
        let events = listing.events.iter();
        events.map(|event| event.aggregate_id.clone()).collect()
    }

    #[test]
    fn what_was_cut_off_comes_next() {
        let parts = vec![
            part("x", &[1, 4], Position::End),
            part("y", &[2, 3], Position::End),
        ];
        let listing = merge(parts, false, 3);
        assert_eq!(seconds(&listing), ["a-1", "a-2", "a-3"]);
        let next = listing.next.unwrap();
        assert_eq!(next.of("x"), Position::after_event(&event(1)));
        assert_eq!(next.of("y"), Position::End);
        assert_eq!(next.to_string().parse::<Cursor>().unwrap(), next);
    }

    #[test]
    fn nothing_overtakes_what_was_not_read_yet() {
        // A filter matched nothing in `x` up to second 2, and it has more.
        let parts = || {
            vec![
                part("x", &[], Position::after_event(&event(2))),
                part("y", &[1, 3], Position::End),
            ]
        };
        let listing = merge(parts(), false, 10);
        assert_eq!(seconds(&listing), ["a-1"]);
        assert_eq!(
            listing.next.unwrap().of("x"),
            Position::after_event(&event(2))
        );
        let mut newest = parts();
        newest[1].events.reverse();
        assert_eq!(seconds(&merge(newest, true, 10)), ["a-3"]);
    }
}
